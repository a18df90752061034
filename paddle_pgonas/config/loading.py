"""The configuration: defaults, the differences of a YAML file, and overrides.

The common sections are declared in :mod:`paddle_pgonas.config.sections`, a method's options beside the method
(:mod:`paddle_pgonas.methods`). A file may name another one under ``base:`` (relative to itself) and then holds only what differs.
Every error is one line that names the file (or override) and the key.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import PlainValidator, SerializeAsAny

from paddle_pgonas.config.sections import Data, Model, Score, Train
from paddle_pgonas.config.shipped import CONFIGS, find_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import expanded, write_text
from paddle_pgonas.io.yaml_files import cut, nested, read_override, read_with_bases
from paddle_pgonas.methods import METHODS, read_method
from paddle_pgonas.methods.base import Method
from paddle_pgonas.priors.by_name import NamedPrior, make_prior
from paddle_pgonas.schema import PARTIAL, READ, Folder, Integer, Section, holds, is_free, key, validate
from paddle_pgonas.space.arch import SearchSpace
from paddle_pgonas.space.named import SpaceKey, find_space, is_space_file
from paddle_pgonas.space.subspace import Subspace

__all__ = [
    "CONFIGS",
    "Config",
    "Data",
    "Model",
    "Score",
    "Train",
    "files_read",
    "free_on_resume",
    "inputs_of",
    "load_config",
    "save_config",
]


class Config(Section):
    """Everything a run depends on."""

    space: SpaceKey = "track1"
    """``track1``, ``mini``, ``track1_thin``, or a YAML file with a space's fields (docs/extend.md), relative to
    the file that names it; the resolved configuration holds the fields themselves."""
    seed: Integer = key(0, at_least=0)
    """Seed of all random numbers."""
    device: Literal["auto", "cpu", "gpu"] = key("auto", free=True)
    """``auto`` takes a GPU if there is one."""
    exhaustive_search: bool = key(False, free=True)
    """GPU only: cuDNN times all its algorithms for each new shape of a convolution and keeps the fastest, whatever
    ``FLAGS_cudnn_exhaustive_search`` says. Runs then differ in rounding; excludes ``FLAGS_cudnn_deterministic``."""
    output_dir: Folder = key("runs/default", free=True)
    """The run's folder: checkpoints, logs, weights, stored scores."""
    data: Data = Data()
    model: Model = Model()
    method: Annotated[SerializeAsAny[Method] | None, PlainValidator(read_method)] = None
    """The method that trains the supernet: its name, or a section with ``name`` and the method's own keys; null trains none."""
    train: Train = Train()
    score: Score = Score()

    @cached_property
    def search_space(self) -> SearchSpace:
        """The space that ``space`` names."""
        return find_space(self.space)

    @cached_property
    def subspace(self) -> Subspace:
        """The part of the space that a training samples."""
        return Subspace(self.search_space, self.train.narrowest_codes, self.train.depth_ranges)

    def prior(self, name: str) -> NamedPrior:
        """The prior of this name for the configured space, image size and classes; UserError if there is none."""
        return make_prior(name, self.search_space, self.data.image_size, self.model.num_classes)

    def changed(self, **changes: Any) -> Config:
        """A configuration with other values, checked as :func:`load_config` does: ``config.changed(data={"val_limit": 500})``."""
        return validate(Config, _merged(self.model_dump(), changes, "configuration"), "configuration")

    def _problems(self) -> Iterator[tuple[str, str]]:
        try:
            self.subspace  # noqa: B018 (bounds that do not fit the space raise)
        except UserError as error:
            yield "", str(error)
        if getattr(self.method, "sampler", None) == "published":
            for name in ("narrowest_codes", "depth_ranges"):
                if getattr(self.train, name) is not None:
                    yield "", f"train.{name}: method.sampler=published samples the whole space; set train.{name}=null"
        if self.model.bn == "sync" and getattr(self.method, "pair_losses", None) == "per_process":
            # Only the processes that find a pair out of order would run its backward pass, in which BatchNorm waits for all.
            yield "", "method.pair_losses: per_process does not work with model.bn=sync; set method.pair_losses=all_processes"


