"""Settings that are made once per process: environment variables and the device. Importing this takes milliseconds."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from paddle_pgonas import __version__, processes
from paddle_pgonas.errors import UserError
from paddle_pgonas.gpu_libraries import refuse_missing_library

HARMLESS_WARNINGS = (
    "Setuptools is replacing distutils",
    "pkg_resources is deprecated",  # PaddleSlim imports it
    "No ccache found",  # Paddle 3 prints this although nothing is compiled
    "When training, we now always track global mean",  # which calibration intends
    "You are using GPU version Paddle, but",  # select_device reports the device
)


class Precision(NamedTuple):
    """A value of ``train.amp`` or ``score.amp``."""

    dtype: str
    """Type of feature maps and of the inputs of convolutions."""
    value_bytes: int
    capability: tuple[int, int]
    """Least compute capability of a GPU; below it Paddle would compute in float32 and only warn."""


PRECISIONS = {
    "off": Precision("float32", 4, (0, 0)),
    "tf32": Precision("float32", 4, (8, 0)),
    "fp16": Precision("float16", 2, (7, 0)),
    "bf16": Precision("bfloat16", 2, (8, 0)),
}


def prepare_process() -> None:
    """Set the environment that Paddle reads when it is imported; packages that import it call this first in their ``__init__``.

    Values the user has set are kept. Raises UserError if those for the number and rank of the processes are not numbers.
    """
    if "paddle" in sys.modules:
        return
    processes.rank()  # checked here, because Paddle's import fails without naming the variable
    os.environ.setdefault("MPLBACKEND", "Agg")
    os.environ.setdefault("GLOG_minloglevel", "2")
    for message in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    if _is_amd():  # Paddle's MKL takes a slow path otherwise
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    if paddle_version().startswith("2."):  # PaddleSlim crashes if Paddle is loaded before: zlib symbols clash
        import matplotlib.pyplot  # noqa: F401


def own_settings_of_matplotlib() -> None:
    """Let a command draw without the user's settings of matplotlib, which are for windows and notebooks, or may be broken."""
    os.environ |= {"MPLBACKEND": "Agg", "MATPLOTLIBRC": os.devnull}
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home folder where it can keep nothing


def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")[:4096]
    except OSError:
        return "AMD" in platform.processor()


