"""The same trainings on a GPU (lanes.cu), several subnets at a time. Needs numpy, nvcc and g++, and nothing of the project.

The job is a file of gpu_job.py. Each subnet's result is appended to a file of JSON lines as soon as it is there; subnets in it
are not trained again.

    python studies/truth_trainer/gpu.py JOB.npz --results results.jsonl
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from layout import BN_MOMENTUM, LANES, PROCESSOR, Batches, CompilerError, Layout, build, pointer

SOURCE = Path(__file__).with_name("lanes.cu")
NVCC = ["nvcc", "-arch=native", "-O3", "-std=c++17", "--extended-lambda", "-Xcompiler", "-fPIC", "-shared"]
GPU = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
EMULATION = ["g++", "-x", "c++", "-O2", "-std=c++17", "-fPIC", "-shared"]
"""The same source as loops on a processor, slow, to test it without a GPU."""


class _Images(ctypes.Structure):
    _fields_ = [
        ("pixels", ctypes.c_void_p),
        ("labels", ctypes.c_void_p),
        ("wide", ctypes.c_int),
        ("scale", ctypes.c_float * 3),
        ("shift", ctypes.c_float * 3),
    ]


class _Plan(ctypes.Structure):
    _fields_ = [("chosen", ctypes.c_void_p), ("moves", ctypes.c_void_p), ("rates", ctypes.c_void_p), ("lanes", ctypes.c_int)]


@cache
def library(emulated: bool) -> ctypes.CDLL:
    """The compiled trainer.

    Raises:
        CompilerError: a compiler is missing or fails.
    """
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # streams that really run side by side
    loaded = build(SOURCE, EMULATION, PROCESSOR) if emulated else build(SOURCE, NVCC, GPU)
    loaded.gpu_create.restype = loaded.gpu_keep.restype = ctypes.c_void_p
    return loaded


class Kept:
    """Images, labels and what every lane sees in every step, in the memory of the GPU until the process ends."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        normalisation: Sequence[Sequence[float]],
        chosen: np.ndarray,
        moves: np.ndarray | None = None,
        rates: np.ndarray | None = None,
        emulated: bool = False,
    ) -> None:
        """Copy everything there.

        Args:
            images: uint8 [all, S + 2 pad, S + 2 pad, 3].
            labels: [all].
            normalisation: factor and summand of each colour's pixels.
            chosen: [steps, lanes, batch], lanes 16, or 1 for the same images in every lane.
            moves: [steps, 16, batch, 3]: top, left and flip of each.
            rates: the learning rate of each step.
        """
        kernel = library(emulated)

        def keep(array: np.ndarray | None, kind: type) -> int | None:
            if array is None:
                return None
            there = np.ascontiguousarray(array, dtype=kind)
            return int(kernel.gpu_keep(pointer(there), ctypes.c_int64(there.nbytes)))

        factors = ((ctypes.c_float * 3)(*values) for values in normalisation)
        self.images = _Images(keep(images, np.uint8), keep(labels, np.int32), images.shape[1], *factors)
        self.plan = _Plan(keep(chosen, np.int32), keep(moves, np.uint8), keep(rates, np.float32), chosen.shape[1])


