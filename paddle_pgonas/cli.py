"""Shared parts of the command lines: arguments for a configuration, and errors as one line with their exit status."""

from __future__ import annotations

import argparse
import functools
import io
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from typing_extensions import Self

from paddle_pgonas import __version__, interrupts  # first: it is effective while the others are imported
from paddle_pgonas.config.loading import Config, inputs_of, load_config
from paddle_pgonas.config.shipped import purposes
from paddle_pgonas.errors import UserError, printable
from paddle_pgonas.io.files import NO_SPACE, check_readable, expanded
from paddle_pgonas.io.outputs import check_writable, claim, refuse_overwriting
from paddle_pgonas.priors.by_name import AT_INITIALISATION, PRIORS, check_name
from paddle_pgonas.runtime import own_settings_of_matplotlib
from paddle_pgonas.space.arch import SPACES, SearchSpace
from paddle_pgonas.space.named import find_space, is_space_file

if TYPE_CHECKING:
    from paddle_pgonas.data.sources import Split

OPTIONS = {"other_data=True": "--resume-with-other-data", "resume=True": "--resume", "overwrite=True": "--overwrite"}
"""How the library's messages name what a caller may choose, and what a command line calls it."""


class PathArgument(str):
    """Type of an argument that names a file or folder; a leading ``~`` is the home folder."""

    def __new__(cls, path: str) -> Self:
        """Raises UserError for ``~name`` without such a user."""
        return super().__new__(cls, expanded(path))


class InputFile(PathArgument):
    """Type of an argument that names a file to read."""


class WeightFile(InputFile):
    """Type of an argument that names a file of weights to read."""


class OutputFile(PathArgument):
    """Type of an argument that names a file to write."""


class InputFolder(PathArgument):
    """Type of an argument that names a folder to read."""


class OutputFolder(PathArgument):
    """Type of an argument that names a folder to write."""


class _Space(PathArgument):
    """Type of an argument that names a space; becomes the space when the arguments are parsed."""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line, and refuses outputs that are also inputs."""

    def __init__(self, description: str = "", **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        # An abbreviation would become another option when one is added, and records name options as written.
        super().__init__(description=description, **{"allow_abbrev": False} | options)
        self.add_argument("--version", action="version", version=f"paddle_pgonas {__version__}")

    def parse_known_args(self, *args: Any, **options: Any) -> Any:
        """Parse as argparse does, read spaces, and :func:`~paddle_pgonas.io.outputs.claim` each :class:`OutputFile`."""
        arguments, rest = super().parse_known_args(*args, **options)
        inputs = _given(arguments, InputFile)
        for name, value in vars(arguments).items():
            if isinstance(value, _Space):
                inputs += [value] if is_space_file(value) else []
                setattr(arguments, name, self._space(value))
        outputs = _given(arguments, OutputFile)
        if "" in outputs:
            self.error("an output file has an empty name")
        refuse_overwriting(outputs, inputs)
        for name, value in vars(arguments).items():
            if isinstance(value, OutputFile):
                claim(f"{_tool(self.prog)} --{name}", value)
        return arguments, rest

    def _space(self, value: str) -> SearchSpace:
        try:
            return find_space(value)
        except UserError as error:
            self.error(f"argument --space: {error}")

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        print(printable(f"{self.prog}: error: {message}; see --help"), file=sys.stderr)
        sys.exit(2)


def _given(arguments: argparse.Namespace, kind: type[PathArgument]) -> list[str]:
    """The arguments of a type."""
    given = (item for value in vars(arguments).values() for item in (value if isinstance(value, list) else [value]))
    return [value for value in given if isinstance(value, kind)]


def _tool(program: str) -> str:
    """The name of a tool, however it was started: ``write_submission`` for pgonas-write-submission and write_submission.py."""
    return program.removesuffix(".py").removeprefix("pgonas-").replace("-", "_")


class _ListConfigs(argparse.Action):
    """Prints the project's configurations, each with what it is for, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        known = purposes()
        for name, purpose in known.items():
            say(f"{name:{max(map(len, known))}}  {purpose}")
        parser.exit()


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``-c CONFIG`` and ``-o key=value ...``."""
    text = "configuration file (YAML), or the name of one of the project's, such as track1/sandwich.yaml"
    parser.add_argument("-c", "--config", required=required, type=InputFile, metavar="CONFIG", help=text)
    parser.add_argument("--list-configs", action=_ListConfigs, nargs=0, help="list the project's configurations and exit")
    text = "change keys, e.g. -o train.epochs=10"
    parser.add_argument("-o", "--override", action="extend", nargs="+", default=[], metavar="key=value", help=text)


def add_space(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add ``--space NAME|FILE``, a :class:`~paddle_pgonas.space.arch.SearchSpace`."""
    text = f"{', '.join(SPACES)}, or a YAML file with a space's fields" + (f" (default: {default})" if default else "")
    parser.add_argument("--space", type=_Space, default=default, metavar="NAME|FILE", help=text)


