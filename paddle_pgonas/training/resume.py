"""Checks that a run matches its checkpoint, and that several processes match each other."""

from __future__ import annotations

from typing import Any

from paddle_pgonas import processes
from paddle_pgonas.config.loading import free_on_resume
from paddle_pgonas.config.meaning import classes_of, first_difference
from paddle_pgonas.errors import UserError, brief
from paddle_pgonas.io.records import Record, value_at
from paddle_pgonas.schema import flat

PER_PROCESS = {"output_dir", "device", "data.root", "data.train_list", "data.val_list", "data.cache_dir", "data.workers"}
"""Keys that may differ between the processes of one training: paths, device and loader processes."""


def check_same_run(now: Record, then: Record, other_data: bool = False) -> None:
    """Raise UserError if this run and a checkpoint's differ in a key that can change a weight, the number of processes, the
    contents of the teacher's or the candidates' file, or (unless ``other_data``) the training images."""
    ours, theirs = flat(now["config"]), flat(then["config"])
    if "train.strategy" in theirs:
        raise UserError("resume=True: an older version began this run, with train.strategy instead of method.name; start anew")
    for key in sorted((set(ours) | set(theirs)) - free_on_resume()):
        if ours.get(key) != theirs.get(key):
            raise UserError(f"resume=True: the run was started with {key}={theirs.get(key)}, now it is {ours.get(key)}")
    if then["loss_scale"].keys() != now["loss_scale"].keys():
        raise UserError("resume=True: the checkpoint's loss scale is not that of train.amp; start anew")
    if then["processes"] != now["processes"]:
        raise UserError(f"resume=True: the run was started with {then['processes']} processes, now there are {now['processes']}")
    for key, digest in now["files"].items():
        if (value_at(then, "files", key) or digest) != digest:
            raise UserError(f"resume=True: the contents of {key} have changed since the last checkpoint; restore the file")
    if not other_data and (difference := _images_differ(now["training_images"], then.get("training_images"))):
        raise UserError(f"resume=True: {difference}; restore the images, or continue with other_data=True")


def _images_differ(now: dict[str, Any], then: Any) -> str | None:
    """The difference of the training images as text; None if they are the same."""
    if now == then:
        return None
    if classes_of({"training_images": then}) is None or not isinstance(then.get("number"), int):
        return "the checkpoint, of an older version, does not say which images it was trained on"
    counts = [f"{images['number']:,} training images of {len(images['classes'])} classes" for images in (then, now)]
    if difference := first_difference(then["classes"], now["classes"]):
        counts[1] += f" ({difference})"
    if counts[0] == counts[1]:
        return f"the contents of the {counts[0]} have changed since the last checkpoint"
    return f"the last checkpoint was made with {counts[0]}, now there are {counts[1]}"


def check_processes(facts: dict[str, Any]) -> None:
    """Raise UserError in all processes if ``facts`` (nested dictionaries) differ between them beyond :data:`PER_PROCESS`."""
    first, *others = map(flat, processes.gather(facts))
    for rank, other in enumerate(others, start=1):
        for key in first | other:
            name, ours, theirs = key.removeprefix("config."), first.get(key), other.get(key)
            if name not in PER_PROCESS and ours != theirs:
                values = f"{brief(str(ours))[:60]} in process 0 and {brief(str(theirs))[:60]} in process {rank}"
                raise UserError(
                    f"the processes of this training disagree: {name} is {values}; give all processes the same settings"
                )
