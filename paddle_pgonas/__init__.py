"""Prior-guided one-shot architecture search in PaddlePaddle: what the command lines do, from Python.

The names below are the library's promise; each is loaded when it is first asked for, so that ``import paddle_pgonas`` takes
milliseconds and Paddle is loaded by what computes with it. docs/example.py shows them at work, docs/api.md lists them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paddle_pgonas.arch import MINI, TRACK1, TRACK1_THIN, Arch, SearchSpace
    from paddle_pgonas.config import CONFIGS, Config, load_config
    from paddle_pgonas.errors import UserError
    from paddle_pgonas.exporting.inference import open_inference_model
    from paddle_pgonas.exporting.job import export, load_subnet
    from paddle_pgonas.nn.supernet import Supernet, extract
    from paddle_pgonas.nn.weights import load_weights
    from paddle_pgonas.priors import make_prior
    from paddle_pgonas.report.comparison import compare, table
    from paddle_pgonas.report.page import write_page
    from paddle_pgonas.scoring.job import write_submission
    from paddle_pgonas.scoring.session import score
    from paddle_pgonas.scoring.watch import train
    from paddle_pgonas.searching.job import search
    from paddle_pgonas.submission import Candidate, read_candidates, sample_candidates, write_scores
    from paddle_pgonas.training.standalone import train_standalone

_HOMES = {
    "arch": ("TRACK1", "MINI", "TRACK1_THIN", "SearchSpace", "Arch"),
    "config": ("CONFIGS", "Config", "load_config"),
    "errors": ("UserError",),
    "priors": ("make_prior",),
    "submission": ("Candidate", "read_candidates", "sample_candidates", "write_scores"),
    "nn.supernet": ("Supernet", "extract"),
    "nn.weights": ("load_weights",),
    "training.standalone": ("train_standalone",),
    "scoring.session": ("score",),
    "scoring.watch": ("train",),
    "scoring.job": ("write_submission",),
    "report.comparison": ("compare", "table"),
    "report.page": ("write_page",),
    "searching.job": ("search",),
    "exporting.job": ("export", "load_subnet"),
    "exporting.inference": ("open_inference_model",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "TRACK1",
    "MINI",
    "TRACK1_THIN",
    "SearchSpace",
    "Arch",
    "CONFIGS",
    "Config",
    "load_config",
    "UserError",
    "make_prior",
    "Candidate",
    "read_candidates",
    "sample_candidates",
    "write_scores",
    "Supernet",
    "extract",
    "load_weights",
    "train",
    "train_standalone",
    "score",
    "write_submission",
    "compare",
    "table",
    "write_page",
    "search",
    "export",
    "load_subnet",
    "open_inference_model",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that it lives in (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
