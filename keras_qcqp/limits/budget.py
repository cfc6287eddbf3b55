"""What the user asks for: limits for a model and for some of its layers, absolute or a share of the original."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from keras_qcqp.errors import BudgetError, did_you_mean
from keras_qcqp.limits.latency_limit import LatencyLimit

_ALIASES = {"flops": ("macs", 2)}  # 1 multiply-accumulate = 2 floating-point operations
_PER_LAYER = ("macs", "flops", "params", "weight_bytes", "activation_bytes")
_GROUPS = ("costs", "layers", "latency_ms")  # fields that are no limits themselves, but hold some


@dataclasses.dataclass(frozen=True)
class Limit:
    """One wish: at most `value` of `name`, counted over the layers that match `pattern` (None: the whole model)."""

    name: str
    value: float
    pattern: str | None = None

    @property
    def resource(self) -> str:
        """The resource that is limited, without its scope."""
        return _ALIASES.get(self.name, (self.name, 1))[0]

    @property
    def key(self) -> str:
        """The name of the limited resource in a `Problem`: `macs`, or `macs[stage3/*]`."""
        return self.resource if self.pattern is None else f"{self.resource}[{self.pattern}]"

    def reach(self, original: int) -> int:
        """The limit as an integer, for a model whose unpruned usage is `original`.

        Raises:
            BudgetError: it is absolute, and the model meets it already.
        """
        factor = _ALIASES.get(self.name, (self.name, 1))[1]
        full = original * factor
        if self.value <= 1:
            # 0.29 of 100 is meant to be 29, though the float product is a little less.
            return min(math.floor(self.value * full * (1 + 1e-12)), full) // factor
        limit = math.floor(self.value)
        if limit >= full:
            whose = "the model has" if self.pattern is None else "these layers have"
            raise BudgetError(
                f"Budget {self._left_side}={self.value:,.10g} is met already: {whose} {full:,}. Ask for less, or for a "
                f"fraction in (0, 1], or leave it out."
            )
        return limit // factor

    @property
    def _left_side(self) -> str:
        return self.name if self.pattern is None else f"{self.pattern}:{self.name}"

    def __str__(self) -> str:
        whole = isinstance(self.value, int) or (self.value.is_integer() and self.value < 2**53)
        return f"{self._left_side}={int(self.value) if whole else self.value!r}"


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits; None is unlimited. A value in (0, 1] is a fraction of the original, above 1 it is absolute.

    Attributes:
        macs: multiply-accumulates for one sample.
        flops: the same, counted as 2 x macs.
        params: number of variables' entries.
        weight_bytes: bytes of the variables.
        activation_bytes: bytes of all layer outputs for one sample, summed.
        peak_bytes: the most bytes of activations alive at once while the `.tflite` file runs.
        tflite_bytes: size of the `.tflite` file.
        latency_ms: a `LatencyLimit`, or one for each device.
        costs: name of a `CostModel` -> limit.
        layers: pattern over layer paths, such as "stage3/*" -> limits of what the matching layers use together;
            fractions are of what the same layers used before.

    Raises:
        BudgetError: no limit at all, or one that is zero, negative, NaN or no number.
    """

    macs: float | None = None
    flops: float | None = None
    params: float | None = None
    weight_bytes: float | None = None
    activation_bytes: float | None = None
    peak_bytes: float | None = None
    tflite_bytes: float | None = None
    latency_ms: LatencyLimit | Sequence[LatencyLimit] | None = None
    costs: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    layers: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in _NAMES:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name)))
        clash = sorted({*self.costs} & {*_NAMES, *_GROUPS})
        if clash:
            raise BudgetError(f"A cost model may not be called '{clash[0]}': that name has a meaning of its own.")
        object.__setattr__(self, "costs", {name: _number(name, v) for name, v in self.costs.items() if v is not None})
        object.__setattr__(self, "layers", _scopes(self.layers))
        object.__setattr__(self, "latency_ms", _latencies(self.latency_ms))
        if not self.asked():
            raise BudgetError(f"The budget is empty. Give at least one of {', '.join(_KNOWN)}, for example macs=0.5.")

    def asked(self) -> tuple[Limit | LatencyLimit, ...]:
        """The limits that are set."""
        return tuple(self._asked())

    @property
    def latencies(self) -> tuple[LatencyLimit, ...]:
        """The limits of latencies, one for each file."""
        return tuple(self.latency_ms or ())  # type: ignore[arg-type]

    def _asked(self) -> Iterator[Limit | LatencyLimit]:
        yield from (Limit(name, getattr(self, name)) for name in _NAMES if getattr(self, name) is not None)
        yield from (Limit(name, value) for name, value in self.costs.items())
        for pattern, named in self.layers.items():
            yield from (Limit(name, value, pattern) for name, value in named.items())
        yield from self.latencies

    @classmethod
    def of(cls, budget: Budget | Mapping[str, Any] | str, costs: Collection[str] = ()) -> Budget:
        """Reads `Budget(macs=0.5)`, `{"macs": 0.5, "layers": {"stage3/*": {"params": 0.4}}}` or
        `"macs=0.5,stage3/*:params=0.4"`.

        Args:
            costs: names of cost models, which may be limited like everything else.

        Raises:
            BudgetError: an unknown name or an unreadable value.
        """
        if isinstance(budget, str):
            budget = _parse(budget)
        if isinstance(budget, Mapping):
            budget = cls._of_mapping(budget, costs)
        if not isinstance(budget, Budget):
            raise BudgetError(f"A budget is a Budget, a dict or a string such as 'macs=0.5', got {budget!r}.")
        for name in budget.costs:
            if name not in costs:
                raise BudgetError(_unknown(name, costs))
        return budget

    @classmethod
    def _of_mapping(cls, budget: Mapping[str, Any], costs: Collection[str]) -> Budget:
        given = budget.get("costs", {})
        if not isinstance(given, Mapping):
            raise BudgetError(f"Budgets of cost models are written {{'costs': {{name: limit}}}}, got {given!r}.")
        fields: dict[str, Any] = {"costs": dict(given)}
        for name, value in budget.items():
            if name in costs:
                fields["costs"][name] = value
            elif name in _KNOWN or name == "layers":
                fields[name] = value
            elif name != "costs":
                raise BudgetError(_unknown(name, costs))
        return cls(**fields)

    def limits(self, original: Mapping[str, int]) -> dict[str, int]:
        """Integer limits by resource (`Limit.key`) of a model whose unpruned usage is `original`.

        Raises:
            BudgetError: an absolute limit that the model meets already.
        """
        limits: dict[str, int] = {}
        for limit in self.asked():
            reach = limit.reach(original[limit.key])
            limits[limit.key] = min(reach, limits.get(limit.key, reach))
        return limits

    def __str__(self) -> str:
        return ",".join(map(str, self.asked()))


