"""The training loop: steps, log, health checks and checkpoints until the last step or a request to stop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config, save_config
from paddle_pgonas.config.sections import PGONAS
from paddle_pgonas.data.batches import EpochBatches
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.errors import UserError
from paddle_pgonas.import_paths import is_import_path
from paddle_pgonas.io.files import content_digest
from paddle_pgonas.io.locks import exclusive
from paddle_pgonas.io.records import Record
from paddle_pgonas.nn.building import build_subnet, build_supernet, build_teacher
from paddle_pgonas.nn.resnet import ResNet
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import save_weights
from paddle_pgonas.runtime import compute_dtype, out_of_memory, select_device, versions
from paddle_pgonas.samplers import Step
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.training.builders import make_optimizer, open_batches
from paddle_pgonas.training.checkpoints import checkpoints, load_latest, refuse_overwriting, save_checkpoint, zero_gradients
from paddle_pgonas.training.draws import Draws
from paddle_pgonas.training.health import Collapse, Health, check_losses
from paddle_pgonas.training.memory import check_memory
from paddle_pgonas.training.resume import check_processes, check_same_run
from paddle_pgonas.training.runlog import RunLog
from paddle_pgonas.training.schedules import learning_rate, rank_lambda
from paddle_pgonas.training.signals import stop_requests
from paddle_pgonas.training.strategies import Metrics, Strategy, learn_labels, make_strategy, mean_metrics

Watch = Callable[[Supernet, int], dict[str, float]]
"""Measures a supernet after a number of steps, without changing it."""


def train_supernet(config: Config, resume: bool = False, watch: Watch | None = None, other_data: bool = False) -> Path:
    """Run the configured training in ``output_dir``; :func:`paddle_pgonas.training.watch.train` is its public form.

    Args:
        watch: called with the supernet and the number of steps after each checkpoint; the scalars that it returns are logged.
        other_data: resume although the training images are not those of the checkpoint.

    Raises:
        UserError: the folder holds another run, data or weights do not fit, the processes disagree, or the
            training diverged or collapsed; then the last good checkpoint is named.
    """
    select_device(config.device)
    processes.join()
    folder = Path(config.output_dir)
    output = folder / "supernet.safetensors"
    with exclusive(folder, "training"):
        resume = resume or other_data
        refuse_overwriting(folder, resume, config.train.checkpoint_every)
        processes.barrier()
        run = Run(config, open_batches(config))
        check_processes(run.record(0))
        step = run.restore(folder / "checkpoints", other_data) if resume else 0
        if processes.connected() > 1:
            check_processes({"the step to continue from": step, "the digest of the weights there": run.weights_digest()})
        if processes.leads():
            save_config(config, folder / "config.yaml")
        fit(run, step, folder, "the same command with --resume", watch)
        if processes.leads():
            save_weights(output, run.net, run.record(run.total_steps))
    return output


def fit(run: Run, step: int, folder: Path, again: str, watch: Watch | None = None) -> None:
    """Run the steps from ``step`` to the last, with log and checkpoints in ``folder``.

    Args:
        again: how to continue a stopped run, for the message.
        watch: as for :func:`train_supernet`.

    Raises:
        UserError: a request to stop, or the training diverged or collapsed; in all processes at once.
    """
    kept, first = folder / "checkpoints", processes.leads()

    def observe(steps: int) -> None:
        if first and watch is not None:
            log.log(max(steps - 1, 0), watch(run.net, steps))
            run.net.train()
            log.restart_clock()
        processes.barrier()  # the others would begin a step without the first

    with RunLog(folder, run.total_steps, step, run.name, silent=not first) as log, stop_requests() as requests:
        try:
            if step == 0 and run.watches(0):
                observe(0)
            for x, y in run.batches_from(step):
                metrics = run.step(step, x, y)
                log.advance(run.total_batch)
                if step % run.settings.log_every == 0 or step + 1 == run.total_steps:
                    log.log_step(step, run.scalars(step, metrics))
                step += 1
                stop = processes.any_of(bool(requests))
                if due := stop or run.checkpoint_due(step):
                    run.health.check(step, run.net.parameters())
                if run.watches(step):  # before the checkpoint: a run that continues from there does not repeat it
                    observe(step)
                if due:
                    if first:
                        save_checkpoint(kept, run.net, run.optimizer, run.record(step), run.settings.keep_checkpoints)
                    processes.barrier()
                if stop:
                    raise UserError(f"stopped after step {step}; {again} continues from there")
        except Collapse as error:
            good = checkpoints(kept)
            raise UserError(f"{error}; lower train.lr_per_256. Last good checkpoint: {good[-1] if good else 'none'}") from None


class Run:
    """Network, batches, optimizer and strategy of a training; runs a single step.

    Args:
        arch: train this architecture as a network of its own; None trains the supernet with the configured strategy.

    Raises:
        UserError: mixed precision without a GPU, or weights that do not fit.
    """

    def __init__(self, config: Config, batches: EpochBatches, arch: Arch | None = None) -> None:
        self.config, self.settings, self.batches = config, config.train, batches
        settings = self.settings
        self.dtype = compute_dtype(settings.amp, "train.amp")
        self.draws, self.macs = Draws(config), config.prior("flops")
        check_memory(config, arch or self.draws.region.largest)
        self.steps_per_epoch = batches.steps_per_epoch
        self.steps_per_checkpoint = batches.steps_per_epoch * settings.checkpoint_every
        self.total_steps = min(settings.epochs * self.steps_per_epoch, settings.max_steps or 2**62)
        self.total_batch = settings.batch_size * processes.connected()
        self.name = "training" if arch is None else f"training {arch}"
        model = config.model
        self.net: Supernet | ResNet
        if arch is None:
            self.net = build_supernet(
                config.search_space,
                model.num_classes,
                model.activation,
                bn=model.bn,
                seed=config.seed,
                pretrained=model.pretrained,
                reorder=model.reorder,
            )
        else:
            self.net = build_subnet(arch, model.num_classes, model.activation, config.seed)
        self.net.train()
        self.optimizer = make_optimizer(settings, self.net.parameters())
        self.scaler = paddle.amp.GradScaler(enable=settings.amp == "fp16")
        if settings.unused_parameters == "zero_gradient":
            zero_gradients(self.net.parameters())
        self.ranks = arch is None and (settings.strategy in PGONAS["strategy"] or is_import_path(settings.strategy))
        self.strategy: Strategy = learn_labels if arch else make_strategy(config, self._teacher())
        self.health = Health(settings, batches)

    def _teacher(self) -> nn.Layer | None:
        path = self.settings.teacher
        return None if path is None else build_teacher(self.config.search_space, self.config.model.num_classes, path)

    def checkpoint_due(self, step: int) -> bool:
        """Whether a checkpoint follows after ``step`` steps."""
        return step % self.steps_per_checkpoint == 0 or step == self.total_steps

    def watches(self, step: int) -> bool:
        """Whether the network is watched after ``step`` steps: at shares of the run, or with every checkpoint."""
        shares = self.settings.watch_at
        if shares is None:
            return step > 0 and self.checkpoint_due(step)
        return step in {round(share * self.total_steps) for share in shares}

    def batches_from(self, step: int) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        """Normalised images and labels from this step to the run's last."""
        while step < self.total_steps:
            epoch, start = divmod(step, self.steps_per_epoch)
            for images, labels in self.batches.epoch_from(epoch, start):
                yield to_network(images, self.config.data), labels
                step += 1
                if step == self.total_steps:
                    return

    def step(self, index: int, x: paddle.Tensor, y: paddle.Tensor) -> Metrics:
        """One optimizer step on one batch, in ``accumulate`` micro-batches; these and all processes use the same subnets."""
        self.optimizer.clear_grad()
        size = self.settings.batch_size // self.settings.accumulate
        starts = range(0, self.settings.batch_size, size)
        metrics = mean_metrics([self._passes(x[i : i + size], y[i : i + size], self._given(index)) for i in starts])
        processes.average_gradients(self.net.parameters())
        self.optimizer.set_lr(learning_rate(self.settings, index, self.steps_per_epoch, self.total_batch))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.health.add(metrics.accuracy)
        return metrics

    def _given(self, index: int) -> Step:
        """The strategy's arguments for a step."""
        settings = self.settings
        rng, region = self.draws.of_step(index, self.steps_per_epoch)
        return Step(
            rng,
            region,
            index,
            rank_lambda(settings, index, self.steps_per_epoch),
            progress=index / (settings.epochs * self.steps_per_epoch),
            distils=index // self.steps_per_epoch >= settings.label_epochs,
            backward=self._backward,
            macs=self.macs,
        )

    def _passes(self, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
        """The strategy's forward and backward passes on a micro-batch, in the configured precision."""
        amp = self.settings.amp
        try:
            with paddle.amp.auto_cast(amp != "off", dtype=self.dtype if amp != "off" else "float16"):
                return self.strategy(self.net, x, y, step)
        except (MemoryError, RuntimeError, SystemError) as error:
            if out_of_memory(error):
                raise UserError(
                    f"out of memory with {len(y)} images at a time: raise train.accumulate, "
                    "lower train.batch_size, or set train.amp=bf16 (for a supernet in another output_dir)"
                ) from None
            raise

    def _backward(self, loss: paddle.Tensor) -> None:
        count = self.settings.accumulate
        self.scaler.scale(loss if count == 1 else loss / count).backward()

    def scalars(self, index: int, metrics: Metrics) -> dict[str, float]:
        """Scalars of a step for the log, as means over all processes; of several losses of a kind the last.

        Raises:
            Collapse: a loss of any process is not finite; raised in all processes.
        """
        tensors = {f"loss/{kind}": loss for kind, loss in metrics.losses}
        if metrics.accuracy is not None:
            tensors["accuracy"] = metrics.accuracy
        if metrics.pairs:
            tensors["pairs_out_of_order"] = paddle.to_tensor(metrics.pairs_out_of_order / metrics.pairs)
        means = processes.mean(paddle.stack([tensor.astype("float32") for tensor in tensors.values()])).tolist()
        scalars = dict(zip(tensors, means, strict=True))
        check_losses(scalars)
        squares = [weight.grad.square().sum() for weight in self.net.parameters() if weight.grad is not None]
        scalars["grad_norm"] = float(paddle.add_n(squares).sqrt())  # before clipping
        scalars["lr"] = self.optimizer.get_lr()
        if self.ranks:
            scalars["rank_lambda"] = rank_lambda(self.settings, index, self.steps_per_epoch)
        return {"epoch": index // self.steps_per_epoch, **scalars}

    @cached_property
    def images(self) -> dict[str, Any]:
        """Number, classes and contents of the training images."""
        source = self.batches.source
        contents = source.fingerprint(self.batches.cache)
        return {"number": len(source.labels), "classes": source.classes, "contents": contents}

    @cached_property
    def files(self) -> dict[str, str | None]:
        """SHA-256 of the files that every step uses, by the key that names them."""
        named = {key: getattr(self.settings, key) for key in ("candidates", "teacher")}
        return {f"train.{key}": content_digest(path) for key, path in named.items() if path}

    def weights_digest(self) -> str:
        """SHA-256 of all weights and BatchNorm statistics."""
        digest = hashlib.sha256()
        for tensor in self.net.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def record(self, step: int) -> Record:
        """The record of the checkpoint after ``step`` steps."""
        config = self.config
        return {
            "space": config.space,
            "activation": config.model.activation,
            "num_classes": config.model.num_classes,
            "step": step,
            "processes": processes.connected(),
            "loss_scale": self.scaler.state_dict(),
            "config": config.model_dump(mode="json"),
            "training_images": self.images,
            "files": self.files,
            "versions": versions(),
        }

    def restore(self, folder: Path, other_data: bool = False) -> int:
        """Load the newest intact checkpoint and return its step, 0 if there is none.

        Args:
            other_data: as for :func:`train_supernet`.
        """
        check = partial(check_same_run, self.record(0), other_data=other_data)
        record = load_latest(folder, self.net, self.optimizer, check)
        if record is None:
            return 0
        if record["step"] > self.total_steps:
            raise UserError(
                f"--resume: step {record['step']} is trained, which is beyond train.max_steps={self.total_steps}; raise it"
            )
        if record["loss_scale"]:
            self.scaler.load_state_dict(record["loss_scale"])
        return int(record["step"])
