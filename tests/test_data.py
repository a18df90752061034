"""Images: image folders are read, batches depend on (seed, epoch, step) alone, and no image is decoded twice."""

from __future__ import annotations

import os
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import Fork, collect, image_settings
from hypothesis import given
from hypothesis import strategies as st
from paddle.vision.transforms import CenterCrop, Compose, Resize
from PIL import Image

from paddle_pgonas.config.loading import Data
from paddle_pgonas.data import cache
from paddle_pgonas.data.batches import EpochBatches, calibration_images
from paddle_pgonas.data.cache import decoded
from paddle_pgonas.data.images import open_source
from paddle_pgonas.data.sources import Digits, Folder, spread_order
from paddle_pgonas.data.transforms import center_crop, random_resized_crop, random_shifts, random_window, shift, to_network
from paddle_pgonas.errors import UserError, brief


def test_folder_images_come_as_rgb_with_sorted_labels(image_folder: Path) -> None:
    source = Folder(image_folder, "val")
    assert source.classes == ["bright", "dark"]
    assert source.labels.tolist() == [0] * 4 + [1] * 4
    assert {source.read(index).mode for index in range(4)} == {"RGB"}


def test_digits_split_without_overlap() -> None:
    train, val = Digits("train"), Digits("val")
    assert len(train.labels) + len(val.labels) == 1797
    assert set(val.labels) == set(range(10))
    everything = np.concatenate([train.items, val.items]).reshape(1797, -1)
    assert everything.max() == 255
    same = {image.tobytes() for image in train.items} & {image.tobytes() for image in val.items}
    assert len(same) < 5  # the collection itself repeats hardly a digit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root), "is not a folder"),
        (lambda root: shutil.rmtree(root / "val" / "dark"), "class dark is in only one of"),
        (lambda root: [file.unlink() for file in (root / "val" / "dark").iterdir()], "holds no images"),
        (lambda root: [shutil.rmtree(root / "val" / name) for name in ("dark", "bright")], "holds no class folders"),
    ],
)
def test_a_folder_that_cannot_serve_gives_one_line(image_folder: Path, damage, message: str) -> None:
    damage(image_folder)
    with pytest.raises(UserError, match=message) as caught:
        open_source(image_settings(image_folder), "val", 10)
    assert "\n" not in str(caught.value)


def test_more_classes_than_the_network_has_is_an_error(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / name / "x.png")
    with pytest.raises(UserError, match=r"model\.num_classes only 2"):
        open_source(image_settings(tmp_path), "val", 2)


def test_no_root_names_the_key() -> None:
    with pytest.raises(UserError, match=r"data\.root"):
        open_source(Data(), "train", 10)


