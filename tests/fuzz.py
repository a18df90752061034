"""Fuzzing of everything that reads a file: ``make fuzz``, or ``python tests/fuzz.py --seconds 600 --seed 7 --only image log``.

Inputs are whole files changed by this module's mutators, and documents that hypothesis makes. A reader may return, or raise a
documented error of one line; anything else is a finding: another exception, other contents than were written, a crash, more than
5 seconds, or too much memory. Readers run in a process of their own, so that a crash is one finding too. Input number n of a seed
is always the same. Findings are kept as files beside their traceback; ``--replay FILE...`` reads them again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import yaml
from fuzz_targets import Target, make_targets
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from paddle_pgonas.config.loading import Config
from paddle_pgonas.data.sources import UnreadableImage
from paddle_pgonas.errors import UserError

SLOW = 5
"""Seconds that one input may take."""
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where files are written: thirty times as many inputs as on a disk."""
PHASES = (Phase.generate, Phase.shrink)
EXAMPLES = 200
"""Documents that hypothesis makes for a reader at a time."""
LONGEST_LINE = 2000
"""Characters of an error's one line; a hundred unknown names and a long path fit."""
TOKENS = [
    *(b'"', b"'", b"{", b"[", b"}", b"]", b":", b",", b"\\", b"\0", b"\n", b"\t", b"\r", b"#", b"- ", b"? ", b"--- ", b"<<: "),
    *(b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\ud800", b"null", b"NaN", b"-Infinity", b"true", b"1e999", b"9" * 400),
    *(b"0b_", b"1:2:3", b"2026-13-45", b"&a ", b"*a", b"!!int ''", b"!!timestamp x", b"!!python/name:os.system ", b"%YAML 9\n"),
    *(struct.pack(kind, value) for kind in ("<I", ">I", "<Q", ">Q", "<H", ">H") for value in (0, 1, 255, (1 << 15) - 1)),
    *(b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0" * 64, b"cos\nsystem\n", b"F32", b"BF16", b"data_offsets", b"__metadata__"),
    *(b"acc", b"arch", b"base: x\n", b"checksum", b"12" * 26),
]

NAMES = st.sampled_from(["acc", "arch", "step", "lr"]) | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["12" * 26, 1e308, 10**30, "\ud800"]),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(NAMES, children),
    max_leaves=12,
)
ENTRIES = st.dictionaries(
    st.text(max_size=8),
    st.fixed_dictionaries({}, optional={"acc": VALUES, "arch": st.text("0123456789", max_size=56) | VALUES}) | VALUES,
    max_size=5,
)
KEYS = [name if not hasattr(field.annotation, "model_fields") else f"{name}.{inner}"
        for name, field in Config.model_fields.items()
        for inner in getattr(field.annotation, "model_fields", [""])]  # fmt: skip


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _override(pair: tuple[str, object]) -> bytes:
    return f"{pair[0]}={yaml.safe_dump(pair[1], default_flow_style=True)}".encode("utf-8", "surrogatepass")


