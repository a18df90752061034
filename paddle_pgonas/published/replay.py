"""Repeats optimizer steps of the published code with this project's own training step.

All settings that are not in the file are those of the as-published configuration, so a wrong key in it appears as a difference.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from safetensors.numpy import save_file

from paddle_pgonas.methods.base import Metrics
from paddle_pgonas.nn.supernet import Supernet, plain_name
from paddle_pgonas.published.compare import TOLERANCES, Difference, Outcome, Step, compare, measure
from paddle_pgonas.published.reference import Reference, batch, configuration, first_weights, read_reference
from paddle_pgonas.runtime import select_device
from paddle_pgonas.training.checkpoints import zero_gradients
from paddle_pgonas.training.run import make_optimizer
from paddle_pgonas.training.trainer import start_run, without_images

NEAR_ZERO = 4e-6
"""Activations below this share of their layer's root mean square may have either sign because of rounding."""
MOST = 64
"""Of so many of them in one layer at most. Usual is one; of a network that has diverged it may be all."""
ATTEMPTS = 24
"""Largest number of repetitions with changed signs of such activations."""
OF_SIGNS = ("gradient", "weights")
"""How the names of the quantities begin that depend on these signs."""


def replay(path: str | Path, device: str = "auto", overrides: Sequence[str] = (), steps: int | None = None) -> list[Difference]:
    """Run the steps of a reference file and compare: one entry per step and quantity, then, after all steps, the final weights.

    ``overrides`` are ``key=value`` changes of the configuration. Raises UserError as :func:`read_reference`.
    """
    reference = read_reference(path)
    return compare(reference, repeat(reference, [f"device={device}", *overrides], steps))


def repeat(reference: Reference, overrides: Sequence[str] = (), steps: int | None = None) -> Outcome:
    """This project's steps, with signs of near-zero activations chosen to match the reference.

    Rounding can change the sign of an activation near 0 from machine to machine, so that ReLU passes it or not. This hardly
    changes the losses but changes gradients by up to 1e-2. So if only gradients differ, the steps are repeated with the sign of
    one such activation changed at a time, and changes that reduce the difference are kept.
    """
    training = _Training(reference, overrides)
    signs: list[set[Place]] = [set() for _ in range(min(reference.steps, steps or reference.steps))]
    best = training.run(signs)
    if not all(entry.within for entry in compare(reference, best) if not entry.quantity.startswith(OF_SIGNS)):
        return best
    for attempt in range(ATTEMPTS):
        gaps = _gaps(reference, best)
        near_zero = enumerate(training.signs.near_zero)
        changes = [{near[attempt % len(near)]} if near and gaps[number] > 1 else set() for number, near in near_zero]
        if not any(changes):
            break
        tried = training.run([chosen ^ change for chosen, change in zip(signs, changes, strict=True)])
        tried_gaps = _gaps(reference, tried)
        for number, change in enumerate(changes):
            if change and tried_gaps[number] < 0.9 * gaps[number]:
                signs[number] ^= change
                best.steps[number] = tried.steps[number]
        if tried_gaps[None] < gaps[None]:
            best.final_weights = tried.final_weights
    return best


def _gaps(reference: Reference, outcome: Outcome) -> dict[int | None, float]:
    """The largest difference of each step's gradients, and for None of the weights after the last, in tolerances."""
    gaps: dict[int | None, float] = defaultdict(float)
    for entry in compare(reference, outcome):
        if entry.quantity.startswith(OF_SIGNS):
            gaps[entry.step] = max(gaps[entry.step], entry.worst / TOLERANCES[entry.quantity])
    return gaps


Place = tuple[int, int]
"""Index of a ReLU in a step, and index of its input."""


