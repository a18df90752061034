"""Shared parts of the command lines: arguments for a configuration, and errors as one line with their exit status."""

from __future__ import annotations

import argparse
import errno
import functools
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from paddle_pgonas.config.loading import Config, load_config
from paddle_pgonas.errors import UserError
from paddle_pgonas.io.files import refuse_overwriting
from paddle_pgonas.priors.by_name import AT_INITIALISATION, PRIORS, check_name
from paddle_pgonas.space.arch import SPACES, SearchSpace
from paddle_pgonas.space.named import find_space

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputFile(str):
    """Type of an argument that names a file to read."""


class OutputFile(str):
    """Type of an argument that names a file to write."""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line, and refuses outputs that are also inputs."""

    def __init__(self, description: str = "", **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, **options)

    def parse_known_args(self, *args: Any, **options: Any) -> Any:
        """Parse as argparse does; refuse an :class:`OutputFile` that is an :class:`InputFile` or given twice."""
        arguments, rest = super().parse_known_args(*args, **options)
        given = [item for value in vars(arguments).values() for item in (value if isinstance(value, list) else [value])]
        outputs = [value for value in given if isinstance(value, OutputFile)]
        if "" in outputs:
            self.error("an output file has an empty name")
        refuse_overwriting(outputs, [value for value in given if isinstance(value, InputFile)])
        return arguments, rest

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        print(f"{self.prog}: error: {message}; see --help", file=sys.stderr)
        sys.exit(2)


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``-c CONFIG`` and ``-o key=value ...``."""
    text = "configuration file (YAML), see configs/"
    parser.add_argument("-c", "--config", required=required, type=InputFile, metavar="CONFIG", help=text)
    text = "change keys, e.g. -o train.epochs=10"
    parser.add_argument("-o", "--override", action="extend", nargs="+", default=[], metavar="key=value", help=text)


def add_space(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add ``--space NAME|FILE``, a :class:`~paddle_pgonas.space.arch.SearchSpace`."""
    text = f"{', '.join(SPACES)}, or a YAML file with a space's fields" + (f" (default: {default})" if default else "")
    parser.add_argument("--space", type=_space, default=default, metavar="NAME|FILE", help=text)


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


def _space(value: str) -> SearchSpace:
    try:
        return find_space(value)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_setting(parser: argparse.ArgumentParser) -> None:
    """Add what costs depend on: ``-c CONFIG`` with ``-o``, ``--space``, ``--image-size`` and ``--classes``."""
    add_config(parser, required=False)
    add_space(parser)
    parser.add_argument("--image-size", type=int, metavar="N", help="side of the images")
    parser.add_argument("--classes", type=int, metavar="N", help="outputs of the network")


def setting_of(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> tuple[SearchSpace | None, int | None, int | None]:
    """Space, image size and classes as the options of :func:`add_setting` tell them; None what nobody tells."""
    if arguments.config and arguments.space:
        parser.error("give either -c or --space")
    if arguments.override and not arguments.config:
        parser.error("-o goes with -c")
    for option, value in (("--image-size", arguments.image_size), ("--classes", arguments.classes)):
        if value is not None and value < 1:
            parser.error(f"{option} must be at least 1, not {value}")
    if not arguments.config:
        return arguments.space, arguments.image_size, arguments.classes
    config = config_of(arguments)
    image_size, classes = arguments.image_size or config.data.image_size, arguments.classes or config.model.num_classes
    return config.search_space, image_size, classes


def config_of(arguments: argparse.Namespace) -> Config:
    """The configuration that the arguments name."""
    return load_config(arguments.config, arguments.override)


def run(main: Callable[[], None]) -> NoReturn:
    """Call ``main`` and exit: 0 if it returns; with one line 2 for a user's mistake or an unusable file, 3 for a training that
    diverged; 130 for Ctrl-C."""
    program = os.path.basename(sys.argv[0])
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
        _leave(error.status, f"{program}: error: {error}")
    except KeyboardInterrupt:
        _leave(130, f"{program}: interrupted")
    except BrokenPipeError:  # the reader of the output has ended, as with `| head`
        _leave(141)
    except OSError as error:
        if error.errno in NO_SPACE:
            _leave(2, f"{program}: error: {error.filename or 'output'}: cannot be written ({error.strerror}); free some space")
        if error.filename is None:
            raise
        _leave(2, f"{program}: error: {error.filename}: {error.strerror}")
    _leave(0)


def command(main: Callable[[], None]) -> Callable[[], NoReturn]:
    """Decorate a function as a program that :func:`run` calls, for both ``python tools/NAME.py`` and the installed command."""
    return functools.partial(run, main)


def _leave(status: int, message: str = "") -> NoReturn:
    """Exit, even if the message or the rest of the output cannot be written."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, message and message + "\n")):
        try:
            print(text, end="", file=stream, flush=True)
        except OSError:  # Python would try again when it ends, and exit with another status
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)
