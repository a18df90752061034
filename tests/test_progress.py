"""Progress: a bar on a terminal only, otherwise whole lines at intervals; the tests use a clock of their own."""

from __future__ import annotations

import fcntl
import io
import os
import select
import struct
import termios

import pytest

from paddle_pgonas.progress import EVERY, SHORT, Progress, progress


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    """Takes text as a terminal does."""

    def isatty(self) -> bool:
        return True


def run(clock: Clock, steps: int, seconds: float, total: int = 0) -> None:
    """A job that takes so many seconds a step."""
    with Progress(total or steps, "training", "steps", clock=clock) as bar:
        for _ in range(steps):
            clock.seconds += seconds
            bar.update()


def test_a_log_gets_a_line_per_interval_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    run(Clock(), 40, SHORT / 5)
    text = capsys.readouterr().err
    assert "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert len(lines) == 2 + (40 - 5) * SHORT // 5 // EVERY  # after 5 of the 40 steps, at intervals, and at the end
    assert all(line.startswith("training: ") for line in lines)
    assert "5 of 40 steps (12 %)" in lines[0] and "01:10 left" in lines[0]  # 35 steps of 2 seconds
    assert "40 of 40 steps (100 %)" in lines[-1] and "01:20" in lines[-1]


def test_a_short_job_writes_nothing_into_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    run(Clock(), 3, SHORT / 4)
    assert list(progress([1, 2], "plots", "pictures")) == [1, 2]
    assert capsys.readouterr().err == ""


def test_slow_units_are_told_in_seconds_each(capsys: pytest.CaptureFixture[str]) -> None:
    run(Clock(), 1, 40.0, total=3)
    assert "1 of 3 steps (33 %), 40 s each, 01:20 left" in capsys.readouterr().err.splitlines()[0]


def test_what_is_there_already_does_not_shorten_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(1000, "scoring", "images", first=100, clock=clock) as bar:
        bar.skip_to(600)  # chunks of an earlier run
        clock.seconds += EVERY
        bar.update(100)
    assert "700 of 1,000 images (70 %), 3.33 images/s, 01:30 left" in capsys.readouterr().err.splitlines()[0]


def test_work_that_is_repeated_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(200, "scoring", "images", clock=clock) as bar:
        bar.update(50)  # lost to a lack of memory
        bar.update(100)
        bar.skip_to(100)
        clock.seconds += EVERY
        bar.update(50)
    assert "150 of 200 images (75 %)" in capsys.readouterr().err


def test_numbers_stand_beside_the_progress_and_a_silent_job_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for silent in (False, True):
        clock = Clock()
        with Progress(2, "training", "steps", silent=silent, clock=clock) as bar:
            bar.show(loss=1.23456)
            clock.seconds += EVERY
            bar.update()
        lines = capsys.readouterr().err.splitlines()
        assert lines == [] if silent else lines[0].endswith("loss 1.235")


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("paddle_pgonas.progress.DELAY", 0)
    with Progress(4, "training", "steps") as bar:
        bar.show(loss=1.5)
        bar.update(2)
        assert bar.bar is not None
        bar.bar.refresh()
        bar.skip_to(3)
    text = terminal.getvalue()
    assert "\r" in text and "training:  50%" in text and "2/4" in text and "loss 1.5" in text
    assert "3/4" in text


@pytest.mark.parametrize("columns", [0, 60])
def test_a_terminal_that_reports_no_columns_gets_a_bar_too(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", columns, columns, 0, 0))
    monkeypatch.setattr("paddle_pgonas.progress.DELAY", 0)
    with open(theirs, "w") as terminal, open(ours, "rb", buffering=0) as screen:
        monkeypatch.setattr("sys.stderr", terminal)
        with Progress(4, "training", "steps") as bar:
            bar.update(2)
        shown = b""
        while select.select([screen], [], [], 0.5)[0]:
            shown += screen.read(10_000)
        assert b"| 2/4 [" in shown


def test_large_numbers_are_short(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress(4 * 10**12, "scoring", "MACs", clock=clock) as bar:
        clock.seconds += SHORT
        bar.update(10**12)
    assert "1.00T of 4.00T MACs (25 %), 100G MACs/s, 00:30 left" in capsys.readouterr().err.splitlines()[0]


def test_an_aborted_job_writes_no_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with pytest.raises(KeyError), Progress(3, "training", "steps", clock=clock):
        clock.seconds += 2 * SHORT
        raise KeyError
    assert capsys.readouterr().err == ""
