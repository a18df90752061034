"""Jobs killed, disks filled and kept files damaged: ``make torture``, or ``python tests/torture.py --seconds 600``.

Each job (training, scoring by one and by two processes, stand-alone training, search, export) runs once undisturbed. Then it is
disturbed, given again until it ends, and its results are compared byte for byte:

    write    killed at its k-th write, for every k: before a file is opened, renamed, removed or made a folder
    moment   killed at random moments
    full     from its k-th write on no file can grow: one documented error, then space is made
    disk     on a disk of its own that is too small, where one can be mounted
    flip     a bit of a kept file is changed between a killed run and the next

A disturbed run may end with a documented error only, a later one with the same result (after a flip also with such an error),
and no temporary file may be left. Jobs run in forks of this process, which itself computes nothing. Prints its seed and counts.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from conftest import TINY, TINY_CONFIG, fill_golden
from PIL import Image

from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.exporting.export import export
from paddle_pgonas.io.outputs import NOTES
from paddle_pgonas.io.records import read
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import save_weights
from paddle_pgonas.scores.files import sample_candidates, write_scores
from paddle_pgonas.scoring.submission import write_submission
from paddle_pgonas.searching.search import search
from paddle_pgonas.training.standalone import make_truth
from paddle_pgonas.training.trainer import train

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
DOCUMENTED, BROKEN = 2, 3
"""Exit statuses of a job: UserError, and any other exception."""
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
"""Audit events that change a folder, beside ``open``."""

Result = dict[str, bytes]


class Failure(Exception):
    """A promise was broken."""


@dataclass(frozen=True)
class Job:
    """Something that a user starts."""

    run: Callable[[Path], object]
    """Does the work in a folder; done again it goes on."""
    results: Callable[[Path], Result]
    """What must be equal however often it was disturbed."""
    processes: int = 1


@dataclass
class Inputs:
    """What all jobs read, made once."""

    folder: Path
    options: list[str] = field(default_factory=list)

    @property
    def weights(self) -> Path:
        return self.folder / "w.safetensors"

    @property
    def candidates(self) -> Path:
        return self.folder / "c.json"

    def make(self) -> None:
        """Images of two classes, a supernet's weights and candidates."""
        rng = np.random.default_rng(0)
        for split, count in (("train", 16), ("val", 6)):
            for label in range(2):
                (folder := self.folder / "images" / split / f"class{label}").mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, 128, (12, 12, 3), dtype=np.uint8) + np.uint8(120 * label)
                    Image.fromarray(pixels).save(folder / f"{number}.png")
        net = Supernet(TINY, 2, "prelu")
        fill_golden(net)
        save_weights(self.weights, net, {"step": 7})
        candidates = sample_candidates(TINY, 60, 0)
        write_scores(self.candidates, candidates, [0.0] * len(candidates))

    def config(self, folder: Path, *more: str) -> Config:
        """The configuration of a job."""
        options = ["data.source=folder", f"data.root={self.folder / 'images'}", "model.num_classes=2"]
        options += [
            "data.workers=0",
            "train.batch_size=16",
            "train.epochs=3",
            "train.log_every=1",
            "train.watch_images=0",
            "train.watch_subnets=0",
        ]
        return load_config(TINY_CONFIG, [*options, f"output_dir={folder}", "device=cpu", *more])


def make_jobs(inputs: Inputs) -> dict[str, Job]:
    """All jobs by name."""

    def training(folder: Path) -> None:
        train(inputs.config(folder), resume=(folder / "config.yaml").exists())

    def scoring(folder: Path) -> None:
        write_submission(inputs.config(folder, "score.bn=running"), inputs.weights, inputs.candidates, folder / "s.json")

    def standalone(folder: Path) -> None:
        config = inputs.config(folder, "train.max_steps=4", "method=null")
        make_truth(config, sample_candidates(TINY, 3, 0), folder / "truth.json")

    def searching(folder: Path) -> None:
        result = search(inputs.config(folder, "score.bn=running"), weights=inputs.weights, population=6, generations=3)
        result.write(folder / "front.json")

    def exporting(folder: Path) -> None:
        export(inputs.config(folder, "score.bn=running"), inputs.weights, TINY.smallest, folder / "out", images=2)

    def files(*names: str) -> Callable[[Path], Result]:
        return lambda folder: {name: (folder / name).read_bytes() for name in names}

    def arrays(path: Path) -> Result:
        return {name: array.tobytes() for name, array in read(path)[0].items()}

    def exported(folder: Path) -> Result:
        return files("out/code.txt", "out/inference.pdiparams")(folder) | arrays(folder / "out" / "subnet.safetensors")

    return {
        "training": Job(training, lambda folder: arrays(folder / "supernet.safetensors")),
        "scoring": Job(scoring, files("s.json", "s.metrics.json")),
        "scoring by two": Job(scoring, files("s.json", "s.metrics.json"), processes=2),
        "stand-alone": Job(standalone, files("truth.json")),
        "search": Job(searching, files("front.json")),
        "export": Job(exporting, exported),
    }


