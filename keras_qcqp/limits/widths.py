"""Rules for how many channels stay, and which: what the user may say beside the budget."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from keras_qcqp.errors import BudgetError, did_you_mean

Rule = Mapping[str, float]
_LEAST = 0.25
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Widths:
    """Rules for how many channels stay, and which.

    The first three are a number for all layers, or a mapping from patterns over layer paths to numbers; of several
    patterns that match a layer the most specific one counts (most characters that are no wildcards, then the last), and
    "*" speaks of all others. A rule speaks of the output of layers that make channels (convolutions, Dense, sums of
    union residuals), and is handed on to the sets of coupled channels in it, each in proportion. Layers that are
    coupled keep all their rules at once. Frozen channels stay whatever the rules say.

    Attributes:
        min_keep: at least so many channels: a count >= 1, or a fraction in (0, 1). 0 lets a layer lose all of them
            where its branch can then be taken out, together with the addition or concatenation that joined it; layers
            whose branch cannot be taken out keep one.
        max_keep: at most so many channels: a count >= 1, or a fraction in (0, 1); None is no limit.
        width_multiple: the width of each coupled set is a multiple of this, or stays as it is. "auto" takes what the
            device of the latency budget computes without waste, "auto@latency.json" what that file says.
        frozen: patterns over layer paths; all output channels of these layers stay.
        together: `["conv_a", "conv_b"]`, these layers keep the same channels; `{"conv_c": [0, 1, 2, 3]}`, these
            channels live or die as one, across all layers of the mapping.

    Raises:
        BudgetError: values out of range.
    """

    min_keep: float | Rule = _LEAST
    max_keep: float | Rule | None = None
    width_multiple: int | Mapping[str, int] | str = 1
    frozen: Sequence[str] = ()
    together: Sequence[Sequence[str] | Mapping[str, Sequence[int]]] = ()

    def __post_init__(self) -> None:
        for name, (default, _, _) in RULES.items():
            given = getattr(self, name)
            if name == "width_multiple" and isinstance(given, str) and given.partition("@")[0] == AUTO:
                continue  # see `aligning`
            rule = dict(given) if isinstance(given, Mapping) else {"*": given}
            for pattern, value in rule.items():
                _check(name, pattern, value)
            object.__setattr__(self, name, {"*": default} | rule)
        _check_frozen(self.frozen)
        object.__setattr__(self, "frozen", tuple(self.frozen))
        if isinstance(self.together, (str, Mapping)) or not isinstance(self.together, Sequence):
            raise BudgetError(f"together must be a list of sets, got {self.together!r}. {_TOGETHER}")
        for item in self.together:
            _check_set(item)
        object.__setattr__(self, "together", tuple(self.together))

    @classmethod
    def of(cls, widths: Widths | Mapping[str, Any]) -> Widths:
        """Reads `Widths(min_keep=1)` or `{"min_keep": 1}`.

        Raises:
            BudgetError: an unknown name, or values out of range.
        """
        if isinstance(widths, Widths):
            return widths
        if not isinstance(widths, Mapping):
            raise BudgetError(f"widths must be Widths or a dict such as {{'width_multiple': 8}}, got {widths!r}.")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in widths:
            if name not in known:
                raise BudgetError(f"Unknown width rule '{name}'. {did_you_mean(str(name), known)}")
        return cls(**widths)

    def rule(self, name: str) -> Rule:
        """One of the first three as a mapping, "*" included."""
        rule: Rule = getattr(self, name)
        return rule


def _is_share(value: Any) -> bool:
    """Whether a value is a count >= 1 or a fraction in (0, 1)."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and bool(value > 0) and not (value > 1 and value % 1)


def _is_zero(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and value == 0


def _is_multiple(value: Any) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and int(value) >= 1


def _is_limit(value: Any) -> bool:
    """1.0 is refused: it may mean one channel, or all of them."""
    return value is None or (_is_share(value) and not (value == 1 and not isinstance(value, numbers.Integral)))


_SHARE = "a count >= 1 or a fraction in (0, 1)"
RULES = {
    "min_keep": (_LEAST, lambda value: _is_share(value) or _is_zero(value), f"{_SHARE}, or 0"),
    "max_keep": (None, _is_limit, f"{_SHARE} (leave it out for no limit)"),
    "width_multiple": (1, _is_multiple, "an integer >= 1"),
}
"""Rule -> its value where nothing is said, the test of a value, and what the test wants."""

_TOGETHER = "For example [['conv_a', 'conv_b'], {'conv_c': [0, 1, 2, 3]}]."


def _check(name: str, pattern: object, value: object) -> None:
    if not isinstance(pattern, str) or not pattern:
        raise BudgetError(f"{name}: a pattern over layer paths must be a text, got {pattern!r}.")
    _, valid, wanted = RULES[name]
    if not valid(value):
        where = "" if pattern == "*" else f" of '{pattern}'"
        raise BudgetError(f"{name}{where} must be {wanted}, got {value!r}.")


def _check_frozen(frozen: Any) -> None:
    texts = isinstance(frozen, Sequence) and all(isinstance(p, str) and p for p in frozen)
    if isinstance(frozen, str) or not texts:
        raise BudgetError(f"frozen must be a list of patterns over layer paths such as ['stem*'], got {frozen!r}.")


def _check_set(item: Any) -> None:
    if isinstance(item, Mapping):
        good = all(isinstance(layer, str) for layer in item) and all(map(_are_positions, item.values()))
        good = good and sum(map(len, item.values())) > 1
    else:
        good = isinstance(item, Sequence) and not isinstance(item, str) and len(item) > 1
        good = good and all(isinstance(layer, str) for layer in item)
    if not good:
        raise BudgetError(
            f"together: a set is a list of two or more layers, or maps layers to two or more positions in all, "
            f"got {item!r}. {_TOGETHER}"
        )


def _are_positions(given: Any) -> bool:
    sized = isinstance(given, (Sequence, range)) and not isinstance(given, str)
    return sized and all(isinstance(p, numbers.Integral) and not isinstance(p, bool) for p in given)
