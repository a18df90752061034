"""The export job of the command line: extract one subnet, calibrate it, write it, and compare it with the scorer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

from paddle_pgonas.config.loading import Config, Data, files_read, save_config
from paddle_pgonas.config.meaning import SCORED, check_record, classes_of, warn_untrained
from paddle_pgonas.data.cache import DecodedImages
from paddle_pgonas.data.images import open_images
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.errors import UserError
from paddle_pgonas.exporting.inference import (
    MODEL_FILES,
    RECORD,
    Network,
    convert_to_onnx,
    model_file,
    open_inference_model,
    open_onnx_model,
    require_onnx,
    save_inference_model,
)
from paddle_pgonas.io.files import PART, write_json, write_text, writing
from paddle_pgonas.io.locks import exclusive
from paddle_pgonas.io.outputs import NOTES, claim, put_in_place, wrote
from paddle_pgonas.io.records import Record
from paddle_pgonas.nn.elastic import calibrate
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.nn.supernet import Supernet, extract
from paddle_pgonas.nn.weights import load_weights, put_plain_weights, read_arrays, save_weights, trained_alone
from paddle_pgonas.priors import cost
from paddle_pgonas.progress import progress, say_once
from paddle_pgonas.runtime import device_name, select_device, versions
from paddle_pgonas.scoring.scorer import calibration_batches
from paddle_pgonas.scoring.tree import build_tree
from paddle_pgonas.scoring.walker import Walker
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.named import find_space

EXPORTED = ("subnet.safetensors", "code.txt", "config.yaml", RECORD)
"""The files of an export, in addition to the model's."""

COMMAND = "export_subnet"
"""The command whose outputs they are (:mod:`paddle_pgonas.io.outputs`)."""

TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit, that rounding can explain."""


class Parity(NamedTuple):
    """Largest difference of two computations' logits, relative to the largest; share of images with the same highest logit."""

    difference: float
    same_predictions: float


def export(
    config: Config, weights: str | Path, arch: Arch | None, output: str | Path, *, onnx: bool = False, images: int = 256
) -> dict[str, Any]:
    """Write one subnet of a trained supernet, or a stand-alone one, into the folder ``output`` and return the record.

    Writes ``subnet.safetensors`` (under the challenge's names, BatchNorm statistics by ``score.bn``), ``code.txt``,
    ``config.yaml``, ``inference.*`` (a Paddle inference model for any batch size), on request ``inference.onnx``, and last
    ``record.json``. The model's logits are compared with the scorer's and with those of the network before it was saved: on this
    number of validation ``images``, taken evenly; without ``data.root`` (possible with ``score.bn: running``) on images of noise,
    which the record states. Stand-alone weights need no ``arch``. The record holds all that a program needs to use the model:
    the names of the classes, and size, colours, range, interpolation and normalisation of the input.

    Raises UserError for ``score.bn: batch``, weights that do not fit, a folder with other things in it, a missing package for
    ONNX, or a model whose logits differ.
    """
    folder = Path(output)
    _check_folder(folder, [weights, *files_read(config).values()])
    if config.score.bn == "batch":
        raise UserError("score.bn=batch: an exported model has no batch to take statistics from; use calibrated or running")
    if onnx:
        require_onnx()
    device = select_device(config.device, config.exhaustive_search)
    net = Supernet(config.search_space, config.model.num_classes, config.model.activation)
    opened = open_images(config.changed(data={"val_limit": images}))
    blind = config.score.bn == "running" and not config.data.given

    def check(path: str | Path, record: Record) -> None:
        check_record(SCORED, config, None if blind else opened.val_source.classes, path, record)

    how = "those of the weights" if config.score.bn == "running" else f"over {config.score.calibration_images:,} images"
    say_once(f"exporting from {weights} on {device_name()}, BatchNorm statistics {how}: {folder}", error=False)
    trained = load_weights(net, weights, subnets=True, check=check)
    arch = _chosen(arch, weights, trained, net)
    net.eval()
    shown = _noise(images, config.data.image_size) if blind else opened.for_scoring(config.score)
    subnet, calibration, pixels = extract(net, arch), list[list[paddle.Tensor]](), shown.calibration
    if pixels is not None:
        calibration += calibration_batches(pixels, config.data, config.score.calibration_batch, len(pixels))
        calibrate(subnet, [batch for [batch] in calibration])
    description = _describe(arch, config, classes_of(trained) or (None if blind else opened.val_source.classes))
    with exclusive(folder, "export") as check_folder, _folder_inside(folder, check_folder) as part:
        save_inference_model(subnet, part, config.data.image_size)
        kept = description | {"config": config.model_dump(mode="json")}
        save_weights(part / "subnet.safetensors", subnet, kept)  # raises if Paddle ignored a full disk
        ways = {
            "scorer": _scorer(net, arch, config.score.bn, calibration),
            "dygraph": paddle.no_grad()(lambda x: subnet(paddle.to_tensor(x)).numpy()),
            "paddle.inference": open_inference_model(part, device),
        }
        if onnx:
            (part / "inference.onnx").write_bytes(convert_to_onnx(part))
            ways["onnxruntime"] = open_onnx_model(part / "inference.onnx")
        record = description | {
            "calibration_images": None if pixels is None else len(pixels),
            "weights": str(weights),
            "trained_steps": trained.get("step"),
            "model": model_file(part).name,
            **_compare(ways, shown, config.data, config.score.batch_size),
            "device": device,
            "versions": versions(),
        }
        check_folder()
        write_text(part / "code.txt", f"{arch}\n")
        save_config(config, part / "config.yaml")
        write_json(part / RECORD, record | {"config": config.model_dump(mode="json")})
        _move(part, folder)
    return record


