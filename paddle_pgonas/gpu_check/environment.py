"""Describes the machine: versions, driver, device, loaded libraries, flags."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from paddle_pgonas.errors import UserError
from paddle_pgonas.gpu_check.child import Failed, Job
from paddle_pgonas.gpu_libraries import library_report
from paddle_pgonas.runtime import dotted, select_device, versions

FLAGS = ("cudnn_deterministic", "cudnn_exhaustive_search", "allocator_strategy", "conv_workspace_size_limit")
VARIABLES = ("FLAGS_", "NVIDIA_", "CUDA_", "PADDLE_", "NCCL_", "OMP_", "LD_LIBRARY_PATH")


def describe(job: Job) -> tuple[str, dict[str, Any]]:
    """Facts about the machine. Raises Failed, with the facts, if Paddle cannot be loaded or cannot compute on the device."""
    facts: dict[str, Any] = {"versions": versions(), "driver": driver(), "processor": processor()}
    facts["variables"] = {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}
    try:
        import paddle  # here, as it fails where a library is missing

        facts |= {"built_with": built_with(), "flags": flags()}
        index = select_device(job.device)
        paddle.matmul(paddle.ones([8, 8]), paddle.ones([8, 8])).numpy()
        facts |= {"device": index.partition(":")[0], "name": "CPU", "gpus": 0}
        if index != "cpu":
            facts |= graphics(paddle.device.cuda.get_device_properties(int(index.partition(":")[2])))
    except Exception as error:
        raise Failed(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}", facts) from None
    finally:
        facts["libraries"] = library_report()
    if index == "cpu" and job.device == "auto" and facts["driver"]["works"]:
        listed = facts["driver"]["said"][0]
        raise Failed(f"nvidia-smi lists {listed}, but Paddle sees no GPU; install a GPU wheel, or pass --device cpu", facts)
    what = f"{facts['name']}, capability {dotted(facts['capability'])}" if facts["gpus"] else facts["processor"]
    return f"Paddle {facts['versions']['paddle']} on {what}", facts


def graphics(properties: Any) -> dict[str, Any]:
    """Name, capability and memory of a GPU from Paddle's description of it, and how many there are."""
    import paddle

    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "memory_bytes": properties.total_memory,
        "gpus": paddle.device.cuda.device_count(),
    }


def built_with() -> dict[str, str]:
    """The CUDA libraries that the installed wheel was built with; False where it was built without."""
    import paddle

    return {name: str(getattr(paddle.version, name)()) for name in ("cuda", "cudnn", "nccl") if hasattr(paddle.version, name)}


def driver() -> dict[str, Any]:
    """What ``nvidia-smi`` says, a line per GPU: name, driver, memory; and whether it lists any."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
        said = (done.stdout + done.stderr).strip().splitlines()
        return {"works": done.returncode == 0 and bool(said), "said": said}
    return {"works": False, "said": []}


def processor() -> str:
    """The processor's name, as Linux tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown processor"


def flags() -> dict[str, Any]:
    """Values of Paddle's flags, those that this wheel has."""
    import paddle

    found: dict[str, Any] = {}
    for name in FLAGS:
        with suppress(ValueError):
            found |= paddle.get_flags([f"FLAGS_{name}"])
    return found