class Torture:
    """Disturbs jobs in folders of its own, and counts."""

    def __init__(self, home: Path, jobs: dict[str, Job], seed: int) -> None:
        self.home, self.jobs, self.rng = home, jobs, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.wanted: dict[str, Result] = {}
        self.seconds: dict[str, float] = {}
        self.writes: dict[str, int] = {}

    def undisturbed(self, name: str) -> None:
        """Run a job twice without disturbing it; its results, duration and number of writes."""
        results = []
        for number in range(2):
            folder = self.home / f"{name} whole {number}"
            started = time.perf_counter()
            self.finish(name, folder)
            self.seconds[name] = time.perf_counter() - started
            results.append(self.jobs[name].results(folder))
        if results[0] != results[1]:
            raise Failure(f"{name}: two undisturbed runs differ")
        self.wanted[name] = results[0]
        count = self.home / "writes"
        self.wait(self.start(name, self.home / f"{name} counted", "count", 0, count))
        self.writes[name] = len(count.read_bytes())
        count.unlink()

    def start(self, name: str, folder: Path, mode: str = "", k: int = 0, count: Path | None = None) -> list[int]:
        """Start a job's processes; the first is disturbed."""
        children = []
        for rank in range(self.jobs[name].processes):
            child = os.fork()
            if child == 0:
                self.become(name, folder, rank, mode if rank == 0 else "", k, count)
            children.append(child)
        return children

    def become(self, name: str, folder: Path, rank: int, mode: str, k: int, count: Path | None) -> None:
        """Be one process of a job, to its end."""
        status, story = BROKEN, ""
        try:
            job = self.jobs[name]
            os.environ |= {"PADDLE_TRAINER_ID": str(rank), "PADDLE_TRAINERS_NUM": str(job.processes)}
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            if mode:
                sys.addaudithook(Disturber(str(folder), mode, k, count))
            job.run(folder)
            status = 0
        except UserError as error:
            status, story = DOCUMENTED, f"{error}\n"
        except BaseException:
            story = traceback.format_exc()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, [resource.getrlimit(resource.RLIMIT_FSIZE)[1]] * 2)
            with (self.home / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"{folder}: {mode} {status}\n{story}")
            os._exit(status)

    def wait(self, children: list[int]) -> list[int]:
        """The processes' statuses, negative for the signal that one died of."""
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

    def finish(self, name: str, folder: Path) -> None:
        """Give a job again, which ends well; compare its result, if that is known, and look for what was left."""
        statuses = self.wait(self.start(name, folder))
        self.counts["runs to the end"] += 1
        if set(statuses) != {0}:
            raise Failure(f"{name}: a run that nobody disturbed ended with {statuses}")
        results, wanted = self.jobs[name].results(folder), self.wanted.get(name, {})
        if different := [file for file in wanted if results[file] != wanted[file]]:
            raise Failure(f"{name}: {', '.join(different[:3])} differ from the undisturbed run's")
        left = [path for path in folder.rglob(".*") if (path.is_dir() and path.name != NOTES) or path.suffix == ".part"]
        if left := left + list(folder.glob("standalone/*/*/checkpoints")):
            raise Failure(f"{name}: {left[0]} was left")

    def killed_at_write(self, name: str, folder: Path) -> None:
        """Kill it at its first, then its second write ... as far as the rounds go."""
        k = self.counts[f"{name}: write"] % max(1, self.writes[name]) + 1
        [status, *_] = self.wait(self.start(name, folder, "kill", k))
        if status not in (0, -signal.SIGKILL):
            raise Failure(f"{name}: ended with {status} instead of being killed at write {k}")
        self.counts["kills"] += status < 0
        self.finish(name, folder)

    def killed_at_a_moment(self, name: str, folder: Path) -> None:
        """Kill all its processes, or one of them, once or twice, at random moments."""
        for _ in range(self.rng.choice((1, 2))):
            children = self.start(name, folder)
            time.sleep(self.rng.uniform(0, self.seconds[name]))
            for child in children if self.rng.random() < 0.5 else children[:1]:
                os.kill(child, signal.SIGKILL)
            statuses = self.wait(children)
            self.counts["kills"] += sum(status < 0 for status in statuses)
            if not set(statuses) <= {0, -signal.SIGKILL}:
                raise Failure(f"{name}: ended with {statuses} instead of being killed")
        self.finish(name, folder)

    def full(self, name: str, folder: Path) -> None:
        """Let no file grow beyond a few bytes from its k-th write on."""
        k = self.counts[f"{name}: full"] % max(1, self.writes[name]) + 1
        [status, *_] = self.wait(self.start(name, folder, "full", k))
        if status not in (0, DOCUMENTED):
            raise Failure(f"{name}: a full disk from write {k} on ended with {status}")
        self.counts["full disks"] += status == DOCUMENTED
        self.finish(name, folder)

    def small_disk(self, name: str, folder: Path) -> None:
        """Run it on a disk that is too small, then make space."""
        folder.mkdir(parents=True)
        kilobytes = self.rng.choice((self.rng.randrange(8, 200), self.rng.randrange(8, 4000)))
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True).returncode:
            self.counts["disks that could not be mounted"] += 1
            return
        try:
            statuses = self.wait(self.start(name, folder))
            if not set(statuses) <= {0, DOCUMENTED}:
                raise Failure(f"{name}: a disk of {kilobytes} kB ended with {statuses}")
            self.counts["full disks"] += DOCUMENTED in statuses
            subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
            self.finish(name, folder)
        finally:
            subprocess.run(["umount", folder], check=True)

    def flipped(self, name: str, folder: Path) -> None:
        """Kill it, change a bit of a file that it kept, and go on."""
        self.wait(self.start(name, folder, "kill", self.rng.randrange(1, self.writes[name] + 20)))
        if kept := [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]:
            path = self.rng.choice(kept)
            data = bytearray(path.read_bytes())
            at = self.rng.randrange(8 * len(data))
            data[at // 8] ^= 1 << at % 8
            path.write_bytes(data)
            self.counts["flips"] += 1
            statuses = self.wait(self.start(name, folder))
            if not set(statuses) <= {0, DOCUMENTED}:
                raise Failure(f"{name}: with bit {at} of {path.name} changed it ended with {statuses}")
            if DOCUMENTED in statuses:
                self.counts["flips that stopped a run"] += 1
                shutil.rmtree(folder)
        self.finish(name, folder)

    def round(self, name: str, mode: str) -> None:
        """Disturb a job once, in one way, and compare; a failure is noted and its folder kept."""
        ways = {"write": self.killed_at_write, "moment": self.killed_at_a_moment, "full": self.full}
        ways |= {"disk": self.small_disk, "flip": self.flipped}
        folder = self.home / f"{name} {mode} {self.counts.total()}"
        try:
            ways[mode](name, folder)
            shutil.rmtree(folder)
        except Failure as failure:
            self.failures.append(f"{failure}   ({folder})")
            print(self.failures[-1], flush=True)
        self.counts[f"{name}: {mode}"] += 1


class Disturber:
    """An audit hook that does something at the k-th change of the files below a folder."""

    def __init__(self, folder: str, mode: str, k: int, count: Path | None) -> None:
        self.folder, self.mode, self.left = folder, mode, k
        self.count = None if count is None else os.open(count, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not (writes or event in CHANGES) or not str(arguments[0]).startswith(self.folder):
            return
        self.left -= 1
        if self.count is not None:
            os.write(self.count, b".")
        elif self.left == 0 and self.mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.left == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


MODES = ("write", "moment", "full", "disk", "flip")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="(default: 600; with --rounds no limit)")
    parser.add_argument("--rounds", type=int, help="stop after so many disturbances")
    parser.add_argument("--seed", type=int, help="(default: the time)")
    parser.add_argument("--only", nargs="+", default=[], metavar="JOB")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    until = time.time() + (arguments.seconds or (600 if arguments.rounds is None else math.inf))
    print(f"seed {seed}", flush=True)
    home = Path(tempfile.mkdtemp(prefix="torture-", dir=MEMORY))
    inputs = Inputs(home / "inputs")
    maker = os.fork()
    if maker == 0:
        try:
            inputs.make()
        finally:
            os._exit(sys.exc_info()[0] is not None)
    os.waitpid(maker, 0)
    torture = Torture(home, {name: job for name, job in make_jobs(inputs).items() if name in (arguments.only or [name])}, seed)
    for name in torture.jobs:
        torture.undisturbed(name)
        print(f"{name:16} {torture.seconds[name]:5.1f} seconds, {torture.writes[name]} writes", flush=True)
    rounds = itertools.cycle((name, mode) for mode in arguments.modes for name in torture.jobs)
    for name, mode in itertools.islice(rounds, arguments.rounds):
        if time.time() > until:
            break
        torture.round(name, mode)
    for what, count in sorted(torture.counts.items()):
        print(f"{what:32} {count:8,}")
    print(f"failures {len(torture.failures)}")
    if torture.failures:
        print(f"kept in {home}")
        return 1
    shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