def same(a: list[tuple[np.ndarray, np.ndarray]], b: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    return len(a) == len(b) and all((x == u).all() and (y == v).all() for (x, y), (u, v) in zip(a, b, strict=True))


@pytest.mark.parametrize("augment", ["crop_flip", "shift_flip"])
def test_batches_depend_on_seed_epoch_and_step_alone(image_folder: Path, tmp_path: Path, augment: str) -> None:
    def make(seed: int, workers: int = 0) -> EpochBatches:
        data = image_settings(image_folder, augment=augment, workers=workers)
        return EpochBatches(open_source(data, "train", 2), data, tmp_path / "cache", 2, seed)

    whole = collect(make(0), 1, 0)
    assert same(whole, collect(make(0), 1, 0))
    assert same(whole, collect(make(0, workers=2), 1, 0))
    assert same(whole[3:], collect(make(0), 1, 3))
    assert not same(whole, collect(make(0), 2, 0))
    assert not same(whole, collect(make(1), 1, 0))


@pytest.mark.parametrize("augment", ["crop_flip", "shift_flip"])
def test_two_processes_share_the_batch_that_one_would_have(image_folder: Path, tmp_path: Path, augment: str) -> None:
    data = image_settings(image_folder, augment=augment)
    source = open_source(data, "train", 2)
    parts = [collect(EpochBatches(source, data, tmp_path / "cache", 2, 0, rank, 2), 1, 0) for rank in range(2)]
    whole = collect(EpochBatches(source, data, tmp_path / "cache", 4, 0), 1, 0)
    joined = [tuple(np.concatenate(pair) for pair in zip(*both, strict=True)) for both in zip(*parts, strict=True)]
    assert same(whole, joined)  # type: ignore[arg-type]


def test_a_limited_training_set_is_taken_evenly_from_the_classes(image_folder: Path, tmp_path: Path) -> None:
    data = image_settings(image_folder, train_limit=4)
    part, whole = open_source(data, "train", 2), open_source(image_settings(image_folder), "train", 2)
    assert part.labels.tolist() == [0, 0, 1, 1]
    assert part.read(3).tobytes() == whole.read(11).tobytes()
    assert part.fingerprint(tmp_path) != whole.fingerprint(tmp_path)
    assert len(open_source(data, "val", 2).labels) == 8


def test_an_epoch_shows_each_image_once_and_names_the_corrupt_one(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = image_settings(image_folder, augment="none")
    batches = EpochBatches(open_source(data, "train", 2), data, tmp_path / "cache", 1, 0)
    labels = [int(label) for _, label in collect(batches, 0, 0)]
    assert sorted(labels) == [0] * 5 + [1] * 6  # one of the bright ones is corrupt
    assert str(image_folder / "train" / "bright" / "0.png") in capsys.readouterr().err


def test_images_keep_their_labels_through_the_shuffle(image_folder: Path, tmp_path: Path) -> None:
    data = image_settings(image_folder, augment="none")
    batches = EpochBatches(open_source(data, "train", 2), data, tmp_path / "cache", 4, 0)
    for images, labels in collect(batches, 0, 0):
        bright = images.reshape(4, -1).mean(1) > 127
        assert (bright == (labels == 0)).all()


def test_a_batch_larger_than_the_data_is_an_error(image_folder: Path, tmp_path: Path) -> None:
    data = image_settings(image_folder)
    with pytest.raises(UserError, match=r"train\.batch_size 13 is larger"):
        EpochBatches(open_source(data, "train", 2), data, tmp_path, 13, 0)


@pytest.mark.parametrize("first_is_killed", [False, True])
def test_processes_that_share_a_cache_decode_each_image_once(image_folder: Path, tmp_path: Path, first_is_killed: bool) -> None:
    log = tmp_path / "decoded"

    class Slow(Folder):
        def read(self, index: int) -> Image.Image:
            with log.open("a") as file:
                file.write(f"{os.getpid()} {index}\n")
            time.sleep(0.05)
            return super().read(index)

    def work() -> None:
        found = decoded(Slow(image_folder, "val"), image_settings(image_folder), tmp_path / "cache")
        assert found.images.shape == (7, 16, 16, 3)
        assert found.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]

    children = [Fork(work, tmp_path / f"{rank}.log") for rank in range(3)]
    if first_is_killed:
        while not log.exists():
            time.sleep(0.005)
        [first] = [child for child in children if child.id == int(log.read_text().split()[0])]
        first.kill()
        assert first.wait() == -9
        children.remove(first)
    assert [child.wait() for child in children] == [0] * len(children), [child.output for child in children]
    survivors = [line.split() for line in log.read_text().splitlines()]
    if first_is_killed:
        survivors = [line for line in survivors if int(line[0]) != first.id]
    assert [index for _, index in survivors] == [*map(str, range(8)), "4"]  # the corrupt one a second time
    assert len({process for process, _ in survivors}) == 1
    assert not list(tmp_path.rglob("*.lock"))


def test_the_cache_is_built_once_and_rebuilt_when_damaged(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Counting(Folder):
        reads = 0

        def read(self, index: int) -> Image.Image:
            Counting.reads += 1
            return super().read(index)

    first = decoded(Counting(image_folder, "val"), image_settings(image_folder), tmp_path)
    assert Counting.reads == 9  # the corrupt one twice
    assert first.images.shape == (7, 16, 16, 3)
    assert first.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    wanted = np.array(first.images)
    decoded(Counting(image_folder, "val"), image_settings(image_folder), tmp_path)
    assert Counting.reads == 9
    for name in ("pixels.npy", "images.safetensors"):
        [path] = tmp_path.glob(f"*/{name}")
        damaged = bytearray(path.read_bytes())
        damaged[-9] ^= 1
        path.write_bytes(damaged)
        reads = Counting.reads
        again = decoded(Counting(image_folder, "val"), image_settings(image_folder), tmp_path)
        assert (again.images == wanted).all() and (again.labels == first.labels).all()
        assert Counting.reads == reads + 9
        assert f"not used: {brief(str(path))}" in capsys.readouterr().err


@pytest.mark.parametrize("when", ["before it is decoded", "after it, and back"])
def test_an_image_that_changes_while_images_are_decoded_is_not_cached(image_folder: Path, tmp_path: Path, when: str) -> None:
    path = image_folder / "val" / "dark" / "2.png"
    original, first = path.read_bytes(), decoded(Folder(image_folder, "val"), image_settings(image_folder), tmp_path / "before")

    class Changing(Folder):
        def read(self, index: int) -> Image.Image:
            if index == 6:
                Image.new("RGB", (30, 30), "white").save(path)
            image = super().read(index)
            if when != "before it is decoded":
                path.write_bytes(original)
            return image

    with pytest.raises(UserError, match=r"2\.png: was changed while") as caught:
        decoded(Changing(image_folder, "val"), image_settings(image_folder), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    path.write_bytes(original)
    again = decoded(Folder(image_folder, "val"), image_settings(image_folder), tmp_path / "cache")
    assert again.fingerprint == first.fingerprint and np.array_equal(again.images, first.images)


def test_an_image_that_changes_between_its_digest_and_the_decoding_is_not_cached(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = cache._build

    def late(*parts: object) -> object:
        Image.new("RGB", (30, 30), "white").save(image_folder / "val" / "dark" / "2.png")
        return build(*parts)

    monkeypatch.setattr(cache, "_build", late)
    with pytest.raises(UserError, match="changed while they were decoded"):
        decoded(Folder(image_folder, "val"), image_settings(image_folder), tmp_path)
    assert not list(tmp_path.rglob("pixels.npy"))


def test_another_image_or_crop_is_another_cache(image_folder: Path, tmp_path: Path) -> None:
    before = decoded(Folder(image_folder, "val"), image_settings(image_folder), tmp_path).fingerprint
    assert decoded(Folder(image_folder, "val"), image_settings(image_folder, resize=20), tmp_path).fingerprint != before
    Image.new("RGB", (30, 30), "white").save(image_folder / "val" / "dark" / "9.png")
    assert decoded(Folder(image_folder, "val"), image_settings(image_folder), tmp_path).fingerprint != before


def test_evaluation_takes_the_centre_of_the_resized_image() -> None:
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[10:30, 30:50] = 255
    crop = center_crop(Image.fromarray(pixels), resize=40, size=20)
    assert crop.shape == (20, 20, 3)
    assert (crop == 255).all()
    assert center_crop(Image.fromarray(pixels), resize=20, size=16).shape == (16, 16, 3)


def noise(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (*rng.integers(20, 300, 2), 3), dtype=np.uint8))


def test_evaluation_crops_as_paddle_does_whatever_the_size() -> None:
    rng, published = np.random.default_rng(0), Compose([Resize(64), CenterCrop(56)])
    for _ in range(100):
        image = noise(rng)
        assert (center_crop(image, 64, 56) == np.asarray(published(image))).all(), image.size
    assert Resize(256)(Image.new("RGB", (640, 427))).size == (383, 256)  # the longer side is rounded down


def test_evaluation_resizes_only_the_middle_of_an_extremely_long_image() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for size in ((1, 12_000), (12_001, 1)):
        assert center_crop(Image.new("RGB", size, "white"), 256, 224).min() == 255
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes; whole they take 3 GB
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (2, 1, 3)))
    assert center_crop(ramp, 8, 8)[0, :, 0].tolist() == np.asarray(ramp.resize((1024, 8), 2))[0, 508:516, 0].tolist()


def test_a_training_crop_is_cut_out_before_it_is_scaled() -> None:
    sizes = np.random.default_rng(0)
    for seed in range(50):
        image = noise(sizes)
        left, top, width, height = random_window(*image.size, np.random.default_rng(seed))
        wanted = np.asarray(image.crop((left, top, left + width, top + height)).resize((64, 64), Image.Resampling.BILINEAR))
        crop = random_resized_crop(image, 64, np.random.default_rng(seed))
        assert (crop == wanted).all() or (crop[:, ::-1] == wanted).all()


def test_training_crop_has_the_size_asked_for_even_of_a_sliver() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 300), (300, 1), (37, 50)):
        assert random_resized_crop(Image.new("RGB", shape), 16, rng).shape == (16, 16, 3)


