"""A user's own spaces, priors and methods from files outside the package; every mistake in them gives one line."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, Tool, assert_one_line

from paddle_pgonas.config.loading import CONFIGS, load_config, save_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.exporting.export import export, load_subnet
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.priors.by_name import make_prior
from paddle_pgonas.space.arch import MINI, SPACES
from paddle_pgonas.space.named import find_space

DIGITS = str(CONFIGS / "mini" / "digits.yaml")
SPACE = """
name: two_stages
bases: [6, 10]
max_depths: [2, 3]
min_depth: 1
ratios: [1, 0.75, 0.5]
divisor: 1
image_size: 8
stem_kernel: 3
stem_stride: 1
stem_pool: false
"""
CODE = '''
from paddle_pgonas.methods.base import Method, Metrics
from paddle_pgonas.schema import Integer, key


def blocks(arch, image_size, num_classes):
    return sum(arch.depths) + num_classes / 1000 + image_size / 1000000


def no_number(arch, image_size, num_classes):
    return None


class LargestAlone(Method):
    """Train the largest subnet with labels, on as many passes as asked for."""

    passes: Integer = key(1, at_least=1)

    def start(self, parts):
        from paddle_pgonas.methods.losses import cross_entropy

        def strategy(net, x, y, step):
            metrics = Metrics()
            for _ in range(self.passes):
                net.set_active_subnet(parts.subspace.largest)
                loss = cross_entropy(net(x), y)
                step.backward(loss)
                metrics.add("own", loss)
            return metrics

        return strategy


class NoMetrics(Method):
    def start(self, parts):
        return lambda net, x, y, step: 3


class NoLosses(Method):
    def start(self, parts):
        return lambda net, x, y, step: Metrics()


class NoStart(Method):
    pass


def no_options(parts):
    return {"subnets": 2}


not_callable = 3
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a user's space, code, and a configuration that names both."""
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "two_stages.yaml").write_text(SPACE)
    (tmp_path / "own_code.py").write_text(CODE)
    (tmp_path / "breaks.py").write_text("import module_that_nobody_has")
    own = {"base": DIGITS, "space": "spaces/two_stages.yaml", "output_dir": "runs", "train": {"max_steps": 3, "batch_size": 16}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_space_from_a_file_goes_from_candidates_over_training_to_scores_and_a_report(tool: Tool, folder: Path) -> None:
    space = ["--space", "spaces/two_stages.yaml"]
    assert tool("sample_candidates", *space, "--count", 6, "--output", "c.json")[0] == 0
    assert tool("score_prior", *space, "--prior", "flops", "--candidates", "c.json", "--output", "flops.json")[0] == 0
    assert tool("train_supernet", "-c", "own.yaml")[0] == 0
    weights = ["--weights", "runs/supernet.safetensors"]
    options = ["-c", "own.yaml", "-o", "data.val_limit=20", "score.calibration_images=20"]
    assert tool("write_submission", *options, *weights, "--candidates", "c.json", "--output", "s.json")[0] == 0
    assert tool("compare", "s.json", "flops.json", *space)[0] == 0
    assert tool("compare", "--validate", "s.json", "--candidates", "c.json", *space)[0] == 0
    assert tool("train_supernet", "-c", "runs/config.yaml", "-o", "train.max_steps=4", "--resume")[0] == 0
    [*_, last] = read_json_lines(folder / "runs" / "metrics.jsonl")
    assert last["step"] == 3


def test_the_resolved_configuration_holds_the_space_itself(folder: Path) -> None:
    config = load_config("own.yaml")
    save_config(config, "elsewhere.yaml")
    (folder / "spaces" / "two_stages.yaml").unlink()
    again = load_config("elsewhere.yaml")
    assert again == config and again.search_space == config.search_space
    assert config.search_space.widths == ((0, 6, 4, 3), (0, 10, 7, 5))
    assert load_config("elsewhere.yaml", ["space=mini"]).search_space is MINI
    assert config.changed(seed=3).search_space == config.search_space


def test_a_subnet_of_a_space_from_a_file_is_exported_and_loaded(folder: Path) -> None:
    config = load_config("own.yaml", ["data.val_limit=20", "score.calibration_images=20"])
    from paddle_pgonas.nn.supernet import Supernet
    from paddle_pgonas.nn.weights import save_weights

    save_weights(folder / "w.safetensors", Supernet(config.search_space, 10, config.model.activation), {})
    arch = config.search_space.sample(random.Random(0))
    export(config, folder / "w.safetensors", arch, folder / "subnet")
    assert load_subnet(folder / "subnet").arch == arch


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("name: mini", "name must not be empty or that of a built-in space"),
        ("bases: [6]", "bases and max_depths must name the same stages"),
        ("bases: [6, 0]", "bases must be at least 1, not 0"),
        ("bases: 6", "bases must be a list"),
        ("max_depths: [2, 10]", "max_depths must be at most 9"),
        ("min_depth: 3", "min_depth (3) must not be above"),
        ("ratios: [0.5, 1]", "ratios must be 1 to 9 falling shares"),
        ("ratios: []", "ratios must be 1 to 9 falling shares"),
        ("ratios: [1.5]", "ratios must be at most 1"),
        ("stem_kernel: 4", "stem_kernel must be odd"),
        ("stem_pool: 1", "stem_pool must be of type bool"),
        ("stem_pol: true", "unknown key stem_pol; did you mean stem_pool?"),
        ("divisor:", "divisor must be of type int"),
    ],
)
def test_a_mistake_in_a_space_is_one_line(tool: Tool, folder: Path, line: str, problem: str) -> None:
    fields = yaml.safe_load(SPACE) | yaml.safe_load(line)
    (folder / "spaces" / "two_stages.yaml").write_text(yaml.safe_dump(fields))
    with pytest.raises(UserError) as caught:
        load_config("own.yaml")
    assert str(caught.value).startswith("own.yaml: space ") and "two_stages.yaml: " in str(caught.value)
    assert problem in str(caught.value)
    options = ["--space", "spaces/two_stages.yaml", "--count", 2, "--output", "c.json"]
    assert_one_line(*tool("sample_candidates", *options)[::2], problem)