DOCUMENTS = {
    "code": st.text(max_size=70).map(lambda text: text.encode("utf-8", "replace"))
    | st.text("01234567", max_size=54).map(str.encode),
    "candidates": ENTRIES.map(_json) | VALUES.map(_json),
    "log": st.lists(VALUES | st.dictionaries(NAMES, VALUES)).map(lambda rows: b"\n".join(map(_json, rows))),
    "run": st.fixed_dictionaries({}, optional=dict.fromkeys(("config", "versions", "acc", "weights"), VALUES)).map(_json),
    "override": st.tuples(st.sampled_from(KEYS) | st.text(max_size=9), VALUES).map(_override),
    "configuration": st.dictionaries(st.sampled_from([*Config.model_fields, "base", "x"]), VALUES).map(_json),
    "pdparams": st.lists(st.binary(min_size=1, max_size=1) | st.sampled_from(TOKENS), max_size=60).map(b"".join),
}
"""Documents by target: of the right form, with anything in them."""


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """One of the seeds after one to four changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 8, rng.randrange(1, 200)))
        match rng.randrange(9):
            case 0 | 1 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 2 if at < len(data):
                data[at] = rng.randrange(256)
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length] * rng.choice((1, 2, 30))
            case 5:
                data[at:at] = rng.choice(TOKENS)
            case 6:
                token = rng.choice(TOKENS)
                data[at : at + len(token)] = token
            case 7:
                del data[at:]
            case 8:
                other = rng.choice(seeds)
                data[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(data)


class Finding(Exception):
    """A reader did what none may."""


def attempt(target: Target, data: bytes) -> None:
    """Give one input to a reader. Raises Finding, or AssertionError for contents that nobody wrote."""
    target.path.write_bytes(data)
    started, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(4 * SLOW)
    try:
        target.read()
    except (UserError, UnreadableImage) as error:
        if "\n" in str(error) or len(str(error)) > LONGEST_LINE:
            raise Finding(f"an error of {len(str(error))} characters, or of several lines") from error
    finally:
        signal.alarm(0)
    seconds = time.process_time() - started  # of this process: on a loaded machine the clock says little
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    if grown > 1024 * target.megabytes + 4 * len(data) // 1024:
        raise Finding(f"{grown >> 10} MiB for {len(data)} bytes")
    if seconds > SLOW:
        raise Finding(f"{seconds:.1f} seconds")


class Progress:
    """Counts that the reading process shares with the one that watches it."""

    def __init__(self) -> None:
        self.values = memoryview(mmap.mmap(-1, 8 * 64)).cast("q")
        """Inputs by target, at last the number of the round and that of the target."""

    NUMBER, TARGET = 61, 62


def fuzz(folder: Path, first_seed: int, progress: Progress, only: list[str], until: float, limit: int) -> None:
    """Read one input after the other, from the round in ``progress`` on, until time or inputs are used up. Does not return."""
    warnings.simplefilter("ignore")
    targets = make_targets(folder)
    (folder / "names.json").write_text(json.dumps({name: str(target.path) for name, target in targets.items()}))
    counts, names = progress.values, list(targets)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(Finding(f"more than {4 * SLOW} seconds")))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        os.dup2(nowhere.fileno(), 2)  # libtiff prints by itself
        while time.time() < until and sum(counts[: len(names)]) < limit:
            counts[progress.NUMBER] += 1
            number = counts[progress.NUMBER]
            for place, name in enumerate(names):
                rounds, rest = divmod(number, targets[name].every)
                if rest or (only and name not in only):
                    continue
                counts[progress.TARGET] = place
                counts[place] += 1
                try:
                    attempt(targets[name], mutated(targets[name].seeds, random.Random(f"{first_seed} {number} {name}")))
                except BaseException:
                    keep(folder, name, targets[name].path, f"{first_seed}-{number}", traceback.format_exc())
                    os._exit(1)
                if name in DOCUMENTS and rounds % (2000 // targets[name].every) == 1:
                    generate(folder, name, targets[name], progress, f"{first_seed}{number}")
    os._exit(0)


def generate(folder: Path, name: str, target: Target, progress: Progress, text: str) -> None:
    """Documents of hypothesis for one reader; a failing one is made as small as it can be."""

    @seed(int(text))
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(DOCUMENTS[name])
    def trial(data: bytes) -> None:
        progress.values[progress.values[progress.TARGET]] += 1
        attempt(target, data)

    try:
        trial()
    except BaseException:
        keep(folder, name, target.path, f"hypothesis-{text}", traceback.format_exc())
        os._exit(1)


def keep(folder: Path, name: str, path: Path, number: str, story: str) -> None:
    """Keep the file that was being read, and what happened."""
    findings = folder.parent / "findings"
    findings.mkdir(exist_ok=True)
    kept = findings / f"{name.replace(' ', '_')}+{number}"
    shutil.copy(path, kept)
    kept.with_name(f"{kept.name}.txt").write_text(story, encoding="utf-8", errors="backslashreplace")


def watch(folder: Path, first_seed: int, only: list[str], seconds: float, limit: int) -> tuple[Counter[str], int]:
    """Fuzz in one process after the other, as each ends with its finding; the inputs by target, and how many findings."""
    progress, until, findings = Progress(), time.time() + seconds, 0
    paths: dict[str, str] = {}
    while time.time() < until and sum(progress.values[:60]) < limit:
        work = folder / f"work{findings}"
        child = os.fork()
        if child == 0:
            try:
                fuzz(work, first_seed, progress, only, until, limit)
            finally:
                traceback.print_exc()
                os._exit(3)
        status = os.waitstatus_to_exitcode(_wait(child, progress))
        if status == 3:
            raise SystemExit("the fuzzer itself failed")
        paths = json.loads((work / "names.json").read_text())
        if status < 0:
            name = list(paths)[progress.values[progress.TARGET]]
            keep(work, name, paths[name], f"{first_seed}-{progress.values[progress.NUMBER]}", f"died of signal {-status}")
        findings += status != 0
        shutil.rmtree(work)
    return Counter({name: progress.values[place] for place, name in enumerate(paths)}), findings


def _wait(child: int, progress: Progress) -> int:
    """The status of the process, which is killed if it does not get on: signals do not interrupt C code."""
    last, since = -1, time.time()
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if (count := sum(progress.values[:60])) != last:
            last, since = count, time.time()
        if time.time() - since > 60:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.05)


def replay(files: list[Path]) -> int:
    """Read findings again; how many still are."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        targets, failed = make_targets(Path(folder) / "replay"), 0
        for path in files:
            name = path.name.partition("+")[0].replace("_", " ")
            try:
                attempt(targets[name], path.read_bytes())
                print(f"{path}: as documented")
            except Exception:
                traceback.print_exc()
                failed += 1
        return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="(default: 60; with --inputs no limit)")
    parser.add_argument("--inputs", type=int, help="stop after so many")
    parser.add_argument("--seed", type=int, help="(default: the time)")
    parser.add_argument("--only", nargs="+", default=[], metavar="TARGET")
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"), metavar="DIR", help="(default: runs/fuzz)")
    parser.add_argument("--replay", nargs="+", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        targets = make_targets(Path(folder)) if arguments.only else {}
    if unknown := [name for name in arguments.only if name not in targets]:
        parser.error(f"--only {unknown[0]}: the targets are {', '.join(targets)}")
    if arguments.replay:
        return replay(arguments.replay)
    first_seed = int(time.time()) if arguments.seed is None else arguments.seed
    seconds = arguments.seconds or (60 if arguments.inputs is None else math.inf)
    print(f"seed {first_seed}", flush=True)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        counts, findings = watch(Path(folder), first_seed, arguments.only, seconds, arguments.inputs or sys.maxsize)
        for name, count in counts.items():
            print(f"{name:24} {count:10,}")
        print(f"{'inputs':24} {counts.total():10,}   findings {findings}")
        if findings:
            arguments.findings.mkdir(parents=True, exist_ok=True)
            for path in (Path(folder) / "findings").iterdir():
                shutil.copy(path, arguments.findings)
            print(f"kept in {arguments.findings}; read them again with --replay")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
