"""Whether a file can be one of weights, by its beginning: quick for any size, and without Paddle."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from paddle_pgonas.errors import UserError
from paddle_pgonas.io.pickle_machine import Refused, check_beginning
from paddle_pgonas.io.records import DamagedFile


def check_weight_file(path: str | Path) -> None:
    """Raise UserError unless a file is there that begins as ``.safetensors`` (by its suffix) or ``.pdparams`` files do."""
    path = Path(path)
    if not path.is_file():
        meant = [f"{path}{suffix}" for suffix in (".safetensors", ".pdparams") if Path(f"{path}{suffix}").is_file()]
        raise UserError(f"{path}: no such weight file" + (f"; did you mean {meant[0]}?" if meant else ""))
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy"):
                return
        with path.open("rb") as file:
            check_beginning(file.read(2))
    except Refused as error:
        raise UserError(f"{path}: not a safe .pdparams file: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a damaged file can raise any exception
        raise DamagedFile(f"{path}: not a complete safetensors file ({type(error).__name__}: {error})") from None
