"""What README.md, docs/ and the heads of the configurations say is so: commands, options, defaults, files, links, figures.

A command is a line of a code block, or of a configuration's comments, that begins with ``python``, ``make`` or another program.
Words in capitals (IMAGENET, DIR, CODE) and the challenge's two files stand for what only the reader has: such commands are
parsed by their tool and their configuration is resolved. All others are run in one empty folder, the tasks' pages first; what
would take longer than a test may gets the changes of SHORTER, or is only parsed for the reason that stands in NOT_RUN.
"""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from paddle_pgonas import cli
from paddle_pgonas.config.loading import Config, load_config

IN_ORDER = [REPOSITORY / "docs" / f"{name}.md" for name in ("train", "score", "compare", "search_export")]
"""Pages whose commands go on from each other."""
WRITTEN = [*IN_ORDER, *sorted({REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")} - set(IN_ORDER))]
STUDIES = sorted((REPOSITORY / "studies").rglob("*.md"))
PAGES = [*WRITTEN, *STUDIES]
CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))
TOOLS = {path.stem: path for path in sorted((REPOSITORY / "tools").glob("*.py")) if not path.name.startswith("_")}
TOOLS["run"] = REPOSITORY / "studies" / "run.py"

PLACEHOLDER = re.compile(r"\b(?-i:[A-Z][A-Z_]{2,})\b|resnet48\.pdparams|CVPR_2022_NAS_Track1_test\.json")
SHORTER = {
    "train_supernet": ["-o", "train.max_steps=2", "train.watch_images=20", "train.watch_subnets=0"],
    "write_submission": ["-o", "data.val_limit=50", "score.calibration_images=32"],
    "train_standalone": ["-o", "train.epochs=1", "train.max_steps=1", "data.val_limit=50"],
    "search": ["--population", "4", "--generations", "2", "-o", "data.val_limit=20", "score.calibration_images=32"],
}
NOT_RUN = {
    "verify_published": "20 s, and tests of its own",
    "check_gpu": "two minutes, and tests of its own",
    "benchmark prior": "5 minutes",
    "benchmark score": "6 minutes",
    "benchmark train": "5 minutes",
    "benchmark search": "6 minutes",
}
LAUNCHER = {"--devices", "--nproc_per_node", "--nnodes", "--master", "--log_dir"}
OTHER_PROGRAMS = {"make", "pip", "visualdl", "python -m pytest"}


class Parsed(Exception):
    """Raised in place of a tool's work, with what its parser made of the command line."""

    def __init__(self, parser: argparse.ArgumentParser, arguments: argparse.Namespace | None) -> None:
        self.parser, self.arguments = parser, arguments


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of a page's code blocks: fenced, or indented by four columns behind an empty line."""
    text = path.read_text(encoding="utf-8")
    for fence in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        yield fence[1], fence[2]
    bare = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for indented in re.finditer(r"(?:(?<=\n\n)|\A)((?: {4,}.*\n)+)", bare):
        yield "", indented[1]


def commands(path: Path) -> list[str]:
    """The commands of a page or of a configuration's comments, without continuations and trailing remarks."""
    if path.suffix == ".yaml":
        lines = [line[1:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#   ")]
        text = "\n".join(lines)
    else:
        text = "\n".join(block for language, block in blocks(path) if language in ("", "bash", "sh"))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line.strip() for line in lines if re.match(r"\s*(python|make|pip|visualdl) ", line)]


def program_of(command: str) -> tuple[str, list[str]]:
    """The program (a tool's name, or one of OTHER_PROGRAMS) and its arguments."""
    words = shlex.split(command, comments=True)
    if words[:3] == ["python", "-m", "paddle.distributed.launch"]:
        start = next(i for i, word in enumerate(words) if word.startswith("tools/"))
        assert {word for word in words[3:start] if word.startswith("-")} <= LAUNCHER, command
        words = ["python", *words[start:]]
    if words[0] == "python" and words[1].startswith(("tools/", "studies/run.py")):
        name = Path(words[1]).stem
        assert REPOSITORY / words[1] == TOOLS.get(name), f"there is no {words[1]}"
        return name, words[2:]
    if words[0] == "python" and words[1].startswith("studies/"):  # a script of one study
        assert (REPOSITORY / words[1]).exists(), f"there is no {words[1]}"
        return words[1], words[2:]
    program = " ".join(words[:3]) if words[0] == "python" else words[0]
    assert program in OTHER_PROGRAMS, command
    return program, words[1:]


def parse(monkeypatch: pytest.MonkeyPatch, name: str, arguments: list[str]) -> Parsed:
    """What a tool's own parser makes of the arguments; a mistake is an error of the test."""

    def stop(parser: argparse.ArgumentParser, *rest: Any, **options: Any) -> argparse.Namespace:
        raise Parsed(parser, None if arguments is ALL_OPTIONS else real(parser, *rest, **options))

    real = argparse.ArgumentParser.parse_args
    with monkeypatch.context() as patch:
        patch.setattr(cli.Parser, "parse_args", stop)
        patch.setattr(sys, "argv", [str(TOOLS[name]), *arguments])
        patch.syspath_prepend(str(TOOLS[name].parent))
        with pytest.raises(Parsed) as parsed:
            runpy.run_path(str(TOOLS[name]), run_name="__main__")
    return parsed.value


ALL_OPTIONS: list[str] = []


@pytest.fixture
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder like the repository's, with the examples of docs/extend.md in the files that its commands name."""
    for name in ("tools", "configs", "studies"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    for language, text in blocks(REPOSITORY / "docs" / "extend.md"):
        if name := {"yaml": "my_space.yaml", "python": "my_module.py"}.get(language):
            with (tmp_path / name).open("a") as file:
                file.write(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("path", [*WRITTEN, *STUDIES, *CONFIGS], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_command_is_one_that_its_tool_takes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in commands(path):
        name, arguments = program_of(command)
        if name == "make":
            assert f"\n{arguments[0]}:" in (REPOSITORY / "Makefile").read_text(), command
        if name not in TOOLS:
            continue
        parsed = parse(monkeypatch, name, arguments).arguments
        if study := getattr(parsed, "study", None):
            assert study.exists()
        config = getattr(parsed, "config", None)
        if config and not PLACEHOLDER.search(config):
            load_config(config, parsed.override)


@pytest.mark.usefixtures("few_resamples")
def test_commands_that_need_nothing_run(monkeypatch: pytest.MonkeyPatch, workplace: Path) -> None:
    for command in (command for path in WRITTEN for command in commands(path)):
        name, arguments = program_of(command)
        needs_more = PLACEHOLDER.search(command) or any(word.startswith(("runs/pgonas", "runs/sandwich")) for word in arguments)
        if name not in TOOLS or needs_more or " ".join([name, *arguments[:1]]) in NOT_RUN or "launch" in command:
            continue
        script = workplace / "tools" / f"{name}.py"
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit_:
            patch.setattr(sys, "argv", [str(script), *arguments, *SHORTER.get(name, [])])
            patch.syspath_prepend(str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
        assert not exit_.value.code, command
        outputs = [arguments[i + 1] for i, word in enumerate(arguments) if word in ("--output", "--json")]
        assert all((workplace / output).exists() for output in outputs), command


def test_there_are_commands_to_test() -> None:
    """The tests above would pass on pages without commands."""
    without = {path.name for path in CONFIGS if not commands(path)}
    assert without == {"common.yaml", "common_digits.yaml"}  # bases, not runs
    assert len(commands(REPOSITORY / "README.md")) >= 6
    runnable = [command for path in IN_ORDER for command in commands(path) if "runs/walk" in command]
    elsewhere = {"benchmark", "check_gpu", "export_subnet", "run", "verify_entry", "verify_published"}
    assert {program_of(command)[0] for command in runnable} == set(TOOLS) - elsewhere


def test_python_blocks_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import paddle_pgonas as pg

    monkeypatch.chdir(tmp_path)
    for path in WRITTEN:
        for language, text in blocks(path):
            if language != "python":
                continue
            code = compile(text, str(path), "exec")
            for name in re.findall(r"\bpg\.(\w+)", text):
                assert getattr(pg, name) is not None
            if "pg.train" in text:
                code = compile(text.replace('"train.epochs": 1', '"train.max_steps": 2, "data.val_limit": 20'), str(path), "exec")
            exec(code, {})
    output, page = capsys.readouterr().out, (REPOSITORY / "docs" / "several_gpus.md").read_text()
    counts = [float(number) for number in re.findall(r": ([\d.]+) h$", output, re.M)]
    hours, others = [counts[place] for place in (0, 4, 5, 9)], counts[1:4] + counts[6:9]
    table = [float(number) for number in re.findall(r"^\| ImageNet[^|]*\| (\d+) h \|", page, re.M)]
    assert hours == pytest.approx(table, rel=0.05)
    rows = re.findall(r"^\| `configs/[^|]+\| ([\d.]+) h \| ([\d.]+) h \|", page, re.M)
    assert others == pytest.approx([float(row[column]) for column in (0, 1) for row in rows], rel=0.05)
    summary = re.findall(r"\| ([\d.]+) \+ (\d+) \|", (REPOSITORY / "docs" / "recipes.md").read_text())
    *baseline_and_sandwich, progressive = (float(row[0]) for row in rows)
    expected = [(train, table[1]) for train in (0, *baseline_and_sandwich, *3 * [table[0]], progressive)]
    assert [(float(train), float(score)) for train, score in summary] == expected


def plain(path: Path) -> str:
    """A page without its fenced and indented blocks."""
    return re.sub(r"^ {4,}.*$", "", re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S), flags=re.M)


def anchors(path: Path) -> set[str]:
    """What a page's headings are called in links."""
    headings = re.findall(r"^#+ (.*)$", plain(path), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", plain(path)):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{path.name}: {target}"


def quoted(path: Path) -> set[str]:
    """What a page sets in code type within its text."""
    return set(re.findall(r"`([^`\n]+)`", plain(path)))


@pytest.mark.parametrize("path", [*WRITTEN, *STUDIES], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_named_in_the_text_are_there(path: Path) -> None:
    for name in quoted(path):
        if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*(\.(py|yaml|md|txt|toml)|/)", name) and not name.startswith("runs/"):
            places = [REPOSITORY, REPOSITORY / "paddle_pgonas", REPOSITORY / "tools", path.parent]
            if path == REPOSITORY / "studies" / "README.md":  # it says what a study's folder holds
                places.append(REPOSITORY / "studies" / "similar_cost")
            if path.name == "architecture.md":  # its rows are rooms
                places += [place for place in (REPOSITORY / "paddle_pgonas").iterdir() if place.is_dir()]
            if name.startswith("my_") or PLACEHOLDER.search(name):  # the reader's
                continue
            if name in ("config.yaml", "visualdl/", "checkpoints/", "watched/"):  # in a run's folder
                continue
            if name.endswith(("train_list.txt", "val_list.txt")):  # among the user's images
                continue
            assert any(list(place.glob(name.rstrip("/"))) for place in places), f"{path.name}: {name}"


def test_the_pages_stay_short() -> None:
    assert sum(len(path.read_text(encoding="utf-8").split()) for path in (REPOSITORY / "docs").glob("*.md")) <= 9000
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.slow
def test_the_site_is_made_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-c", "docs", "-d", str(tmp_path / "doctrees"), ".", str(site)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    pages = {path.relative_to(site): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > len(WRITTEN) + len(STUDIES)
    loaded = re.compile(r"<(?:script|img|iframe)\b[^>]* src=.(?:https?:)?//|<link\b[^>]*stylesheet[^>]* href=.https?:")
    assert not [path for path, text in pages.items() if loaded.search(text)]
    names = re.findall(r" as (\w+)", (REPOSITORY / "paddle_pgonas" / "__init__.pyi").read_text())
    assert [name for name in names if f'id="paddle_pgonas.{name}"' not in pages[Path("docs/api.html")]] == []


def options_of(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Option names and defaults, those of subcommands too."""
    found = {option: action.default for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                found |= options_of(subparser)
    return found


def test_options_named_in_the_text_exist_with_these_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, set[str]] = {option: set() for option in LAUNCHER}
    for name in TOOLS:
        for option, default in options_of(parse(monkeypatch, name, ALL_OPTIONS).parser).items():
            known.setdefault(option, set()).add(str(default))
    for path in WRITTEN:
        text = plain(path)
        for option in re.findall(r"`[^`\n]*?(--[a-z][\w-]*)", text):
            if not option.startswith(("--no-deps", "--logdir")):
                assert option in known, f"{path.name}: {option}"
        for option, default in re.findall(r"`(--[\w-]+)`, default (\w+)", text):
            assert default in known[option], f"{path.name}: {option} {default}"
    assert "--population" in known


def test_the_table_of_keys_gives_the_defaults() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (\S+) \|", (REPOSITORY / "docs" / "train.md").read_text(), re.M)
    assert len(rows) > 12
    for key, written in rows:
        value: Any = Config(method=None if key == "method" else "pgonas")
        for part in key.split("."):
            value = getattr(value, part)
        assert yaml.safe_load(written) == value, key


@pytest.mark.parametrize("name", ["pgonas_prelu_flops", "pgonas_mish_zen"])
def test_as_published_differs_in_the_keys_of_reproduce(name: str) -> None:
    folder = REPOSITORY / "configs" / "track1"
    sane, published = (load_config(folder / f"{file}.yaml").model_dump(mode="json")
                       for file in (name, f"as_published_{name}"))  # fmt: skip
    differing = {
        (f"{section}.{key}", str(published[section][key]), str(sane[section][key]))
        for section in ("data", "model", "method", "train", "score")
        for key in sane[section]
        if sane[section][key] != published[section][key]
    }
    text = (REPOSITORY / "docs" / "reproduce.md").read_text()
    rows = set(re.findall(r"^\| `([\w.]+)` \| `(\w+)` \| `(\w+)` \|", text, re.M))
    assert differing == {row for row in rows if row[0] != "method.pairs" or name == "pgonas_mish_zen"}
