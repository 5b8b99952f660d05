"""The command ``nastc``: parser, exit codes, logging."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from nni_nastc import __version__
from nni_nastc.cli import (
    bench,
    data,
    demo,
    evaluate,
    export,
    extract,
    import_features,
    launch,
    nni_env,
    predict,
    results,
    search,
    train,
    weights,
)
from nni_nastc.errors import NastcError
from nni_nastc.files import disk_errors

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_COMMANDS = (
    demo,
    data,
    extract,
    import_features,
    search,
    train,
    evaluate,
    predict,
    export,
    bench,
    weights,
    launch,
    results,
    nni_env,
)


class _Parser(argparse.ArgumentParser):
    """Tells an error in one line, without the usage."""

    default_choice: str | None = None
    """Of this parser's own commands, the one that is meant where none is named."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; put the default command before arguments that name none."""
        if self.default_choice and args and not args[0].startswith("-"):
            commands = next(a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction))
            args = args if args[0] in commands else [self.default_choice, *args]
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the error, and exit with code 2."""
        self.exit(EXIT_USER_ERROR, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(
        prog="nastc",
        description="Search, train and use temporal networks for complex actions in long videos (NAS-TC on NNI).",
    )
    parser.add_argument("--version", action="version", version=f"nni_nastc {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(resumes=False)  # a command that goes on where it stopped says so
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; ``key=value`` may also follow an option, which argparse alone does not allow."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if unknown := [text for text in rest if text.startswith("-") or not hasattr(arguments, "overrides")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        arguments.overrides += rest
    return arguments


def _in_words(error: NastcError | OSError) -> str:
    """Return an error of ours as it is, one of the operating system with the path and what to do."""
    if isinstance(error, NastcError) or not error.filename:
        return str(error)
    return f"{error.strerror}: {error.filename}; check that the path can be read and written, or choose another"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        0 if all went well, 2 if something that was given is wrong, 130 if it was interrupted.
    """
    arguments = _parse(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text, terminals may lack letters
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with disk_errors(os.getcwd()):
            code = arguments.run(arguments)
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # the reader of a pipe wants no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (NastcError, OSError) as error:
        if arguments.debug:
            raise
        print(f"nastc {arguments.command}: {_in_words(error)}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        resumes = "; the same command goes on where it stopped" if arguments.resumes else ""
        print(f"\nnastc {arguments.command}: interrupted{resumes}", file=sys.stderr)
        return EXIT_INTERRUPTED
