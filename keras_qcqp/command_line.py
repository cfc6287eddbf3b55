"""What the command lines share: flags of their own, help, progress on standard error, failure in one line."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags

from keras_qcqp.errors import QcqpError

_HELP = ("-h", "-help", "--help", "--helpshort", "--helpfull")


class UsageError(QcqpError):
    """The command line itself is wrong."""


class StoppedError(QcqpError):
    """Ctrl-C, after something was written."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A program.

    Attributes:
        help: what `--help` shows before the flags.
        flag_values: a set of its own: absl's global one holds the flags of whatever else is imported.
        required: flags that must have a value.
        run: does the work; wrong combinations of flags are a UsageError.
    """

    help: str
    flag_values: flags.FlagValues
    required: tuple[flags.FlagHolder[Any], ...]
    run: Callable[[], None]

    def main(self, argv: list[str]) -> int:
        """Runs the command; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
        if any(argument in _HELP for argument in argv[1:]):
            print(f"{self.help.strip()}\n\nFlags:\n{self._flags_help()}")
            return 0
        try:
            self._parse(argv)
            self.run()
        except KeyboardInterrupt:
            return _fail("interrupted", 130)
        except StoppedError as error:
            return _fail(str(error), 130)
        except UsageError as error:
            return _fail(f"{error} See --help.", 2)
        except (QcqpError, OSError) as error:
            return _fail(str(error), 1)
        except Exception as error:
            return _fail(f"Internal error, please report it: {type(error).__name__}: {error}", 1)
        return 0

    def start(self) -> None:
        """As a process: quiet frameworks, and no traceback when the reader of the output leaves."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported
        logging.getLogger("jax").setLevel(logging.WARNING)  # it tells of every device that it does not find
        try:
            try:
                app.run(self.main, flags_parser=_leave_to_main)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:  # whoever reads, say `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)

    def _parse(self, argv: list[str]) -> None:
        if self.flag_values.is_parsed():  # `main` may be called more than once
            self.flag_values.unparse_flags()
        try:
            rest = self.flag_values(argv)
        except flags.Error as error:
            raise UsageError(f"{str(error).rstrip('.')}.") from error
        if len(rest) > 1:
            raise UsageError(f"Unexpected argument '{rest[1]}'. Every input is a flag, --name=value.")
        for flag in self.required:
            if not flag.value:
                raise UsageError(f"The flag --{flag.name} is required.")

    def _flags_help(self) -> str:
        """Our own flags only; absl adds `--flagfile` and `--undefok` to every set."""
        shown = [self.flag_values[name] for name in self.flag_values if name not in ("flagfile", "undefok")]
        defaults = {flag.name: f" (default: {flag.default})" if flag.default else "" for flag in shown}
        return "\n".join(f"  --{flag.name}: {flag.help}{defaults[flag.name]}" for flag in shown)


def teller(quiet: bool) -> Callable[[str], None]:
    """Says lines of progress on standard error, or nothing."""
    return silent if quiet else lambda line: print(line, file=sys.stderr, flush=True)


def silent(line: str) -> None:
    """Says nothing."""
    del line


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _leave_to_main(argv: list[str]) -> list[str]:
    """absl's own parser answers a wrong flag with several lines, and `--help` of a console script with nothing."""
    flags.FLAGS(argv[:1])  # absl insists that its global flags are parsed
    return argv
