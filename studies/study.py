"""A study as its YAML file describes it: candidates, methods, regimes, seeds, and what its document shows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import PrivateAttr

from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.yaml_files import read_section
from paddle_pgonas.priors.by_name import PRIORS, terms
from paddle_pgonas.schema import Integer, ListAsTuple, Number, Section, Text, key, validate
from paddle_pgonas.scores.files import Candidate, read_candidates

Texts = Annotated[tuple[Text, ...], ListAsTuple]
Numbers = Annotated[tuple[Number, ...], ListAsTuple]
Pairs = Annotated[tuple[Annotated[tuple[Text, Text], ListAsTuple], ...], ListAsTuple]

OF_ARCH = ("blocks", "width")
"""Controls that are no priors: the number of blocks, and the channels of the last stage."""
HALVES = ("choice", "confirmation")
"""Decisions are made on the first half of the candidates and tested on the second."""


class Regime(Section):
    """A treatment of BatchNorm and of the learning rate in which every method is trained."""

    label: Text = ""
    bn: Literal["running", "calibrated"] = "calibrated"
    """The statistics whose scores count in this regime."""
    options: Texts = ()
    """Overrides (``section.key=value``) of every method's configuration."""
    rates: Numbers = ()
    """Values of ``train.lr_per_256`` to choose from for each method; none takes the configuration's."""
    rate_options: Texts = ()
    """Overrides of the trainings that choose the rate."""


class Method(Section):
    """A way to train a supernet."""

    label: Text
    config: Text | None = None
    """Configuration file beside the study's; null means ``<name>.yaml``."""
    trained: bool = True
    """False: the pretrained network is scored as it is."""
    pretrained: bool = True
    """Starts from the stand-alone largest network, otherwise from random weights."""
    largest: Text | None = None
    """Configuration of the training of the stand-alone largest network that it starts from and that is its teacher; null: the
    study's."""
    teacher: bool = False
    """The stand-alone largest network is a fixed teacher."""
    after: Text | None = None
    """Starts from the supernet of this method, of the same regime and seed."""
    rate_of: Text | None = None
    """Takes the learning rate that was chosen for this method in the same regime."""
    groups: dict[str, Text] | None = None
    """Few-shot supernets: ``train.depth_ranges`` of each."""
    options: dict[str, Texts] = key({})
    """Further overrides by regime."""
    regimes: Texts = ()
    """Regimes in which it runs; none means all."""


class Recipe(Section):
    """A way to rank: which supernet, and how its scores are read."""

    label: Text
    variant: Text
    """``<method>-<regime>``."""
    metric: Literal["top1", "likelihood", "probability"] = "top1"
    prior: Text | None = None
    """Added to the metric with equal weight, see :func:`~paddle_pgonas.priors.by_name.with_prior`."""


@dataclass(frozen=True)
class Variant:
    """A method in a regime."""

    name: str
    """``<method>-<regime>``, in a study without regimes the method's name."""
    method_name: str
    regime_name: str
    method: Method
    regime: Regime

    @property
    def stem(self) -> str:
        """The start of its result files' names. Without training both regimes have the same results."""
        return self.name if self.method.trained else self.method_name


