"""Training a supernet: the loop with its log, health checks and checkpoints, until the last step or a request to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config, files_read, save_config
from paddle_pgonas.config.meaning import STARTED, TAUGHT, Use, check_record
from paddle_pgonas.data.batches import EpochBatches
from paddle_pgonas.data.images import open_images
from paddle_pgonas.data.sources import ImageSource
from paddle_pgonas.errors import Diverged, UserError
from paddle_pgonas.inputs import check_paths
from paddle_pgonas.io.locks import exclusive
from paddle_pgonas.io.outputs import claim
from paddle_pgonas.methods import METHODS
from paddle_pgonas.methods.base import Parts
from paddle_pgonas.nn.building import build_supernet, build_teacher
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import Check, save_weights
from paddle_pgonas.priors.geometry import layers
from paddle_pgonas.progress import say_once
from paddle_pgonas.runtime import compute_dtype, device_name, made_by, select_device
from paddle_pgonas.training.checkpoints import TRAINING, checkpoints, files_of_run, refuse_overwriting, save_checkpoint
from paddle_pgonas.training.memory import check_memory
from paddle_pgonas.training.resume import check_processes
from paddle_pgonas.training.run import Run, file_digests
from paddle_pgonas.training.runlog import RunLog
from paddle_pgonas.training.schedules import total_steps
from paddle_pgonas.training.signals import stop_requests
from paddle_pgonas.training.watch import Watcher

Watch = Callable[[Supernet, int], dict[str, float]]
"""Measures a supernet after a number of steps, without changing it."""


def train(config: Config, resume: bool = False, other_data: bool = False, overwrite: bool = False) -> Path:
    """Run the configured training and return the path of the supernet's weights.

    Writes ``config.yaml``, ``metrics.jsonl``, ``visualdl/``, ``checkpoints/`` and at the end ``supernet.safetensors`` to the
    run's folder. With ``train.watch_images`` the measurements of :class:`~paddle_pgonas.training.watch.Watcher` are logged with
    each checkpoint, and the last one is printed. Ctrl-C (or SIGTERM) finishes the step, writes a checkpoint and stops. Of several
    processes (python -m paddle.distributed.launch) the first one writes; all need access to the folder to resume.

    ``resume`` continues from the last checkpoint in ``output_dir``, ``other_data`` although it was made with other images;
    ``overwrite`` removes what an earlier run wrote there, once weights and images of this one are read, and begins anew. Raises
    UserError if no method is configured, the folder holds another run, data or weights do not fit, the processes disagree,
    or the training diverged or collapsed; then the last good checkpoint is named.
    """
    if overwrite and (resume or other_data):
        raise UserError("overwrite=True begins a run anew, resume=True and other_data=True continue it: give one of the two")
    select_device(config.device, config.exhaustive_search)
    with processes.together():
        watcher = None
        if config.train.watch_images and processes.rank() == 0:
            check_job(config, resume or other_data, overwrite)  # before the watched images are read, as what follows
            say_start(config, open_images(config).train_source)
            watcher = Watcher(config)
        weights = train_supernet(config, resume, watcher, other_data, overwrite)
        if watcher is not None and watcher.latest:
            print(watcher.summary())
        return weights


def train_supernet(
    config: Config, resume: bool = False, watch: Watch | None = None, other_data: bool = False, overwrite: bool = False
) -> Path:
    """As :func:`train`; the scalars that ``watch`` returns, which is called after each checkpoint, are logged."""
    select_device(config.device, config.exhaustive_search)
    folder = Path(config.output_dir)
    output = folder / "supernet.safetensors"
    resume = resume or other_data
    with processes.together(), _checked_folder(config, resume, overwrite) as check_folder:
        earlier = files_of_run(folder, files_read(config).values()) if overwrite else []
        if not overwrite:
            refuse_overwriting(folder, resume, config.train.checkpoint_every)
        processes.barrier()
        run = start_run(config, open_batches(config))
        check_processes(run.record(0))
        step = run.restore(folder / "checkpoints", other_data) if resume else 0
        if processes.connected() > 1:
            check_processes({"the step to continue from": step, "the digest of the weights there": run.weights_digest()})
        if processes.leads():
            check_folder()
            for path in earlier:
                path.unlink(missing_ok=True)
            save_config(config, folder / "config.yaml")
        fit(run, step, folder, "the same with resume=True", check_folder, watch)
        if processes.leads():
            check_folder()
            save_weights(output, run.net, run.record(run.total_steps) | made_by())
    return output


@contextmanager
def _checked_folder(config: Config, resume: bool, overwrite: bool) -> Iterator[Callable[[], None]]:
    """As ``exclusive`` for the run's folder, after the checks that need neither folder nor images."""
    check_job(config, resume, overwrite)
    compute_dtype(config.train.amp, "train.amp")  # here too, because reading the images takes long
    with exclusive(config.output_dir, "training") as check_folder:
        yield check_folder


def check_job(config: Config, resume: bool = False, overwrite: bool = False) -> None:
    """Raise UserError for no method, an input that is missing, or a run's folder that a training must not write."""
    if config.method is None:
        raise UserError(f"method: none is configured; choose one with -o method=NAME ({', '.join(METHODS)})")
    inputs = files_read(config)
    check_paths(config, config.train.splits, reads=inputs)
    folder = Path(config.output_dir)
    if not overwrite:
        refuse_overwriting(folder, resume, config.train.checkpoint_every)
    for output in (folder / "config.yaml", folder / "supernet.safetensors", *folder.glob("watched/[0-9]*.json")):
        claim(TRAINING, output, inputs=inputs.values())


