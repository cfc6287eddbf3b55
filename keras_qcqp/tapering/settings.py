"""The numbers of a tapering, checked before anything is loaded or built."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from keras_qcqp.errors import TrainingError, did_you_mean


@dataclasses.dataclass(frozen=True)
class TaperSettings:
    """How the resources shrink, and how gates move.

    Attributes:
        arrive: share of the batches after which the budget is reached; the rest of the run trains what is left.
        every: batches of training for each step of the gates.
        speed: how far a gate of usual value moves in a step.
        tolerance: how much the training loss may grow on the way, as a share of the loss at the start, before the taper
            slows down.
        batch_size: examples for each step of the gates.
        num_samples: training examples that these are drawn from.

    Raises:
        TrainingError: a value that makes no sense; says which.
    """

    arrive: float = 0.6
    every: int = 4
    speed: float = 0.03
    tolerance: float = 0.5
    batch_size: int = 128
    num_samples: int = 8192

    def __post_init__(self) -> None:
        for name in ("every", "batch_size", "num_samples"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise TrainingError(f"{name} must be a whole number >= 1, got {value!r}.")
        for name, most in (("arrive", 1.0), ("speed", 1.0), ("tolerance", math.inf)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) <= most:
                raise TrainingError(f"{name} must be a number above 0{'' if most == math.inf else ' and up to 1'}.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> TaperSettings:
        """Raises TrainingError with the nearest known name where one is unknown."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise TrainingError(f"Unknown setting '{name}' of tapering. {did_you_mean(name, known)}")
        return cls(**given)
