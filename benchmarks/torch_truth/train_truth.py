"""Stand-alone accuracies of many subnets, by PyTorch: the project's recipe, two to three times as fast on a processor.

Takes a configuration of the project and a candidate file, and keeps one truth file per seed in the folder given. It is written
anew after every subnet, so a killed run loses the subnet that it is training and goes on with the rest when it is started again.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import math
import os
import platform
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from images import Batches, Normalise, decode
from network import ResNet

from paddle_pgonas.arch import SPACES, Arch
from paddle_pgonas.config import Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.files import read_json, write_json
from paddle_pgonas.submission import Candidate, read_candidates, read_scores, write_scores

ORDER_SEED = 0
TRAIN_KEYS = (
    "epochs", "batch_size", "lr_per_256", "momentum", "weight_decay", "clip_grad_norm", "schedule", "warmup_epochs"
)  # fmt: skip
EVALUATION_BATCH = 500


def learning_rate(config: Config, step: int, steps_per_epoch: int) -> float:
    """The project's ``cosine`` schedule: a linear rise to the highest rate, then half a cosine to 0, both per step."""
    train = config.train
    highest = train.lr_per_256 * train.batch_size / 256
    total = train.epochs * steps_per_epoch
    warmup = min(round(train.warmup_epochs * steps_per_epoch), total)
    if step < warmup:
        return highest * (step + 1) / warmup
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class Trainer:
    """Trains one subnet after the other with one recipe; the images are decoded once."""

    def __init__(self, config: Config, device: str, bf16: bool, cache: Path) -> None:
        data, train = config.data, config.train
        if data.root is None or data.source != "folder":
            raise UserError(
                "data.root: no image folder given; pass -o data.root=DIR with DIR/train/<class>/* and DIR/val/<class>/*"
            )
        if train.schedule != "cosine" or train.accumulate != 1 or train.amp != "off" or config.model.activation != "relu":
            raise UserError("this trainer knows train.schedule cosine, accumulate 1, amp off and model.activation relu only")
        self.config, self.device, self.bf16 = config, device, bf16
        self.images, self.labels = decode(data.root, "train", data, cache)
        images, labels = decode(data.root, "val", data, cache)
        self.test_images, self.test_labels = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        self.normalise = Normalise(data, device)

    def train(self, arch: Arch, seed: int) -> dict[str, float]:
        """Train a subnet from random weights: its top-1 and loss on the validation images, and the seconds it took."""
        started, settings = time.time(), self.config.train
        torch.manual_seed(seed)
        net = ResNet(arch, self.config.model.num_classes).to(self.device, memory_format=torch.channels_last)
        net.train()
        batches = Batches(self.images, self.labels, self.config.data, settings.batch_size, seed, self.device)
        parameters = list(net.parameters())
        optimizer = torch.optim.SGD(parameters, 0.0, settings.momentum, weight_decay=settings.weight_decay, fused=True)
        steps = batches.steps_per_epoch
        for step in range(settings.epochs * steps):
            images, labels = batches.batch(*divmod(step, steps))
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16):
                logits = net(self.normalise(images))
            loss = F.cross_entropy(logits.float(), labels)
            loss.backward()
            if settings.clip_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, settings.clip_grad_norm)
            optimizer.param_groups[0]["lr"] = learning_rate(self.config, step, steps)
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % steps == 0 and not math.isfinite(loss.item()):
                raise UserError(f"{arch}: the loss is {loss.item()}: training diverged; lower train.lr_per_256")
        net.correct_variances()
        return self.evaluate(net) | {"train_loss": round(loss.item(), 4), "seconds": round(time.time() - started, 1)}

    @torch.no_grad()
    def evaluate(self, net: ResNet) -> dict[str, float]:
        """Top-1 and mean cross-entropy on the validation images, in float32."""
        net.eval()
        right, loss = 0, 0.0
        for images, labels in zip(
            self.test_images.split(EVALUATION_BATCH), self.test_labels.split(EVALUATION_BATCH), strict=True
        ):
            logits = net(self.normalise(images))
            right += int((logits.argmax(-1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        return {"acc": right / len(self.test_labels), "loss": round(loss / len(self.test_labels), 5)}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock beside a file, so that several processes can add to it in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def recipe(config: Config, space: str, bf16: bool) -> dict[str, Any]:
    """What a result depends on beside subnet and seed, without the places of files."""
    unused = ("cache_dir", "workers", "max_unreadable")
    data = {name: value for name, value in config.data.model_dump(mode="json").items() if name not in unused}
    data["root"] = Path(str(config.data.root)).name
    return {
        "space": space,
        "num_classes": config.model.num_classes,
        "activation": config.model.activation,
        "precision": "bf16 autocast" if bf16 else "float32",
        "data": data | {"mean": list(config.data.mean), "std": list(config.data.std)},
        "train": {name: getattr(config.train, name) for name in TRAIN_KEYS},
    }


def add(path: Path, candidates: list[Candidate], entry: Candidate, result: dict[str, float], about: dict[str, Any]) -> None:
    """Add one result to a truth file and to the record beside it."""
    record_path = path.with_suffix(".record.json")
    with locked(path):
        known = read_scores(path, entry.arch.space) if path.exists() else {}
        record = read_json(record_path, "record") if record_path.exists() else about | {"results": {}}
        if record["recipe"] != about["recipe"]:
            raise UserError(f"{record_path}: made with another recipe; choose another folder or remove it")
        known[entry.arch.code] = result["acc"]
        done = [one for one in candidates if one.arch.code in known]
        record |= about
        record["results"][entry.name] = {name: value for name, value in result.items() if name != "acc"}
        record["results"] = {one.name: record["results"][one.name] for one in done if one.name in record["results"]}
        write_scores(path, done, [known[one.arch.code] for one in done])
        write_json(record_path, record)


def versions(device: str) -> dict[str, str]:
    """Versions that a record names."""
    found = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "pillow")}
    return {"trainer": "torch_truth", "python": platform.python_version(), **found, "device": torch.device(device).type}


def main() -> None:
    """Train whatever has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("-o", "--override", action="extend", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--space", choices=list(SPACES), help="default: the configuration's")
    parser.add_argument("--candidates", type=Path, required=True, metavar="FILE")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="gets truth-seed<S>.json and its record")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="S", help="one after the other (default: 0)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these candidates only")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="of N processes this is the one of number I (from 0)")
    parser.add_argument("--cache", type=Path, default=Path("runs/torch_truth/cache"), metavar="DIR", help="decoded images")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast: needs AMX or AVX512-BF16, or a GPU")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.set_flush_denormal(True)
    config = load_config(arguments.config, arguments.override)
    space = SPACES[arguments.space or config.space]
    candidates = read_candidates(arguments.candidates, space)
    order = [entry for entry in candidates if arguments.only is None or entry.name in arguments.only]
    random.Random(ORDER_SEED).shuffle(order)  # so that an unfinished truth is a fair sample
    number, count = map(int, arguments.part.split("/"))
    trainer = Trainer(config, arguments.device, arguments.bf16, arguments.cache)
    about = {"recipe": recipe(config, space.name, arguments.bf16), "versions": versions(arguments.device)}
    for seed in arguments.seeds:
        path = arguments.results / f"truth-seed{seed}.json"
        for entry in order[number::count]:
            if path.exists() and entry.arch.code in read_scores(path, space):
                continue
            result = trainer.train(entry.arch, seed)
            add(path, candidates, entry, result, about | {"seed": seed})
            print(f"{time.strftime('%H:%M:%S', time.gmtime())} seed {seed} {entry.name} {entry.arch} {result}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"train_truth: {error}")
