"""CUDA's libraries, which Paddle opens by name when it first needs them: which are there, and which one an error is about.

PyPI's GPU wheel brings none of them. It asks for names without a version, ``libcudnn.so``, which NVIDIA's packages on PyPI lack;
``make gpu-libraries`` links them.
"""

from __future__ import annotations

import ctypes
import re
import sysconfig
from pathlib import Path

from paddle_pgonas.errors import UserError

USED = ("cuda", "cublas", "cublasLt", "cudnn", "nvrtc", "nccl")
"""What a training needs: the driver, matrix products, convolutions, what cuDNN opens, and, for several GPUs, NCCL."""
_IN_ERRORS = re.compile(r"third-party dynamic library \(([^)]*)\)|Cannot load (\w+) shared library")


def refuse_missing_library(error: BaseException) -> None:
    """Raises UserError with the remedy if this exception of Paddle says that it cannot open a library."""
    if found := _IN_ERRORS.search(str(error)):
        file = found[1] or f"lib{found[2]}.so"
        raise UserError(
            f"device: Paddle cannot open {file}: get NVIDIA's libraries with make gpu-libraries, or name their folder in "
            "LD_LIBRARY_PATH (docs/several_gpus.md), or pass -o device=cpu"
        ) from None


def loaded_libraries() -> dict[str, str]:
    """Path by name (``cudnn``) of CUDA's, cuDNN's and NCCL's libraries that this process has loaded."""
    name = re.compile(r"/lib((?:cu|nccl|nv)\w*)\.so[.\d]*$")
    lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    paths = (line.split(maxsplit=5)[-1] for line in lines)
    return {found[1]: path for path in paths if (found := name.search(path))}


def library_report() -> dict[str, str]:
    """For each of :data:`USED` and each other loaded one: its path, or whether it can be loaded, and if not, the loader's reason.

    Those that are not loaded are tried, so call it when the work is done: a library that was found stays in the process.
    """
    report = {name: _loadable(name) for name in USED if name not in loaded_libraries()}
    return dict(sorted((report | loaded_libraries()).items()))


def _loadable(name: str) -> str:
    file = "libcuda.so.1" if name == "cuda" else f"lib{name}.so"
    try:
        ctypes.CDLL(file)
        return f"not loaded before, {file} can be"
    except OSError as error:
        packages = Path(sysconfig.get_path("purelib"), "nvidia")
        unlinked = next(packages.glob(f"*/lib/lib{name}.so.*"), None)
        return f"missing ({error})" + (f", but there is {unlinked}" if unlinked else "")