_NAMES = tuple(field.name for field in dataclasses.fields(Budget) if field.name not in _GROUPS)
_KNOWN = (*_NAMES, "latency_ms")


def _unknown(name: object, costs: Collection[str] = ()) -> str:
    return f"Unknown budget '{name}'. {did_you_mean(str(name), [*_KNOWN, *costs])}"


def _number(name: str, value: object) -> float:
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
    return value if isinstance(value, int) else size


def _latencies(given: Any) -> tuple[LatencyLimit, ...] | None:
    """One limit for each file, or None; a single one need not be a list."""
    if given is None:
        return None
    several = isinstance(given, Sequence) and not isinstance(given, str)
    found = tuple(LatencyLimit.of(limit) for limit in (given if several else (given,)))
    keys = [limit.key for limit in found]
    twice = [limit for limit in found if keys.count(limit.key) > 1]
    if twice:
        raise BudgetError(f"Two latency limits are called '{twice[0].key}'. Give their files different names.")
    return found or None


def _scopes(layers: object) -> dict[str, dict[str, float]]:
    if not isinstance(layers, Mapping) or not all(isinstance(named, Mapping) for named in layers.values()):
        raise BudgetError(
            f"Budgets of layers are written {{'layers': {{'stage3/*': {{'params': 0.4}}}}}}, got {layers!r}."
        )
    found: dict[str, dict[str, float]] = {}
    for pattern, named in layers.items():
        if not isinstance(pattern, str) or not pattern.strip() or pattern != pattern.strip() or "," in pattern:
            raise BudgetError(
                f"A pattern over layers is a text without commas or spaces around it ('?' stands for any character), "
                f"got {pattern!r}."
            )
        for name, value in named.items():
            if name not in _PER_LAYER:
                raise BudgetError(_not_per_layer(pattern, name))
            if value is not None:
                found.setdefault(pattern, {})[name] = _number(f"{pattern}:{name}", value)
    return found


def _not_per_layer(pattern: str, name: object) -> str:
    if name in _KNOWN:
        return f"Budget {pattern}:{name}: '{name}' is not a sum over layers. Limit {', '.join(_PER_LAYER)} for layers."
    return f"Budget {pattern}:{name}: '{name}' cannot be limited for layers. {did_you_mean(str(name), _PER_LAYER)}"


def _parse(text: str) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        left, equals, value = (p.strip() for p in part.rpartition("="))
        if left == "latency_ms":
            parsed.setdefault("latency_ms", []).append(LatencyLimit.of(value))
            continue
        number = _read_number(value)
        if not equals or number is None:
            raise BudgetError(
                f"Cannot read budget '{part}'. Write name=value, for example 'macs=0.5,params=0.6', or "
                "pattern:name=value for some layers, for example 'stage3/*:params=0.4'."
            )
        pattern, colon, name = (p.strip() for p in left.rpartition(":"))
        group = parsed.setdefault("layers", {}).setdefault(pattern, {}) if colon else parsed
        if name in group:
            raise BudgetError(f"Budget '{left}' is given twice.")
        if not colon and name in _GROUPS:
            raise BudgetError(_unknown(name))
        group[name] = number
    return parsed


def _read_number(text: str) -> float | None:
    for read in (int, float):  # an integer stays exact, whatever its size
        try:
            return read(text)
        except ValueError:
            continue
    return None
