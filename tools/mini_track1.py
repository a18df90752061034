"""The mini track: a small Track 1 on small colour images, with its own stand-alone truth and all methods side by side.

run     trains the truth, the largest network and every method's supernets, scores the candidates and keeps the results in
        benchmarks/mini_track1. What is there is not done again; a killed run goes on where it was.
report  rebuilds the tables and pictures of docs/mini_track1.md from the committed results, in seconds.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from paddle_pgonas import cli
from paddle_pgonas.arch import MINI
from paddle_pgonas.errors import UserError
from paddle_pgonas.submission import write_scores

REPOSITORY = Path(__file__).resolve().parent.parent
HOME = REPOSITORY / "benchmarks" / "mini_track1"
CONFIGS = REPOSITORY / "configs" / "mini_track1"


@cli.command
def main() -> None:
    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and score whatever has no result yet")
    run.add_argument("--root", required=True, metavar="DIR", help="CIFAR-10 as DIR/train/<class>/* and DIR/val/<class>/*")
    run.add_argument("--only", nargs="+", metavar="NAME", help="truth, or methods: the names of configs/mini_track1/*.yaml")
    run.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds per method (default: 3)")
    run.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "mini_track1", metavar="DIR", help="working files")
    run.add_argument("--processes", type=int, default=2, metavar="N", help="trainings at a time, one core each (default: 2)")
    commands.add_parser("report", help="rebuild tables and pictures from the results")
    arguments = parser.parse_args()
    if arguments.command == "report":
        from paddle_pgonas.mini_track.document import write_report

        print(f"written: {write_report(HOME, REPOSITORY / 'docs')}")
    else:
        run_all(arguments.root, arguments.only, arguments.seeds, arguments.runs, arguments.processes)


def run_all(root: str, only: list[str] | None, seeds: int, runs: Path, processes: int) -> None:
    from paddle_pgonas.mini_track import results as track

    known = ["truth", *track.METHODS]
    for name in only or []:
        if name not in known:
            raise UserError(f"--only {name}: the mini track has {', '.join(known)}")
    wanted = only or known
    options = [f"data.root={root}", f"data.cache_dir={runs / 'cache'}"]
    jobs = [partial(train_truth, runs, options, seed) for seed in range(track.TRUTH_SEEDS) if "truth" in wanted]
    methods = [name for name in track.METHODS if name in wanted]
    if any(name in track.TAUGHT or name not in track.RANDOM for name in methods):
        train_largest(runs, options)
    jobs += [partial(train_method, runs, options, name, seed) for seed in range(seeds) for name in methods]
    with ThreadPoolExecutor(processes) as pool:
        for result in pool.map(lambda job: job(), jobs):
            print(result, flush=True)


def tool(log: Path, name: str, *arguments: object) -> None:
    """Run one of the tools on one core, its output into a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(REPOSITORY / "tools" / f"{name}.py"), *map(str, arguments)]
    with log.open("a", encoding="utf-8") as output:
        status = subprocess.run(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
    if status:
        raise UserError(f"{name} failed with status {status}; its last words are in {log}")


def train_truth(runs: Path, options: list[str], seed: int) -> str:
    """Train the subnets that the committed truth of this seed lacks, and add them to it."""
    from paddle_pgonas.mini_track import results as track

    result, working = HOME / "results" / f"truth-seed{seed}.json", runs / "truth"
    missing = track.missing_truth(HOME, seed)
    if missing:
        wanted, found = working / f"missing-seed{seed}.json", working / f"found-seed{seed}.json"
        write_scores(wanted, missing, [0.0] * len(missing))
        config = ["-c", CONFIGS / "truth.yaml", "-o", *options, f"seed={seed}", f"output_dir={working}"]
        tool(runs / "logs" / f"truth-seed{seed}.log", "train_standalone", *config, "--candidates", wanted, "--output", found)
        track.collect_truth(HOME, working, seed)
    return str(result)


def train_largest(runs: Path, options: list[str]) -> None:
    """The stand-alone largest network that supernets start from and the baseline distils from."""
    weights = runs / "largest.safetensors"
    if not weights.exists():
        print("training the largest subnet, stand-alone", flush=True)
        config = ["-c", CONFIGS / "truth.yaml", "-o", *options, f"output_dir={runs / 'truth'}"]
        tool(runs / "logs" / "largest.log", "train_standalone", *config, "--arch", MINI.largest, "--weights", weights)


def train_method(runs: Path, options: list[str], method: str, seed: int) -> str:
    from paddle_pgonas.mini_track import results as track

    result = HOME / "results" / f"{method}-seed{seed}.json"
    if not result.exists():
        folder, log = runs / method / f"seed{seed}", runs / "logs" / f"{method}-seed{seed}.log"
        config = ["-c", CONFIGS / f"{method}.yaml", "-o", *options, f"seed={seed}", f"output_dir={folder}"]
        largest = runs / "largest.safetensors"
        if method in track.TAUGHT:
            config.append(f"train.teacher={largest}")
        if method not in track.RANDOM:
            config.append(f"model.pretrained={largest}")
        weights = folder / "supernet.safetensors"
        if not weights.exists():
            tool(log, "train_supernet", *config, "--resume")
        for bn in track.BN:
            files = ["--candidates", HOME / "candidates.json", "--weights", weights, "--output", folder / f"{bn}.json"]
            tool(log, "write_submission", *config, *files, "--bn", bn)
        track.collect(folder, method, seed, result)
    return str(result)


if __name__ == "__main__":
    main()
