"""What low precision on a GPU needs, shown on a CPU: the loss scale in checkpoints, and the types of all feature maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import TINY
from short_runs import config, equal, weights

from paddle_pgonas import runtime
from paddle_pgonas.config.loading import Config
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.io.records import read
from paddle_pgonas.nn import elastic
from paddle_pgonas.nn.resnet import ACTIVATIONS, PReLU
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.training.checkpoints import checkpoints
from paddle_pgonas.training.trainer import train_supernet as train


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss scaling as on a GPU, with the float32 kernels of a CPU: Paddle enables a scaler for the place of its tracer."""
    place = SimpleNamespace(is_gpu_place=lambda: True)
    monkeypatch.setattr(paddle.amp.grad_scaler, "_dygraph_tracer", lambda: SimpleNamespace(_expected_place=place))
    for module in ("run", "trainer"):
        monkeypatch.setattr(f"paddle_pgonas.training.{module}.compute_dtype", lambda amp, key: runtime.PRECISIONS[amp].dtype)
    monkeypatch.setattr("paddle_pgonas.runtime.recommended_amp", lambda: "fp16")


def short(folder: Path, **settings: Any) -> Config:
    return config(folder, "sandwich", **{"max_steps": 3, "batch_size": 8} | settings)


@pytest.mark.parametrize("settings", [{}, {"clip_grad_norm": 0.5, "accumulate": 4}], ids=str)
def test_a_scaled_loss_gives_the_weights_of_an_unscaled_one(tmp_path: Path, scaling: None, settings: dict[str, Any]) -> None:
    scaled, plain = (train(short(tmp_path / amp, amp=amp, **settings)) for amp in ("fp16", "off"))
    for name, array in weights(plain).items():
        np.testing.assert_allclose(weights(scaled)[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
    logged, unscaled = (read_json_lines(tmp_path / amp / "metrics.jsonl") for amp in ("fp16", "off"))
    for line, other in zip(logged, unscaled, strict=True):
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
        assert line["loss_scale"] == 2**16
        assert "loss_scale" not in other


def test_a_resumed_run_continues_with_its_loss_scale(tmp_path: Path, scaling: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale rises after two steps here, so that it differs from its initial value in the checkpoint."""
    monkeypatch.setattr(paddle.amp.GradScaler.__init__, "__defaults__", (True, 2.0**10, 2.0, 0.5, 2, 1, True))
    whole = weights(train(short(tmp_path / "whole", amp="fp16", max_steps=5)))
    train(short(tmp_path / "parts", amp="fp16", max_steps=3))
    [checkpoint] = checkpoints(tmp_path / "parts" / "checkpoints")
    assert read(checkpoint)[1]["loss_scale"]["scale"] == 2.0**11
    assert read(checkpoint)[1]["loss_scale"]["incr_count"] == 1
    assert equal(weights(train(short(tmp_path / "parts", amp="fp16", max_steps=5), resume=True)), whole)
    scales = [line["loss_scale"] for line in read_json_lines(tmp_path / "parts" / "metrics.jsonl")]
    assert scales == [2.0**10, 2.0**11, 2.0**11, 2.0**12, 2.0**12]


def test_a_step_that_overflows_is_skipped_and_logged_as_json(
    tmp_path: Path, scaling: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paddle.amp.GradScaler.__init__, "__defaults__", (True, 3e38, 2.0, 2.0**-100, 1000, 1, True))
    trained = weights(train(short(tmp_path / "a", amp="fp16", max_steps=1)))
    train(short(tmp_path / "b", max_steps=1, lr_per_256=0.0))
    untouched = weights(tmp_path / "b" / "supernet.safetensors")
    learned = [name for name in trained if not name.endswith(("_mean", "_variance"))]
    assert equal({name: trained[name] for name in learned}, {name: untouched[name] for name in learned})
    assert "Infinity" not in (tmp_path / "a" / "metrics.jsonl").read_text()
    [line] = read_json_lines(tmp_path / "a" / "metrics.jsonl")
    assert line["loss_scale"] < 3e38


def test_prelu_learns_its_float32_slope_from_low_precision_maps() -> None:
    """With float64 maps, as a CPU has no kernel for less than float32."""
    act, x = PReLU(), paddle.to_tensor(np.linspace(-2, 2, 8).reshape(2, 1, 2, 2), "float64", stop_gradient=False)
    out = act(x)
    out.sum().backward()
    assert out.dtype == paddle.float64
    assert act._weight.dtype == paddle.float32
    assert float(act._weight.grad) == pytest.approx(float(x[x < 0].sum()))


@contextmanager
def tracing() -> Iterator[paddle.static.Program]:
    """Paddle 3's static graphs, which have types for operators without a kernel on a CPU."""
    program = paddle.static.Program()
    paddle.enable_static()
    try:
        with paddle.static.program_guard(program, paddle.static.Program()):
            yield program
    finally:
        paddle.disable_static()


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="Paddle 2 cannot trace types that a CPU has no kernels for")
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_every_convolution_and_map_of_a_step_is_in_low_precision(activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the head's: the mean over the last map is computed in float32.

    BatchNorm and SELU lack even a type on a CPU. On a GPU BatchNorm gives maps of its input's type whatever its other tensors
    are, and SELU reads a single tensor: so does ``scale``.
    """
    monkeypatch.setattr(F, "batch_norm", lambda x, *others, **settings: paddle.scale(x, 2.0))
    monkeypatch.setattr(F, "selu", lambda x, *others: paddle.scale(x, 2.0))
    monkeypatch.setattr(elastic, "conv2d", lambda x, w, stride: F.conv2d(x, w, stride=stride, padding=w.shape[2] // 2))
    with tracing() as program:
        net = Supernet(TINY, 10, activation)
        net.train()
        x = paddle.static.data("x", [7, 3, 8, 8], "float32")
        with paddle.amp.auto_cast(dtype="bfloat16"):
            loss = F.cross_entropy(net(x), paddle.zeros([7], "int64"))
        paddle.static.append_backward(loss)
        maps = [
            (op.name().removeprefix("pd_op."), value)
            for op in program.global_block().ops
            for value in op.results()
            if value.is_dense_tensor_type() and value.initialized() and len(value.shape) == 4 and value.shape[0] == 7
        ]
        wide = [name for name, value in maps if value.dtype == paddle.float32]
        assert sorted(wide) == ["cast", "data", "mean_grad"]
        assert sum(name == "conv2d" for name, _ in maps) == 10
        assert sum(name == "conv2d_grad" for name, _ in maps) == 9  # the image needs no gradient
