"""Measured latency of subnets on this device."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import paddle

from paddle_pgonas.config.loading import Model
from paddle_pgonas.io.records import Store
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.runtime import versions
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.named import SpaceKey

WARM_UP, REPEATS = 5, 20


class Latency:
    """Milliseconds of one forward pass of an extracted subnet, per architecture; each is measured once and stored in ``folder``,
    after a call of ``check_folder``.

    It is the median of REPEATS runs after WARM_UP ones of a plain network of the subnet's shape (weights do not influence the
    time), with the copy of the logits to the CPU's memory. Other load on the machine disturbs the measurement.
    """

    def __init__(
        self,
        device: str,
        space: SpaceKey,
        model: Model,
        image_size: int,
        batch: int,
        folder: Path,
        check_folder: Callable[[], None],
    ) -> None:
        self.model, self.image_size, self.batch, self.check_folder = model, image_size, batch, check_folder
        identity = {
            "kept": "latencies",
            "device": device,
            "processor": paddle.device.cuda.get_device_name() if device != "cpu" else _processor(),
            "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
            "versions": versions(),
            "space": space,
            "side": image_size,
            "classes": model.num_classes,
            "activation": model.activation,
            "batch": batch,
            "method": [WARM_UP, REPEATS],
        }
        self.store = Store(folder, identity)
        self.measured: dict[str, float] = {}

    def __call__(self, arch: Arch) -> float:
        """Milliseconds of this architecture."""
        if arch.code not in self.measured:
            entry = self.store.get(arch.code)
            self.measured[arch.code] = entry.record["milliseconds"] if entry else self._measure(arch)
            if entry is None:
                self.check_folder()
                self.store.put(arch.code, {"milliseconds": self.measured[arch.code]})
        return self.measured[arch.code]

    def _measure(self, arch: Arch) -> float:
        net = ResNet(arch, self.model.num_classes, self.model.activation)
        net.eval()
        times = []
        with paddle.no_grad():
            x = paddle.ones([self.batch, 3, self.image_size, self.image_size])
            for _ in range(WARM_UP + REPEATS):
                started = time.perf_counter()
                net(x).numpy()
                times.append(time.perf_counter() - started)
        return 1000 * statistics.median(times[WARM_UP:])


def _processor() -> str:
    """The processor's name as Linux gives it; the machine's type elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
