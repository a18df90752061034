"""What the fuzzer attacks: everything that reads a file, with files to start from and what a reader may answer.

A reader may return or raise one of the documented errors (UserError, of an image UnreadableImage). For files that carry a
checksum there is more: what it returns must be what was written.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import yaml
from hostile_pickles import hostile_pickles
from PIL import Image

from paddle_pgonas.config.loading import Data, load_config
from paddle_pgonas.data.cache import decoded
from paddle_pgonas.data.fingerprints import TABLE, fingerprint_files
from paddle_pgonas.data.lists import ListedImages, read_list
from paddle_pgonas.data.sources import Folder
from paddle_pgonas.errors import UserError
from paddle_pgonas.io import records
from paddle_pgonas.io.files import read_json_lines
from paddle_pgonas.io.records import Store
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import named_weights, read_arrays, save_weights
from paddle_pgonas.report.provenance import read_provenance
from paddle_pgonas.scores.check import validate_submission
from paddle_pgonas.scores.files import detect_space, read_candidates, read_scores
from paddle_pgonas.space.arch import MINI, SPACES, TRACK1
from paddle_pgonas.space.named import find_space
from paddle_pgonas.training.checkpoints import load_latest, save_checkpoint
from paddle_pgonas.training.run import make_optimizer

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO = REPOSITORY / "configs" / "demo.yaml"
FORMATS = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "TIFF": "tif", "BMP": "bmp", "WEBP": "webp", "PPM": "ppm"}


@dataclass(frozen=True)
class Target:
    """One reader."""

    path: Path
    """The file that is changed."""
    seeds: list[bytes]
    """Whole files to start from; the first is there when the reader is tried."""
    read: Callable[[], None]
    """Reads the file. An AssertionError says that it took other contents for those that were written."""
    every: int = 1
    """Of so many rounds it takes part in one: slow readers get fewer inputs."""
    megabytes: int = 64
    """Memory that one input may take, beside four times its size."""


def make_targets(folder: Path) -> dict[str, Target]:
    """All targets by name, with their files in ``folder``."""
    targets: dict[str, Target] = {}
    for make in (
        _codes,
        _entries,
        _configurations,
        _spaces,
        _logs,
        _weights,
        _pickles,
        _images,
        _lists,
        _stores,
        _tables,
        _caches,
        _checkpoints,
    ):
        home = folder / make.__name__.strip("_")
        home.mkdir(parents=True)
        targets |= make(home)
    for target in targets.values():
        target.path.write_bytes(target.seeds[0])
    return targets


def _codes(home: Path) -> dict[str, Target]:
    def read() -> None:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        for space in SPACES.values():
            try:
                arch = space.parse(text)
            except UserError:
                continue
            assert space.parse(arch.code) == arch

    rng, path = random.Random(0), home / "code.txt"
    seeds = [str(space.sample(rng)).encode() for space in SPACES.values() for _ in range(5)]
    return {"code": Target(path, seeds, read)}


def _entries(home: Path) -> dict[str, Target]:
    def read() -> None:
        for reader in (
            lambda: read_candidates(path, MINI),
            lambda: read_scores(path, TRACK1),
            lambda: detect_space(path),
            lambda: str(validate_submission(path)),
            lambda: json.dumps(validate_submission(other, path).as_json()),
        ):
            with suppress(UserError):
                reader()

    rng, path, other = random.Random(0), home / "candidates.json", home / "other.json"

    def entries(space: object, *accs: object) -> bytes:
        values = {f"arch{i}": {"acc": acc, "arch": str(space.sample(rng))} for i, acc in enumerate(accs)}  # type: ignore[attr-defined]
        return json.dumps(values).encode()

    seeds = [entries(MINI, 0.5, 0.25, 1.0), entries(TRACK1, 0, 1, 0.125), entries(MINI, 1e99, -3, None), b"[]", b"{}"]
    other.write_bytes(seeds[0])
    return {"candidates": Target(path, seeds, read)}


def _configurations(home: Path) -> dict[str, Target]:
    def read() -> None:
        load_config(path)

    def override() -> None:
        load_config(base, [changed.read_bytes().decode("utf-8", "surrogateescape")])

    path, changed, base = home / "config.yaml", home / "override", home / "base.yaml"
    base.write_text("data: {source: digits}\n")
    seeds = [file.read_bytes().replace(b"base: ", b"# base: ") for file in sorted((REPOSITORY / "configs").rglob("*.yaml"))]
    overrides = [b"seed=1", b"data.mean=[0.1, 0.2, 0.3]", b"train.amp=off", b"data={root: null}", b"output_dir='a b'"]
    return {"configuration": Target(path, seeds, read, every=4), "override": Target(changed, overrides, override)}


def _spaces(home: Path) -> dict[str, Target]:
    def read() -> None:
        space = find_space(str(path))
        for arch in (space.largest, space.smallest, space.sample(random.Random(0))):
            assert space.parse(arch.code) == arch

    path = home / "space.yaml"
    fields = {field.name: getattr(MINI, field.name) for field in dataclasses.fields(MINI)} | {"name": "other"}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    return {"space": Target(path, [yaml.safe_dump(plain, sort_keys=False).encode(), json.dumps(plain).encode()], read, every=2)}


def _logs(home: Path) -> dict[str, Target]:
    def read() -> None:
        assert all(isinstance(line, dict) for line in read_json_lines(log))

    def report() -> None:
        (home / "config.yaml").write_bytes(run.read_bytes())
        (home / "s.record.json").write_bytes(run.read_bytes())
        try:
            read_provenance(home, [], "again")
        finally:
            read_provenance(None, [str(home / "s.json")], "again")

    log, run = home / "metrics.jsonl", home / "run"
    lines = b'{"step": 0, "loss/largest": 2.5, "lr": 0.1}\n{"step": 10, "loss/largest": NaN, "accuracy": 0.5}\n'
    record = {"acc": "top1", "weights": "w", "versions": {"paddle": "3"}, "config": {"output_dir": str(home), "seed": 1}}
    records = [json.dumps(record).encode(), b"seed: 1\noutput_dir: x\n"]
    return {"log": Target(log, [lines * 3, lines], read), "run": Target(run, records, report, every=2)}


def _container(path: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    arrays = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array([True, False]), "empty": np.zeros((0, 2))}
    record: dict[str, object] = {"step": 3, "text": "a\u00e9", "nested": {"list": [1, 2.5, None]}}
    records.write(path, record, arrays)
    return arrays, record


def _weights(home: Path) -> dict[str, Target]:
    def read() -> None:
        kept, entry = records.read(path)
        assert entry == record and kept.keys() == arrays.keys()
        assert all(kept[name].dtype == arrays[name].dtype and np.array_equal(kept[name], arrays[name]) for name in arrays)

    def foreign() -> None:
        named_weights(other, read_arrays(other)[0])

    path, other = home / "kept.safetensors", home / "foreign.safetensors"
    arrays, record = _container(path)
    return {"container": Target(path, [path.read_bytes()], read), "safetensors": Target(other, [path.read_bytes()], foreign)}


def _pickles(home: Path) -> dict[str, Target]:
    def read() -> None:
        read_arrays(path)

    path, seeds = home / "weights.pdparams", []
    tensors = {"a": paddle.arange(6, dtype="float32").reshape([2, 3]), "b": {"c": paddle.ones([1], dtype="int64")}, "epoch": 3}
    for protocol in (2, 3, 4):
        paddle.save(tensors, str(path), protocol=protocol)
        seeds.append(path.read_bytes())
    seeds += [data for data in hostile_pickles(home / "ran").values() if len(data) < 4096]
    return {"pdparams": Target(path, seeds, read)}


def _images(home: Path) -> dict[str, Target]:
    def read() -> None:
        source.read(0)

    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8))
    grey = Image.fromarray(rng.integers(0, 65536, (5, 7), dtype=np.uint16))
    images = [
        (pixels.convert(mode), kind) for kind in FORMATS for mode in ("RGB", "L", "P") if mode != "P" or kind in ("PNG", "GIF")
    ]
    images += [(grey, "PNG"), (grey, "TIFF"), (pixels.convert("RGBA"), "PNG"), (pixels.convert("CMYK"), "JPEG")]
    seeds = []
    for image, kind in images:
        image.save(buffer := io.BytesIO(), kind)
        seeds.append(buffer.getvalue())
    path = home / "train" / "a" / "x.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(seeds[0])
    source = Folder(home, "train")
    return {"image": Target(path, seeds, read, megabytes=2048)}


def _lists(home: Path) -> dict[str, Target]:
    def read() -> None:
        source = ListedImages(read_list(path, 1000), home, "train", None)
        assert all(source.path(index).startswith(f"{home}/") for index in range(len(source.labels)))
        source.fingerprint(home)

    path = home / "train_list.txt"
    (home / "train" / "a").mkdir(parents=True)
    (home / "train" / "a" / "x y.png").write_bytes(b"content")
    lines = b"train/a/x y.png 0\ntrain/b/z.JPEG 1\n./train/a/z.JPEG 0\n"
    seeds = [lines, b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n"), lines.replace(b"train/", b"../"), b"a/x y.png\t999"]
    return {"list": Target(path, seeds, read)}


def _stores(home: Path) -> dict[str, Target]:
    def read() -> None:
        entry = store.get("a")
        assert entry is None or (entry.record == {"acc": 0.5} and entry.arrays["sums"].tolist() == [[1.0, 2.0]])

    store = Store(home, {"kept": "scores"})
    store.put("a", {"acc": 0.5}, {"sums": np.array([[1.0, 2.0]])})
    return {"store": Target(store.path("a"), [store.path("a").read_bytes()], read)}


def _tables(home: Path) -> dict[str, Target]:
    def read() -> None:
        assert fingerprint_files(images, [b"x.png"], [0], home) == wanted

    images = home / "images"
    images.mkdir()
    (images / "x.png").write_bytes(b"content")
    wanted = fingerprint_files(images, [b"x.png"], [0], home)
    table = home / TABLE
    records.write(table, {}, {"stamps": np.ones((1, 32), np.uint8), "contents": np.ones((1, 32), np.uint8)})
    return {"digests": Target(table, [table.read_bytes()], read, every=4)}


def _caches(home: Path) -> dict[str, Target]:
    def read() -> None:
        again = decoded(source, data, home / "cache")
        assert np.array_equal(again.images, wanted) and again.labels.tolist() == [0, 0]

    (home / "train" / "a").mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (9, 9), (number, 2, 3)).save(home / "train" / "a" / f"{number}.png")
    source, data = Folder(home, "train"), Data(image_size=8, resize=8)
    wanted = np.array(decoded(source, data, home / "cache").images)
    files = [path for path in (home / "cache").rglob("*") if path.name in ("pixels.npy", "images.safetensors")]
    return {f"cache {path.name}": Target(path, [path.read_bytes()], read, every=20) for path in files}


def _checkpoints(home: Path) -> dict[str, Target]:
    def read() -> None:
        try:
            record = load_latest(home, net, optimizer, lambda record: None)
        except UserError:
            raise AssertionError("the whole checkpoint was not taken") from None
        assert record == (newer if record and record["step"] == 2 else older)
        wanted = weights[record["step"]]
        assert all(np.array_equal(tensor.numpy(), wanted[name]) for name, tensor in net.weights().items())

    def load() -> None:
        named_weights(path, read_arrays(path)[0])

    net = Supernet(MINI, 3, "relu")
    optimizer = make_optimizer(load_config(DEMO).train, net.parameters())
    older, newer = ({"step": step, "processes": 1, "loss_scale": {}, "config": {}} for step in (1, 2))
    weights = {}
    for record in (older, newer):
        for number, tensor in enumerate(net.weights().values()):
            tensor.set_value(np.full(tensor.shape, record["step"] + number, np.float32))
        weights[record["step"]] = {name: tensor.numpy() for name, tensor in net.weights().items()}
        last = save_checkpoint(home, net, optimizer, record, keep=2)
    path = home / "w.safetensors"
    save_weights(path, net, {"step": 7})
    return {
        "checkpoint": Target(last, [last.read_bytes()], read, every=100),
        "weights": Target(path, [path.read_bytes()], load, every=50),
    }
