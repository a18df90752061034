"""The parts of the check: which function runs, with which sizes on a GPU and on a CPU, and what it needs. Loads no Paddle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paddle_pgonas.runtime import PRECISIONS, dotted

Sizes = dict[str, Any]
"""Keyword arguments of a part's function; they are written as JSON."""


@dataclass(frozen=True)
class Part:
    """One part. Its function gets a job and the sizes, and returns a line and details, or raises."""

    name: str
    function: str
    """``module:function``; the module is one of this package's rooms or any other that can be imported."""
    gpu: Sizes = field(default_factory=dict)
    cpu: Sizes | None = None
    """Sizes on a CPU, None if the part needs a GPU."""
    amp: str = "off"
    """Precision of training or scoring."""
    capability: tuple[int, int] = (0, 0)
    """Least compute capability."""
    gpus: int = 1
    """Least number of GPUs, where the device is a GPU."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that Paddle or CUDA read when they start."""
    limit: int = 600
    """Seconds after which the part is killed."""

    def lacks(self, facts: Mapping[str, Any]) -> str | None:
        """What the part needs and the device of these facts (:func:`~.environment.describe`) has not; None if it can run."""
        if facts.get("device") == "cpu":
            return "needs a GPU" if self.cpu is None else None
        needed, there = list(self.capability), facts.get("capability", [99, 0])
        if there < needed:
            return f"needs compute capability {dotted(needed)}, this GPU has {dotted(there)}"
        gpus = facts.get("gpus", self.gpus)
        return f"needs {self.gpus} GPUs, Paddle sees {gpus}" if gpus < self.gpus else None


EXACT = {"NVIDIA_TF32_OVERRIDE": "0"}
DETERMINISTIC = {"FLAGS_cudnn_deterministic": "1"}

_HERE = "paddle_pgonas.gpu_check"
_REAL = {"space": "track1", "side": 224}
_THIN = {"space": "track1_thin", "side": 32}
"""Track 1's codes at an eighth of the width, which a CPU runs in seconds."""
_TRAIN = _REAL | {"batches": [32, 48, 64, 96, 128, 192, 256, 384, 512], "steps": 4}
_LIMITS = {"narrowest": [3, 3, 5, 7]}
"""Of the widths of the challenge's candidates."""
_SCORE = _REAL | _LIMITS | {"candidates": 256, "batches": [100, 256], "calibration": 128}
_SMALL_SCORE = _THIN | _LIMITS | {"candidates": 16, "batches": [2, 4], "calibration": 4}


def _by_precision(name: str, function: str, gpu: Sizes, cpu: Sizes, amps: str, **options: Any) -> list[Part]:
    """A part in float32, with this name, and one each in the other precisions, which need a GPU."""
    path = f"{_HERE}.{function}"
    low = [Part(f"{name}-{amp}", path, gpu, None, amp, PRECISIONS[amp].capability, **options) for amp in amps.split()]
    return [Part(name, path, gpu, cpu, **options), *low]


def _searching(name: str, function: str, gpu: Sizes) -> Part:
    """The part in fp16 with cuDNN's exhaustive search."""
    search = gpu | {"overrides": ["exhaustive_search=true"]}
    return Part(f"{name}-fp16-search", f"{_HERE}.{function}", search, None, "fp16", PRECISIONS["fp16"].capability)


FIRST = Part("environment", f"{_HERE}.environment:describe", cpu={}, limit=120)
"""Describes the device; what it returns decides which other parts can run."""

PARTS = (
    Part("published", f"{_HERE}.agreement:published", {"steps": 3, "files": 2}, {"steps": 1, "files": 1}, environment=EXACT),
    Part("cpu-and-gpu", f"{_HERE}.agreement:devices", _REAL | {"side": 64, "images": 8}),
    *_by_precision("training", "training:resume", {"steps": 20}, {"steps": 20}, "fp16 bf16", environment=DETERMINISTIC),
    *_by_precision(
        "repeat",
        "training:repeat",
        _REAL | {"images": 32, "steps": 3},
        _THIN | {"images": 2, "steps": 2},
        "fp16 bf16",
        environment=DETERMINISTIC,
    ),
    *_by_precision("track1", "track1:train", _TRAIN, _THIN | {"batches": [2, 4], "steps": 1}, "tf32 fp16 bf16"),
    _searching("track1", "track1:train", _TRAIN | {"batches": [64, 256]}),
    *_by_precision("scoring", "track1:score", _SCORE, _SMALL_SCORE, "tf32 fp16 bf16"),
    _searching("scoring", "track1:score", _SCORE),
    Part("out-of-memory", f"{_HERE}.track1:exhaust", _REAL | {"images": 64}, _THIN | {"images": 64}),
    Part("two-ranks", f"{_HERE}.ranks:compare", cpu={}, gpus=2),
)
"""All other parts, in the order in which they run."""
