"""Inference models: written by ``paddle.jit.save``, run by ``paddle.inference``, converted to ONNX on request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
from paddle import inference, nn

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json
from paddle_pgonas.io.records import value_at
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.runtime import paddle_version

Network = Callable[[np.ndarray], np.ndarray]
"""Logits float32 [N, classes] of normalised images float32 [N, 3, S, S], any N."""

PREFIX = "inference"
"""Name of an inference model's files, without the suffix."""
RECORD = "record.json"
"""The record beside them, which an export writes last."""

MODEL_FILES = tuple(f"{PREFIX}.{suffix}" for suffix in ("json", "pdmodel", "pdiparams", "pdiparams.info", "onnx"))
"""The files of an inference model, in Paddle 3, in Paddle 2 and under ONNX."""


def save_inference_model(subnet: ResNet, folder: Path, image_size: int) -> None:
    """Write the network in evaluation mode as ``inference.*``, for any batch size."""
    # A plain chain of blocks, because jit.save cannot trace ResNet's optional depth argument.
    chain = nn.Sequential(*subnet.blocks.values())
    chain.eval()
    spec = paddle.static.InputSpec([None, 3, image_size, image_size], "float32", "images")
    paddle.jit.save(chain, str(folder / PREFIX), input_spec=[spec])


def model_file(folder: str | Path) -> Path:
    """The program of an inference model: ``.json`` from Paddle 3, ``.pdmodel`` from Paddle 2. Raises UserError for none."""
    for path in (Path(folder) / f"{PREFIX}.json", Path(folder) / f"{PREFIX}.pdmodel"):
        if path.exists():
            return path
    raise UserError(f"{folder}: holds no inference model ({PREFIX}.json or {PREFIX}.pdmodel); export a subnet into it first")


def open_inference_model(folder: str | Path, device: str = "cpu") -> Network:
    """An inference model under ``paddle.inference``, on ``cpu`` or ``gpu:<index>``.

    A call raises UserError for images of another shape than the export's ``record.json`` says; without it nothing is compared.
    """
    kept = Path(folder) / RECORD
    shape = value_at(read_json(kept, "record of an export"), "input", "shape") if kept.exists() else None
    settings = inference.Config(str(model_file(folder)), str(Path(folder) / f"{PREFIX}.pdiparams"))
    settings.disable_glog_info()
    if device == "cpu":
        settings.disable_gpu()
    else:
        settings.enable_use_gpu(256, int(device.partition(":")[2] or 0))
    predictor = inference.create_predictor(settings)
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    sink = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(x: np.ndarray) -> np.ndarray:
        if isinstance(shape, list) and list(x.shape[1:]) != shape[1:]:
            raise UserError(f"{folder}: the model takes images [N, {', '.join(map(str, shape[1:]))}], not {list(x.shape)}")
        source.reshape(list(x.shape))
        source.copy_from_cpu(np.ascontiguousarray(x))
        predictor.run()
        return sink.copy_to_cpu()

    return run


def require_onnx() -> None:
    """Raise a UserError if paddle2onnx or onnxruntime is missing or does not fit this Paddle; it names the version that does."""
    wanted = "paddle2onnx>=2.1" if int(paddle_version().split(".")[0]) >= 3 else "paddle2onnx==1.3.1"
    try:
        import onnxruntime  # noqa: F401
        import paddle2onnx  # noqa: F401
    except (ImportError, ValueError) as error:  # paddle2onnx raises ValueError for a Paddle that it does not support
        reason = str(error).split(". ")[0]
        raise UserError(f"--onnx: {reason}; pip install '{wanted}' onnxruntime 'numpy<2'") from None


def convert_to_onnx(folder: Path) -> bytes:
    """The folder's inference model as an ONNX model."""
    import paddle2onnx

    # Without a file name it only converts; with one, version 2 optimises the graph and pip-installs packages for that.
    return bytes(paddle2onnx.export(str(model_file(folder)), str(folder / f"{PREFIX}.pdiparams"), opset_version=13))


def open_onnx_model(path: Path) -> Network:
    """An ONNX model under onnxruntime on the processor."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]
