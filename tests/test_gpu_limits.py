"""A GPU that the installed Paddle or the configuration cannot use is refused before anything runs; with a simulated GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from paddle_pgonas import processes, runtime
from paddle_pgonas.config.loading import CONFIGS, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.gpu_libraries import USED, library_report, loaded_libraries
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


def raises(message: str) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(message)

    return fail


def test_a_gpu_without_kernels_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddle.get_cudnn_version", lambda: 8600)
    no_kernel = "(External) CUDA error(209), no kernel image is available for execution on the device."
    monkeypatch.setattr("paddle.nn.functional.conv2d", raises(no_kernel))
    monkeypatch.setattr("paddle.device.cuda.get_device_name", lambda index: "NVIDIA H100")
    monkeypatch.setattr("paddle.device.cuda.get_device_capability", lambda index: (9, 0))
    said = r"cannot compute on NVIDIA H100 \(compute capability 9\.0.*device=cpu.*no kernel image"
    with pytest.raises(UserError, match=said) as caught:
        runtime._check_kernels(0)
    assert "\n" not in str(caught.value)


NOT_CONFIGURED = """(PreconditionNotMet) The third-party dynamic library ({}) that Paddle depends on is not configured correctly.
  Suggestions:
  1. Check if the third-party dynamic library (e.g. CUDA, CUDNN) is installed correctly"""
NOT_LOADED = "(PreconditionNotMet) Cannot load cudnn shared library. Cannot invoke method cudnnGetVersion."
"""As Paddle 2.6.2 writes them."""


@pytest.mark.parametrize(
    ("cudnn", "fails", "message", "library"),
    [
        (8600, "paddle.ones", NOT_LOADED, "libcudnn.so"),
        (8600, "paddle.nn.functional.conv2d", NOT_CONFIGURED.format("libcublas.so"), "libcublas.so"),
        (8600, "paddle.Tensor.matmul", NOT_CONFIGURED.format("libcublas.so"), "libcublas.so"),
        (-1, "paddle.ones", "it would end the process", "libcudnn.so"),
        (None, "paddle.ones", "it would end the process", "libcudnn.so"),
    ],
)
def test_a_library_that_paddle_cannot_open_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, cudnn: int | None, fails: str, message: str, library: str
) -> None:
    monkeypatch.setattr("paddle.get_cudnn_version", lambda: cudnn)
    monkeypatch.setattr(fails, raises(message))
    with pytest.raises(UserError, match=rf"^device: Paddle cannot open {library}: .*make gpu-libraries.*device=cpu$") as caught:
        runtime._check_kernels(0)
    assert "\n" not in str(caught.value)


def test_a_missing_nccl_is_named_when_the_processes_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setattr("paddle.get_device", lambda: "gpu:0")
    monkeypatch.setattr("paddle.distributed.init_parallel_env", lambda: None)
    monkeypatch.setattr("paddle.distributed.all_reduce", raises(NOT_CONFIGURED.format("libnccl.so")))
    with pytest.raises(UserError, match=r"cannot open libnccl\.so"):
        processes.join()


def test_the_report_names_each_library_its_file_or_why_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = tmp_path / "nvidia" / "cudnn" / "lib" / "libcudnn.so.8"
    libraries.parent.mkdir(parents=True)
    libraries.touch()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    report = library_report()
    assert set(USED) <= set(report)
    assert report["cudnn"].startswith("missing (libcudnn.so: cannot open") and report["cudnn"].endswith(str(libraries))
    assert report["nccl"].startswith("missing (libnccl.so: cannot open")
    maps = "7f00-7f01 r-xp 00000000 fe:00 12  /a folder/libcudnn.so.8.6.0\n7f02-7f03 r-xp 00000000 fe:00 13  /lib/libc.so.6\n"
    monkeypatch.setattr(Path, "read_text", lambda path, **_: maps)
    assert loaded_libraries() == {"cudnn": "/a folder/libcudnn.so.8.6.0"}
    assert library_report()["cudnn"] == "/a folder/libcudnn.so.8.6.0"
