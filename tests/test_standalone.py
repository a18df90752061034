"""Stand-alone training learns, repeats itself, and keeps what it has trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REPOSITORY, some_archs

from paddle_pgonas.arch import MINI
from paddle_pgonas.config import Config, load_config
from paddle_pgonas.data.cache import validation_images
from paddle_pgonas.errors import UserError
from paddle_pgonas.nn.supernet import Supernet
from paddle_pgonas.nn.weights import load_weights
from paddle_pgonas.submission import Candidate, read_scores
from paddle_pgonas.training import standalone
from paddle_pgonas.training.standalone import accuracy, make_truth, train_standalone


def config(folder: Path, **changes: object) -> Config:
    base = load_config(REPOSITORY / "configs" / "mini" / "standalone_digits.yaml")
    return base.changed(output_dir=str(folder), train=changes)


def test_a_subnet_learns_the_digits_and_one_seed_gives_one_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(tmp_path, epochs=3, batch_size=32)
    acc = train_standalone(settings, MINI.smallest)
    assert acc > 0.6
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")  # processes share the subnets of a list, never the images of one
    assert train_standalone(settings, MINI.smallest) == acc
    assert train_standalone(settings.changed(seed=1), MINI.smallest) != acc


def test_a_truth_file_grows_and_trains_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [Candidate(f"a{i}", arch, arch.code, None) for i, arch in enumerate(some_archs(MINI, 4))]
    trained: list[str] = []

    def fake(settings: Config, arch: object) -> float:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(str(arch))
        return len(trained) / 10

    monkeypatch.setattr(standalone, "train_standalone", fake)
    output = tmp_path / "truth.json"
    with pytest.raises(KeyboardInterrupt):
        make_truth(config(tmp_path), candidates, output)
    assert read_scores(output, MINI) == {candidates[0].arch.code: 0.1, candidates[1].arch.code: 0.2}
    trained.clear()
    make_truth(config(tmp_path), candidates, output)
    assert trained == [candidate.arch.code for candidate in candidates[2:]]
    assert len(read_scores(output, MINI)) == 4


def test_another_recipe_keeps_its_own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [Candidate("a", MINI.smallest, MINI.smallest.code, None)]
    results = iter((0.1, 0.2))
    monkeypatch.setattr(standalone, "train_standalone", lambda settings, arch: next(results))
    for epochs, acc in ((1, 0.1), (2, 0.2), (1, 0.1)):
        make_truth(config(tmp_path, epochs=epochs), candidates, tmp_path / "truth.json")
        assert read_scores(tmp_path / "truth.json", MINI) == {MINI.smallest.code: acc}


def test_two_ranks_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = [Candidate(f"a{i}", arch, arch.code, None) for i, arch in enumerate(some_archs(MINI, 5))]
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setattr(standalone, "train_standalone", lambda settings, arch: 0.5)
    counts = []
    for rank in (0, 1):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        make_truth(config(tmp_path), candidates, tmp_path / "truth.json")
        counts.append(len(read_scores(tmp_path / "truth.json", MINI)))
    assert counts == [3, 5]


def test_a_diverged_loss_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged"):
        train_standalone(config(tmp_path, max_steps=20, lr_per_256=1e9, warmup_epochs=0.0), MINI.smallest)


def test_kept_weights_of_the_largest_subnet_teach_a_supernet(tmp_path: Path) -> None:
    settings = config(tmp_path, epochs=1, max_steps=3)
    acc = train_standalone(settings, MINI.largest, tmp_path / "teacher.safetensors")
    net = Supernet(MINI, 10, settings.model.activation)
    assert load_weights(net, tmp_path / "teacher.safetensors")["acc"] == acc
    net.eval()
    assert accuracy(net, validation_images(settings), settings) == acc
