"""Other people's folders, names and environments: one line or none, never a trace, and nothing that pretends to be a result."""

from __future__ import annotations

import functools
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, TINY_CONFIG, Fork, collect, image_settings
from matplotlib import rcParams

from paddle_pgonas.data import batches
from paddle_pgonas.data.batches import EpochBatches
from paddle_pgonas.data.images import open_source
from paddle_pgonas.errors import UserError, printable
from paddle_pgonas.report.comparison import Comparison, compare
from paddle_pgonas.report.page import write_page
from paddle_pgonas.report.plots import pictures, svg, training_curves
from paddle_pgonas.report.provenance import Provenance, read_provenance, run_config
from paddle_pgonas.report.words import table, verdict
from paddle_pgonas.scores.check import validate_submission
from paddle_pgonas.scores.files import sample_candidates, write_scores
from paddle_pgonas.space.arch import MINI
from paddle_pgonas.training.runlog import RunLog
from paddle_pgonas.training.signals import stop_requests

EVIL = "a\n\x1b[2Jb: accepted\u202e.json"
pytestmark = pytest.mark.usefixtures("few_resamples")


def scores(path: Path, seed: int = 0) -> Path:
    candidates = sample_candidates(MINI, 12, 0)
    write_scores(path, candidates, np.random.default_rng(seed).random(12).tolist())
    return path


def compared(folder: Path, name: str = "s.json") -> Comparison:
    return compare([scores(folder / name, 1)], scores(folder / "truth.json"))


def link(path: Path) -> None:
    (secret := path.parent / "elsewhere").write_text('{"step": 1, "secret": 1}\n')
    path.symlink_to(secret)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "supernet.safetensors"])
@pytest.mark.parametrize("make", [link, os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["link", "pipe", "device"])
def test_no_link_or_pipe_in_a_runs_folder_is_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / name)
    provenance = read_provenance(tmp_path, [], "again")
    assert not (provenance.metrics or provenance.configs or provenance.facts)
    run_config(tmp_path)
    assert name in capsys.readouterr().err
    if name == "metrics.jsonl":
        with pytest.raises(UserError, match="not followed"):
            RunLog(tmp_path, 2, 0)


def test_names_are_shown_escaped_in_tables_verdicts_faults_and_pages(tmp_path: Path) -> None:
    comparison = compared(tmp_path, EVIL)
    metrics = [{"step": 1, "loss/\x1b[2J": 1.0, "loss/$\\frac{$": 1.0}]  # the second would be a formula of matplotlib
    provenance = Provenance(metrics, {"\x1b[2J": "a: '\x1b[2J'\nb: 1\n"}, {"\x1b[2J": {"x": "\x1b[2J"}}, ["\x1b[2J"])
    write_page(tmp_path / "page.html", comparison, pictures(comparison, provenance.metrics), provenance)
    page = (tmp_path / "page.html").read_text()
    content = json.loads(scores(tmp_path / EVIL).read_text())
    content[EVIL] = {"acc": 2, "arch": "1"}
    (tmp_path / EVIL).write_text(json.dumps(content))
    shown = [str(validate_submission(tmp_path / EVIL)), table(comparison), verdict(comparison), page]
    for text in shown:
        assert not {"\x1b", "\u202e"} & set(text) and "b: accepted" not in [line[:11] for line in text.splitlines()]
    assert r"a\n\x1b[2Jb" in shown[0] and "a: &#39;" in page and "\nb: 1" in page and "$\\frac{$" in page
    assert str(UserError(f"{EVIL}: wrong")) == r"a \x1b[2Jb: accepted\u202e.json: wrong"
    assert printable("café, 数") == "café, 数"


def test_pictures_do_not_depend_on_the_users_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compared(tmp_path, "$x^$_{.json")
    before = [svg(picture.figure, picture.points) for picture in pictures(comparison)]
    for name, value in (("text.usetex", True), ("font.size", 3.0), ("figure.dpi", 7)):
        monkeypatch.setitem(rcParams, name, value)
    assert [svg(picture.figure, picture.points) for picture in pictures(comparison)] == before


def test_thousands_of_logged_values_are_summarised() -> None:
    lines = [{"step": step, **{f"loss/{number}": float(number + step) for number in range(2000)}} for step in range(5)]
    figure = training_curves(lines, sorted(lines[0].keys() - {"step"}), "loss")
    [curve] = figure.axes[0].lines
    assert curve.get_ydata().tolist() == pytest.approx([999.5 + step for step in range(5)])
    assert len(figure.legends[0].texts) == 2