def _noise(count: int, side: int) -> DecodedImages:
    """Images of noise, without labels."""
    noise = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return DecodedImages(noise, np.zeros(0, np.int64), "noise", np.arange(count), count)


def _chosen(arch: Arch | None, weights: str | Path, trained: Record, net: Supernet) -> Arch:
    """The architecture to export: the given one, or that of stand-alone weights, which hold no other (but the full network)."""
    code = trained_alone(trained)
    if arch is None and code is None:
        raise UserError(f"{weights}: holds a supernet's weights; give the code of the subnet to export (--arch CODE)")
    alone = arch if code is None else net.space.parse(code)
    arch = arch or alone
    assert arch is not None
    if alone not in (arch, net.space.largest):
        raise UserError(f"{weights}: holds the stand-alone weights of subnet {alone}, not of {arch}")
    warn_untrained(weights, trained, [arch])
    return arch


def load_subnet(folder: str | Path) -> ResNet:
    """The exported network in evaluation mode, from ``subnet.safetensors``; a UserError if that is missing, damaged or none."""
    path = Path(folder) / "subnet.safetensors"
    arrays, record = read_arrays(path)
    try:
        arch = find_space(record["space"]).parse(record["arch"])
        subnet = ResNet(arch, record["num_classes"], record["activation"])
    except (KeyError, UserError) as error:
        fault = f", its record lacks {error}" if isinstance(error, KeyError) else f": {error}"
        raise UserError(f"{path}: not an exported subnet{fault}") from None
    put_plain_weights(subnet, path, arrays)
    subnet.eval()
    return subnet


def _check_folder(folder: Path, inputs: Iterable[str | Path]) -> None:
    """Accept a new folder, an empty one or that of an earlier export, where other files stay as they are.

    None of the files that an export writes may be somebody else's: a run's folder has files of the same names.
    """
    if not any(wrote(COMMAND, folder / name) for name in EXPORTED):
        for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
            if name != NOTES and not name.endswith((PART, ".lock")):
                raise UserError(f"{folder}: holds {name}, which no export wrote; give the export a folder of its own")
    for name in (*EXPORTED, *MODEL_FILES):
        claim(COMMAND, folder / name, inputs=inputs)


@contextmanager
def _folder_inside(folder: Path, check_folder: Callable[[], None]) -> Iterator[Path]:
    """A temporary folder inside ``folder``, on the same file system, so that files can be renamed into ``folder``."""
    part = folder / NOTES / "export"
    with writing(folder):
        shutil.rmtree(part, ignore_errors=True)  # of a killed export; the lock guarantees that none is running
        part.mkdir(parents=True)
        try:
            yield part
        finally:
            with suppress(UserError):  # it would be another export's
                check_folder()
                shutil.rmtree(part)


