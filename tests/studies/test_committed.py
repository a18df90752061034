"""The committed studies: documents, results and configurations agree."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

from paddle_pgonas.config import loading as configuration
from studies import collecting, document
from studies.results import read_results
from studies.runner import Runner
from studies.study import read_study

COMMITTED = sorted(REPOSITORY.glob("studies/*/study.yaml"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_a_committed_document_says_what_its_results_say(path: Path) -> None:
    """Its tables are those that ``report`` writes, and its text has no correlation that stands in no table."""
    results = read_results(read_study(path))
    texts = {file.name: file.read_text(encoding="utf-8") for file in results.study.documents}
    text = "\n".join(texts.values())
    for name, table in document.tables(results).items():
        assert f"<!-- begin {name} -->\n{table}\n<!-- end {name} -->" in text
    in_tables = set(re.findall(r"(?<!\d)0(\.\d+)", "".join(re.findall(r"<!-- begin.*?<!-- end", text, re.S))))
    prose = re.sub(r"<!-- begin.*?<!-- end [^>]*>", "", texts["README.md"], flags=re.S)
    assert set(re.findall(r"(?<![\d.])0?(\.\d{2,})", prose)) <= in_tables
    for picture in results.study.pictures:
        shown = f"pictures/{picture.replace(' ', '-')}.svg"
        assert f"({shown})" in text and results.study.path(shown).exists()


DEFAULTS = configuration.Config().model_dump(mode="json")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_results_were_made_with_the_configurations_as_they_are(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the first study are older than some keys. Not all largest networks were kept, so none is trained or copied."""
    monkeypatch.setattr(Runner, "_tool", lambda *_: None)
    monkeypatch.setattr(collecting, "keep_largest", lambda *_: None)
    study = read_study(path)
    if study.regimes.keys() == {""}:
        return
    runs = tmp_path / "runs"
    for variant in study.variants.values():
        for file in sorted(study.results.glob(f"{variant.stem}-seed*.json")):
            result = json.loads(file.read_text(encoding="utf-8"))
            started = Runner(study, REPOSITORY, "images", runs)
            if not started._runs(variant, result["seed"]):  # the same result as in the first regime
                continue
            if variant.method.after:
                after = study.variants[variant.name.replace(variant.method_name, variant.method.after, 1)]
                base = started._folder(after, result["seed"])
                base.mkdir(parents=True, exist_ok=True)
                (base / "supernet.safetensors").touch()
            options = list(map(str, started._options_of(variant, result["seed"], tmp_path, *started._rate_option(variant))))
            now = collecting._portable(configuration.load_config(options[1], options[3:]).model_dump(mode="json"))
            # A key that is younger than the results must by default do what was done before.
            then = DEFAULTS | result["config"]
            then |= {name: DEFAULTS[name] | then[name] for name in ("data", "model", "train", "score")}
            then = collecting._portable(then)
            for config in (now, then):
                config["train"] = {name: value for name, value in config["train"].items() if not name.startswith("watch")}
            assert now == then, file.name


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_every_variant_of_the_committed_studies_has_a_valid_configuration(path: Path) -> None:
    study = read_study(path)
    assert study.read_candidates()
    for variant in study.variants.values():
        method, regime = variant.method, variant.regime
        for extra in ((), regime.rate_options):
            for ranges in (method.groups or {"": ""}).values():
                options = [*study.options, *regime.options, *extra, *method.options.get(variant.regime_name, ())]
                options += ["model.pretrained=x"] * method.pretrained + ["method.teacher=x"] * method.teacher
                options += ["model.reorder=false"] * (method.after is not None) + [f"train.depth_ranges={ranges}"] * bool(ranges)
                loaded = configuration.load_config(study.config_of(variant.method_name), options)
                assert loaded.search_space == study.config().search_space
                assert regime.bn == loaded.score.bn