@pytest.mark.parametrize("end", [pytest.param("", marks=pytest.mark.slow), ">&- 2>&-"], ids=["open", "closed streams"])
def test_a_notebooks_environment_and_a_broken_matplotlibrc_are_no_concern(tmp_path: Path, end: str) -> None:
    (tmp_path / "matplotlibrc").write_bytes(b"text.usetex: True\nfont.size: \xff\nnonsense\n")
    files = f"{scores(tmp_path / 'a.json')} {scores(tmp_path / 'b.json', 1)}"
    environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "HOME": "/proc/none"}
    environment["MATPLOTLIBRC"] = str(tmp_path / "matplotlibrc")
    line = f"{sys.executable} {REPOSITORY}/tools/compare.py {files} --output {tmp_path}/page.html {end}"
    done = subprocess.run(line, shell=True, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not [line for line in done.stderr.splitlines() if " of " not in line]  # but progress
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_a_scripts_or_notebooks_choice_of_a_backend_for_its_pictures_stays() -> None:
    code = "import matplotlib; matplotlib.use('pdf'); import paddle_pgonas as pg; pg.train; print(matplotlib.get_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "pdf", done.stderr


def test_without_a_home_folder_a_log_is_written_without_visualdl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "visualdl", None)  # importing it makes a folder there, and fails
    with RunLog(tmp_path, 1, 0) as log:
        log.log(0, {"loss": 1.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 0, "loss": 1.0}
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("without VisualDL:")


@pytest.mark.parametrize("fault", ["read-only", "tiny"])
def test_shared_memory_that_loaders_cannot_use_is_named(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    data = image_settings(image_folder, workers=2, max_unreadable=1)
    loader = EpochBatches(open_source(data, "train", 2), data, tmp_path / "c", 2, 0)
    if fault == "read-only":
        monkeypatch.setattr(batches, "SHARED", "/proc/none")
    else:
        space = os.statvfs("/")
        monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result([*space[:4], 0, *space[5:]]))
    with pytest.raises(UserError, match=r"/(dev/shm|proc/none).*data\.workers=0") as caught:
        collect(loader, 0, 0)
    assert "free some space" not in str(caught.value)


def test_a_training_in_a_thread_takes_no_signals() -> None:
    seen: list[list[int]] = []

    def work() -> None:
        with stop_requests() as requests:
            seen.append(requests)

    (thread := threading.Thread(target=work)).start()
    thread.join()
    assert seen == [[]]


ENDS = """
import os, signal, sys
from paddle_pgonas import cli
def main():
    {work}
sys.argv[0] = "tool"
cli.run(main)
"""
IMPORTED = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(9)
except KeyboardInterrupt:
    raise ImportError("as extension modules turn it into another")
"""
PADDLE = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os.write(2, b"a trace"))
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(.1)
"""


@pytest.mark.parametrize(
    ("work", "status", "says"),
    [
        ("import interrupted", 130, "tool: interrupted\n"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "tool: terminated\n"),
        ("from paddle_pgonas import nn; import paddle; os.kill(os.getpid(), signal.SIGTERM)", 143, "tool: terminated\n"),
        ("sys.path.insert(0, 'stand_ins'); import paddle", 143, "tool: terminated\n"),
    ],
    ids=["Ctrl-C while importing", "SIGTERM", "SIGTERM after Paddle's import", "SIGTERM in the midst of Paddle's import"],
)
def test_a_command_that_is_asked_to_end_says_one_line(tmp_path: Path, work: str, status: int, says: str) -> None:
    (tmp_path / "interrupted.py").write_text(IMPORTED)
    (tmp_path / "stand_ins").mkdir()
    (tmp_path / "stand_ins" / "paddle.py").write_text(PADDLE)
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", ENDS.format(work=work)]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # in a background job it is ignored
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, preexec_fn=heard)
    assert (done.returncode, done.stderr) == (status, says)


def test_a_training_outlives_the_reader_of_its_log(tmp_path: Path) -> None:
    def work() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        for stream in (1, 2):
            os.dup2(writer, stream)
        sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))  # noqa: SIM115
        few = ["train.max_steps=1", "data.train_limit=64", "train.watch_images=10", "data.val_limit=30", "device=cpu"]
        sys.argv = ["train_supernet.py", "-c", str(TINY_CONFIG), "-o", f"output_dir={tmp_path / 'run'}", *few]
        runpy.run_path(str(REPOSITORY / "tools" / "train_supernet.py"), run_name="__main__")

    assert Fork(work, tmp_path / "log").wait() == 0
    assert (tmp_path / "run" / "supernet.safetensors").exists()
