"""What can go wrong, one class per kind of mistake; every message says what happened, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QcqpError(Exception):
    """Base of every error this package raises on purpose."""


class ModelError(QcqpError, ValueError):
    """The model cannot be read, or a layer of it cannot be rebuilt."""


class FrozenLayerError(ModelError):
    """`strict=True` and some layers would have to be frozen."""


class BudgetError(QcqpError, ValueError):
    """A budget that makes no sense for this model."""


class InfeasibleError(BudgetError):
    """No selection of channels meets the budgets, whatever it costs in accuracy."""


class ProblemError(QcqpError, ValueError):
    """A `Problem` whose parts do not fit together."""


class PlanError(QcqpError, ValueError):
    """A plan that is damaged or was made for another model."""


class TrainingError(QcqpError, ValueError):
    """Settings, data or a checkpoint that a model cannot be fine-tuned with."""


class FileError(QcqpError, OSError):
    """A file that cannot be read or written."""


class DataError(QcqpError, ValueError):
    """Examples that do not fit the model, or are needed and missing."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Ends an error sentence: the nearest known word, then all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word), known, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
