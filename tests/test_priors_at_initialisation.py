"""NEAR, SNIP, GradNorm and NASWOT against naive computations in NumPy, and the tool that computes them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import TINY, TINY_CONFIG, TINY_SPACE, Tool, assert_one_line

from paddle_pgonas.config.loading import load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.building import build_subnet
from paddle_pgonas.priors.by_name import AT_INITIALISATION
from paddle_pgonas.priors.near import effective_rank, near
from paddle_pgonas.scoring import untrained
from paddle_pgonas.scoring.untrained import first_pass, untrained_values

ARCH, SEED = TINY.middle, 3
DIGITS = load_config(TINY_CONFIG)


def batch() -> tuple[paddle.Tensor, paddle.Tensor]:
    rng = np.random.default_rng(0)
    return paddle.to_tensor(rng.normal(size=(6, 3, 8, 8)).astype("float32")), paddle.to_tensor(rng.integers(0, 10, 6))


class Naive:
    """The network in float64, from its weights: every activation's input and output, and the loss."""

    def __init__(self, activation: str, x: np.ndarray, y: np.ndarray, changed: dict[str, np.ndarray] | None = None) -> None:
        state = {name: value.numpy() for name, value in build_subnet(ARCH, 10, activation, SEED).state_dict().items()}
        self.state = {name: value.astype(np.float64) for name, value in state.items()} | (changed or {})
        self.slope = 0.25 if activation == "prelu" else 0.0
        self.before: list[np.ndarray] = []
        self.after: list[np.ndarray] = []
        features = self.act(self.bn(self.conv(x.astype(np.float64), "blocks.0.conv", 1), "blocks.0.bn"), 0.0)
        for block in ARCH.blocks:
            name = f"blocks.{block.index}"
            down = self.conv(features, f"{name}.downsample.0", 2, 0) if block.stride == 2 else None
            shortcut = features if down is None else self.bn(down, f"{name}.downsample.1")
            inner = self.act(self.bn(self.conv(features, f"{name}.conv1", block.stride), f"{name}.bn1"), 0.0)
            features = self.act(self.bn(self.conv(inner, f"{name}.conv2", 1), f"{name}.bn2") + shortcut, self.slope)
        head = f"blocks.{ARCH.space.first_blocks[-1]}.fc"
        logits = features.mean((2, 3)) @ self.state[f"{head}.weight"] + self.state[f"{head}.bias"]
        self.loss = float(np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, y, strict=True)]))

    def conv(self, x: np.ndarray, name: str, stride: int, pad: int = 1) -> np.ndarray:
        weight = self.state[f"{name}.weight"]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)]), weight.shape[2:], (2, 3)
        )
        return np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], weight)

    def bn(self, x: np.ndarray, name: str) -> np.ndarray:
        shape = (1, -1, 1, 1)
        normal = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
        return normal * self.state[f"{name}.weight"].reshape(shape) + self.state[f"{name}.bias"].reshape(shape)

    def act(self, x: np.ndarray, slope: float) -> np.ndarray:
        self.before.append(x)
        self.after.append(np.where(x > 0, x, slope * x))
        return self.after[-1]


def value_of(name: str, activation: str = "relu") -> float:
    return AT_INITIALISATION[name](first_pass(build_subnet(ARCH, 10, activation, SEED), *batch(), True, SEED))


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_naswot_counts_the_units_that_two_images_switch_alike(activation: str) -> None:
    x, y = batch()
    codes = [
        np.concatenate([values[image].ravel() > 0 for values in Naive(activation, x.numpy(), y.numpy()).before])
        for image in range(6)
    ]
    kernel = [[sum(a == b for a, b in zip(one, two, strict=True)) for two in codes] for one in codes]
    assert value_of("naswot", activation) == pytest.approx(math.log(np.linalg.det(np.array(kernel, float))), rel=1e-5)


