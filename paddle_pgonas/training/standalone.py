"""Stand-alone training of single subnets from scratch, which gives a truth file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config
from paddle_pgonas.config.meaning import STARTED, warn
from paddle_pgonas.config.sections import Data, Recipe
from paddle_pgonas.data.batches import calibration_images
from paddle_pgonas.data.cache import DecodedImages
from paddle_pgonas.data.images import open_images
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.errors import UserError, printable
from paddle_pgonas.io.files import remove_left_parts
from paddle_pgonas.io.locks import exclusive, turn
from paddle_pgonas.io.outputs import claim, content_digest
from paddle_pgonas.io.records import Store
from paddle_pgonas.io.weight_files import check_weight_file
from paddle_pgonas.methods.base import Metrics, Step
from paddle_pgonas.methods.losses import cross_entropy
from paddle_pgonas.nn.building import build_subnet
from paddle_pgonas.nn.elastic import calibrate
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.nn.weights import save_weights
from paddle_pgonas.priors.geometry import layers
from paddle_pgonas.progress import say_once
from paddle_pgonas.runtime import made_by, select_device, versions
from paddle_pgonas.schema import plain
from paddle_pgonas.scores.files import Candidate, write_scores
from paddle_pgonas.scoring.scorer import calibration_batches
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.training.checkpoints import checkpoints
from paddle_pgonas.training.memory import check_memory
from paddle_pgonas.training.run import Run
from paddle_pgonas.training.schedules import total_steps
from paddle_pgonas.training.trainer import checked, fit, open_batches, say_start

FEW = 300
"""Steps of a training below which running BatchNorm statistics are said to lag behind the weights."""


def train_standalone(
    config: Config, arch: Arch, weights: str | Path | None = None, *, start: str | Path | None = None, bn: str = "running"
) -> float:
    """Train one subnet with the configuration's recipe, from random or given weights; its top-1 on the validation images.

    Recipe: cross-entropy on the labels, SGD with momentum, schedule, sizes and low precision of ``train``, augmentation of
    ``data``; a key that has no use here must keep its default. The seed determines initial weights, order of images and
    augmentation. Checkpoints are kept in ``<output_dir>/standalone/`` until the subnet is trained: after a kill, Ctrl-C or
    SIGTERM the same call continues from the last one, with the same result. ``weights`` names a file for the trained weights;
    those of the largest subnet can be a method's teacher. ``start`` names kept weights, or an export's, of the same subnet.
    ``bn`` is ``running``, or ``calibrated`` to measure BatchNorm's statistics after the training, over
    ``score.calibration_images``. Raises UserError for a key without a use, weights of another subnet, a request to stop, or a
    training that diverged or collapsed.
    """
    if start is not None:
        check_weight_file(start)  # before the images are read
    if weights is not None:
        claim("train_standalone --weights", weights)
    _begin(config)
    folder = results_store(config, bn, start).folder / arch.code
    acc = _train(config, arch, folder, weights, start=start, bn=bn)
    _remove_checkpoints(folder)
    return acc


def _begin(config: Config) -> None:
    """Select the device and say what begins, before the images are read for the name of the results."""
    select_device(config.device, config.exhaustive_search)
    say_start(config, open_images(config).train_source)


def _train(
    config: Config,
    arch: Arch,
    folder: Path,
    weights: str | Path | None = None,
    *,
    start: str | Path | None = None,
    bn: str = "running",
) -> float:
    """As :func:`train_standalone`; the last checkpoint stays in ``folder``."""
    select_device(config.device, config.exhaustive_search)
    with exclusive(folder, "training") as check_folder:
        check_memory(layers(arch, config.data.image_size, config.model.num_classes), config.train)
        batches, model = open_batches(config), config.model
        check = checked(STARTED, config, batches)
        net = build_subnet(arch, model.num_classes, model.activation, config.seed, start, check)
        run = Run(config, batches, net, learn_labels, f"training {arch}")
        step = run.restore(folder / "checkpoints")
        try:
            fit(run, step, folder, "the same command", check_folder)
        except UserError as error:
            raise type(error)(f"{arch}: {error}") from None
    images, data, settings = open_images(config), config.data, config.score
    if bn == "calibrated":
        say_once(f"calibrating on {settings.calibration_images:,} images", error=False)
        pixels = calibration_images(images.train_source, data, settings.calibration_images)
        calibrate(net, (x for [x] in calibration_batches(pixels, data, settings.calibration_batch, len(pixels))))
    acc = accuracy(run.net, images.validation, data, settings.batch_size)
    if weights is not None:
        save_weights(weights, run.net, run.record(run.total_steps) | made_by() | {"arch": arch.code, "acc": acc, "bn": bn})
    return acc


def learn_labels(net: nn.Layer, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
    """One step of a network of its own (:class:`~paddle_pgonas.methods.base.Strategy`)."""
    metrics, logits = Metrics(), net(x)
    loss = cross_entropy(logits, y)
    step.backward(loss)
    metrics.note_accuracy(logits, y)
    metrics.add("subnet", loss)
    return metrics


def _remove_checkpoints(folder: Path) -> None:
    kept = folder / "checkpoints"
    remove_left_parts(kept)
    for path in checkpoints(kept):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or it holds copies of the user's
        kept.rmdir()


def accuracy(net: ResNet, images: DecodedImages, data: Data, batch_size: int) -> float:
    """Top-1 of a network in evaluation mode."""
    net.eval()
    right = 0
    with paddle.no_grad():
        for start in range(0, len(images.labels), batch_size):
            part = slice(start, start + batch_size)
            x = to_network(images.images[part], data)
            right += int((net(x).argmax(-1).numpy() == images.labels[part]).sum())
    return right / len(images.labels)


def make_truth(config: Config, candidates: Sequence[Candidate], output: str | Path, bn: str = "running") -> None:
    """Train every candidate that has no result yet, and write the truth file after each one; ``bn`` as :func:`train_standalone`.

    Results are stored in ``<output_dir>/standalone/``, one file per subnet, so an interrupted run continues with the remaining
    subnets, and within the subnet that it was training. Processes started with ranks (python -m paddle.distributed.launch) share
    the subnets; each writes the existing results, the last one all of them.
    """
    claim("train_standalone --output", output)
    say_once(f"{len(candidates):,} subnets, one after the other: {output}", error=False)
    _begin(config)
    store = results_store(config, bn)
    steps = total_steps(config.train, len(open_images(config).train_source.labels) // config.train.batch_size)
    if bn == "running" and steps < FEW:
        lag = f"after {steps:,} steps the running BatchNorm statistics still lag behind the weights, which is part of the truth"
        warn(f"{output}: {lag}; --bn calibrated measures them anew")
    processes.say_share()
    with exclusive(store.folder, "standalone") as check_folder:
        for candidate in candidates[processes.rank() :: processes.world()]:
            code = candidate.arch.code
            if store.get(code) is None:
                started = time.time()
                acc = _train(config, candidate.arch, store.folder / code, bn=bn)
                record = {"acc": acc, "bn": bn, "seconds": round(time.time() - started, 1), "versions": versions()}
                check_folder()
                store.put(code, record | {"config": config.model_dump(mode="json")})
                _write_results(candidates, store, output)
            _remove_checkpoints(store.folder / code)  # also where a run was killed between storing and this
        _write_results(candidates, store, output)


def _write_results(candidates: Sequence[Candidate], store: Store, output: str | Path) -> None:
    with turn(store.folder, "results"):  # else a slower process would replace a later, longer file by an earlier one
        results = [(candidate, entry) for candidate in candidates if (entry := store.get(candidate.arch.code)) is not None]
        write_scores(output, [candidate for candidate, _ in results], [entry.record["acc"] for _, entry in results])
    print(printable(f"{len(results)} of {len(candidates)} subnets trained: {output}"))


WITHOUT_EFFECT = ("log_every", "checkpoint_every", "keep_checkpoints")
"""Keys of ``train`` that stand-alone training uses and that do not influence results."""


CALIBRATION = ("calibration_images", "calibration_batch")
"""Keys of ``score`` that stand-alone training uses with ``calibrated`` statistics."""


def results_store(config: Config, bn: str = "running", start: str | Path | None = None) -> Store:
    """The results of this recipe in ``<output_dir>/standalone``, by code.

    Raises UserError for an unused key that does not have its default, or an unknown ``bn``.
    """
    if bn not in ("running", "calibrated"):
        raise UserError(f"bn of a stand-alone training must be running or calibrated, not {bn}")
    used = {
        "model": {"num_classes", "activation", *(["mismatch"] if start else [])},
        "train": {*Recipe.model_fields, *WITHOUT_EFFECT},
        "score": {"batch_size", *(CALIBRATION if bn == "calibrated" else [])},
    }
    if config.method is not None:
        raise UserError(f"stand-alone training makes no use of method={config.method.name}; set method=null")
    for section, names in used.items():
        values = getattr(config, section)
        for name, field in type(values).model_fields.items():
            value, default = getattr(values, name), field.default
            if name not in names and value != default:
                reset = f"set {section}.{name}={plain(default)}"
                reset += " and choose with --bn" if (section, name) == ("score", "bn") else ""
                raise UserError(f"stand-alone training makes no use of {section}.{name}={plain(value)}; {reset}")
    whole = identity(config)  # without the keys below if they are not used: results of older versions stay valid
    if bn == "calibrated":
        whole |= {"bn": bn, **{name: getattr(config.score, name) for name in CALIBRATION}}
    if start is not None:
        whole |= {"start": content_digest(start)}
    return Store(Path(config.output_dir) / "standalone", whole)


def identity(config: Config) -> dict[str, Any]:
    """Everything that a stand-alone result depends on in addition to the architecture; images by their contents."""
    images = open_images(config)
    return {
        "kept": "stand-alone results",
        "training_images": images.train_source.fingerprint(images.cache),
        "validation_images": images.validation.fingerprint,
        **recipe(config),
    }


def recipe(config: Config) -> dict[str, Any]:
    """The part of :func:`identity` that the configuration tells, by its keys."""
    data, model = config.data, config.model
    return {
        "space": config.space,
        "seed": config.seed,
        "data": {name: getattr(data, name) for name in ("image_size", "resize", "augment", "mean", "std")},
        "model": {"num_classes": model.num_classes, "activation": model.activation},
        "train": {name: getattr(config.train, name) for name in Recipe.model_fields},
    }