def test_shift_moves_each_image_by_an_eighth_at_most() -> None:
    images = np.zeros((64, 16, 16, 3), dtype=np.uint8)
    images[:, 8, 8] = 255
    moved = shift(images, random_shifts(np.random.default_rng(0), 64, 16), flip=False)
    places = {tuple(np.argwhere(image[..., 0])[0]) for image in moved}
    assert len(places) > 10
    assert all(abs(y - 8) <= 2 and abs(x - 8) <= 2 for y, x in places)


def test_network_input_is_normalised_per_channel() -> None:
    data = Data(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    x = to_network(paddle.to_tensor(np.full((1, 2, 2, 3), 255, dtype=np.uint8)), data)
    assert x.shape == [1, 3, 2, 2]
    np.testing.assert_allclose(x.numpy()[0, :, 0, 0], [1, 3, 1], rtol=1e-6)


def test_calibration_images_come_evenly_and_skip_the_corrupt_one(image_folder: Path) -> None:
    data = image_settings(image_folder)
    images = calibration_images(open_source(data, "train", 2), data, 12)
    assert images.shape == (11, 16, 16, 3)


@given(st.integers(1, 3000))
def test_every_beginning_of_the_spread_order_holds_all_classes_alike(total: int) -> None:
    order = spread_order(total)
    assert sorted(order) == list(range(total))
    labels = np.arange(total) * 4 // total  # four classes, one after another
    for count in (total // 7, total // 2, total - 1):
        shares = np.bincount(labels[order[:count]], minlength=4)
        assert shares.max() - count / 4 <= 2 + np.log2(total)


def test_fewer_validation_images_are_the_first_of_more() -> None:
    few, many = (open_source(Data(source="digits", val_limit=count), "val", 10) for count in (30, 200))
    assert np.array_equal(few.labels, many.labels[:30])
    assert all(few.read(index) == many.read(index) for index in range(30))
