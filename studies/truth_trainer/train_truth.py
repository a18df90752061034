"""Stand-alone accuracies of many subnets with 16 seeds each, or fewer, which lanes.cpp trains on one core.

Takes a configuration of the project and a candidate file. ``accuracies.json`` (every seed) and ``truth.json`` (means with
standard errors, a truth file for the project's tools) are written anew after every subnet, so a killed run loses the subnet that
it is training and goes on with the rest when it is started again. Several processes can work on the same files.

    OMP_NUM_THREADS=1 python studies/truth_trainer/train_truth.py -c studies/similar_cost/truth.yaml -o data.root=IMAGES \\
        --candidates studies/similar_cost/candidates.json --results studies/similar_cost

With ``--gpu-job FILE`` it writes a job for gpu.py instead, and with ``--gpu-results FILE`` it adds the results of one.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from gpu_job import write_job
from lanes import LaneNet, batches
from layout import LANES

from paddle_pgonas import cli
from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.data.cache import decoded
from paddle_pgonas.data.images import open_images
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json, read_json_lines, write_json
from paddle_pgonas.runtime import versions
from paddle_pgonas.scores.files import Candidate, read_candidates
from paddle_pgonas.space.arch import Arch
from paddle_pgonas.space.named import find_space
from paddle_pgonas.training.schedules import learning_rate

ORDER_SEED = 0
TRAIN_KEYS = ("epochs", "batch_size", "lr_per_256", "momentum", "weight_decay", "warmup_epochs")
DATA_KEYS = ("source", "image_size", "resize", "augment", "mean", "std", "train_limit", "val_limit")


class Trainer:
    """Trains one subnet after the other, each with all seeds; the images are decoded once, by the project.

    ``smoothing`` of labels and ``closed`` branches: see :meth:`LaneNet.step` and :meth:`LaneNet.close_branches`.
    """

    def __init__(self, config: Config, seeds: list[int], smoothing: float = 0.0, closed: bool = False) -> None:
        self.smoothing, self.closed = smoothing, closed
        train, model = config.train, config.model
        plain = train.schedule == "cosine" and train.accumulate == 1 and train.amp == "off" and train.clip_grad_norm is None
        if not plain or model.activation != "relu":
            raise UserError("train: needs schedule cosine, accumulate 1, amp off, no clip_grad_norm; model.activation: relu")
        self.config, self.seeds = config, seeds
        opened = open_images(config)
        images = decoded(opened.train_source, config.data, opened.cache)
        self.batches = batches(len(images.labels), config, seeds)
        edge = (self.batches.pad, self.batches.pad)
        self.plain_images = np.asarray(images.images)
        self.images = np.pad(self.plain_images, ((0, 0), edge, edge, (0, 0)))
        self.labels = images.labels.astype(np.int64)
        self.validation = opened.validation

    def write_job(self, path: Path, entries: list[Candidate]) -> None:
        """Write these trainings as a job for gpu.py."""
        sets = (self.plain_images, self.labels), (self.validation.images, self.validation.labels)
        write_job(path, self.config, digest(self.config), entries, self.batches, *sets)

    def train(self, arch: Arch, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Train a subnet from random weights: top-1 and loss on the validation images by seed, and the seconds for all.

        Args:
            known: the same of its first seeds, which are not trained again.
        """
        known, started = known or {"acc": [], "loss": [], "seconds": 0}, time.time()
        acc, loss = zip(*(self._train(arch, seed) for seed in self.seeds[len(known["acc"]) :]), strict=True)
        rounded = {"acc": [round(one, 6) for one in acc], "loss": [round(one, 5) for one in loss]}
        seconds = round(known["seconds"] + time.time() - started, 1)
        return {**known, **{name: known[name] + more for name, more in rounded.items()}, "seconds": seconds}

    def _train(self, arch: Arch, seed: int) -> tuple[float, float]:
        """Top-1 and loss with this seed."""
        train, data = self.config.train, self.config.data
        net = LaneNet(arch, data.image_size, self.config.model.num_classes, train.batch_size)
        net.draw(np.random.default_rng(seed))
        if self.closed:
            net.close_branches()
        batches = replace(self.batches, seeds=(seed,))
        for epoch in range(train.epochs):
            for step, ([chosen], [moves]) in enumerate(zip(*batches.epoch(epoch), strict=True)):
                net.put(self.images, batches.pad, data, chosen, moves)
                rate = learning_rate(train, epoch * batches.steps + step, batches.steps, train.batch_size)
                loss, _ = net.step(self.labels[chosen], rate, train.momentum, train.weight_decay, self.smoothing)
        if not (np.isfinite(loss) and np.isfinite(net.params).all()):  # a ReLU turns NaN into 0
            raise UserError(f"{arch}: training diverged with seed {seed}; the last loss is {loss}; lower train.lr_per_256")
        images = np.ascontiguousarray(self.validation.images)
        return net.evaluate(images, self.validation.labels.astype(np.int64), data)