def open_batches(config: Config) -> EpochBatches:
    """The configured training images, each process's part. The first process fills the caches while the others wait.

    Raises UserError if their classes are not those of the validation images.
    """
    leads, world = processes.leads(), processes.connected()
    if not leads:
        processes.barrier()
    images = open_images(config)
    images.check_classes()
    say_start(config, images.train_source)
    rank = processes.rank() if world > 1 else 0
    batches = EpochBatches(images.train_source, config.data, images.cache, config.train.batch_size, config.seed, rank, world)
    images.train_source.fingerprint(images.cache)
    if leads:
        processes.barrier()
    return batches


def say_start(config: Config, source: ImageSource) -> None:
    """Print what begins, once, before the images are read, which may take hours."""
    number, settings, world = len(source.labels), config.train, processes.connected()
    steps = total_steps(settings, number // (settings.batch_size * world))
    size = f"{settings.batch_size} images" + (f" in each of {world} processes" if world > 1 else "")
    say_once(f"training on {number:,} images of {len(np.unique(source.labels)):,} classes from {source.where}", error=False)
    method = config.method.name if config.method else "one subnet"
    say_once(f"{method}: {steps:,} steps of {size} on {device_name()}, output in {config.output_dir}", error=False)


def start_run(config: Config, batches: EpochBatches) -> Run:
    """The training of the configured supernet by the configured method, before its first step.

    Raises UserError if weights do not fit, or the batch does not fit into the GPU.
    """
    space, model, subspace = config.search_space, config.model, config.subspace
    assert config.method is not None  # train_supernet has said so
    check_memory(layers(subspace.largest, config.data.image_size, model.num_classes), config.train)
    start = {key: getattr(model, key) for key in ("num_classes", "activation", "bn", "pretrained", "reorder")}
    net = build_supernet(space, config.seed, **start, check=checked(STARTED, config, batches))
    teacher = partial(build_teacher, space, model.num_classes, check=checked(TAUGHT, config, batches))
    parts = Parts(subspace, config.seed, cache(config.prior), teacher)
    files = file_digests(config)
    run = Run(config, batches, net, config.method.start(parts))
    for key, digest in run.files.items():
        if digest != files[key]:
            raise UserError(f"{key}: the file was changed while it was read; give the command again")
    return run


def without_images(steps_per_epoch: int) -> EpochBatches:
    """What :func:`start_run` asks of batches, for a caller that gives each step images of its own."""
    stand_in: Any = SimpleNamespace(steps_per_epoch=steps_per_epoch, source=SimpleNamespace(classes=None))
    return stand_in


def checked(use: Use, config: Config, batches: EpochBatches) -> Check:
    """What compares a weight file's record with a training on these batches, as ``meaning.check_record`` does."""
    return partial(check_record, use, config, batches.source.classes)


def fit(run: Run, step: int, folder: Path, again: str, check_folder: Callable[[], None], watch: Watch | None = None) -> None:
    """Run the steps from ``step`` to the last, with log and checkpoints in ``folder``, which is checked before each of these.

    Raises UserError in all processes at once for a request to stop, with how to go on ``again``, and for a training that
    diverged or collapsed.
    """
    kept = folder / "checkpoints"
    with RunLog(folder, run.total_steps, step, run.name, silent=not processes.leads()) as log, stop_requests() as requests:
        try:
            if step == 0 and run.watches(0):
                _observe(run, 0, watch, log)
            for x, y in run.batches_from(step):
                metrics = run.step(step, x, y)
                log.advance(run.total_batch)
                if step % run.settings.log_every == 0 or step + 1 == run.total_steps:
                    check_folder()
                    log.log_step(step, run.scalars(step, metrics))
                step += 1
                stop = processes.any_of(bool(requests))
                due = stop or run.checkpoint_due(step)
                if due:
                    check_folder()
                    run.health.check(step, run.net.parameters())
                if run.watches(step):  # before the checkpoint: a run that continues from there does not repeat it
                    _observe(run, step, watch, log)
                if due:
                    _keep(run, step, kept)
                if stop:
                    raise UserError(f"stopped after step {step}; {again} continues from there")
        except Diverged as error:
            good = checkpoints(kept)
            raise Diverged(f"{error}; lower train.lr_per_256. Last good checkpoint: {good[-1] if good else 'none'}") from None


def _observe(run: Run, steps: int, watch: Watch | None, log: RunLog) -> None:
    """Measure the network and log it in the first process; the others would begin a step without it, so they wait."""
    if watch is not None and processes.leads():
        log.log(max(steps - 1, 0), watch(run.net, steps))
        run.net.train()
        log.restart_clock()
    processes.barrier()


def _keep(run: Run, step: int, folder: Path) -> None:
    """Write a checkpoint in the first process while the others wait."""
    if processes.leads():
        save_checkpoint(folder, run.net, run.optimizer, run.record(step), run.settings.keep_checkpoints)
    processes.barrier()
