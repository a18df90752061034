"""The set-up: which interpreter it takes, what it installs, and that requirements, extras and commands agree."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

# Stands for an interpreter: runs or does not, makes environments with a copy of itself, and writes down what pip is asked.
INTERPRETER = """#!/bin/sh
case "$*" in
    --version) echo "Python {version}" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*) echo "$*" >> "{log}" ;;
    *) exit {status} ;;
esac
"""


def requirements(name: str) -> list[str]:
    lines = [line.split("#")[0].strip() for line in (REPOSITORY / name).read_text().splitlines()]
    return [line for line in lines if line]


def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


@pytest.mark.parametrize(("extra", "name"), [("cpu", "requirements-cpu.txt"), ("gpu", "requirements.txt")])
def test_an_extra_and_its_requirement_file_ask_for_the_same_wheel_of_paddle(extra: str, name: str) -> None:
    common, wheel = requirements(name)
    assert common == "-r requirements-common.txt"
    assert project()["project"]["optional-dependencies"][extra] == [wheel]


def test_every_tool_is_a_command_of_the_installed_package() -> None:
    """But the measurements of speed, whose code is in ``studies/``, which is not installed."""
    names = {path.stem for path in (REPOSITORY / "tools").glob("*.py")} - {"__init__", "benchmark"}
    commands = {f"pgonas-{name.replace('_', '-')}": f"paddle_pgonas.tools.{name}:main" for name in names}
    assert project()["project"]["scripts"] == commands


@pytest.fixture
def interpreters(tmp_path: Path) -> Path:
    """A folder of three interpreters: 3.11 is there but does not run, 3.10 and 3.12 do."""
    folder = tmp_path / "interpreters"
    folder.mkdir()
    for version, status in (("3.11", 127), ("3.10", 0), ("3.12", 0)):
        program = folder / f"python{version}"
        program.write_text(INTERPRETER.format(version=version, status=status, log=tmp_path / "pip.log"))
        program.chmod(0o755)
    return folder


def make_setup(interpreters: Path, *arguments: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(interpreters), os.environ["PATH"]])
    command = ["make", "--no-print-directory", "setup", f"VENV={interpreters.parent / 'env'}", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "PYTHON", "VENV")}
    return subprocess.run(command, cwd=REPOSITORY, env=environment | {"PATH": path}, capture_output=True, text=True, check=False)


def test_the_set_up_takes_an_interpreter_that_runs_says_its_steps_and_is_not_repeated(interpreters: Path) -> None:
    first = make_setup(interpreters, "REQUIREMENTS=requirements-cpu.txt")
    assert first.returncode == 0, first.stderr
    assert "Python 3.10" in first.stdout
    assert [line.split(":")[0] for line in first.stdout.splitlines()] == ["setup 1/3", "setup 2/3", "setup 3/3", "setup"]
    log = interpreters.parent / "pip.log"
    installed = log.read_text()
    assert "-r requirements-cpu.txt -r requirements-dev.txt" in installed and "-e ." in installed
    second = make_setup(interpreters)
    assert (second.returncode, second.stdout, log.read_text()) == (0, "", installed)


@pytest.mark.parametrize(
    ("installed", "wanted", "wheel"),
    [
        (None, None, "requirements-cpu.txt"),
        (None, "requirements.txt", "requirements.txt"),
        ("paddlepaddle_gpu-2.6.2", None, "requirements.txt"),
        ("paddlepaddle_gpu-2.6.2", "requirements-cpu.txt", None),
        ("paddlepaddle-3.3.1", "requirements.txt", None),
    ],
)
def test_the_set_up_takes_the_cpu_wheel_unless_another_is_chosen_and_never_two(
    interpreters: Path, installed: str | None, wanted: str | None, wheel: str | None
) -> None:
    """Even where a GPU is found."""
    command = interpreters / "nvidia-smi"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    if installed:
        (interpreters.parent / "env" / "lib" / "python3.10" / "site-packages" / f"{installed}.dist-info").mkdir(parents=True)
    done = make_setup(interpreters, *([f"REQUIREMENTS={wanted}"] if wanted else []))
    if wheel is None:
        assert done.returncode == 2 and f"not of {wanted}" in done.stderr
        assert not (interpreters.parent / "pip.log").exists()
    else:
        assert f"-r {wheel} -r requirements-dev.txt" in (interpreters.parent / "pip.log").read_text(), done.stderr


@pytest.mark.parametrize("name", ["python3.11", "nothing_of_this_name"])
def test_the_set_up_refuses_an_interpreter_in_one_line(interpreters: Path, name: str) -> None:
    refused = make_setup(interpreters, f"PYTHON={interpreters / name}")
    [line] = [line for line in refused.stderr.splitlines() if not line.startswith("make: ")]
    assert refused.returncode == 2 and name in line and "3.10, 3.11 or 3.12" in line
    assert not (interpreters.parent / "env").exists()


def test_the_set_up_does_not_pass_over_an_interpreter_named_beside_an_environment_of_another(interpreters: Path) -> None:
    assert make_setup(interpreters, f"PYTHON={interpreters / 'python3.12'}").returncode == 0
    refused = make_setup(interpreters, f"PYTHON={interpreters / 'python3.10'}")
    assert refused.returncode == 2 and "Python 3.12" in refused.stderr


def test_an_environment_whose_making_was_killed_is_made_anew_and_no_other_is_removed(interpreters: Path) -> None:
    environment, program = interpreters.parent / "env", interpreters / "python3.10"
    whole = program.read_text()
    begins = 'mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/half" && kill -9 $$; mkdir -p'
    program.write_text(whole.replace("mkdir -p", begins))
    assert make_setup(interpreters).returncode
    assert (environment / "half").exists() and (environment / "bin" / "python").exists()
    program.write_text(whole)
    again = make_setup(interpreters)
    assert again.returncode == 0 and "anew" in again.stdout, again.stderr
    assert not (environment / "half").exists()
    (environment / "ready").unlink()
    (environment / "the user's").touch()
    assert make_setup(interpreters).returncode == 0 and (environment / "the user's").exists()
