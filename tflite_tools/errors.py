"""What can go wrong, one class per stage; a message says what happened, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TfliteToolsError(Exception):
    """Base of every error this package raises on purpose."""


class RecipeError(TfliteToolsError, ValueError):
    """A recipe that does not exist or contradicts itself."""


class RepresentativeDataError(TfliteToolsError, ValueError):
    """Samples that would calibrate a quantized model wrongly, or not at all."""


class RepresentativeDataWarning(UserWarning):
    """Samples that calibrate a model, but probably not well."""


class ConversionError(TfliteToolsError):
    """A Keras model that cannot be loaded or cannot become the wanted `.tflite`."""


class TfliteFileError(TfliteToolsError, ValueError):
    """Bytes that are missing, cut off, or no TFLite model at all."""


class QatError(TfliteToolsError):
    """Quantization-aware training that cannot be done, or failed."""


class QatWarning(UserWarning):
    """A trained file that exceeds what its network was pruned to."""


class VerificationError(TfliteToolsError, ValueError):
    """A comparison of things that do not belong together, or one that cannot be drawn."""


class OutputFileError(TfliteToolsError, OSError):
    """A place where the result cannot be written."""


class DeviceError(TfliteToolsError):
    """A device that does not exist, or on which a valid model does not run."""


class ProfileError(TfliteToolsError, ValueError):
    """Arguments of a measurement, or a stored profile, that make no sense."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Ends an error sentence with the nearest known word, then with all of them.

    >>> did_you_mean("int9", ["float32", "int8"])
    "Did you mean 'int8'? Known: float32, int8."
    """
    words = list(known)
    close = difflib.get_close_matches(str(word), words, n=1)
    return (f"Did you mean '{close[0]}'? " if close else "") + f"Known: {', '.join(words)}."


def first_line(error: BaseException, limit: int = 240) -> str:
    """The first line of a foreign exception that says something, cut to `limit` characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
