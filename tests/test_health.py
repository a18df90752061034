"""A collapsed training is recognized, and small samples raise no false alarm."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import paddle
import pytest
from conftest import REPOSITORY

from paddle_pgonas.config.loading import load_config
from paddle_pgonas.errors import Diverged
from paddle_pgonas.training.health import Health


@pytest.mark.parametrize(
    ("classes", "images", "accuracy", "collapsed"),
    [(1, 64, 1.0, False), (2, 8, 0.5, False), (2, 32, 0.8, False), (2, 4096, 0.5, True), (10, 1024, 0.1, True)],
    ids=["one class", "8 images", "32 images", "two classes", "ten classes"],
)
def test_too_few_images_or_one_class_are_never_a_collapse(classes: int, images: int, accuracy: float, collapsed: bool) -> None:
    source = SimpleNamespace(num_classes=classes, classes=list(range(classes)))
    settings = load_config(REPOSITORY / "configs" / "demo.yaml", [f"train.batch_size={images}", "train.warmup_epochs=0"]).train
    health = Health(settings, SimpleNamespace(steps_per_epoch=1, source=source))  # type: ignore[arg-type]
    health.add(paddle.to_tensor(accuracy))
    with pytest.raises(Diverged) if collapsed else nullcontext():
        health.check(2, [paddle.ones([1])])
