"""A GPU that the installed Paddle or the configuration cannot use is refused before anything runs; with a simulated GPU."""

from __future__ import annotations

import pytest

from paddle_pgonas import runtime
from paddle_pgonas.config.loading import CONFIGS, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.priors.geometry import layers
from paddle_pgonas.space.arch import TRACK1
from paddle_pgonas.training import memory
from paddle_pgonas.training.memory import check_memory


def test_a_batch_that_cannot_fit_is_said_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(CONFIGS / "track1" / "common.yaml")
    train, listed = config.train, layers(TRACK1.largest, 224, 1000)
    monkeypatch.setattr(memory.paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(memory, "device_memory", lambda: 8 * 2**30)
    with pytest.raises(UserError, match=r"train\.batch_size: 256 images .* this GPU has 8\.0 GiB; set train\.accumulate=2"):
        check_memory(listed, train)
    check_memory(listed, config.changed(train={"accumulate": 2}).train)
    check_memory(listed, config.changed(train={"amp": "bf16"}).train)
    monkeypatch.setattr(memory, "device_memory", lambda: 2**20)
    with pytest.raises(UserError, match=r"lower data\.image_size"):
        check_memory(listed, train)


def test_a_gpu_without_kernels_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*_: object) -> None:
        raise OSError("(External) CUDA error(209), no kernel image is available for execution on the device.")

    monkeypatch.setattr("paddle.nn.functional.conv2d", no_kernel)
    monkeypatch.setattr("paddle.device.cuda.get_device_name", lambda index: "NVIDIA H100")
    monkeypatch.setattr("paddle.device.cuda.get_device_capability", lambda index: (9, 0))
    said = r"cannot compute on NVIDIA H100 \(compute capability 9\.0.*device=cpu.*no kernel image"
    with pytest.raises(UserError, match=said) as caught:
        runtime._check_kernels(0)
    assert "\n" not in str(caught.value)
