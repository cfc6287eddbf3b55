"""What the command-line programs share: flags, help, progress on standard error, failure in one line."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from absl import app, flags

from tflite_tools.errors import RepresentativeDataWarning, TfliteToolsError

Progress = Callable[[str], contextlib.AbstractContextManager[Any]]


class UsageError(TfliteToolsError):
    """A command line that lacks something or contradicts itself."""


@dataclass(frozen=True)
class Command:
    """A program: `main` takes a function for progress messages and returns the text for standard output.

    Each program has its own `flag_values`: with absl's global set, two programs with a flag `--model` could
    not be imported in one process.
    """

    name: str
    help: str
    flag_values: flags.FlagValues
    main: Callable[[Progress], str]


def new_flags() -> flags.FlagValues:
    """An empty set of flags that knows `--help`."""
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this text.", short_name="h", flag_values=values)
    return values


def run_command(command: Command, argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a program and exits: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    # Both must be set before anything imports TensorFlow or Keras.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"

    def parse(arguments: list[str]) -> list[str]:
        flags.FLAGS(arguments[:1])  # absl insists that its global flags are parsed as well
        return _parse(command, arguments)

    try:
        try:
            app.run(lambda _: _guarded(command), list(argv or sys.argv), flags_parser=parse)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, say `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    raise AssertionError("app.run always exits")


def required(flag: flags.FlagHolder[Any]) -> Any:
    """The value of a flag that must be given; absl's own check would also refuse a bare `--help`.

    Raises:
        UsageError: it is missing or empty.
    """
    if not flag.value:
        raise UsageError(f"the flag --{flag.name} is required; see --help")
    return flag.value


def _parse(command: Command, arguments: list[str]) -> list[str]:
    values = command.flag_values
    values.unparse_flags()
    try:
        rest = values(["--help" if a in ("--helpfull", "--helpshort", "-help") else a for a in arguments])
    except flags.Error as error:
        _fail(command, f"{error}; see --help", 2)
    if values["help"].value:
        print(f"{command.help.strip()}\n\nFlags:\n{_flags_help(values)}")
        sys.exit(0)
    if len(rest) > 1:
        _fail(command, f"unexpected argument '{rest[1]}'; give options as --name=value, see --help", 2)
    return rest


def _flags_help(values: flags.FlagValues) -> str:
    """Our own flags only; absl adds `--flagfile` and `--undefok` to every set."""
    shown = [values[name] for name in values if len(name) > 1 and name not in ("flagfile", "undefok")]
    defaults = {flag.name: f" (default: {flag.default})" if flag.default else "" for flag in shown}
    return "\n".join(f"  --{flag.name}: {flag.help}{defaults[flag.name]}" for flag in shown)


def _guarded(command: Command) -> int:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", RepresentativeDataWarning)
            with _progress() as progress:
                text = command.main(progress)
    except UsageError as error:
        _fail(command, str(error), 2)
    except TfliteToolsError as error:
        _fail(command, str(error), 1)
    except KeyboardInterrupt:
        _fail(command, "interrupted", 130)
    except Exception as error:
        _fail(command, f"internal error, please report it: {type(error).__name__}: {error}", 1)
    for warning in caught:
        print(f"{command.name}: warning: {warning.message}", file=sys.stderr)
    print(text)
    return 0


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Messages that vanish when done and stay away from pipes and log files."""
    from rich.console import Console

    # A descriptor of its own, because the converter's silence covers the standard one.
    try:
        descriptor = os.dup(2)
    except OSError:  # started with standard error closed
        descriptor = os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as stream:
        console = Console(file=stream)
        # Redrawn rarely, because the redrawing thread would disturb a measurement.
        yield lambda message: console.status(message, refresh_per_second=1)


def _fail(command: Command, message: str, code: int) -> NoReturn:
    print(f"{command.name}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