class GpuNet:
    """16 copies of a network on the GPU."""

    def __init__(
        self, layout: Layout, batch_size: int, params: np.ndarray, statistics: np.ndarray, emulated: bool = False
    ) -> None:
        self._kernel, self._shapes = library(emulated), (params.shape, params.shape, statistics.shape)
        first = (layout.spec(batch_size), params, statistics)  # kept during the call
        self._net = ctypes.c_void_p(self._kernel.gpu_create(*[pointer(array) for array in first]))
        if not self._net:
            raise ValueError(f"{layout}: too large for batches of {batch_size}")

    def __del__(self) -> None:
        if getattr(self, "_net", None):
            self._kernel.gpu_destroy(self._net)

    def fetch(self, which: int) -> np.ndarray:
        """Parameters (0), gradients (1) or running statistics (2), [values, 16]."""
        values = np.empty(self._shapes[which], dtype=np.float32)
        self._kernel.gpu_fetch(self._net, which, pointer(values))
        return values

    def train(self, kept: Kept, steps: int, momentum: float, decay: float) -> np.ndarray:
        """Train for some steps from the first one of the plan: each lane's summed loss over the last step's images."""
        loss, right = np.zeros(LANES), np.zeros(LANES, dtype=np.int32)
        numbers = [ctypes.c_float(number) for number in (momentum, decay, BN_MOMENTUM)]
        places = ctypes.byref(kept.images), ctypes.byref(kept.plan)
        self._kernel.gpu_train(self._net, *places, ctypes.c_int(steps), *numbers, pointer(loss), pointer(right))
        return loss

    def evaluate(self, kept: Kept, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Top-1 and mean cross-entropy of each lane on the first images of a plan of one lane."""
        loss, right = np.zeros(LANES), np.zeros(LANES, dtype=np.int32)
        places = ctypes.byref(kept.images), ctypes.byref(kept.plan)
        self._kernel.gpu_evaluate(self._net, *places, ctypes.c_int(count), pointer(loss), pointer(right))
        return right / count, loss / count


def in_order(count: int, batch_size: int) -> np.ndarray:
    """A plan of one lane that sees the images in their order, [steps, 1, batch]; the last step is filled with image 0."""
    order = np.zeros((-(-count // batch_size), 1, batch_size), dtype=np.int32)
    order.reshape(-1)[:count] = np.arange(count)
    return order


class Job:
    """Trains the subnets of a job file."""

    def __init__(self, path: Path, emulated: bool = False) -> None:
        with np.load(path) as arrays:
            self.about: dict[str, Any] = json.loads(str(arrays["about"]))
            images, labels, rates = arrays["train_images"], arrays["train_labels"], arrays["rates"]
            held_out, held_out_labels = arrays["val_images"], arrays["val_labels"]
        about, self.emulated = self.about, emulated
        self.batches = Batches(**{**about["batches"], "seeds": tuple(about["batches"]["seeds"])})
        parts = [self.batches.epoch(epoch) for epoch in range(about["epochs"])]
        chosen, moves = (np.concatenate([part[which] for part in parts]) for which in range(2))
        edge = (self.batches.pad, self.batches.pad)
        padded = np.pad(images, ((0, 0), edge, edge, (0, 0)))
        self.steps, self.held_out, size = len(chosen), len(held_out), self.batches.size
        self.train_images = Kept(padded, labels, about["normalisation"], chosen, moves, rates, emulated)
        plan = in_order(self.held_out, size)
        self.val_images = Kept(held_out, held_out_labels, about["normalisation"], plan, emulated=emulated)

    def train(self, subnet: dict[str, Any]) -> dict[str, Any]:
        """Train a subnet: top-1 and loss on the validation images by seed, and the seconds (shared with the others)."""
        started, about = time.time(), self.about
        layout = Layout(about["side"], about["classes"], subnet["stem"], tuple(map(tuple, subnet["blocks"])))
        net = GpuNet(layout, self.batches.size, *layout.first_values(self.batches.seeds), self.emulated)
        last = net.train(self.train_images, self.steps, about["momentum"], about["weight_decay"])
        if not (np.isfinite(last).all() and np.isfinite(net.fetch(0)).all()):  # a ReLU turns NaN into 0
            raise SystemExit(f"{subnet['name']}: training diverged; the last losses are {last}; lower the learning rate")
        acc, loss = net.evaluate(self.val_images, self.held_out)
        result = {"acc": acc.round(6).tolist(), "loss": loss.round(5).tolist(), "seconds": round(time.time() - started, 1)}
        return {"name": subnet["name"], "arch": subnet["arch"], **result}


def device_name(emulated: bool) -> str:
    """The GPU as its driver names it."""
    if emulated:
        return "emulated"
    return subprocess.run(GPU, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()


def finished(path: Path, job: str) -> set[str]:
    """Names of the subnets in a file of results; a line that was cut short, when the program was killed, is removed.

    Raises:
        SystemExit: the results are those of another job.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if whole != lines:
        path.write_text("".join(whole), encoding="utf-8")
    results = [json.loads(line) for line in whole]
    if any(result["recipe"] != job for result in results):
        raise SystemExit(f"gpu: {path} holds results of another job; choose another file")
    return {result["name"] for result in results}


def main() -> None:
    """Train what has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, metavar="JOB.npz")
    parser.add_argument("--results", type=Path, required=True, metavar="FILE", help="JSON lines, one a subnet")
    parser.add_argument("--at-once", type=int, default=24, metavar="N", help="subnets trained side by side (default: 24)")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="N", help="start no subnet after so many")
    parser.add_argument("--emulate", action="store_true", help="on the processor, slow, to test the program")
    arguments = parser.parse_args()
    if arguments.at_once < 1 or not arguments.job.is_file() or not arguments.results.parent.is_dir():
        parser.error("JOB.npz and the folder of --results must exist, and --at-once must be at least 1")
    started = time.time()
    try:
        library(arguments.emulate)
    except CompilerError as error:
        sys.exit(f"gpu: {error}")
    job, lock, device = Job(arguments.job, arguments.emulate), Lock(), device_name(arguments.emulate)
    there = finished(arguments.results, job.about["recipe"])
    count = len(job.about["subnets"])
    print(f"{device}: {job.steps} steps, {count} subnets, ready after {time.time() - started:.0f} s", flush=True)

    def one(subnet: dict[str, Any]) -> None:
        if subnet["name"] in there or time.time() - started > arguments.seconds:
            return
        result = job.train(subnet)
        with lock, arguments.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**result, "device": device, "recipe": job.about["recipe"]}) + "\n")
        mean, spread = 100 * np.mean(result["acc"]), 100 * np.std(result["acc"], ddof=1)
        print(f"{time.time() - started:5.0f} s {result['name']}: {mean:.2f} +- {spread:.2f} %", flush=True)

    with ThreadPoolExecutor(arguments.at_once) as pool:
        list(pool.map(one, job.about["subnets"]))


if __name__ == "__main__":
    main()
