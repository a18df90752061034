"""Networks: the plain ResNet of any architecture, elastic layers, the supernet, reading and writing weights."""

from paddle_pgonas.runtime import prepare_process


def _import_paddleslim() -> None:
    """Without its choice of a backend for matplotlib, after which a notebook would show no pictures."""
    import matplotlib

    use, matplotlib.use = matplotlib.use, lambda *_, **__: None
    try:
        import paddleslim  # noqa: F401
    finally:
        matplotlib.use = use


prepare_process()
_import_paddleslim()
