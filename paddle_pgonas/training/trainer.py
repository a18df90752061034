"""The training run: data, network, optimizer and strategy put together, with checkpoints and a log."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import paddle

from paddle_pgonas import distributed
from paddle_pgonas.config import Config, Train, save_config
from paddle_pgonas.data.batches import EpochBatches
from paddle_pgonas.data.cache import cache_folder
from paddle_pgonas.data.sources import open_source
from paddle_pgonas.data.transforms import to_network
from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.supernet import Supernet, extract, reorder_channels
from paddle_pgonas.nn.weights import Record, load_weights, save_weights
from paddle_pgonas.runtime import out_of_memory, seed_weights, select_device, versions
from paddle_pgonas.training.checkpoints import checkpoints, load_latest, save_checkpoint, zero_gradients
from paddle_pgonas.training.runlog import RunLog
from paddle_pgonas.training.samplers import step_draws
from paddle_pgonas.training.schedules import learning_rate, rank_lambda
from paddle_pgonas.training.strategies import Step, make_strategy

Watch = Callable[[Supernet], dict[str, float]]
"""Measures a supernet while it is trained, without changing it."""

AMP_TYPES = {"bf16": "bfloat16", "fp16": "float16"}

# A run may be resumed with other values of these: they do not change a weight.
FREE_ON_RESUME = {
    "output_dir",
    "device",
    "data.root",
    "data.cache_dir",
    "data.workers",
    "data.val_limit",
    "train.max_steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.watch_images",
    "train.watch_subnets",
    "train.watch_truth",
    "score.bn",
    "score.batch_size",
    "score.calibration_images",
    "score.calibration_batch",
}


def build_supernet(config: Config) -> Supernet:
    """The configured supernet with its first weights: random from the seed, or pretrained and (if asked for) reordered."""
    seed_weights(config.seed)
    model = config.model
    net = Supernet(config.search_space, model.num_classes, model.activation, model.bn)
    if model.pretrained is not None:
        load_weights(net, model.pretrained, pretrained=True)
        if model.reorder:
            reorder_channels(net)
    return net


def open_batches(config: Config, rank: int = 0, world: int = 1) -> EpochBatches:
    """The configured training images in batches, or the part of each batch that this of ``world`` processes takes."""
    source = open_source(config.data, "train", config.model.num_classes)
    return EpochBatches(source, config.data, cache_folder(config), config.train.batch_size, config.seed, rank, world)


def _open_shared_batches(config: Config) -> EpochBatches:
    """This process's part of the batches; the first process decodes what is to be decoded while the others wait."""
    if distributed.rank() == 0:
        batches = open_batches(config, 0, distributed.world())
    distributed.barrier()
    return batches if distributed.rank() == 0 else open_batches(config, distributed.rank(), distributed.world())


def make_optimizer(settings: Train, parameters: list[paddle.Tensor]) -> paddle.optimizer.Optimizer:
    """SGD with momentum; its learning rate is set before each step."""
    clip = None if settings.clip_grad_norm is None else paddle.nn.ClipGradByGlobalNorm(settings.clip_grad_norm)
    decay = settings.weight_decay or None
    return paddle.optimizer.Momentum(0.0, settings.momentum, parameters, weight_decay=decay, grad_clip=clip)


