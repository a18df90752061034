"""A GPU that the installed Paddle or the configuration cannot use is refused before anything runs; with a simulated GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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
    monkeypatch.setattr(runtime, "device_capability", lambda: (6, 1))
    said = r"train\.batch_size: 256 images .* this GPU has 8\.0 GiB; set train\.accumulate=2"
    with pytest.raises(UserError, match=said + "$"):
        check_memory(listed, train)
    monkeypatch.setattr(runtime, "device_capability", lambda: (7, 0))
    with pytest.raises(UserError, match=said + r", or train\.amp=fp16$"):
        check_memory(listed, train)
    check_memory(listed, config.changed(train={"accumulate": 2}).train)
    check_memory(listed, config.changed(train={"amp": "fp16"}).train)
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
    monkeypatch.setenv("PADDLE_TRAINER_ENDPOINTS", "127.0.0.1:1,127.0.0.1:2")
    monkeypatch.setattr(processes, "Peers", lambda *_: SimpleNamespace(tell=print))
    monkeypatch.setattr(processes, "_peers", [])
    monkeypatch.setattr("paddle.get_device", lambda: "gpu:0")
    monkeypatch.setattr("paddle.distributed.init_parallel_env", lambda: None)
    monkeypatch.setattr("paddle.distributed.all_reduce", raises(NOT_CONFIGURED.format("libnccl.so")))
    with pytest.raises(UserError, match=r"cannot open libnccl\.so"), processes.together():
        pass


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


@pytest.mark.parametrize(
    ("amp", "capability", "said"),
    [
        ("bf16", (7, 5), r"train\.amp: bf16 needs a GPU of compute capability 8\.0, this one has 7\.5; set train\.amp=fp16"),
        ("tf32", (7, 0), r"tf32 needs a GPU of compute capability 8\.0, this one has 7\.0; set train\.amp=fp16"),
        ("fp16", (6, 1), r"fp16 needs a GPU of compute capability 7\.0, this one has 6\.1; set train\.amp=off"),
        ("off", (6, 1), None),
        ("fp16", (7, 0), None),
        ("bf16", (8, 0), None),
        ("tf32", (10, 0), None),
    ],
)
def test_a_precision_that_the_gpu_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, amp: str, capability: tuple[int, int], said: str | None
) -> None:
    """Paddle computes in float32 there and only warns."""
    monkeypatch.setattr("paddle.get_device", lambda: "gpu:0")
    monkeypatch.setattr("paddle.device.cuda.get_device_capability", lambda: capability)
    if said is None:
        assert runtime.compute_dtype(amp, "train.amp") == runtime.PRECISIONS[amp].dtype
    else:
        with pytest.raises(UserError, match=said):
            runtime.compute_dtype(amp, "train.amp")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A simulated GPU; what is set on it, in the order of setting."""
    made: dict[str, object] = {"FLAGS_cudnn_deterministic": False}
    monkeypatch.setattr("paddle.is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr("paddle.device.cuda.device_count", lambda: 1)
    monkeypatch.setattr("paddle.set_device", lambda name: made.update(device=name))
    monkeypatch.setattr("paddle.get_flags", lambda name: {name: made[name]})
    monkeypatch.setattr("paddle.set_flags", made.update)
    for name in ("cudnn", "cublas"):
        set_it = functools.partial(made.__setitem__, name)
        monkeypatch.setattr(f"paddle.base.core.set_{name}_switch", set_it, raising=False)
    monkeypatch.setattr(runtime, "_check_kernels", lambda index: made.update(computed=True))
    return made


@pytest.mark.parametrize("exhaustively", [False, True])
def test_a_gpu_computes_float32_and_searches_as_configured(gpu: dict[str, object], exhaustively: bool) -> None:
    runtime.select_device("auto", exhaustively)
    assert gpu["FLAGS_cudnn_exhaustive_search"] == exhaustively
    assert list(gpu)[-1] == "computed"  # nothing is computed before everything is set
    assert (gpu["cudnn"], gpu["cublas"]) == (False, False)
    with runtime.tf32("tf32"):
        assert (gpu["cudnn"], gpu["cublas"]) == (True, True)
    assert (gpu["cudnn"], gpu["cublas"]) == (False, False)


def test_an_exhaustive_search_that_cannot_be_is_refused(gpu: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu["FLAGS_cudnn_deterministic"] = True
    runtime.select_device("gpu")
    with pytest.raises(UserError, match=r"exhaustive_search: excludes FLAGS_cudnn_deterministic; .*exhaustive_search=false"):
        runtime.select_device("gpu", exhaustive_search=True)
    with pytest.raises(UserError, match=r"exhaustive_search: .*set exhaustive_search=false"):
        runtime.select_device("cpu", exhaustive_search=True)


@pytest.mark.parametrize("library", ["CUDNN", "CUBLAS"])
def test_a_failed_allocation_of_a_library_is_out_of_memory(library: str) -> None:
    error = OSError(f"(External) {library} error(2), {library}_STATUS_ALLOC_FAILED.")
    assert isinstance(error, runtime.DEVICE_ERRORS)
    assert runtime.out_of_memory(error)
    assert not runtime.out_of_memory(OSError(f"(External) {library}_STATUS_NOT_INITIALIZED"))
