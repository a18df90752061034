"""A training: network, batches, optimizer and method; runs single steps, and knows what a checkpoint must record."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from paddle_pgonas import processes
from paddle_pgonas.config.loading import Config, Train
from paddle_pgonas.data.batches import EpochBatches
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.outputs import content_digest
from paddle_pgonas.io.records import Record, checksum
from paddle_pgonas.methods.base import Metrics, Step, Strategy, mean_metrics
from paddle_pgonas.runtime import DEVICE_ERRORS, compute_dtype, out_of_memory, recommended_amp, tf32, versions
from paddle_pgonas.training.checkpoints import load_latest, zero_gradients
from paddle_pgonas.training.health import Health, check_losses
from paddle_pgonas.training.resume import check_same_run
from paddle_pgonas.training.schedules import learning_rate, total_steps


def make_optimizer(settings: Train, parameters: list[paddle.Tensor]) -> paddle.optimizer.Optimizer:
    """SGD with momentum; its learning rate is set before each step."""
    clip = None if settings.clip_grad_norm is None else nn.ClipGradByGlobalNorm(settings.clip_grad_norm)
    decay = settings.weight_decay or None
    return paddle.optimizer.Momentum(0.0, settings.momentum, parameters, weight_decay=decay, grad_clip=clip)


def file_digests(config: Config) -> dict[str, str | None]:
    """SHA-256 of the files that every step uses, by the key that names them."""
    named = {key: getattr(config.method, key, None) for key in ("candidates", "teacher")}
    return {f"method.{key}": content_digest(path) for key, path in named.items() if path}


class Run:
    """A training of ``net``, a supernet or a single subnet, step by step. UserError: the device lacks the precision."""

    def __init__(self, config: Config, batches: EpochBatches, net: nn.Layer, strategy: Strategy, name: str = "training") -> None:
        self.config, self.settings, self.batches = config, config.train, batches
        self.net, self.strategy, self.name = net, strategy, name
        settings = self.settings
        self.dtype = compute_dtype(settings.amp, "train.amp")
        self.steps_per_epoch = batches.steps_per_epoch
        self.steps_per_checkpoint = batches.steps_per_epoch * settings.checkpoint_every
        self.total_steps = total_steps(settings, self.steps_per_epoch)
        self.total_batch = settings.batch_size * processes.connected()
        self.net.train()
        self.optimizer = make_optimizer(settings, self.net.parameters())
        self.scaler = paddle.amp.GradScaler(enable=settings.amp == "fp16")
        if settings.unused_parameters == "zero_gradient":
            zero_gradients(self.net.parameters())
        self.health = Health(settings, batches)

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
        metrics = mean_metrics([self._passes(x[i : i + size], y[i : i + size], self.step_of(index)) for i in starts])
        processes.average_gradients(self.net.parameters())
        self.optimizer.set_lr(learning_rate(self.settings, index, self.steps_per_epoch, self.total_batch))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.health.add(metrics.accuracy)
        return metrics

    def step_of(self, index: int) -> Step:
        """What the method is given for a step; anew for each micro-batch, so that all of them use the same subnets."""
        rng = random.Random(f"subnets {self.config.seed} {index}")
        return Step(rng, index, self.steps_per_epoch, self.settings.epochs, self._backward)

    def _passes(self, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> Metrics:
        """The method's forward and backward passes on a micro-batch, in the configured precision."""
        low = self.dtype != "float32"
        try:
            with tf32(self.settings.amp), paddle.amp.auto_cast(low, dtype=self.dtype if low else "float16"):
                return self.strategy(self.net, x, y, step)
        except DEVICE_ERRORS as error:
            if out_of_memory(error):
                amp = None if low else recommended_amp()
                remedies = "raise train.accumulate or lower train.batch_size"
                remedies += f", or set train.amp={amp} (for a supernet in another output_dir)" if amp else ""
                raise UserError(f"out of memory with {len(y)} images at a time: {remedies}") from None
            raise

    def _backward(self, loss: paddle.Tensor) -> None:
        count = self.settings.accumulate
        self.scaler.scale(loss if count == 1 else loss / count).backward()

    def scalars(self, index: int, metrics: Metrics) -> dict[str, float]:
        """Scalars of a step for the log, as means over all processes; of several losses of a kind the last.

        Raises Diverged in all processes if a loss of any process is not finite.
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
        norm = float(paddle.add_n(squares).sqrt())  # before clipping; the scaler's step has undone the loss scale
        if math.isfinite(norm):  # otherwise fp16 overflowed: the scaler skips the step and lowers the loss scale
            scalars["grad_norm"] = norm
        if scale := self._loss_scale():
            scalars["loss_scale"] = scale["scale"]
        scalars["lr"] = self.optimizer.get_lr()
        return {"epoch": index // self.steps_per_epoch, **scalars, **metrics.schedules}

    def _loss_scale(self) -> dict[str, Any]:
        """The scaler's state in numbers, of which Paddle gives one as an array; empty without fp16."""
        state: dict[str, Any] = self.scaler.state_dict()
        return state and state | {"scale": float(state["scale"].item())}

    @cached_property
    def images(self) -> dict[str, Any]:
        """Number, classes and contents of the training images."""
        source, cache = self.batches.source, self.batches.cache
        return {"number": len(source.labels), "classes": source.classes, "contents": source.fingerprint(cache)}

    @cached_property
    def files(self) -> dict[str, str | None]:
        """As :func:`file_digests`, which is asked once."""
        return file_digests(self.config)

    def weights_digest(self) -> str:
        """A digest of all weights and BatchNorm statistics."""
        return checksum({}, {name: tensor.numpy() for name, tensor in self.net.state_dict().items()})

    def record(self, step: int) -> Record:
        """The record of the checkpoint after ``step`` steps."""
        config = self.config
        return {
            "space": config.space,
            "activation": config.model.activation,
            "num_classes": config.model.num_classes,
            "step": step,
            "processes": processes.connected(),
            "loss_scale": self._loss_scale(),
            "config": config.model_dump(mode="json"),
            "training_images": self.images,
            "files": self.files,
            "versions": versions(),
        }

    def restore(self, folder: Path, other_data: bool = False) -> int:
        """Load the newest intact checkpoint and return its step, 0 if there is none; ``other_data`` as for ``train``."""
        check = partial(check_same_run, self.record(0), other_data=other_data)
        record = load_latest(folder, self.net, self.optimizer, check)
        if record is None:
            return 0
        if record["step"] > self.total_steps:
            raise UserError(
                f"resume=True: step {record['step']} is trained, which is beyond train.max_steps={self.total_steps}; raise it"
            )
        if scale := record["loss_scale"]:
            self.scaler.load_state_dict(scale | {"scale": [scale["scale"]]})
        return int(record["step"])