class Study(Section):
    """Everything that a study's runs and tables depend on.

    Its file lies in the study's folder, with the methods' configurations, its results and its document. Paths are relative to
    the folder.
    """

    tables: Texts
    """Names of the document's tables, each with a regime and a half of the candidates where only these are shown."""
    candidates: Text = "candidates.json"
    pictures: Texts
    largest: Text = "truth.yaml"
    """Configuration of the stand-alone training of the largest network. It also gives the space and the number of classes."""
    largest_seeds: Integer = key(1, at_least=1)
    """Number of largest networks; the runs of seed S start from that of seed S modulo this number."""
    truth: Text | None = None
    """Configuration of the truth's trainings. null: another program makes the truth, ``accuracies.json`` (studies/truth_trainer),
    and tables show the candidates that it holds so far."""
    truth_seeds: Integer = key(2, at_least=2)
    """Used with ``truth`` only."""
    further_truths: dict[str, Texts] = key({})
    """Other truths of the candidates, or of some, by name: one or several files like ``accuracies.json``, which hold different
    candidates and may differ in the number of seeds. Tables and pictures whose name ends with such a name show the candidates
    of that truth."""
    seeds: Integer = key(3, at_least=1)
    """Runs of each method."""
    first_seed: Integer = key(0, at_least=0)
    """Of these runs. Results of other seeds count, too."""
    options: Texts = ()
    """Overrides of every configuration."""
    narrowest_codes: Annotated[tuple[Integer, ...], ListAsTuple] | None = None
    """Highest width code per stage of the candidates; bounds the subnets on which learning rates are chosen."""
    detailed_seeds: Integer | None = key(None, at_least=0)
    """Only runs of the seeds below it are measured during the training and scored by both kinds of BatchNorm statistics, the
    others by their regime's at the end, which takes half the time. null: all."""
    watch_images: Integer = key(0, at_least=0)
    """Score the candidates on this number of images during the training."""
    watch_at: Numbers = ()
    """At these shares of the training."""
    halves: Integer | None = None
    """Seed of the division of the candidates into ``choice`` and ``confirmation``."""
    controls: Texts = ("flops", "params", "zen")
    """Priors in the tables of methods, also those of OF_ARCH. Priors joined by ``+`` are standardised and added."""
    regimes: dict[str, Regime] = key({"": Regime()})
    methods: dict[str, Method]
    comparisons: Pairs = ()
    """A method or variant, and its reference: a method, a variant or a control."""
    hypotheses: Pairs = ()
    """Tests that were fixed before a truth was looked at: a variant, also with priors added (``sandwich-calibrated+flops``), and
    what it should rank better than, of the same kind or a control."""
    hypotheses_by: Literal["top1", "likelihood", "probability"] = "probability"
    """The metric of their scores."""
    recipes: dict[str, Recipe] = key({})
    """The recommended recipe, and those that it is compared with."""
    recipes_of: Text | None = None
    """Another study's file, whose recipes count here."""
    _folder: Path = PrivateAttr(Path())

    def path(self, name: str) -> Path:
        """A file or folder that the study names, or the place of one that every study has."""
        return self._folder / name

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self._folder.name

    @property
    def results(self) -> Path:
        """The folder of results."""
        return self.path("results")

    @property
    def documents(self) -> list[Path]:
        """The Markdown files that share the tables; the pictures are beside them, in the folder ``pictures``."""
        return sorted(self._folder.glob("*.md"))

    def read_candidates(self) -> list[Candidate]:
        """The subnets that are ranked."""
        return read_candidates(self.path(self.candidates), self.config().search_space)

    def config(self) -> Config:
        """The configuration of the stand-alone largest network."""
        return load_config(self.path(self.largest), self.options)

    def config_of(self, method: str) -> Path:
        """A method's configuration file."""
        return self.path(self.methods[method].config or f"{method}.yaml")

    @property
    def variants(self) -> dict[str, Variant]:
        """Every method in every regime, by name."""
        listed = (
            Variant(f"{name}-{regime}".rstrip("-"), name, regime, method, self.regimes[regime])
            for regime in self.regimes
            for name, method in self.methods.items()
            if not method.regimes or regime in method.regimes
        )
        return {variant.name: variant for variant in listed}

    def beside(self, variant: Variant, method: str) -> Variant:
        """Another method in a variant's regime."""
        return self.variants[f"{method}-{variant.regime_name}".rstrip("-")]

    def detailed(self, variant: Variant, seed: int) -> bool:
        """Whether a run is measured and scored in detail; without training, a run belongs to all regimes."""
        return not variant.method.trained or self.detailed_seeds is None or seed < self.detailed_seeds

    def watched(self, variant: Variant, seed: int) -> bool:
        """Whether a run is measured during its training. Copies of few-shot supernets are not."""
        method = variant.method
        return bool(self.watch_at and self.watch_images and method.trained and not method.groups and self.detailed(variant, seed))

    def split(self, ranking: str) -> tuple[str, str | None]:
        """A variant and the priors that are added to it; a control is no sum of the two."""
        variant, _, prior = ranking.partition("+")
        return (ranking, None) if ranking in self.controls else (variant, prior or None)

    @property
    def whole_truths(self) -> list[str]:
        """Names of the further truths, without those whose files are a part of another one's."""
        files = {name: set(paths) for name, paths in self.further_truths.items()}
        return [name for name, mine in files.items() if not any(mine < others for others in files.values())]

    def half(self, name: str, count: int) -> list[int]:
        """Positions, in order, of the candidates of ``choice`` or ``confirmation``; of all for an empty name."""
        order = list(range(count))
        random.Random(f"halves {self.halves}").shuffle(order)
        return sorted({"": order, "choice": order[: count // 2], "confirmation": order[count // 2 :]}[name])

    def unknown_names(self) -> Iterator[str]:
        """Names that do not exist."""
        known = {*self.methods, *self.variants, *self.controls}
        for name in self.further_truths:
            if name in {"", *self.regimes, *HALVES}:
                yield f"further_truths.{name}: needs a name that is no regime and no half"
        if "truths" in self.pictures and not self.further_truths:
            yield "pictures: truths needs further_truths"
        for control in self.controls:
            yield from (f"controls: there is no prior {one}" for one in terms(control) if one not in {*PRIORS, *OF_ARCH})
        for pair in self.comparisons:
            yield from (f"comparisons: there is no method {name}" for name in pair if name not in known)
        for pair in self.hypotheses:
            for variant, prior in map(self.split, pair):
                if variant not in {*self.variants, *self.controls}:
                    yield f"hypotheses: there is no variant {variant}"
                yield from (f"hypotheses: there is no prior {one}" for one in terms(prior or "flops") if one not in PRIORS)
        labels = [recipe.label for recipe in self.recipes.values()]
        for name, recipe in self.recipes.items():
            if recipe.variant not in self.variants:
                yield f"recipes.{name}: there is no variant {recipe.variant}"
            yield from (f"recipes.{name}: there is no prior {one}" for one in terms(recipe.prior or "flops") if one not in PRIORS)
            if labels.count(recipe.label) > 1:
                yield f"recipes.{name}: another recipe has the label {recipe.label}"
        for name, method in self.methods.items():
            for words, of in (("after", method.after), ("rate_of", method.rate_of)):
                if of is not None and not self._serves(of, method):
                    yield f"methods.{name}.{words} must be a trained method of the same regimes that has none itself, not {of}"
            if method.largest is not None and (method.after is not None or not method.pretrained) and not method.teacher:
                yield f"methods.{name}.largest has no effect; it starts from another network and has no teacher"
            for words, named in (("options", method.options), ("regimes", method.regimes)):
                yield from (f"methods.{name}.{words}: there is no regime {of}" for of in named if of not in self.regimes)

    def _serves(self, name: str, method: Method) -> bool:
        """Whether another method can start from the named one, or take its learning rate."""
        if name not in self.methods:
            return False
        named = self.methods[name]
        regimes, needed = (set(one.regimes or self.regimes) for one in (named, method))
        return named.trained and named.after is None and named.rate_of is None and regimes >= needed


def read_study(path: str | Path) -> Study:
    """Read a study's file.

    Raises:
        UserError: it cannot be read, a key is unknown, missing or of a wrong type, or a name in it does not exist.
    """
    path = Path(path)
    study = validate(Study, read_section(path, "study"), str(path))
    # Absolute, so that a run that is continued from another working folder names the same files.
    study._folder = path.resolve().parent
    if study.recipes_of is not None:
        if study.recipes:
            raise UserError(f"{path}: give either recipes or recipes_of")
        other = study.path(study.recipes_of)
        study = study.model_copy(update={"recipes": validate(Study, read_section(other, "study"), str(other)).recipes})
    for problem in study.unknown_names():
        raise UserError(f"{path}: {problem}")
    return study
