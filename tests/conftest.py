"""Shared fixtures. Paddle is prepared before any test module imports it."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from paddle_pgonas.config.loading import Config, Data, load_config
from paddle_pgonas.priors import cost
from paddle_pgonas.priors.zen import zen_score
from paddle_pgonas.runtime import prepare_process
from paddle_pgonas.space.arch import MINI, Arch, SearchSpace

if TYPE_CHECKING:
    import paddle

    from paddle_pgonas.data.batches import EpochBatches
    from paddle_pgonas.nn.supernet import Supernet

pytest.register_assert_rewrite("small_study")  # which registers its fixtures after it was imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for networks of this size; a fork of a process with more threads hangs
prepare_process()

REPOSITORY = Path(__file__).resolve().parent.parent
TINY_CONFIG = Path(__file__).parent / "fixtures" / "tiny.yaml"
TINY_SPACE = TINY_CONFIG.with_name("tiny_space.yaml")
TINY = load_config(TINY_CONFIG).search_space
"""Two stages of two blocks, where a step takes milliseconds; for all tests whose point is not the size."""
os.environ["PYTHONPATH"] = str(REPOSITORY)  # processes that tests start use this checkout, whatever is installed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where Paddle has none. What fixtures of the whole session make is made on the CPU."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import paddle

        if not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no GPU that this Paddle can use"))
    if "paddle" in sys.modules:
        sys.modules["paddle"].set_device("cpu")


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests that are not marked gpu, and the processes that they start, see no GPU."""
    paddle = sys.modules.get("paddle")
    if request.node.get_closest_marker("gpu"):
        yield
        paddle.set_device("cpu")
        return
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # also for a Paddle that this test is the first to import
    if paddle:
        monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 0)
        paddle.set_device("cpu")
    yield


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


def golden_supernet(space: SearchSpace = MINI) -> Supernet:
    """A supernet for evaluation with ten classes, filled with golden values."""
    from paddle_pgonas.nn.supernet import Supernet

    net = Supernet(space, 10, "prelu")
    fill_golden(net)
    net.eval()
    return net


def alone(net: Supernet, arch: Arch, bn: str, calibration: paddle.Tensor, x: paddle.Tensor) -> np.ndarray:
    """The logits of one extracted subnet, by plain Paddle layers."""
    from paddle import nn

    from paddle_pgonas.nn.supernet import extract

    subnet = extract(net, arch)
    if bn == "calibrated":
        for layer in subnet.sublayers():
            if isinstance(layer, nn.BatchNorm2D):
                layer._momentum = 0.0
        subnet.train()
        subnet(calibration)
    subnet.train() if bn == "batch" else subnet.eval()
    return subnet(x).numpy()


def some_archs(space: SearchSpace, count: int, seed: int = 0) -> list[Arch]:
    """The largest, the smallest and random architectures."""
    import random

    rng = random.Random(seed)
    return [space.largest, space.smallest, *(space.sample(rng) for _ in range(count - 2))]


def tiny_config(folder: Path, *overrides: str) -> Config:
    """The demo's method on few digits in the tiny space, without watching."""
    few = ["data.train_limit=64", "data.val_limit=30", "train.batch_size=8", "train.epochs=2", "train.log_every=1"]
    few += ["train.watch_images=0", "train.watch_subnets=0", "device=cpu"]
    return load_config(TINY_CONFIG, [f"output_dir={folder}", *few, *overrides])


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the tiny supernet's golden weights, as if trained for seven steps; not to be changed."""
    from paddle_pgonas.nn.supernet import Supernet
    from paddle_pgonas.nn.weights import save_weights

    net, path = Supernet(TINY, 10, "prelu"), tmp_path_factory.mktemp("tiny") / "w.safetensors"
    fill_golden(net)
    save_weights(path, net, {"step": 7})
    return path


class Fork:
    """A process that starts as a copy of this one, with Paddle loaded, for tests that need several or kill one."""

    def __init__(self, work: Callable[[], object], log: Path, environment: dict[str, str] | None = None) -> None:
        import sklearn.datasets  # noqa: F401  (the digits' source; else every child would import it)

        self.log = log
        self.id = os.fork()
        if self.id == 0:
            status = 1
            try:
                with open(log, "wb", buffering=0) as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                sys.stdout, sys.stderr = (open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
                signal.alarm(120)
                os.environ |= environment or {}
                work()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)

    def kill(self) -> None:
        os.kill(self.id, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit status, negative for the signal that it died of."""
        return os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1])

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """A tenth of the resamples, where a test is not about the width of intervals."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("scores.correlation", "report.comparison"):
            patch.setattr(f"paddle_pgonas.{module}.resamples_for", lambda count: 100)
        patch.setattr("paddle_pgonas.scores.correlation.attainable_kendall.__defaults__", (100,))
        yield


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