def train(config: Config, resume: bool = False, watch: Watch | None = None) -> Path:
    """Run the configured training and return the path of the supernet's weights.

    The run's folder gets ``config.yaml``, ``metrics.jsonl``, ``visualdl/``, ``checkpoints/`` and in the end
    ``supernet.safetensors``. Ctrl-C (or SIGTERM) finishes the step, writes a checkpoint and stops. Of several processes
    (python -m paddle.distributed.launch) the first one writes; all must see the folder to resume.

    Args:
        watch: called with the supernet before each checkpoint; the scalars that it returns are logged.

    Raises:
        UserError: the folder holds another run, data or weights do not fit, or the training diverged or collapsed; then the
            last good checkpoint is named.
    """
    select_device(config.device)
    distributed.join()
    folder = Path(config.output_dir)
    kept = folder / "checkpoints"
    if checkpoints(kept) and not resume:
        raise UserError(f"{folder} already holds a run; add --resume to go on with it, or choose another output_dir")
    distributed.barrier()
    run = Run(config, _open_shared_batches(config))
    step = run.restore(kept) if resume else 0
    first = distributed.rank() == 0
    if first:
        save_config(config, folder / "config.yaml")
    with RunLog(folder, run.total_steps, step, silent=not first) as log, _stop_requests() as requests:
        try:
            for x, y in run.batches_from(step):
                report = run.step(step, x, y)
                if step % config.train.log_every == 0 or step + 1 == run.total_steps:
                    log.log(step, run.scalars(step, report))
                step += 1
                log.advance()
                stop = distributed.any_of(bool(requests))
                at_epoch_end = step % (run.steps_per_epoch * config.train.checkpoint_every) == 0
                if at_epoch_end or stop or step == run.total_steps:
                    run.check_health(step)
                    if first:
                        save_checkpoint(kept, run.net, run.optimizer, run.record(step), config.train.keep_checkpoints)
                        if watch is not None and not stop:
                            log.log(step - 1, watch(run.net))
                            run.net.train()
                            run.restart_clock()
                    distributed.barrier()
                if stop:
                    raise UserError(f"stopped after step {step}; the same command with --resume goes on from there")
        except Collapse as error:
            good = checkpoints(kept)
            raise UserError(f"{error}; lower train.lr_per_256. Last good checkpoint: {good[-1] if good else 'none'}") from None
    output = folder / "supernet.safetensors"
    if first:
        save_weights(output, run.net, run.record(run.total_steps))
    return output


class Collapse(Exception):
    """The training is lost: losses or weights are no longer numbers, or the network guesses."""