def add_prior(
    parser: argparse.ArgumentParser, required: bool = False, use: str = "score with this prior", images: bool = False
) -> None:
    """Add ``--prior NAME``; with ``images`` the tool can compute the priors at initialisation, too."""
    known = [*PRIORS, *(AT_INITIALISATION if images else ())]

    def prior(value: str) -> str:
        try:
            return check_name(value, known)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    text = f"{', '.join(known)}, an import path such as my_module:my_prior, or a sum such as flops+params"
    parser.add_argument("--prior", type=prior, required=required, metavar="NAME", help=f"{use}: {text}")


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Add what costs depend on: ``-c CONFIG`` with ``-o``, ``--space``, ``--image-size`` and ``--classes``."""
    add_config(parser, required=False)
    add_space(parser)
    parser.add_argument("--image-size", type=int, metavar="N", help="side of the images")
    parser.add_argument("--classes", type=int, metavar="N", help="outputs of the network")


def setting_of(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> tuple[SearchSpace | None, int | None, int | None, Config | None]:
    """Space, image size, classes and configuration as the options of :func:`add_setting` tell them; None what nobody tells."""
    if arguments.config and arguments.space:
        parser.error("give either -c or --space")
    if arguments.override and not arguments.config:
        parser.error("-o goes with -c")
    for option, value in (("--image-size", arguments.image_size), ("--classes", arguments.classes)):
        if value is not None and value < 1:
            parser.error(f"{option} must be at least 1, not {value}")
    if not arguments.config:
        return arguments.space, arguments.image_size, arguments.classes, None
    config = config_of(arguments)
    image_size, classes = arguments.image_size or config.data.image_size, arguments.classes or config.model.num_classes
    return config.search_space, image_size, classes, config


def config_of(arguments: argparse.Namespace) -> Config:
    """The configuration that the arguments name. Raises UserError for an output that it reads, too."""
    config = load_config(arguments.config, arguments.override)
    refuse_overwriting(_given(arguments, OutputFile), inputs_of(arguments.config, arguments.override, config))
    return config


def check_inputs(
    arguments: argparse.Namespace,
    config: Config | None = None,
    splits: Sequence[Split] = (),
    *,
    reads: Collection[str] = (),
    writes: bool = True,
) -> None:
    """Check the paths of the arguments and of the configuration (:func:`paddle_pgonas.inputs.check_paths`) before the work.

    Raises UserError for the first that a job cannot read or write. Needs no Paddle.
    """
    for file in _given(arguments, InputFile):
        if isinstance(file, WeightFile):
            from paddle_pgonas.io.weight_files import check_weight_file

            check_weight_file(file)
        elif file != arguments.__dict__.get("config"):  # which was read
            check_readable(file)
    for folder in _given(arguments, InputFolder):
        if not os.path.isdir(folder):
            raise UserError(f"{folder}: no such folder")
    for folder in _given(arguments, OutputFolder):
        check_writable(folder, Path(folder).absolute())
    if config is not None:
        from paddle_pgonas.inputs import check_paths

        check_paths(config, splits, reads=reads, writes=writes)


def run(main: Callable[[], None]) -> NoReturn:
    """Call ``main`` and exit: 0 if it returns; with one line 2 for a user's mistake or an unusable file, 3 for a training that
    diverged; 130 for Ctrl-C, 143 for SIGTERM."""
    program = os.path.basename(sys.argv[0])
    interrupts.install()
    _open_streams()
    own_settings_of_matplotlib()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold characters that the terminal cannot show
    try:
        os.getcwd()
    except FileNotFoundError:
        _leave(2, f"{program}: error: the working folder was deleted; change to an existing one")
    try:
        main()
        print(end="", flush=True)
    except UserError as error:
        _leave(error.status, f"{program}: error: {_with_options(str(error))}")
    except KeyboardInterrupt as error:
        status, text = interrupts.line_of(error)
        _leave(status, f"{program}: {text}")
    except BrokenPipeError:  # the reader of the output has ended, as with `| head`
        _leave(141)
    except OSError as error:
        if error.errno in NO_SPACE:
            _leave(2, f"{program}: error: {error.filename or 'output'}: cannot be written ({error.strerror}); free some space")
        if error.filename is None:
            raise
        _leave(2, f"{program}: error: {error.filename}: {error.strerror}")
    _leave(0)


def _with_options(message: str) -> str:
    """A message of the library with its parameters as options of the command line."""
    for parameter, option in OPTIONS.items():
        message = message.replace(parameter, option)
    return message


def _open_streams() -> None:
    """Give closed streams (``2>&-``) the null device: else the next file that is opened would receive what is printed."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(null)
    sys.stdin, sys.stdout, sys.stderr = (
        stream or open(number, mode, closefd=False)  # noqa: SIM115
        for number, (stream, mode) in enumerate([(sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w")])
    )


class _Outliving(io.FileIO):
    """An output stream that goes silent when its reader ends."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


def outlive_readers() -> None:
    """Let a long job, whose results are files, go on when the reader of its output ends, as with ``| head``."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        buffer: Any = getattr(stream, "buffer", None)
        buffered = isinstance(buffer, io.BufferedWriter)  # not with python -u
        if isinstance(buffer.raw if buffered else buffer, io.FileIO):
            stream.flush()
            raw = _Outliving(stream.fileno(), "w", closefd=False)
            settings = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            below = io.BufferedWriter(raw) if buffered else raw
            setattr(sys, name, io.TextIOWrapper(below, stream.encoding, stream.errors, **settings))


def say(line: str) -> None:
    """Print one line; control characters, which names may hold, are escaped."""
    print(printable(line))


def command(main: Callable[[], None]) -> Callable[[], NoReturn]:
    """Decorate a function as a program that :func:`run` calls, for both ``python tools/NAME.py`` and the installed command."""
    return functools.partial(run, main)


def _leave(status: int, message: str = "") -> NoReturn:
    """Exit, even if the message or the rest of the output cannot be written."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, message and printable(message) + "\n")):
        try:
            print(text, end="", file=stream, flush=True)
        except OSError:  # Python would try again when it ends, and exit with another status
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)
