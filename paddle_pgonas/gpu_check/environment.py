"""Describes the machine: versions, driver, device, loaded libraries, flags."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import paddle

from paddle_pgonas.errors import UserError
from paddle_pgonas.gpu_check.child import Failed, Job
from paddle_pgonas.gpu_check.parts import dotted
from paddle_pgonas.runtime import select_device, versions

LIBRARIES = ("libcudart", "libcudnn", "libcublas", "libnccl", "libcuda.", "libnvinfer", "libmklml", "libdnnl")
"""How the names of the libraries begin that decide about speed and results."""
FLAGS = ("cudnn_deterministic", "cudnn_exhaustive_search", "allocator_strategy", "conv_workspace_size_limit")
VARIABLES = ("FLAGS_", "NVIDIA_", "CUDA_", "PADDLE_", "NCCL_", "OMP_", "LD_LIBRARY_PATH")


def describe(job: Job) -> tuple[str, dict[str, Any]]:
    """Facts about the machine. Raises Failed, with the facts, if the device cannot compute."""
    facts: dict[str, Any] = {"versions": versions(), "built_with": built_with(), "driver": driver(), "processor": processor()}
    facts["variables"] = {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}
    try:
        index = select_device(job.device)
        paddle.matmul(paddle.ones([8, 8]), paddle.ones([8, 8])).numpy()
        facts |= {"device": index.partition(":")[0], "name": "CPU", "gpus": 0}
        if index != "cpu":
            facts |= graphics(paddle.device.cuda.get_device_properties(int(index.partition(":")[2])))
    except UserError as error:
        raise Failed(str(error), facts) from None
    finally:
        facts |= {"libraries": loaded(LIBRARIES), "flags": flags()}
    what = f"{facts['name']}, capability {dotted(facts['capability'])}" if facts["gpus"] else facts["processor"]
    return f"Paddle {facts['versions']['paddle']} on {what}", facts


def graphics(properties: Any) -> dict[str, Any]:
    """Name, capability and memory of a GPU from Paddle's description of it, and how many there are."""
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "memory_bytes": properties.total_memory,
        "gpus": paddle.device.cuda.device_count(),
    }


def built_with() -> dict[str, str]:
    """The CUDA libraries that the installed wheel was built with; False where it was built without."""
    return {name: str(getattr(paddle.version, name)()) for name in ("cuda", "cudnn", "nccl") if hasattr(paddle.version, name)}


def driver() -> list[str]:
    """What ``nvidia-smi`` says, a line per GPU: name, driver, memory; empty if there is no such program."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
        return (done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip().splitlines()
    return []


def processor() -> str:
    """The processor's name, as Linux tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown processor"


def loaded(names: Sequence[str]) -> list[str]:
    """The files of this process's shared libraries whose names begin so."""
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        files = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
        return sorted(file for file in files if Path(file).name.startswith(tuple(names)))
    return []


def flags() -> dict[str, Any]:
    """Values of Paddle's flags, those that this wheel has."""
    found: dict[str, Any] = {}
    for name in FLAGS:
        with suppress(ValueError):
            found |= paddle.get_flags([f"FLAGS_{name}"])
    return found