def _fields() -> Iterator[tuple[str, Any]]:
    """All keys, ``section.key``, with their declaration; those of every method in turn."""
    sections: dict[str, type[Section]] = {"": Config, "data.": Data, "model.": Model, "train.": Train, "score.": Score}
    for prefix, model in [*sections.items(), *(("method.", method) for method in METHODS.values())]:
        yield from ((prefix + name, field) for name, field in model.model_fields.items())


def free_on_resume() -> set[str]:
    """The keys, ``section.key``, that a resumed run may change, because they do not influence weights."""
    return {name for name, field in _fields() if is_free(field)}


def text_keys() -> set[str]:
    """The keys, ``section.key``, whose value is text: names and paths."""
    return {name for name, field in _fields() if holds(field.annotation, str)}


def files_read(config: Config) -> dict[str, str]:
    """The files that a configuration names to be read (weights, candidates, a truth), by their keys."""
    values = config.model_dump()
    named = {name: name.rpartition(".") for name, field in _fields() if holds(field.annotation, READ)}
    found = {name: ((values[section] or {}) if section else values).get(key) for name, (section, _, key) in named.items()}
    return {name: path for name, path in found.items() if path is not None}


def inputs_of(path: str | Path, overrides: Sequence[str], config: Config) -> list[str]:
    """The files that this configuration consists of or names: its file, the bases, the spaces and :func:`files_read`."""
    layers = _layers(path, overrides)
    spaces = [layer["space"] for _, layer in layers if is_space_file(layer.get("space"))]
    files = [source for source, _ in layers[: len(layers) - len(overrides)]]
    return [*files, *spaces, *files_read(config).values()]


def load_config(path: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Config:
    """Read a configuration file, follow its ``base:``, apply overrides and check the result.

    A path where no file is may be the name of one of the project's configurations, such as ``mini/digits.yaml``. Overrides are
    values by key, ``{"train.epochs": 2}``, or texts ``key=value``, in which a text key's value is taken as it stands. A leading
    ``~`` in a path is the home folder. A file or override that chooses another method takes over the keys that both have. The
    others are named on stderr. Raises UserError for an unreadable file, an unknown key, a wrong type, an impossible value, or
    one without a use.
    """
    values: dict[str, Any] = {}
    for source, layer in _layers(path, overrides):
        values = _merged(values, layer, source)
        validate(Config, values, source, PARTIAL)  # here, so that the error names the file that contains it
    return validate(Config, values, str(path))


def _layers(path: str | Path, overrides: Mapping[str, Any] | Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """The values of the bases, the file and the overrides, with their sources; the paths of spaces as seen from here."""
    files, texts = read_with_bases(find_config(path)), text_keys()
    for file, layer in files:
        if is_space_file(layer.get("space")):
            layer["space"] = str(Path(file).parent / expanded(layer["space"]))
    if isinstance(overrides, Mapping):
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in overrides.items()}
        return [*files, *(("overrides", nested(key, value)) for key, value in plain.items())]
    return [*files, *(read_override(override, texts) for override in overrides)]


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved configuration, every key spelled out, as YAML that :func:`load_config` reads back."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _merged(values: Mapping[str, Any], changes: Mapping[Any, Any], source: str) -> dict[str, Any]:
    """The values with the changes applied, section by section."""
    merged = dict(values)
    for name, value in changes.items():
        old = merged.get(name)
        if name == "method":
            old, value = _same_method(old, {"name": value} if isinstance(value, str) else value, source)
        merged[str(name)] = _merged(old, value, source) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _same_method(old: Any, new: Any, source: str) -> tuple[Any, Any]:
    """The old method's keys that a newly chosen one has too, and the new one's keys; what falls away is named on stderr."""
    chosen = new.get("name") if isinstance(new, dict) else None
    if not isinstance(old, dict) or chosen in (None, old.get("name")):
        return old, new
    fields_of = {name: METHODS[name].model_fields for name in (old.get("name"), chosen) if name in METHODS}
    kept, known = fields_of.get(chosen, {}), fields_of.get(old.get("name"), {})
    lost = [name for name in old if name not in {*kept, "name"} and (name not in known or old[name] != known[name].default)]
    if lost:
        names = ", ".join(f"method.{name}" for name in lost)
        print(f"{source}: {cut(str(chosen))} makes no use of {names} of {old.get('name')}", file=sys.stderr)
    return {name: value for name, value in old.items() if name in kept}, new
