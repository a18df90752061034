"""What the package takes from PaddleSlim, which chooses a backend for matplotlib when it is imported: a notebook would show no
pictures with it. Its messages, which a root handler of its own prints, are suppressed."""

import logging

import matplotlib

use, matplotlib.use = matplotlib.use, lambda *_, **__: None
try:
    from paddleslim.nas.ofa import OFA
    from paddleslim.nas.ofa.convert_super import Convert
    from paddleslim.nas.ofa.convert_super import supernet as conversion
    from paddleslim.nas.ofa.layers import SuperConv2D
finally:
    matplotlib.use = use

__all__ = ["OFA", "Convert", "SuperConv2D", "conversion"]

logging.getLogger("paddleslim").setLevel(logging.WARNING)
