"""Cheap checks of the paths that a job reads and writes, made before Paddle is loaded and before any image is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from paddle_pgonas.config.loading import Config, files_read
from paddle_pgonas.data.lists import check_split
from paddle_pgonas.data.sources import Split
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import check_readable
from paddle_pgonas.io.outputs import check_writable
from paddle_pgonas.io.weight_files import check_weight_file

WEIGHTS = ("model.pretrained", "method.teacher")
"""The keys that name weights."""


def check_paths(config: Config, splits: Iterable[Split] = (), *, reads: Collection[str] = (), writes: bool = True) -> None:
    """Raise UserError for missing images of ``splits``, a missing or wrong file of the keys that a job ``reads``, or, if it
    ``writes``, an ``output_dir`` that cannot be made or written."""
    for key, path in files_read(config).items():
        if key in reads:
            try:
                (check_weight_file if key in WEIGHTS else check_readable)(path)
            except UserError as error:
                remedy = f"; give its path, or {key}=null for random weights"
                named = f"{key}: {error}" + remedy * (key == "model.pretrained" and not Path(path).exists())
                raise type(error)(named) from None
    for split in splits:
        check_split(config.data, split)
    if writes:
        check_writable(f"output_dir: {config.output_dir}", Path(config.output_dir).absolute())