class Signs:
    """Records inputs of ReLUs that are zero within rounding, and changes the sign of chosen ones."""

    def __init__(self, net: Supernet) -> None:
        self.near_zero: list[list[Place]] = []
        """Per step, the smallest first."""
        self._changed: set[Place] = set()
        self._seen: dict[Place, float] = {}
        self._calls = 0
        kinked = net.activation in ("relu", "prelu", "selu")
        for name, layer in net.model.named_sublayers():
            if name.endswith((".bn", ".bn1")):  # the ReLUs behind the stem and inside a block
                layer.register_forward_post_hook(lambda layer, inputs, output: self._pass(output))
            elif name.endswith(".act") and kinked:
                layer.register_forward_pre_hook(lambda layer, inputs: self._pass(inputs[0]))

    def start_step(self, changed: set[Place]) -> None:
        """From now on change the signs of these."""
        self._changed, self._seen, self._calls = changed, {}, 0

    def end_step(self) -> None:
        """Note what was near zero in this step."""
        self.near_zero.append(sorted(self._seen, key=self._seen.__getitem__))

    def _pass(self, values: paddle.Tensor) -> paddle.Tensor:
        call, self._calls = self._calls, self._calls + 1
        if values.stop_gradient:
            return values
        flat = values.detach().flatten()
        sizes = flat.abs() / flat.square().mean().sqrt()
        for index in (sizes < NEAR_ZERO).nonzero().flatten()[:MOST].tolist():
            self._seen[call, index] = float(sizes[index])
        chosen = [index for place, index in self._changed if place == call]
        if not chosen:
            return values
        shift = np.zeros(flat.shape, np.float32)
        shift[chosen] = -2 * flat.numpy()[chosen]
        return values + paddle.to_tensor(shift).reshape(values.shape)


class _Training:
    """The as-published training, which can be repeated from its start."""

    def __init__(self, reference: Reference, overrides: Sequence[str]) -> None:
        self.reference = reference
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "resnet48.safetensors"
            config = configuration(reference, weights, overrides)
            select_device(config.device, config.exhaustive_search)
            full = Supernet(config.search_space, config.model.num_classes)
            save_file({name: first_weights(name, tensor.shape) for name, tensor in full.weights().items()}, weights)
            self._run = start_run(config, without_images(reference.steps_per_epoch))
        net = self._run.net
        self._start = {name: tensor.clone() for name, tensor in net.weights().items()}
        self._passed: list[str] = []
        net.register_forward_pre_hook(lambda net, inputs: self._passed.append(net.active_subnet.code))
        self.signs = Signs(net)

    def run(self, changed: Sequence[set[Place]]) -> Outcome:
        """From the start, run one step per given set of inputs whose sign is changed."""
        run = self._run
        run.optimizer.clear_grad(set_to_zero=False)
        run.optimizer = make_optimizer(run.settings, run.net.parameters())
        for name, tensor in run.net.weights().items():
            tensor.set_value(self._start[name])
        if run.settings.unused_parameters == "zero_gradient":
            zero_gradients(run.net.parameters())
        self.signs.near_zero.clear()
        steps = []
        for number, places in enumerate(changed):
            self.signs.start_step(places)
            self._passed.clear()
            index = self.reference.epoch * run.steps_per_epoch + number
            metrics = run.step(index, *batch(self.reference, number))
            ranked = metrics.schedules.get("rank_lambda", 0) > 0
            named = ((plain_name(name), parameter.grad) for name, parameter in run.net.model.named_parameters())
            gradients = {name: measure(gradient.numpy()) for name, gradient in named if gradient is not None}
            steps.append(Step(list(self._passed), *_losses(metrics), ranked, run.optimizer.get_lr(), gradients))
            self.signs.end_step()
        return Outcome(steps, {name: measure(tensor.numpy()) for name, tensor in run.net.weights().items()})


def _losses(report: Metrics) -> tuple[list[Any], list[float]]:
    """The losses in the reference's form, and the hinges: with a teacher a pass has two, cross-entropy and distillation."""
    losses: list[Any] = []
    hinges: list[float] = []
    distilled: float | None = None
    for kind, tensor in report.losses:
        value = float(tensor)
        if kind == "rank":
            hinges.append(value)
        elif kind == "distilled":
            distilled = value
        else:
            losses.append(value if distilled is None else [value - distilled, distilled])
    return losses, hinges
