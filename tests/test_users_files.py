"""Nothing of the user's is replaced: a command replaces only what an earlier run of it wrote, which it knows by content."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import TINY, TINY_CONFIG, TINY_SPACE, Tool, assert_one_line, tiny_config

from paddle_pgonas.config.loading import inputs_of, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import read_json, write_text
from paddle_pgonas.io.outputs import NOTES, claim, wrote
from paddle_pgonas.scores.files import Candidate, write_scores
from paddle_pgonas.training.checkpoints import checkpoints, refuse_overwriting
from paddle_pgonas.training.trainer import check_job, train


def write(command: str, path: Path, text: str) -> None:
    claim(command, path)
    write_text(path, text)


def test_a_command_replaces_what_it_wrote_and_nothing_else(tmp_path: Path) -> None:
    mine, edited, others = tmp_path / "mine", tmp_path / "edited", tmp_path / "others"
    for text in ("one", "two"):
        write("a", mine, text)
    assert mine.read_text() == "two" and wrote("a", mine)
    write("a", edited, "one")
    edited.write_text("by hand")
    others.write_text("kept")
    for path in (edited, others):
        with pytest.raises(UserError, match="not what this command wrote"):
            claim("a", path)
    with pytest.raises(UserError, match="belongs to a"):
        claim("b", mine)
    others.write_text("")  # as mktemp makes it
    write("a", others, "now")


def test_a_file_that_appears_during_the_work_stays(tmp_path: Path) -> None:
    claim("a", tmp_path / "file")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="not what this command wrote"):
        write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("renamed", [False, True], ids=["before", "after"])
def test_a_command_that_was_killed_while_it_wrote_knows_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    path, rename = tmp_path / "file", Path.replace
    write("a", path, "one")

    def dies(part: Path, target: Path) -> None:
        if target != path or renamed:
            rename(part, target)
        if target == path:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", dies)
        write_text(path, "two")
    assert path.read_text() == ("two" if renamed else "one")
    write("a", path, "three")


@pytest.mark.parametrize("damage", [b"", b"\xff", b"[1]", b'{"command": 1, "sha256": []}', b'{"command": "a"}'])
def test_a_damaged_note_is_none(tmp_path: Path, damage: bytes) -> None:
    write("a", tmp_path / "file", "one")
    (tmp_path / NOTES / "file").write_bytes(damage)
    with pytest.raises(UserError, match="not what this command wrote"):
        claim("a", tmp_path / "file")


def test_the_mode_of_a_replaced_file_stays_and_a_link_too(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "one")
    (tmp_path / "file").chmod(0o600)
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "two")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "two"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", ["file/below", "dir", "fifo"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="cannot be written"):
        claim("a", tmp_path / place)


def test_a_folder_without_permission_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root, tests could not be refused
    with pytest.raises(UserError, match=r"Permission denied.*another place"):
        claim("a", tmp_path / "new" / "file")
    assert not (tmp_path / "new").exists()


def test_files_beside_two_outputs_are_not_shared(tool: Tool, tmp_path: Path) -> None:
    def find(name: str) -> tuple[int, str, str]:
        options = ["--prior", "params", "--population", 4, "--generations", 1, "--output", tmp_path / name]
        return tool("search", "-c", TINY_CONFIG, "-o", f"output_dir={tmp_path}/run", *options)

    for name in ("sub.top1", "sub.likelihood", "sub.json", "sub.top1"):
        assert find(name)[0] == 0
    assert (tmp_path / "sub.top1.record.json").exists() and (tmp_path / "sub.likelihood.record.json").exists()
    assert_one_line(*find("sub")[::2], "belongs to search --output sub.json")
    read_json(tmp_path / "sub.json", "front")


def test_a_front_that_is_named_as_a_picture_is_not_replaced_by_it(tool: Tool, tmp_path: Path) -> None:
    options = ["--prior", "params", "--population", 4, "--generations", 1, "--output", tmp_path / "front.svg"]
    assert tool("search", "-c", TINY_CONFIG, "-o", f"output_dir={tmp_path}/run", *options)[0] == 0
    assert read_json(tmp_path / "front.svg", "front")
    assert (tmp_path / "front.svg.svg").read_text().startswith("<svg")


def test_every_file_of_a_configuration_is_protected(tool: Tool, tmp_path: Path) -> None:
    """Even if the same command wrote it, so that only its being read protects it."""
    space, base, weights = tmp_path / "s.yaml", tmp_path / "base.yaml", tmp_path / "w.safetensors"
    write("sample_candidates --output", space, TINY_SPACE.read_text())
    write("score_prior --output", base, f"base: {TINY_CONFIG}\nspace: s.yaml\nmodel: {{pretrained: {weights}}}\n")
    write("score_prior --output", weights, "weights")
    (config := tmp_path / "c.yaml").write_text("base: base.yaml\n")
    assert {str(base), str(space), str(weights), str(config)} <= set(inputs_of(config, [], load_config(config)))
    before = {path: path.read_bytes() for path in (space, base, weights, config)}
    assert_one_line(*tool("sample_candidates", "--space", space, "--count", 2, "--output", space)[::2], "is read and would be")
    candidates = tmp_path / "candidates.json"
    assert tool("sample_candidates", "--space", space, "--count", 2, "--output", candidates)[0] == 0
    for output in (base, weights):
        done = tool("score_prior", "-c", config, "--prior", "params", "--candidates", candidates, "--output", output)
        assert_one_line(*done[::2], "is read and would be")
    assert {path: path.read_bytes() for path in before} == before


def test_the_same_command_again_replaces_its_output_but_not_anothers(tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    for count in (2, 3):
        assert tool("sample_candidates", "--space", "mini", "--count", count, "--output", path)[0] == 0
    assert len(json.loads(path.read_text())) == 3
    (tmp_path / "d.json").write_bytes(path.read_bytes())
    assert_one_line(*tool("sample_candidates", "--count", 2, "--output", tmp_path / "d.json")[::2], "d.json: exists")
    assert_one_line(
        *tool("score_prior", "--prior", "params", "--candidates", tmp_path / "d.json", "--output", path)[::2], "belongs"
    )


def test_a_configuration_or_log_of_the_users_in_a_runs_folder_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("# notes\n")
    with pytest.raises(UserError, match=r"config\.yaml: exists"):
        check_job(tiny_config(run))
    (run / "config.yaml").unlink()
    check_job(tiny_config(run))
    (run / "metrics.jsonl").write_text("my notes\n")
    for resume in (False, True):
        with pytest.raises(UserError, match="is not the log of a run"):
            refuse_overwriting(run, resume, 1)


def test_a_users_file_among_the_watched_ones_is_refused_before_the_training(tmp_path: Path) -> None:
    write_scores(tmp_path / "truth.json", [Candidate("a", TINY.smallest, TINY.smallest.code, None)], [0.5])
    watched = tmp_path / "run" / "watched"
    watched.mkdir(parents=True)
    (watched / "1.json").write_text("mine")
    wanted = ["train.watch_images=4", "train.watch_subnets=2", f"train.watch_truth={tmp_path}/truth.json", "train.max_steps=1"]
    config = tiny_config(tmp_path / "run", *wanted)
    with pytest.raises(UserError, match=r"watched/1\.json: exists"):
        train(config)
    assert (watched / "1.json").read_text() == "mine" and not (tmp_path / "run" / "metrics.jsonl").exists()
    (watched / "1.json").unlink()
    train(config)
    assert read_json(watched / "1.json", "measurement") and train(config, resume=True)
    (watched / "1.json").write_text("changed")
    with pytest.raises(UserError, match=r"watched/1\.json: exists"):
        train(config, resume=True)


def test_only_files_with_a_checkpoints_name_are_checkpoints(tmp_path: Path) -> None:
    for name in ("step-00000020", "step-00000020-mine", "step-best", "step-20", "step-00000003"):
        (tmp_path / f"{name}.safetensors").touch()
    assert [path.stem for path in checkpoints(tmp_path)] == ["step-00000003", "step-00000020"]


def test_a_training_whose_files_are_missing_creates_nothing(tool: Tool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for wrong in (f"model.pretrained={tmp_path}/w", f"data.root={tmp_path}/images"):
        options = [f"output_dir={run}", "data.source=folder", "model.num_classes=2", "train.watch_images=0", wrong]
        status, _, _ = tool("train_supernet", "-c", TINY_CONFIG, "-o", *options, "train.watch_subnets=0")
        assert status == 2 and not run.exists()
    options = [f"output_dir={run}", "method=null", "train.watch_images=0", "train.watch_subnets=0"]
    start = ["--arch", TINY.smallest.code, "--start", tmp_path / "w"]
    assert tool("train_standalone", "-c", TINY_CONFIG, "-o", *options, *start)[0] == 2 and not run.exists()


def test_text_in_an_override_is_taken_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    texts = ["output_dir=runs/a #1", "data.root=123", "method.teacher=x: {y", "model.pretrained=~/w", "data.cache_dir=null"]
    config = load_config(TINY_CONFIG, ["method=uniform", "data.source=folder", *texts])
    assert (config.output_dir, config.data.root) == ("runs/a #1", "123")
    assert (config.model.pretrained, config.data.cache_dir) == ("/home/me/w", None)
    assert config.method is not None and config.method.model_dump()["teacher"] == "x: {y"
    assert load_config(TINY_CONFIG, ["output_dir='a #b'"]).output_dir == "a #b"


def test_the_home_folder_is_found_in_files_and_options_too(tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(TINY_SPACE.read_text())
    (tmp_path / "base.yaml").write_text(f"base: {TINY_CONFIG}\nspace: ~/space.yaml\n")
    (tmp_path / "c.yaml").write_text("base: ~/base.yaml\noutput_dir: ~/run\n")
    config = load_config("c.yaml")
    assert config.output_dir == f"{tmp_path}/run" and config.search_space == TINY
    assert tool("sample_candidates", "--space", "~/space.yaml", "--count", 2, "--output", "~/c.json")[0] == 0
    assert (tmp_path / "c.json").exists() and not (tmp_path / "~").exists()
    with pytest.raises(UserError, match=r"output_dir ~nobody_of_this_name/x: there is no such home"):
        load_config(TINY_CONFIG, ["output_dir=~nobody_of_this_name/x"])


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json", "file") == {"a": 1}
