"""Shared fixtures. Paddle is prepared before any test module imports it."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from paddle_pgonas.config.loading import Data
from paddle_pgonas.priors import cost
from paddle_pgonas.priors.zen import zen_score
from paddle_pgonas.runtime import prepare_process
from paddle_pgonas.space.arch import Arch, SearchSpace

if TYPE_CHECKING:
    from paddle_pgonas.data.batches import EpochBatches

prepare_process()

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ["PYTHONPATH"] = str(REPOSITORY)  # processes that tests start use this checkout, whatever is installed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where Paddle has none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import paddle

        if not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no GPU that this Paddle can use"))


settings.register_profile("any machine", deadline=None)  # a loaded machine is slow, not wrong
settings.load_profile("any machine")


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of small images as users have them: RGB, grey, palette, with alpha, of odd sizes, and one corrupt file."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        for label, name in enumerate(("bright", "dark")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = rng.integers(20, 50, 2)
                pixels = rng.integers(0, 100, (height, width, 3), dtype=np.uint8) + (1 - label) * 150
                image = Image.fromarray(pixels.astype(np.uint8)).convert(("RGB", "L", "P", "RGBA")[number % 4])
                image.save(folder / f"{number}.png")
    (tmp_path / "images" / "train" / "bright" / "0.png").write_bytes(b"not an image")
    (tmp_path / "images" / "val" / "dark" / "0.png").write_bytes(b"not an image")
    return tmp_path / "images"


def image_settings(root: Path, **changes: object) -> Data:
    """Small crops of a folder's images, read in this process."""
    return Data(**({"root": str(root), "image_size": 16, "resize": 18, "workers": 0} | changes))


def collect(batches: EpochBatches, epoch: int, start: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of an epoch's batches from ``start`` on."""
    return [(images.numpy(), labels.numpy()) for images, labels in batches.epoch_from(epoch, start)]


def golden_array(name: str, shape: list[int]) -> np.ndarray:
    """A parameter of the golden network: a function of its name and shape."""
    from paddle_pgonas.published.reference import golden_values

    return golden_values(name, shape)


def fill_golden(layer) -> None:
    """Give every parameter and statistic of a network its golden value, so that no BatchNorm is an identity."""
    tensors = layer.weights() if hasattr(layer, "weights") else layer.state_dict()
    for name, tensor in tensors.items():
        tensor.set_value(golden_array(name, list(tensor.shape)))


def some_archs(space: SearchSpace, count: int, seed: int = 0) -> list[Arch]:
    """The largest, the smallest and random architectures."""
    import random

    rng = random.Random(seed)
    return [space.largest, space.smallest, *(space.sample(rng) for _ in range(count - 2))]


Tool = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    """Run a tool in this process and return its exit status, output and errors."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        script = REPOSITORY / "tools" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        monkeypatch.syspath_prepend(str(script.parent))
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(script), run_name="__main__")
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


def assert_one_line(status: int, err: str, names: str) -> None:
    lines = [line for line in err.replace("\r", "\n").splitlines() if line and not line.startswith("training:")]
    assert status == 2
    assert len(lines) == 1, lines
    assert names in lines[0]


def flops(arch: Arch) -> int:
    """Multiply-accumulates at the space's image size with 1,000 classes."""
    return cost.macs(arch, arch.space.image_size, 1000)


def zen(arch: Arch) -> float:
    """Zen-score at the space's image size."""
    return zen_score(arch, arch.space.image_size)