def test_a_field_that_is_missing_and_a_file_that_is_missing_are_one_line(folder: Path) -> None:
    (folder / "spaces" / "two_stages.yaml").write_text(SPACE.replace("divisor: 1", ""))
    with pytest.raises(UserError, match=r"two_stages\.yaml: divisor is missing"):
        load_config("own.yaml")
    (folder / "spaces" / "two_stages.yaml").unlink()
    with pytest.raises(UserError, match=r"own\.yaml: space .*two_stages\.yaml: cannot read the search space"):
        load_config("own.yaml")


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_a_built_in_space_could_be_a_file(tmp_path: Path, space: object) -> None:
    fields = {name: getattr(space, name) for name in yaml.safe_load(SPACE)} | {"name": "mine"}
    (tmp_path / "mine.yaml").write_text(json.dumps(fields))  # JSON is YAML
    found = find_space(str(tmp_path / "mine.yaml"))
    assert {name: getattr(found, name) for name in fields} == fields


def test_a_prior_from_an_import_path_scores_and_trains(tool: Tool, folder: Path) -> None:
    prior = "own_code:blocks"
    assert tool("sample_candidates", "--space", "mini", "--count", 6, "--output", "c.json")[0] == 0
    assert tool("score_prior", "-c", DIGITS, "--prior", prior, "--candidates", "c.json", "--output", "p.json")[0] == 0
    values = json.loads((folder / "p.json").read_text()).values()
    assert [entry["acc"] for entry in values] == [
        pytest.approx(sum(MINI.parse(entry["arch"]).depths) + 0.01 + 8e-6) for entry in values
    ]
    options = ["method.rank_lambda=constant", "method.equal_priors=second_worse", f"method.prior={prior}"]
    assert tool("train_supernet", "-c", "own.yaml", "-o", *options)[0] == 0
    assert "loss/second" in "".join(map(str, read_json_lines(folder / "runs" / "metrics.jsonl")))
    assert tool("search", "-c", DIGITS, "--prior", prior, "--population", 4, "--generations", 1, "--output", "f.json")[0] == 0


