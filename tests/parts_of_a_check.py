"""Parts that end in every way, for the test of the check that runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

from paddle_pgonas.errors import UserError
from paddle_pgonas.gpu_check.child import Failed, Job

Answer = tuple[str, dict[str, Any]]


def describe(job: Job, **facts: Any) -> Answer:
    return "a machine", {"device": "gpu", "name": "A GPU", "capability": [7, 5], "gpus": 1} | facts


def broken(job: Job) -> Answer:
    raise Failed("no kernels", {"versions": {"paddle": "none"}})


def passes(job: Job, seen: str = "") -> Answer:
    return f"{job.device} {job.amp} {seen}".strip(), {"earlier": sorted(job.earlier), "variable": os.environ.get("A_FLAG")}


def wrong(job: Job) -> Answer:
    raise Failed("differs by 0.5", {"difference": 0.5})


def mistaken(job: Job) -> Answer:
    raise UserError("train.amp: fp16 needs a GPU")


def raises(job: Job) -> Answer:
    raise RuntimeError("CUDA error(700),\n  an illegal memory access was encountered")


def killed(job: Job) -> Answer:
    print("about to be killed", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return "", {}


def leaves(job: Job) -> Answer:
    os._exit(7)


def hangs(job: Job, pid_file: str) -> Answer:
    """With a process of its own, which must not stay."""
    child = subprocess.Popen(["sleep", "600"])
    with open(pid_file, "w", encoding="utf-8") as file:
        file.write(str(child.pid))
    time.sleep(600)
    return "", {}


def unfit(job: Job) -> Answer:
    return "details that JSON cannot hold", {"value": object()}
