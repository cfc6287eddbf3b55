"""Patterns over layer paths, as the shell knows them: `stage3/*`, `conv?`, `*`."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from keras_qcqp.errors import BudgetError

_Value = TypeVar("_Value")


def matching(pattern: str, layers: Iterable[str], what: str) -> list[str]:
    """The layer paths that a pattern matches; `*` also matches slashes.

    Args:
        what: names the rule in the error, such as "budget".

    Raises:
        BudgetError: there is none.
    """
    layers = list(layers)
    found = [layer for layer in layers if fnmatch.fnmatchcase(layer, pattern)]
    if not found:
        raise BudgetError(f"{what}: '{pattern}' matches no layer. {similar(pattern, layers)}")
    return found


def most_specific(rules: Mapping[str, _Value], layer: str) -> tuple[str, _Value] | None:
    """The entry with the pattern that says most of this layer's path: most literal characters, of equals the last."""
    found = [(_literals(p), number, p) for number, p in enumerate(rules) if fnmatch.fnmatchcase(layer, p)]
    if not found:
        return None
    pattern = max(found)[2]
    return pattern, rules[pattern]


def similar(word: str, layers: Collection[str], num: int = 3) -> str:
    """Ends an error sentence with the layers that look like `word`, or else with some."""
    close = difflib.get_close_matches(word, layers, n=num, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(repr(name) for name in close)}?"
    some = ", ".join(list(layers)[:num])
    return f"The model has {len(layers)} layers: {some}{', ...' if len(layers) > num else ''}."


def _literals(pattern: str) -> int:
    return len(re.sub(r"\[[^\]]*\]|[*?]", "", pattern))
