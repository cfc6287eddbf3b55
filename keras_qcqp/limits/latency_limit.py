"""Milliseconds on a device as the user asks for them; what they mean for a network is told in `latency`."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_qcqp.errors import BudgetError

if TYPE_CHECKING:
    from keras_qcqp.limits.latency_file import LatencyFile

NAME = "latency_ms"
_HOW = "Write LatencyLimit('latency.json', ms=4.0) or LatencyLimit('latency.json', fraction=0.5)."


@dataclasses.dataclass(frozen=True)
class LatencyLimit:
    """At most so many milliseconds on the device of a latency file, or such a share of what the network takes now.

    Attributes:
        path: the file that `tflite_fit_latency` made for this network.
        ms: the limit, absolute.
        fraction: or the limit as a share in (0, 1].
        scale: how many times what is predicted is measured; `prune(..., verify=True)` finds it.

    Raises:
        BudgetError: both or neither of the two, or out of range.
    """

    path: str
    ms: float | None = None
    fraction: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))
        if (self.ms is None) == (self.fraction is None):
            raise BudgetError(
                f"A latency limit is either ms or a fraction, got {self.ms!r} and {self.fraction!r}. {_HOW}"
            )
        for name, most in (("ms", math.inf), ("fraction", 1.0), ("scale", math.inf)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value <= most and value < math.inf):
                raise BudgetError(
                    f"{name} of a latency limit must be above 0 and at most {most:g}, got {value!r}. {_HOW}"
                )

    @classmethod
    def of(cls, value: Any) -> LatencyLimit:
        """Reads a limit as it is, "4.0@latency.json" or "50%@latency.json".

        Raises:
            BudgetError: anything else.
        """
        if isinstance(value, LatencyLimit):
            return value
        number, at, path = str(value).partition("@")
        share = number.strip().endswith("%")
        try:
            size = float(number.strip().removesuffix("%"))
        except ValueError:
            size = math.nan
        if not isinstance(value, str) or not at or not path.strip() or math.isnan(size):
            raise BudgetError(
                f"Cannot read the latency limit {value!r}. Write 4.0@latency.json or 50%@latency.json, or in Python "
                "LatencyLimit('latency.json', ms=4.0)."
            )
        return cls(path.strip(), **({"fraction": size / 100} if share else {"ms": size}))

    # What follows is what every limit of a budget has, see `limits.budget.Limit`.
    @property
    def name(self) -> str:
        """What users write."""
        return NAME

    @property
    def pattern(self) -> None:
        """It is one of the whole network."""
        return None

    @property
    def key(self) -> str:
        """The name of the limited resource in a `Problem`, whose unit is ns."""
        return f"latency_ns[{Path(self.path).name}]"

    @property
    def resource(self) -> str:
        """The same: each file is a resource of its own."""
        return self.key

    def reach(self, original: int) -> int:
        """The limit in predicted nanoseconds, for a network that takes `original` of them.

        Raises:
            BudgetError: it is absolute, and the network meets it already.
        """
        if self.fraction is not None:
            return min(math.floor(self.fraction * original / self.scale * (1 + 1e-12)), original)
        assert self.ms is not None
        limit = math.floor(self.ms * 1e6 / self.scale * (1 + 1e-12))
        if limit >= original:
            raise BudgetError(
                f"Budget {self} is met already: the network takes {original * self.scale / 1e6:.4g} ms. Ask for less, "
                "or leave it out."
            )
        return limit

    def tightened(self, nanoseconds: int, used: int) -> LatencyLimit:
        """The same as an absolute limit of so many predicted nanoseconds; what is `used` may not grow."""
        if nanoseconds >= used:
            return dataclasses.replace(self, ms=None, fraction=1.0)
        return dataclasses.replace(self, ms=nanoseconds * self.scale / 1e6, fraction=None)

    def load(self) -> LatencyFile:
        """The file.

        Raises:
            BudgetError: it is missing or damaged.
        """
        from keras_qcqp.limits.latency_file import load_latency  # NumPy is not for `--help`

        return load_latency(self.path)

    def __str__(self) -> str:
        size = f"{self.ms:g}" if self.ms is not None else f"{100 * (self.fraction or 0):g}%"
        return f"{NAME}={size}@{self.path}"