@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_near_is_the_sum_of_the_entropies_of_squares_of_the_feature_maps(activation: str) -> None:
    x, y = batch()
    seen, rng, total = Naive(activation, x.numpy(), y.numpy()), np.random.default_rng(SEED), 0.0
    for pair in zip(seen.before, seen.after, strict=True):
        for values in pair:
            images, channels, height, width = values.shape
            rows = [values[n, :, h, w] for n in range(images) for w in range(width) for h in range(height)]
            start = int(rng.integers((len(rows) - channels) // height + 1)) * height
            matrix = np.array(rows[start : start + channels])
            roots = np.sqrt(np.clip(np.linalg.eigvalsh(matrix @ matrix.T), 0, None))
            shares = roots / roots.sum()
            total += math.exp(-sum(share * math.log(share) for share in shares if share > 0))
    assert value_of("near", activation) == pytest.approx(total, rel=1e-3)


def test_snip_and_grad_norm_are_those_of_numerical_gradients() -> None:
    """Some of the head's and of one convolution's weights are moved; the other gradients are then taken as computed."""
    x, y = (part.numpy() for part in batch())
    net = build_subnet(ARCH, 10, "relu", SEED)
    seen = first_pass(net, *batch(), True, SEED)
    names = [
        name.removesuffix(".weight") for name, value in net.state_dict().items() if name.endswith("weight") and value.ndim > 1
    ]
    assert len(names) == len(seen.weights) == len(seen.gradients)
    slopes = {name: gradient.numpy() for name, gradient in zip(names, seen.gradients, strict=True)}
    for name in (f"blocks.{ARCH.space.first_blocks[-1]}.fc", f"blocks.{ARCH.blocks[0].index}.conv1"):
        weight = net.state_dict()[f"{name}.weight"].numpy().astype(np.float64)
        for index in list(np.ndindex(weight.shape))[::37]:
            ends = []
            for step in (-1e-5, 1e-5):
                moved = weight.copy()
                moved[index] += step
                ends.append(Naive("relu", x, y, {f"{name}.weight": moved}).loss)
            assert slopes[name][index] == pytest.approx((ends[1] - ends[0]) / 2e-5, abs=2e-4)
    weights = {name: net.state_dict()[f"{name}.weight"].numpy() for name in names}
    sensitivity = sum(abs(w * g) for name in names for w, g in zip(weights[name].ravel(), slopes[name].ravel(), strict=True))
    assert value_of("snip") == pytest.approx(sensitivity, rel=1e-4)
    assert value_of("grad_norm") == pytest.approx(
        sum(math.sqrt(sum(g * g for g in of.ravel())) for of in slopes.values()), rel=1e-4
    )


def test_the_effective_rank_counts_equal_directions_fully_and_a_single_one_once() -> None:
    assert effective_rank(np.eye(5)) == pytest.approx(5)
    assert effective_rank(np.outer([1, 2, 3], [1, 1, 1])) == pytest.approx(1)
    assert effective_rank(np.zeros((3, 3))) == 0


def test_near_refuses_a_batch_with_fewer_positions_than_channels() -> None:
    x, y = batch()
    small = first_pass(build_subnet(TINY.largest, 10, "relu", 0), x[:2, :, :2, :2], y[:2], False, 0)
    with pytest.raises(UserError, match="more --images"):
        near(small)


@pytest.mark.parametrize("name", AT_INITIALISATION)
def test_values_depend_on_the_seed_alone_and_an_interrupted_call_continues(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrained, "CHUNK", 2)
    config = DIGITS.changed(output_dir=str(tmp_path))
    archs, computed = [TINY.smallest, TINY.middle, TINY.largest], list[str]()
    whole = untrained_values(config.changed(output_dir=str(tmp_path / "other")), name, archs, 2, 16)
    value = untrained.value_of

    def killed(config: object, name: str, arch: object, *rest: object) -> float:
        computed.append(str(arch))
        if len(computed) == 5:  # in the second chunk
            raise KeyboardInterrupt
        return value(config, name, arch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(untrained, "value_of", killed)
    with pytest.raises(KeyboardInterrupt):
        untrained_values(config, name, archs, 2, 16)
    assert np.array_equal(untrained_values(config, name, archs, 2, 16), whole)
    assert len(computed) == 7  # the first two subnets were not computed again
    assert whole.shape == (3, 2) and (whole[:, 0] != whole[:, 1]).all()


def test_the_tool_writes_a_file_that_is_a_legal_submission_if_it_is_scaled(tool: Tool, tmp_path: Path) -> None:
    candidates, output = tmp_path / "c.json", tmp_path / "p.json"
    tool("sample_candidates", "--space", TINY_SPACE, "--count", 4, "--output", candidates)
    options = ["-c", TINY_CONFIG, "-o", f"output_dir={tmp_path}", "--candidates", candidates, "--output", output]
    draws = ["--seeds", 2, "--images", 12]
    validate = ["compare", "--validate", output, "--candidates", candidates, "--space", TINY_SPACE]
    status, out, _ = tool("score_prior", *options, *draws, "--prior", "near+params")
    assert status == 0 and "between 2 seeds" in out and tool(*validate)[0] == 2
    unscaled = [entry["acc"] for entry in json.loads(output.read_text()).values()]
    status, out, _ = tool("score_prior", *options, *draws, "--prior", "near+params", "--scale")
    scaled = [entry["acc"] for entry in json.loads(output.read_text()).values()]
    assert status == 0 and "scaled: 0 is " in out and "1 of 1 chunks" in out and tool(*validate)[0] == 0
    assert {"seeds": 2, "images": 12}.items() <= json.loads((tmp_path / "p.record.json").read_text()).items()
    assert (min(scaled), max(scaled)) == (0, 1) and np.corrcoef(scaled, unscaled)[0, 1] == pytest.approx(1)
    assert np.argsort(scaled).tolist() == np.argsort(unscaled).tolist()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--prior", "near"], "give -c CONFIG"),
        (["--prior", "near", "-c", TINY_CONFIG, "--image-size", 16], "data.image_size"),
        (["--prior", "near", "-c", TINY_CONFIG, "--seeds", 0], "--seeds must be at least 1"),
        (["--prior", "near", "-c", TINY_CONFIG, "--images", 1000, "--seeds", 1000], "training images; give fewer"),
        (["--prior", "flops", "-c", TINY_CONFIG, "--images", 8], "--images"),
        (["--prior", "flops+flops", "-c", TINY_CONFIG], "twice"),
        (["--prior", "flops+", "-c", TINY_CONFIG], "must be one of"),
    ],
)
def test_what_they_cannot_do_is_one_line(tool: Tool, tmp_path: Path, options: list[object], names: str) -> None:
    files = ["--candidates", tmp_path / "c.json", "--output", tmp_path / "p.json"]
    tool("sample_candidates", "--space", TINY_SPACE, "--count", 2, "--output", files[1])
    assert_one_line(*tool("score_prior", *options, *files)[::2], names)


@pytest.mark.parametrize(
    ("tool_name", "options"), [("search", []), ("write_submission", ["--untrained", "--candidates", "c.json"])]
)
def test_tools_without_a_use_for_them_name_the_one_that_computes_them(tool: Tool, tool_name: str, options: list[str]) -> None:
    words = [tool_name, "-c", TINY_CONFIG, "--prior", "near", "--output", "o.json", *options]
    assert_one_line(*tool(*words)[::2], "score_prior.py")


@pytest.mark.parametrize("key", ["method.prior", "train.watch_prior"])
def test_no_training_uses_them(key: str) -> None:
    with pytest.raises(UserError, match=rf"{key} must not be snip.*score_prior\.py"):
        load_config(TINY_CONFIG, ["train.watch_images=8", "train.watch_subnets=2", f"{key}=snip"])
