"""Settings that are made once per process: environment variables and the device. Importing this takes milliseconds."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shlex
import sys
import warnings
from contextlib import suppress
from pathlib import Path

from paddle_pgonas import interrupts, processes
from paddle_pgonas.errors import UserError

HARMLESS_WARNINGS = (
    "Setuptools is replacing distutils",
    "pkg_resources is deprecated",  # PaddleSlim imports it
    "No ccache found",  # Paddle 3 prints this although nothing is compiled
    "When training, we now always track global mean",  # which calibration intends
    "You are using GPU version Paddle, but",  # select_device reports the device
)


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
    raise UserError("PaddlePaddle is not installed; run 'make setup', or pip install -r requirements.txt (requirements-cpu.txt)")


def select_device(name: str) -> str:
    """Select ``auto``, ``cpu`` or ``gpu``; returns ``cpu`` or ``gpu:<index>``. Raises UserError if there is no usable GPU."""
    import paddle

    interrupts.renew()
    usable = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if name == "gpu" and not usable:
        raise UserError("device: gpu was asked for, but this Paddle sees no GPU; use -o device=cpu or install paddlepaddle-gpu")
    if name == "cpu" or not usable:
        return paddle.set_device("cpu") and "cpu"
    index = int(os.environ.get("FLAGS_selected_gpus", "0").split(",")[0])  # noqa: SIM112 (Paddle's spelling)
    paddle.set_device(f"gpu:{index}")
    _check_kernels(index)
    return f"gpu:{index}"


def _check_kernels(index: int) -> None:
    """Run one small convolution: Paddle starts on GPUs for which it has no kernels, and fails at the first computation."""
    import paddle

    try:
        paddle.nn.functional.conv2d(paddle.ones([1, 1, 4, 4]), paddle.ones([1, 1, 3, 3])).numpy()
    except (RuntimeError, OSError, SystemError) as error:
        name, capability = paddle.device.cuda.get_device_name(index), paddle.device.cuda.get_device_capability(index)
        raise UserError(
            f"device: Paddle {paddle_version()} cannot compute on {name} (compute capability {'.'.join(map(str, capability))}; "
            "the wheels on PyPI have kernels up to 8.6): install paddlepaddle-gpu 3 from PaddlePaddle's own package index, "
            f"or pass -o device=cpu. Paddle's message: {' '.join(str(error).split())[-200:]}"
        ) from None


def compute_dtype(amp: str, key: str) -> str:
    """The type of feature maps for a value of ``train.amp`` or ``score.amp``. Raises UserError if it needs a GPU."""
    import paddle

    if amp != "off" and paddle.get_device() == "cpu":
        raise UserError(f"{key}: {amp} needs a GPU; set {key}=off")
    return {"off": "float32", "bf16": "bfloat16", "fp16": "float16"}[amp]


def device_memory() -> int:
    """Bytes of the current GPU."""
    import paddle

    return int(paddle.device.cuda.get_device_properties().total_memory)


def out_of_memory(error: BaseException) -> bool:
    """Whether this exception of Paddle or Python means out of memory."""
    words = ("ResourceExhausted", "out of memory", "Out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def versions() -> dict[str, str]:
    """Versions for a run's record."""
    installed = {"python": platform.python_version(), "paddle": paddle_version(), "machine": platform.machine()}
    return installed | {name: importlib.metadata.version(name) for name in ("paddleslim", "numpy", "scipy")}


def command_line() -> str:
    """The running command line, as it can be given again in the same folder."""
    program, *arguments = sys.argv
    return shlex.join([*(["python"] if program.endswith(".py") else []), program, *arguments])