class Run:
    """The parts of a training run and its single step."""

    def __init__(self, config: Config, batches: EpochBatches) -> None:
        self.config, settings = config, config.train
        if settings.amp != "off" and paddle.get_device() == "cpu":
            raise UserError(f"train.amp: {settings.amp} needs a GPU; set train.amp=off")
        self.batches = batches
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = min(settings.epochs * self.steps_per_epoch, settings.max_steps or 2**62)
        self.net = build_supernet(config)
        self.net.train()
        self.optimizer = make_optimizer(settings, self.net.model.parameters())
        self.scaler = paddle.amp.GradScaler(enable=settings.amp == "fp16")
        if settings.unused_parameters == "zero_gradient":
            zero_gradients(self.net.model.parameters())
        self.strategy = make_strategy(settings, _teacher(config))
        self.restart_clock()
        self.correct, self.correct_steps = paddle.zeros([]), 0

    def restart_clock(self) -> None:
        """Count images per second from here."""
        self.logged_at, self.images_since_log = time.perf_counter(), 0

    def batches_from(self, step: int) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        """Normalised images and labels from this step to the run's last."""
        while step < self.total_steps:
            epoch, start = divmod(step, self.steps_per_epoch)
            for images, labels in self.batches.epoch_from(epoch, start):
                yield to_network(images, self.config.data), labels
                step += 1
                if step == self.total_steps:
                    return

    def step(self, index: int, x: paddle.Tensor, y: paddle.Tensor) -> Step:
        """One optimizer step on one batch; returns what the passes reported. All processes draw the same subnets."""
        settings = self.config.train
        epoch, total_batch = index // self.steps_per_epoch, settings.batch_size * distributed.world()
        self.optimizer.clear_grad()
        size = settings.batch_size // settings.accumulate
        for start in range(0, settings.batch_size, size):
            rng, sample = step_draws(settings, self.config.seed, index, self.steps_per_epoch)
            progress = index / (settings.epochs * self.steps_per_epoch)
            weight = rank_lambda(settings, index, self.steps_per_epoch)
            step = Step(rng, weight, progress, epoch >= settings.label_epochs, self._backward, sample)
            self._passes(x[start : start + size], y[start : start + size], step)
        distributed.average_gradients(self.net.model.parameters())
        rate = learning_rate(settings, index, self.steps_per_epoch, total_batch)
        self.optimizer.set_lr(rate)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.images_since_log += total_batch
        if step.correct is not None:
            self.correct += step.correct
            self.correct_steps += 1
        return step

    def _passes(self, x: paddle.Tensor, y: paddle.Tensor, step: Step) -> None:
        """The strategy's forwards and backwards on a part of the batch, in the configured precision."""
        amp = self.config.train.amp
        try:
            with paddle.amp.auto_cast(amp != "off", dtype=AMP_TYPES.get(amp, "float16")):
                self.strategy(self.net, x, y, step)
        except (MemoryError, RuntimeError, SystemError) as error:
            if out_of_memory(error):
                raise UserError(
                    f"out of memory with {len(y)} images at a time: raise train.accumulate, "
                    "lower train.batch_size, or set train.amp=bf16; then --resume"
                ) from None
            raise

    def _backward(self, loss: paddle.Tensor) -> None:
        parts = self.config.train.accumulate
        self.scaler.scale(loss if parts == 1 else loss / parts).backward()

    def scalars(self, index: int, step: Step) -> dict[str, float]:
        """What the log keeps of a step: of several losses of a kind the last.

        Raises:
            Collapse: a loss is not a number.
        """
        scalars = {f"loss/{kind}": float(loss) for kind, loss in dict(step.losses).items()}
        for name, value in scalars.items():
            if not math.isfinite(value):
                raise Collapse(f"{name} is {value}: training diverged")
        if step.correct is not None:
            scalars["accuracy"] = float(step.correct)
        if step.pairs:
            scalars["pairs_out_of_order"] = step.pairs_out_of_order / step.pairs
        squares = [weight.grad.square().sum() for weight in self.net.model.parameters() if weight.grad is not None]
        scalars["grad_norm"] = float(paddle.add_n(squares).sqrt())  # before it is clipped
        seconds = time.perf_counter() - self.logged_at
        speed = {"images_per_second": round(self.images_since_log / seconds, 1), "seconds": round(seconds, 3)}
        self.restart_clock()
        epoch, rate = index // self.steps_per_epoch, self.optimizer.get_lr()
        return {"epoch": epoch, **scalars, "lr": rate, "rank_lambda": step.rank_lambda, **speed}

    def check_health(self, step: int) -> None:
        """Let no broken weights into a checkpoint.

        Raises:
            Collapse: a weight is not a number; or the warm-up and a whole epoch are over, and the first subnet of the steps
                since the last check is right no more often than guessing would be (by four standard deviations).
        """
        if not bool(paddle.isfinite(paddle.add_n([weight.sum() for weight in self.net.model.parameters()]))):
            raise Collapse(f"weights are no longer numbers at step {step}: training diverged")
        settings, steps = self.config.train, self.correct_steps
        if steps < self.steps_per_epoch:
            return
        right = float(self.correct) / steps
        self.correct, self.correct_steps = paddle.zeros([]), 0
        chance = 1 / self.batches.source.num_classes
        guessing = chance + 4 * math.sqrt(chance * (1 - chance) / (steps * settings.batch_size))
        warm = settings.schedule == "cosine" and step > (settings.warmup_epochs + 1) * self.steps_per_epoch
        if warm and right <= guessing:
            raise Collapse(f"accuracy {right:.4f} before step {step}, where guessing gives {chance:.4f}: training collapsed")

    def record(self, step: int) -> Record:
        """What these weights are, kept with them."""
        model = self.config.model
        return {
            "space": self.config.space,
            "activation": model.activation,
            "num_classes": model.num_classes,
            "step": step,
            "processes": distributed.world(),
            "loss_scale": self.scaler.state_dict(),
            "config": dataclasses.asdict(self.config),
            "versions": versions(),
        }

    def restore(self, folder: Path) -> int:
        """Load the newest whole checkpoint and return its step, 0 if there is none."""
        record = load_latest(folder, self.net, self.optimizer)
        if record is None:
            return 0
        now, then = _flat(self.record(0)["config"]), _flat(record["config"])
        for key in sorted(set(now) | set(then)):
            if key not in FREE_ON_RESUME and _plain(now.get(key)) != _plain(then.get(key)):
                raise UserError(f"--resume: the run was started with {key}={then.get(key)}, now it is {now.get(key)}")
        if record["processes"] != distributed.world():
            raise UserError(
                f"--resume: the run was started with {record['processes']} processes, now there are {distributed.world()}"
            )
        if record["loss_scale"]:
            self.scaler.load_state_dict(record["loss_scale"])
        return int(record["step"])


def _teacher(config: Config) -> paddle.nn.Layer | None:
    """The fixed full network of the uniform and progressive strategies."""
    if config.train.strategy not in ("uniform", "progressive") or config.train.teacher is None:
        return None
    full = Supernet(config.search_space, config.model.num_classes)
    load_weights(full, config.train.teacher)
    full.eval()
    return extract(full, config.search_space.largest)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that is empty until someone asks the process to stop; a second request stops it at once."""
    requests: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