def _move(part: Path, folder: Path) -> None:
    """An old record is removed first and the new one moved last, because without it an export is incomplete."""
    for name in (RECORD, *MODEL_FILES):  # other versions of Paddle use other file names
        (folder / name).unlink(missing_ok=True)
    for path in sorted(part.iterdir(), key=lambda path: path.name == RECORD):
        put_in_place(path, folder / path.name)


def _describe(arch: Arch, config: Config, names: list[str] | None) -> dict[str, Any]:
    data, side, classes = config.data, config.data.image_size, config.model.num_classes
    return {
        "arch": arch.code,
        "space": config.space,
        "activation": config.model.activation,
        "num_classes": classes,
        "classes": names,
        "macs": cost.macs(arch, side, classes),
        "params": cost.params(arch, classes),
        "input": {
            "shape": [None, 3, side, side],
            "colours": "RGB",
            "steps": "shorter side to resize, centre crop of the shape's size, divide by 255, subtract mean, divide by std",
            "resize": data.resize,
            "interpolation": "bilinear",
            "value_range": [0, 1],
            "mean": data.mean,
            "std": data.std,
        },
        "bn": config.score.bn,
    }


def _scorer(net: Supernet, arch: Arch, bn: str, calibration: list[list[paddle.Tensor]]) -> Network:
    """The logits that scoring computes for this subnet."""
    walker, root = Walker(net, bn), build_tree([arch])
    if calibration:
        walker.calibrate(root, calibration)

    def run(x: np.ndarray) -> np.ndarray:
        outputs: list[np.ndarray] = []
        walker.walk(root, paddle.to_tensor(x), lambda node, logits: outputs.append(logits.numpy()))
        return outputs[0]

    return run


def _compare(ways: dict[str, Network], images: DecodedImages, data: Data, size: int) -> dict[str, Any]:
    """How the logits of all ways agree with the scorer's, and ``paddle.inference`` with dygraph; and the top-1 of each."""
    logits: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    for start in progress(range(0, len(images.images), size), "checking", "batches"):
        x = to_network(images.images[start : start + size], data).numpy()
        for name, way in ways.items():
            logits[name].append(way(x))
    whole = {name: np.concatenate(parts) for name, parts in logits.items()}
    pairs = [(name, "scorer") for name in ways if name != "scorer"] + [("paddle.inference", "dygraph")]
    agreements = {f"{name} / {other}": parity(whole[name], whole[other]) for name, other in pairs}
    for name, agreed in agreements.items():
        if not agreed.difference <= TOLERANCE:
            raise UserError(
                f"the logits of {name} differ by {agreed.difference:.1e} of the largest (at most {TOLERANCE:.0e} is rounding); "
                "nothing was exported; try -o device=cpu"
            )
    labels = images.labels
    top1 = {name: float((values.argmax(1) == labels).mean()) for name, values in whole.items()} if len(labels) else None
    return {
        "images": len(images.images),
        "images_are": "validation" if len(labels) else "noise",
        "parity": {name: agreed._asdict() for name, agreed in agreements.items()},
        "top1": top1,
    }


def parity(logits: np.ndarray, others: np.ndarray) -> Parity:
    """Compare two arrays of logits [N, classes] of the same images."""
    difference = float(np.abs(logits - others).max() / np.abs(others).max())
    return Parity(difference, float((logits.argmax(1) == others.argmax(1)).mean()))


def summary(record: dict[str, Any]) -> str:
    """The record's figures as lines of text."""
    cost_line = f"cost             {record['macs']:,} multiply-accumulates, {record['params']:,} parameters"
    lines = [f"subnet           {record['arch']}", cost_line]
    for name, agreed in record["parity"].items():
        same = f"same prediction on {agreed['same_predictions']:.1%}"
        lines.append(f"{name}: largest difference of logits {agreed['difference']:.1e} of the largest, {same}")
    if record["top1"]:
        values = ", ".join(f"{name} {value:.4f}" for name, value in record["top1"].items())
        lines.append(f"top-1 on {record['images']} validation images: {values}")
    else:
        lines.append(f"compared on {record['images']} images of noise, as data.root gives none")
    return "\n".join(lines)