def test_a_method_from_an_import_path_trains_with_its_own_options(tool: Tool, folder: Path) -> None:
    options = ["method=own_code:LargestAlone", "method.passes=2", "train.log_every=1"]
    status, _, err = tool("train_supernet", "-c", "own.yaml", "-o", *options)
    assert status == 0 and "own_code:LargestAlone makes no use of method.label_epochs" in err
    lines = read_json_lines(folder / "runs" / "metrics.jsonl")
    assert len(lines) >= 3 and "loss/own" in lines[0] and "loss/largest" not in lines[0]
    assert load_config("runs/config.yaml").method.passes == 2  # type: ignore[union-attr]
    assert tool("train_supernet", "-c", "runs/config.yaml", "-o", "train.max_steps=4", "--resume")[0] == 0
    assert_one_line(
        *tool("train_supernet", "-c", "runs/config.yaml", "-o", "method.passes=3", "--resume")[::2], "method.passes=2"
    )


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nobodys_module:prior", "there is no module 'nobodys_module'; put its file into the working folder"),
        ("own_code.deeper:prior", "there is no module 'own_code.deeper'"),
        ("own_code:bloks", "defines no 'bloks'; did you mean own_code:blocks?"),
        ("own_code:not_callable", "not_callable is a int, not something to call"),
        ("breaks:prior", "importing breaks fails: No module named 'module_that_nobody_has'"),
        ("own_code:no_number", "gives None for"),
        ("os:getcwd", "it must take (arch, image_size, num_classes)"),
        ("own_code:", "--prior"),
        ("flops:", "--prior"),
    ],
)
def test_a_bad_import_path_is_one_line(tool: Tool, folder: Path, path: str, problem: str) -> None:
    (folder / "c.json").write_text(json.dumps({"a": {"acc": 0, "arch": MINI.smallest.code}}))
    options = ["-c", DIGITS, "--prior", path, "--candidates", "c.json", "--output", "p.json"]
    status, _, err = tool("score_prior", *options)
    assert_one_line(status, err, problem)
    assert "prior" in err and not (folder / "p.json").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["method=own_code:LargestAlon"], "method.name own_code:LargestAlon: "),
        (["method=own_code:LargestAlon"], "did you mean own_code:LargestAlone?"),
        (["method=own_code:no_options"], "must be a subclass of paddle_pgonas.methods.base.Method"),
        (["method=own_code:NoStart"], "must be a subclass of paddle_pgonas.methods.base.Method with start(parts)"),
        (["method=own_code:NoMetrics"], "method.name own_code:NoMetrics: a step returned 3"),
        (["method=own_code:NoLosses"], "it must return a methods.base.Metrics with at least one loss"),
        (["method=own_code:LargestAlone", "method.passes=0"], "method: passes must be at least 1, not 0"),
        (["method=own_code:LargestAlone", "method.passs=1"], "method: unknown key passs; did you mean passes?"),
    ],
)
def test_a_mistake_in_an_own_method_is_one_line(tool: Tool, folder: Path, options: list[str], problem: str) -> None:
    own = folder / "plain.yaml"
    own.write_text((folder / "own.yaml").read_text() + "method: null")
    status, _, err = tool("train_supernet", "-c", own, "-o", *options)
    assert_one_line(status, err, problem)


@pytest.mark.parametrize(("key", "path"), [("prior", "my module:x"), ("name", "pgona"), ("prior", "zen_mc")])
def test_a_name_that_is_neither_built_in_nor_an_import_path_names_file_and_key(folder: Path, key: str, path: str) -> None:
    (folder / "bad.yaml").write_text(f"base: own.yaml\nmethod: {{{key}: '{path}'}}")
    with pytest.raises(UserError, match=rf"^bad\.yaml: method\.{key} must be one of .*, or an import path such as my_module:"):
        load_config("bad.yaml")


def test_reading_a_configuration_runs_no_code(folder: Path) -> None:
    prior = load_config("own.yaml", ["method.prior=nobodys_module:prior"]).method
    with pytest.raises(UserError, match="nobodys_module"):
        make_prior(prior.prior, MINI, 8, 10)  # type: ignore[union-attr]
    assert load_config("own.yaml", ["method=nobodys_module:Options", "method.anything=3"]).method.anything == 3  # type: ignore[union-attr]


NEW_METHOD = """
import random
from typing import Literal
import paddle_pgonas as pg
from paddle_pgonas import methods
from paddle_pgonas.methods.base import Parts, Step
from paddle_pgonas.methods.sandwich import SandwichBase

class SmallestOptions(SandwichBase):
    name: Literal["smallest"] = "smallest"
    def subnets(self, parts):
        return lambda step: [parts.subspace.smallest]

methods.METHODS["smallest"] = SmallestOptions
config = pg.load_config(pg.CONFIGS / "mini" / "digits.yaml", ["method=smallest"])
strategy = config.method.start(Parts(config.subspace, 0, config.prior, None))
assert strategy.subnets(Step(random.Random(0))) == [pg.MINI.smallest]
try:
    config.changed(method={"pairs": 3})
except pg.UserError as error:
    print(error)
"""


def test_a_new_built_in_method_is_one_class_and_one_entry_of_one_table() -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run([sys.executable, "-c", NEW_METHOD], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert "method.pairs is no key of the method smallest" in run.stdout
