"""Configuration: precedence of files and overrides, and one line with file (or override) and key for every mistake."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_CONFIG
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_pgonas.config.loading import Config, load_config, save_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.methods import METHODS
from paddle_pgonas.space.arch import MINI, SPACES, TRACK1

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SHIPPED = [path for path in sorted(CONFIGS.rglob("*.yaml")) if not path.name.startswith(("study", "space"))]


def file(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def value_of(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "data: {}\n"])
def test_what_a_file_does_not_say_is_the_default(tmp_path: Path, text: str) -> None:
    config = load_config(file(tmp_path, text))
    assert config == Config()
    assert config.search_space is TRACK1


def test_a_file_states_its_differences_only(tmp_path: Path) -> None:
    config = load_config(file(tmp_path, "space: mini\ntrain:\n  epochs: 3\n"))
    assert config == Config().changed(space="mini", train={"epochs": 3})
    assert config.search_space is MINI


def test_override_beats_file_beats_base_beats_its_base(tmp_path: Path) -> None:
    file(tmp_path, "seed: 1\noutput_dir: one\nmethod: {name: pgonas, pairs: 1}\ntrain: {epochs: 1, batch_size: 1}\n", "root.yaml")
    file(tmp_path, "base: ../root.yaml\noutput_dir: two\nmethod: {pairs: 2}\ntrain: {epochs: 2}\n", "folder/middle.yaml")
    leaf = file(tmp_path, "base: folder/middle.yaml\ntrain: {epochs: 3}\n")
    config = load_config(leaf, ["train.log_every=4", "train.log_every=5"])
    train = config.train
    assert (config.seed, config.output_dir) == (1, "two")
    assert (train.batch_size, config.method.pairs, train.epochs, train.log_every) == (1, 2, 3, 5)
    assert load_config(leaf, ["train.epochs=6"]).train.epochs == 6


@pytest.mark.parametrize("bases", [("a",), ("b", "a"), ("b", "c", "b")], ids=["itself", "two files", "behind a file"])
def test_bases_in_a_circle_are_refused(tmp_path: Path, bases: tuple[str, ...]) -> None:
    for name, base in zip("abc", bases, strict=False):
        file(tmp_path, f"base: {base}.yaml\n", f"{name}.yaml")
    with pytest.raises(UserError, match="circle"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train: {lr_per_256: 1e-3}", "train.lr_per_256", 0.001),  # YAML 1.1 reads 1e-3 as text
        ("train: {lr_per_256: 1}", "train.lr_per_256", 1.0),
        ("data: {mean: [0, 0.5, 1e-1]}", "data.mean", (0.0, 0.5, 0.1)),
        ("data: {val_limit: null}", "data.val_limit", None),
        ("data: {val_limit: 7}", "data.val_limit", 7),
        ("model: {pretrained: ~}", "model.pretrained", None),
        ("method: {name: pgonas, stretch_lambda: true}", "method.stretch_lambda", True),
        ("data: {augment: none}", "data.augment", "none"),
    ],
)
def test_values_become_what_the_key_holds(tmp_path: Path, text: str, key: str, value: object) -> None:
    found = value_of(load_config(file(tmp_path, text)), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.lr_per_256=1e-3", "train.lr_per_256", 0.001),
        ("data.root=/images/a=b", "data.root", "/images/a=b"),
        ("method.teacher=null", "method.teacher", None),
        ("data.std=[1, 2, 3]", "data.std", (1.0, 2.0, 3.0)),
        ("space=mini", "space", "mini"),
    ],
)
def test_overrides_are_read_like_values_of_a_file(tmp_path: Path, override: str, key: str, value: object) -> None:
    path = file(tmp_path, "method: {name: uniform, teacher: file.pdparams}")
    assert value_of(load_config(path, [override]), key) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sede: 1", "unknown key sede; did you mean seed"),
        ("train: {epoch: 1}", r"unknown key train\.epoch; did you mean train\.epochs"),
        ("model: {xyz: 1}", r"unknown key model\.xyz; known keys: num_classes, activation"),
        ("1: 2", "unknown key 1"),
        ("seed: one", "seed must be of type int, not 'one'"),
        ("seed: 1.0", r"seed must be of type int, not 1\.0"),
        ("seed: true", "seed must be of type int, not True"),
        ("seed: null", "seed must be of type int, not None"),
        ("data: {val_limit: true}", r"data\.val_limit must be of type int, not True"),
        ("train: {lr_per_256: fast}", r"train\.lr_per_256 must be of type float, not 'fast'"),
        ("train: {lr_per_256: false}", r"train\.lr_per_256 must be of type float, not False"),
        ("train: {lr_per_256: null}", r"train\.lr_per_256 must be of type float, not None"),
        ("model: {reorder: 1}", r"model\.reorder must be one of True, False or always, not '1'"),
        ("output_dir: 2022", "output_dir must be of type str, not 2022"),
        ("space: resnet", "space must be one of track1, mini, track1_thin, or a YAML file .*, not 'resnet'"),
        ("data: {mean: 0.5}", r"data\.mean must be a list of numbers"),
        ("data: {mean: [a, b, c]}", r"data\.mean must be of type float, not 'a'"),
        ("data: {mean: [0.5]}", r"data\.mean holds too few or too many values"),
        ("data: {std: [1, 1, 0]}", r"data\.std must be above 0"),
        ("train: 3", "train is a section of keys, not the value 3"),
        ("train:", "train is a section of keys, not the value None"),
        ("train: {epochs: 0}", r"train\.epochs must be at least 1, not 0"),
        ("train: {momentum: 1}", r"train\.momentum must be below 1"),
        ("train: {lr_per_256: -0.1}", r"train\.lr_per_256 must be at least 0"),
        ("train: {lr_per_256: .nan}", r"train\.lr_per_256 must be a finite number, not nan"),
        ("data: {image_size: 64, resize: 60}", r"data\.resize \(60\) must not be smaller than data\.image_size \(64\)"),
        ("method: {name: uniform, random_subnets: 0}", r"method\.random_subnets must be at least 1"),
        ("method: {name: pgona}", r"method\.name must be one of uniform, .*, or an import path such as my_module:MyOptions"),
        ("method: {pairs: 3}", r"method\.name must be one of"),
        ("method: {name: sandwich, pairs: 3}", r"method\.pairs is no key of the method sandwich; known keys: name"),
        ("method: {name: pgonas, pair: 3}", r"method\.pair is no key of the method pgonas; did you mean method\.pairs"),
        ("{model: {bn: sync}, method: {name: pgonas, pair_losses: per_process}}", r"method\.pair_losses: .*model\.bn=sync"),
        ("method: 3", "method is a section of keys or a method's name, not the value 3"),
        ("train: {strategy: pgonas}", r"train\.strategy is now method\.name"),
        ("train: {prior: zen}", r"train\.prior is now method\.prior"),
        ("train: {pairs: 3}", r"train\.pairs is now method\.pairs"),
        ("train: {draws: seed}", r"train\.draws is now method\.sampler"),
        ("train: {highest_codes: [1]}", r"train\.highest_codes is now train\.narrowest_codes"),
        ("seed: [1", "not valid YAML"),
        ("a: !!python/name:os.system", "not valid YAML"),
        ("[]", "a set of 'key: value' lines"),
        ("- seed: 1", "a set of 'key: value' lines"),
        ("just text", "a set of 'key: value' lines"),
        ("base: nowhere.yaml", r"nowhere\.yaml: cannot read the configuration"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_file_and_key(tmp_path: Path, text: str, problem: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(UserError, match=problem) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("data: {mean: [.nan, 0.5, 0.5]}", "data.mean"),
        ("data: {std: [.nan, 0.5, 0.5]}", "data.std"),
        ("data: {std: [0.5, 0.5, .inf]}", "data.std"),
        ("train: {lr_per_256: .inf}", "train.lr_per_256"),
        ("train: {weight_decay: .inf}", "train.weight_decay"),
        ("train: {warmup_epochs: .inf}", "train.warmup_epochs"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(UserError, match=key):
        load_config(file(tmp_path, text))


def test_a_mistake_in_a_base_is_blamed_on_the_base(tmp_path: Path) -> None:
    file(tmp_path, "train: {epoch: 1}", "common.yaml")
    with pytest.raises(UserError, match=r"common\.yaml: unknown key train\.epoch"):
        load_config(file(tmp_path, "base: common.yaml"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: cannot read the configuration"):
        load_config(tmp_path / "absent.yaml")


def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    configuration = file(tmp_path, "base: pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero"), configuration):
        with pytest.raises(UserError, match=r"(pipe\.yaml|/dev/zero): cannot read the configuration .it is not a regular file"):
            load_config(path)
    with pytest.raises(UserError, match=r"pipe\.yaml: cannot read the search space"):
        load_config(file(tmp_path, "space: pipe.yaml", "own.yaml"))


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.epochs", "an override looks like key=value"),
        ("train.epoch=3", "unknown key train.epoch; did you mean train.epochs"),
        ("train.epochs.x=3", "train.epochs must be of type int"),
        ("train=3", "train is a section of keys"),
        ("seed=", "seed must be of type int, not None"),
        ("seed=yes", "seed must be of type int, not True"),
        ("data.mean=[1", "not valid YAML"),
        ("=3", "unknown key"),
    ],
)
def test_a_mistake_in_an_override_is_one_line_with_the_override(tmp_path: Path, override: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        load_config(file(tmp_path, ""), [override])
    assert str(caught.value).startswith(f"-o {override}: ")
    assert "\n" not in str(caught.value)


def test_overrides_may_be_values_by_key(tmp_path: Path) -> None:
    texts = ["train.epochs=2", "data.mean=[0.1, 0.2, 0.3]", f"output_dir={tmp_path}", "method=uniform", "data.val_limit=null"]
    values = {
        "train.epochs": 2,
        "data.mean": (0.1, 0.2, 0.3),
        "output_dir": tmp_path,
        "method": "uniform",
        "data.val_limit": None,
    }
    assert load_config(TINY_CONFIG, values) == load_config(TINY_CONFIG, texts)
    assert load_config(TINY_CONFIG, {"train": {"epochs": 2}}) == load_config(TINY_CONFIG, texts[:1])
    assert load_config(TINY_CONFIG, {"output_dir": "a #1"}).output_dir == "a #1"
    for mistake, names in (
        ({"train.epoch": 2}, "did you mean train.epochs"),
        ({"train.epochs": "2"}, "train.epochs must be of type"),
    ):
        with pytest.raises(UserError, match=names):
            load_config(TINY_CONFIG, mistake)


def test_overrides_are_checked_for_range_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"score\.batch_size must be at least 1, not 0"):
        load_config(file(tmp_path, ""), ["score.batch_size=0"])


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    output_dir=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    root=st.none() | st.sampled_from(["null", "1e-3", "yes", "1:30", "a: b", "#"]),
    seed=st.integers(0, 2**40),
    lr=st.floats(0, 1e6),
    mean=st.tuples(*[st.floats(-1e3, 1e3)] * 3),
)
def test_a_saved_configuration_loads_back_unchanged(
    tmp_path: Path, output_dir: str, root: str | None, seed: int, lr: float, mean: tuple[float, ...]
) -> None:
    config = Config().changed(seed=seed, output_dir=output_dir, data={"root": root, "mean": mean}, train={"lr_per_256": lr})
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


def test_configurations_are_shipped_for_every_space() -> None:
    spaces = [load_config(path).space for path in SHIPPED]
    assert {space for space in spaces if isinstance(space, str)} == set(SPACES)


@pytest.mark.parametrize("path", SHIPPED, ids=[str(path.relative_to(CONFIGS)) for path in SHIPPED])
def test_every_shipped_configuration_loads_and_saves(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


def test_no_two_shipped_runs_write_to_the_same_place() -> None:
    places = [load_config(path).output_dir for path in SHIPPED]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    "override",
    [
        "seed=2026-13-45",
        "seed=0b_",
        "train.epochs=!!int ''",
        "seed=!!timestamp x",
        "seed=" + "9" * 5000,
        "seed=0x" + "f" * 5000,
        "seed=" + "[" * 5_000,
        f"seed={10**26}",
        'output_dir="\\udcff"',
        'output_dir="\\0"',
        "seed=[&a [x,x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], [*b,*b,*b,*b,*b,*b,*b,*b,*b]]",
        "seed=[" + "&a x" + ", *a" * 30 + "]",
        "seed=" + "x" * 3_000_000,
    ],
    ids=range(13),
)
def test_a_hostile_value_is_one_short_line(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(file(tmp_path, ""), [override])
    assert len(str(caught.value)) < 600


def test_hostile_bases_are_one_line_and_a_long_chain_is_read(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for base in ("loop.yaml", '"a\\0b"', "3"):
        with pytest.raises(UserError):
            load_config(file(tmp_path, f"base: {base}"))
    file(tmp_path, "seed: 7", "0.yaml")
    for number in range(1, 1500):
        (tmp_path / f"{number}.yaml").write_text(f"base: {number - 1}.yaml")
    assert load_config(tmp_path / "1499.yaml").seed == 7


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("sandwich", "method.teacher=file"),
        ("uniform", "method.label_epochs=1"),
        ("uniform", "method.pairs=3"),
        ("sandwich", "method.prior=zen"),
        ("uniform", "method.distillation=alpha"),
        ("pgonas", "method.temperature=2"),
        ("pgonas", "train.warmup_images=5"),
    ],
)
def test_an_option_that_the_method_does_not_use_is_refused(tmp_path: Path, method: str, option: str) -> None:
    with pytest.raises(UserError, match=re.escape(option.partition("=")[0])):
        load_config(file(tmp_path, ""), [f"method={method}", option])


@pytest.mark.parametrize("path", [path for path in SHIPPED if load_config(path).method], ids=lambda path: path.stem)
@pytest.mark.parametrize("method", METHODS)
def test_another_method_is_chosen_in_one_step(path: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys of the old method that the new one lacks fall away, and are named if they were set."""
    old, new = load_config(path).method, load_config(path, [f"method={method}"]).method
    assert old and new and new.name == method
    common = type(old).model_fields.keys() & type(new).model_fields.keys() - {"name"}
    assert {name: getattr(new, name) for name in common} == {name: getattr(old, name) for name in common}
    lost = type(old).model_fields.keys() - type(new).model_fields.keys()
    set_there = {f"method.{name}" for name in lost if getattr(old, name) != type(old).model_fields[name].default}
    assert set(re.findall(r"method\.\w+", capsys.readouterr().err.replace(f"method={method}", ""))) == set_there


def test_the_keys_of_a_chosen_method_can_follow_it(tmp_path: Path) -> None:
    base = file(tmp_path, "method: {name: uniform, teacher: t.pdparams, random_subnets: 1}", "base.yaml")
    config = load_config(base, ["method.name=pgonas", "method.prior=zen"])
    assert (config.method.prior, config.method.random_subnets) == ("zen", 1)  # type: ignore[union-attr]
    assert load_config(base, ["method=null"]).method is None


def test_a_section_given_twice_is_refused_and_off_is_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train occurs twice"):
        load_config(file(tmp_path, "train: {epochs: 1}\ntrain: {log_every: 1}"))
    assert load_config(file(tmp_path, "train: {amp: off}")).train.amp == "off"
