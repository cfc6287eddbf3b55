"""What the user asks for: one limit for each resource, absolute or a fraction of the original."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping

from keras_qcqp.errors import BudgetError, did_you_mean

_ALIASES = {"flops": ("macs", 2)}  # 1 multiply-accumulate = 2 floating-point operations


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits; None is unlimited. A value in (0, 1] is a fraction of the original, above 1 it is absolute.

    Attributes:
        macs: multiply-accumulates for one sample.
        flops: the same, counted as 2 x macs.
        params: number of variables' entries.
        weight_bytes: bytes of the variables.
        activation_bytes: bytes of all layer outputs for one sample, summed.

    Raises:
        BudgetError: no limit at all, or one that is zero, negative, NaN or no number.
    """

    macs: float | None = None
    flops: float | None = None
    params: float | None = None
    weight_bytes: float | None = None
    activation_bytes: float | None = None

    def __post_init__(self) -> None:
        if not self.asked():
            raise BudgetError(f"The budget is empty. Give at least one of {', '.join(_NAMES)}, for example macs=0.5.")
        for name, value in self.asked().items():
            _check(name, value)
            object.__setattr__(self, name, value if isinstance(value, int) else float(value))

    def asked(self) -> dict[str, float]:
        """The limits that are set."""
        return {name: getattr(self, name) for name in _NAMES if getattr(self, name) is not None}

    @classmethod
    def of(cls, budget: Budget | Mapping[str, float] | str) -> Budget:
        """Reads `Budget(macs=0.5)`, `{"macs": 0.5}` or `"macs=0.5,params=0.6"`.

        Raises:
            BudgetError: an unknown name or an unreadable value.
        """
        if isinstance(budget, Budget):
            return budget
        if isinstance(budget, str):
            budget = _parse(budget)
        if not isinstance(budget, Mapping):
            raise BudgetError(f"A budget is a Budget, a dict or a string such as 'macs=0.5', got {budget!r}.")
        for name in budget:
            if name not in _NAMES:
                raise BudgetError(f"Unknown budget '{name}'. {did_you_mean(name, _NAMES)}")
        return cls(**budget)

    def limits(self, original: Mapping[str, int]) -> dict[str, int]:
        """Integer limits for the resources of a model whose unpruned usage is `original`.

        Raises:
            BudgetError: an absolute limit that the model meets already.
        """
        limits: dict[str, int] = {}
        for name, value in self.asked().items():
            resource, factor = _ALIASES.get(name, (name, 1))
            full = original[resource] * factor
            # 0.29 of 100 is meant to be 29, though the float product is a little less.
            limit = math.floor(value * full * (1 + 1e-12)) if value <= 1 else math.floor(value)
            limit = min(limit, full) if value <= 1 else limit
            if value > 1 and limit >= full:
                raise BudgetError(
                    f"Budget {name}={value:,.10g} is met already: the model has {full:,}. Ask for less, or for a "
                    f"fraction in (0, 1], or leave it out."
                )
            limit //= factor
            limits[resource] = min(limit, limits.get(resource, limit))
        return limits

    def __str__(self) -> str:
        return ",".join(f"{name}={value:.10g}" for name, value in self.asked().items())


_NAMES = tuple(field.name for field in dataclasses.fields(Budget))


def resource_of(name: str) -> str:
    """The resource that a budget name limits."""
    return _ALIASES.get(name, (name, 1))[0]


def _check(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise BudgetError(f"Budget {name} must be a number, got {value!r}.")
    try:
        size = float(value)
    except OverflowError:  # a Python integer beyond all floats
        size = math.inf
    if not 0 < size < math.inf:  # false for NaN too
        raise BudgetError(
            f"Budget {name}={value!s:.40} must be finite and above 0: a fraction of the original in (0, 1], or an "
            "absolute limit."
        )


def _parse(text: str) -> dict[str, float]:
    parsed: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = (p.strip() for p in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise BudgetError(f"Cannot read budget '{part}'. Write name=value, for example 'macs=0.5,params=0.6'.")
        if name in parsed:
            raise BudgetError(f"Budget '{name}' is given twice.")
        parsed[name] = number
    return parsed