def recipe(config: Config) -> dict[str, Any]:
    """What a result depends on beside subnet and seed, without the places of files."""
    data, train = config.data.model_dump(mode="json"), config.train.model_dump(mode="json")
    return {
        "space": config.model_dump(mode="json")["space"],
        "num_classes": config.model.num_classes,
        "data": {"images": Path(str(config.data.root)).name} | {name: data[name] for name in DATA_KEYS},
        "train": {name: train[name] for name in TRAIN_KEYS},
    }


def comparable(of: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the name of the images' folder, which may differ."""
    return of | {"data": of["data"] | {"images": ""}}


def digest(config: Config) -> str:
    """Tells recipes apart in jobs for the GPU and their results."""
    return hashlib.sha256(json.dumps(comparable(recipe(config)), sort_keys=True).encode()).hexdigest()


def results_so_far(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The file of every seed's accuracies; a subnet may have fewer seeds than others.

    Raises:
        UserError: another recipe made it, or with more seeds.
    """
    record: dict[str, Any] = read_json(path, "results") if path.exists() else about | {"results": {}}
    if comparable(record["recipe"]) != comparable(about["recipe"]) or len(record["seeds"]) > len(about["seeds"]):
        raise UserError(f"{path}: made with another recipe or more seeds; choose another folder or remove it")
    return record | {"seeds": about["seeds"]}


def add(folder: Path, candidates: list[Candidate], entry: Candidate, result: dict[str, Any], about: dict[str, Any]) -> None:
    """Add one result to both files; entries stand in the order of the candidates."""
    path = folder / "accuracies.json"
    with (folder / ".accuracies.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process waits
        record = results_so_far(path, about)
        results = record["results"] | {entry.name: {"arch": entry.arch.code, **result}}
        record["results"] = {one.name: results[one.name] for one in candidates if one.name in results}
        write_json(path, record)
        write_json(folder / "truth.json", {name: mean(one) for name, one in record["results"].items()})


def add_from_gpu(folder: Path, candidates: list[Candidate], results: Path, config: Config, about: dict[str, Any]) -> None:
    """Add the results of a job for the GPU.

    Raises:
        UserError: there are none, or they are of another recipe or of other candidates, or some are known already.
    """
    lines, by_name = read_json_lines(results), {entry.name: entry for entry in candidates}
    if not lines:
        raise UserError(f"{results}: holds no results; give the file that gpu.py wrote")
    known = results_so_far(folder / "accuracies.json", about)["results"]
    for line in lines:
        entry = by_name.get(line.get("name"))
        if line.get("recipe") != digest(config) or entry is None or entry.arch.code != line["arch"]:
            raise UserError(f"{results}: made with another configuration or for other candidates; give those of its job")
        if entry.name in known:
            raise UserError(f"{folder / 'accuracies.json'}: holds {entry.name} already; choose another folder or remove it")
    for line in lines:
        result = {name: line[name] for name in ("acc", "loss", "seconds", "device")}
        add(folder, candidates, by_name[line["name"]], result, about)


def mean(result: dict[str, Any]) -> dict[str, Any]:
    """An entry of a truth file: mean top-1 over the seeds and its standard error."""
    accs = np.array(result["acc"])
    error = float(accs.std(ddof=1)) / len(accs) ** 0.5
    return {"acc": round(float(accs.mean()), 6), "arch": result["arch"], "std_error": round(error, 6)}


def _part(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 0 to N - 1, such as 0/2, not {text}")
    return int(number), int(count)


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 1):
        raise argparse.ArgumentTypeError(f"must be a number from 2 on, for a standard error, not {text}")
    return int(text)


def main() -> None:
    """Train whatever has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("-o", "--override", action="extend", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--candidates", type=Path, required=True, metavar="FILE")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="gets accuracies.json and truth.json")
    parser.add_argument(
        "--part", type=_part, default="0/1", metavar="I/N", help="of N processes this is the one of number I (from 0)"
    )
    parser.add_argument(
        "--seeds",
        type=_count,
        default=LANES,
        metavar="N",
        help="trainings per subnet, also of those with fewer (default: %(default)s)",
    )
    parser.add_argument("--closed", action="store_true", help="the last BatchNorm scale of each block begins at 0")
    parser.add_argument("--without", type=Path, metavar="FILE", help="an accuracies.json whose subnets are left out")
    gpu = parser.add_mutually_exclusive_group()
    gpu.add_argument("--gpu-job", type=Path, metavar="FILE", help="write a job for gpu.py (FILE.npz) instead of training")
    gpu.add_argument("--gpu-results", type=Path, metavar="FILE", help="add the results of such a job instead of training")
    arguments = parser.parse_args()
    if (arguments.seeds != LANES or arguments.closed) and (arguments.gpu_job or arguments.gpu_results):
        parser.error(f"--seeds, --closed: a GPU trains {LANES} networks that begin open")
    config = load_config(arguments.config, arguments.override)
    candidates = read_candidates(arguments.candidates, find_space(config.space))
    left_out = read_json(arguments.without, "results").get("results") if arguments.without else {}
    if left_out is None:
        raise UserError(f"--without {arguments.without}: is no accuracies.json of this program")
    order = [entry for entry in candidates if entry.name not in left_out]
    random.Random(ORDER_SEED).shuffle(order)  # so that an unfinished truth is a fair sample
    number, count = arguments.part
    by = {"trainer": "truth_trainer", **versions()}
    about = {
        "recipe": recipe(config) | ({"closed": True} if arguments.closed else {}),
        "versions": by,
        "seeds": list(range(arguments.seeds)),
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / "accuracies.json"
    if arguments.gpu_results:
        add_from_gpu(arguments.results, candidates, arguments.gpu_results, config, about)
        return
    known = results_so_far(path, about)["results"]
    fewest = 1 if arguments.gpu_job else arguments.seeds  # a GPU trains all seeds at once, so it adds none to a subnet
    complete = {name for name, result in known.items() if len(result["acc"]) >= fewest}
    missing = [entry for entry in order[number::count] if entry.name not in complete]
    if not missing and not arguments.gpu_job:
        return  # no image is read for nothing
    trainer = Trainer(config, about["seeds"], closed=arguments.closed)
    if arguments.gpu_job:
        trainer.write_job(arguments.gpu_job, missing)
        return
    for entry in missing:
        so_far = results_so_far(path, about)["results"].get(entry.name)
        if so_far and len(so_far["acc"]) == arguments.seeds:  # another process was faster
            continue
        result = trainer.train(entry.arch, so_far)
        add(arguments.results, candidates, entry, result, about)
        line = f"{entry.name} {entry.arch}: {100 * np.mean(result['acc']):.2f} +- {100 * np.std(result['acc'], ddof=1):.2f} %"
        print(time.strftime("%H:%M:%S", time.gmtime()), line, f"{result['seconds']} s", flush=True)


if __name__ == "__main__":
    cli.run(main)