def paddle_version() -> str:
    """Version of the installed Paddle, CPU or GPU wheel, without importing it. Raises UserError if there is none."""
    for wheel in ("paddlepaddle-gpu", "paddlepaddle"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(wheel)
    raise UserError("PaddlePaddle is not installed; run 'make setup', or pip install -r requirements-cpu.txt (requirements.txt)")


def select_device(name: str, exhaustive_search: bool = False) -> str:
    """Select ``auto``, ``cpu`` or ``gpu``; returns ``cpu`` or ``gpu:<index>``.

    ``exhaustive_search`` holds for all convolutions that follow; TF32 is off (:func:`tf32`). Raises UserError if there is no
    usable GPU, or the search is excluded. A GPU that is there but cannot compute, for lack of a library or of kernels, is an
    error with ``auto`` too.
    """
    import paddle

    usable = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if name == "gpu" and not usable:
        raise UserError("device: gpu was asked for, but this Paddle sees no GPU; use -o device=cpu or install paddlepaddle-gpu")
    if name == "cpu" or not usable:
        if exhaustive_search:
            raise UserError("exhaustive_search: a CPU searches for no convolutions; set exhaustive_search=false")
        return paddle.set_device("cpu") and "cpu"
    index = int(os.environ.get("FLAGS_selected_gpus", "0").split(",")[0])  # noqa: SIM112 (Paddle's spelling)
    paddle.set_device(f"gpu:{index}")
    _search_convolutions(exhaustive_search)
    _allow_tf32(False)
    _check_kernels(index)
    return f"gpu:{index}"


def _check_kernels(index: int) -> None:
    """Run a small convolution and matrix product: without kernels or libraries Paddle starts, and fails when it computes."""
    import paddle

    try:
        if (paddle.get_cudnn_version() or 0) <= 0:  # its absence is only logged, and computing without may end the process
            raise RuntimeError("Cannot load cudnn shared library.")
        paddle.nn.functional.conv2d(paddle.ones([1, 1, 4, 4]), paddle.ones([1, 1, 3, 3])).numpy()
        paddle.ones([2, 2]).matmul(paddle.ones([2, 2])).numpy()
    except (RuntimeError, OSError, SystemError) as error:
        refuse_missing_library(error)
        name, capability = paddle.device.cuda.get_device_name(index), paddle.device.cuda.get_device_capability(index)
        raise UserError(
            f"device: Paddle {paddle_version()} cannot compute on {name} (compute capability {dotted(capability)}; "
            "the wheels on PyPI have kernels up to 8.6): install paddlepaddle-gpu 3 from PaddlePaddle's own package index, "
            f"or pass -o device=cpu. Paddle's message: {' '.join(str(error).split())[-200:]}"
        ) from None


def _search_convolutions(exhaustively: bool) -> None:
    """Tell cuDNN whether to time its algorithms for each shape of a convolution, which Paddle refuses with deterministic ones."""
    import paddle

    if exhaustively and paddle.get_flags("FLAGS_cudnn_deterministic")["FLAGS_cudnn_deterministic"]:
        raise UserError("exhaustive_search: excludes FLAGS_cudnn_deterministic; unset that, or set exhaustive_search=false")
    paddle.set_flags({"FLAGS_cudnn_exhaustive_search": exhaustively})


def _allow_tf32(allowed: bool) -> None:
    """Switch TF32, which Paddle allows by default, for the convolutions and matrix products of this process."""
    from paddle.base import core

    core.set_cudnn_switch(allowed)
    core.set_cublas_switch(allowed)


@contextmanager
def tf32(amp: str) -> Iterator[None]:
    """Allow TF32 (inputs of float32 convolutions and matrix products rounded to 10 bits) inside, if ``amp`` is ``tf32``."""
    if amp != "tf32":
        yield
        return
    _allow_tf32(True)
    try:
        yield
    finally:
        _allow_tf32(False)


def compute_dtype(amp: str, key: str) -> str:
    """The type of feature maps for a value of ``train.amp`` or ``score.amp``. Raises UserError if the device lacks it."""
    import paddle

    precision = PRECISIONS[amp]
    if paddle.get_device() == "cpu":
        if amp != "off":
            raise UserError(f"{key}: {amp} needs a GPU; set {key}=off")
    elif (there := device_capability()) < precision.capability:
        needed, remedy = dotted(precision.capability), recommended_amp() or "off"
        found = dotted(there)
        raise UserError(f"{key}: {amp} needs a GPU of compute capability {needed}, this one has {found}; set {key}={remedy}")
    return precision.dtype


def recommended_amp() -> str | None:
    """The low precision to recommend on the current device: ``fp16`` where a GPU has it, otherwise None."""
    import paddle

    capable = paddle.get_device() != "cpu" and device_capability() >= PRECISIONS["fp16"].capability
    return "fp16" if capable else None


def device_capability() -> tuple[int, int]:
    """Compute capability of the current GPU."""
    import paddle

    major, minor = paddle.device.cuda.get_device_capability()
    return major, minor


def dotted(capability: Sequence[int]) -> str:
    """A compute capability as people write it, ``8.6``."""
    return ".".join(map(str, capability))


def device_name() -> str:
    """The current device for a message: ``cpu``, or ``gpu:0 (NVIDIA H200)``."""
    import paddle

    device = str(paddle.get_device())
    return device if device == "cpu" else f"{device} ({paddle.device.cuda.get_device_name()})"


def device_memory() -> int:
    """Bytes of the current GPU."""
    import paddle

    return int(paddle.device.cuda.get_device_properties().total_memory)


DEVICE_ERRORS = (MemoryError, RuntimeError, OSError, SystemError)
"""What Paddle raises for errors of a device: those of CUDA's libraries are OSErrors."""


def out_of_memory(error: BaseException) -> bool:
    """Whether this exception of Paddle or Python means out of memory."""
    words = ("ResourceExhausted", "out of memory", "Out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def convolution_workspace() -> int:
    """Bytes that cuDNN's convolutions may take on the current device, 0 on a CPU. An exhaustive search may take what is free."""
    import paddle

    if paddle.get_device() == "cpu":
        return 0
    return int(paddle.get_flags("FLAGS_conv_workspace_size_limit")["FLAGS_conv_workspace_size_limit"]) * 2**20


@cache
def versions() -> dict[str, str]:
    """Versions for a run's record."""
    installed = {"python": platform.python_version(), "paddle": paddle_version(), "machine": platform.machine()}
    return installed | {name: importlib.metadata.version(name) for name in ("paddleslim", "numpy", "scipy")}


@cache
def own_version() -> dict[str, str]:
    """This package's version, and of a checkout the commit, with ``-dirty`` if files differ from it."""
    known = {"paddle_pgonas": __version__}
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / ".git").exists():  # else git would find the repository that an environment lies in
        command = ["git", "-C", str(checkout), "--no-optional-locks", "describe", "--always", "--dirty", "--exclude", "*"]
        with suppress(OSError, subprocess.SubprocessError):
            known["commit"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return known


def made_by() -> dict[str, object]:
    """Command and versions, this package's included, for the record of a file: the same for a resumed run and for a whole one."""
    return {"command": command_line(), "versions": own_version() | versions()}


def now() -> str:
    """The local date and time, with the offset from UTC."""
    return datetime.now().astimezone().isoformat(" ", "minutes")


def command_line() -> str:
    """The running command line, as it can be given again elsewhere: without what resumes a run or begins it anew."""
    program, *arguments = (word for word in sys.argv if word not in ("--resume", "--resume-with-other-data", "--overwrite"))
    return shlex.join([*(["python"] if program.endswith(".py") else []), program, *arguments])
