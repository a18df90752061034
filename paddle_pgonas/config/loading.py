"""The configuration: defaults, the differences of a YAML file, and overrides.

Its sections are declared in :mod:`paddle_pgonas.config.sections`: each key with its type, its range, whether a resumed run may
change it, and the settings that use it. A file may name another one under ``base:`` (relative to itself) and then holds only
what differs from it. Unknown keys, wrong types, impossible values and options that the chosen strategy does not use stop the run
with one line that names the file (or override) and the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationInfo, model_validator

from paddle_pgonas import schema
from paddle_pgonas.config.sections import TAUGHT, Data, Model, Score, Train
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import write_text
from paddle_pgonas.io.yaml_files import read_override, read_with_bases
from paddle_pgonas.priors.by_name import Prior, make_prior
from paddle_pgonas.schema import Integer, Section, Text, key, plain, validate
from paddle_pgonas.space.arch import SearchSpace
from paddle_pgonas.space.named import SpaceKey, find_space, is_space_file
from paddle_pgonas.space.subspace import Region

__all__ = ["CONFIGS", "Config", "Data", "Model", "Score", "Train", "free_on_resume", "load_config", "save_config"]

_PACKAGE = Path(__file__).parents[1]
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
"""The folder of the project's configurations: inside the installed package, or beside it in a checkout."""


class Config(Section):
    """Everything a run depends on."""

    space: SpaceKey = "track1"
    """``track1``, ``mini``, ``track1_thin``, or a YAML file with a space's fields (docs/extending.md), relative to
    the file that names it; the resolved configuration holds the fields themselves."""
    seed: Integer = key(0, at_least=0)
    """Seed of all random numbers."""
    device: Literal["auto", "cpu", "gpu"] = key("auto", free=True)
    """``auto`` takes a GPU if there is one."""
    output_dir: Text = key("runs/default", free=True)
    """The run's folder: checkpoints, logs, weights, stored scores."""
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    score: Score = Score()

    @cached_property
    def search_space(self) -> SearchSpace:
        """The space that ``space`` names."""
        return find_space(self.space)

    def prior(self, name: str) -> Prior:
        """The prior of this name for the configured space, image size and number of classes.

        Raises:
            UserError: as :func:`~paddle_pgonas.priors.by_name.make_prior` does.
        """
        return make_prior(name, self.search_space, self.data.image_size, self.model.num_classes)

    def changed(self, **changes: Any) -> Config:
        """A configuration with other values, checked: ``config.changed(seed=1, data={"val_limit": 500})``.

        Raises:
            UserError: as :func:`load_config` does.
        """
        return validate(Config, _merged(self.model_dump(), changes), "configuration")

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Config:
        if info.context != schema.PARTIAL:
            for problem in _problems(self):
                raise ValueError(problem)
        return self


def free_on_resume() -> set[str]:
    """The keys, ``section.key``, that a resumed run may change, because they do not influence weights."""
    sections: dict[str, type[Section]] = {"": Config, "data.": Data, "model.": Model, "train.": Train, "score.": Score}
    fields = ((prefix + name, field) for prefix, model in sections.items() for name, field in model.model_fields.items())
    return {name for name, field in fields if schema.settings_of(field)["free"]}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file, follow its ``base:``, apply ``key=value`` overrides and check the result.

    Raises:
        UserError: a missing or unreadable file, an unknown key, a wrong type, an impossible value, or a value that is
            not used with the other values.
    """
    values: dict[str, Any] = {}
    files = read_with_bases(Path(path))
    for file, layer in files:
        if is_space_file(layer.get("space")):
            layer["space"] = str(Path(file).parent / layer["space"])
    for source, layer in [*files, *map(read_override, overrides)]:
        values = _merged(values, layer)
        validate(Config, values, source, schema.PARTIAL)  # here, so that the error names the file that contains it
    return validate(Config, values, str(path))


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved configuration, every key spelled out, as YAML that :func:`load_config` reads back."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _merged(values: Mapping[str, Any], changes: Mapping[Any, Any]) -> dict[str, Any]:
    """The values with the changes applied, section by section."""
    merged = dict(values)
    for name, value in changes.items():
        old = merged.get(name)
        merged[str(name)] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _problems(config: Config) -> Iterator[str]:
    """Rules beyond type and range of single keys."""
    data, train = config.data, config.train
    if data.resize < data.image_size:
        yield f"data.resize ({data.resize}) must not be smaller than data.image_size ({data.image_size})"
    if train.strategy in TAUGHT["strategy"] and train.random_subnets < 1:
        yield f"train.random_subnets must be at least 1 for the {train.strategy} strategy"
    if train.batch_size % train.accumulate:
        yield f"train.batch_size ({train.batch_size}) must be a multiple of train.accumulate ({train.accumulate})"
    try:
        Region(config.search_space, train.highest_codes, train.depth_ranges)
    except UserError as error:
        yield str(error)
    if train.draws == "candidates" and train.candidates is None:
        yield "train.candidates: train.draws=candidates needs the path of a candidate file"
    for section in ("data", "model", "train"):
        values = getattr(config, section)
        for name, user in schema.unused(values):
            value, default = getattr(values, name), type(values).model_fields[name].default
            if value != default:
                chosen = f"the {train.strategy} strategy makes no use of " if section == "train" else "nothing makes use of "
                yield f"{chosen}{section}.{name}={plain(value)} (it needs {user}); set {section}.{name}={plain(default)}"
