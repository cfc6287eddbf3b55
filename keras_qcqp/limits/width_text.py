"""Width rules as text, for command lines."""

from __future__ import annotations

from collections.abc import Sequence

from keras_qcqp.errors import BudgetError


def parse_rule(name: str, text: str) -> float | dict[str, float] | str:
    """Reads "8", "0.25" or "stage1/*=8,*=4"; for `width_multiple` also "auto" and "auto@latency.json".

    Raises:
        BudgetError: what is no number, or a pattern that is given twice.
    """
    if name == "width_multiple" and text.partition("@")[0] == "auto":
        return text
    if "=" not in text:
        return _number(name, text, text)
    rule: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        pattern, _, value = (p.strip() for p in part.rpartition("="))
        if pattern in rule:
            raise BudgetError(f"{name}: '{pattern}' is given twice.")
        rule[pattern] = _number(name, value, part)
    return rule


def parse_set(text: str) -> list[str] | dict[str, list[int]]:
    """Reads a keep-together set: "conv_a,conv_b", or "conv_c:0-3,conv_d:4+6" with positions.

    Raises:
        BudgetError: positions that cannot be read, or that only some of the layers have.
    """
    parts = [p.strip() for p in text.split(",") if p.strip()]
    if not any(":" in part for part in parts):
        return parts
    found: dict[str, list[int]] = {}
    for part in parts:
        layer, _, positions = part.rpartition(":")
        found.setdefault(layer.strip(), []).extend(_positions(positions, text))
    return found


def _positions(text: str, whole: str) -> Sequence[int]:
    found: list[int] = []
    for piece in text.split("+"):
        first, dash, last = piece.partition("-")
        try:
            found += range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise BudgetError(
                f"together: cannot read '{whole}'. Write conv_a,conv_b for layers that keep the same channels, or "
                "conv_c:0-3,conv_d:4+6 for channels that live or die as one."
            ) from None
    return found


def _number(name: str, text: str, part: str) -> float:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    raise BudgetError(f"{name}: cannot read '{part}'. Write a number, or pattern=number,... with '*' for all others.")
