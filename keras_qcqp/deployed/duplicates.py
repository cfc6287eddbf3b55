"""Operators that compute the same from the same are computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_qcqp.deployed.program import BALLAST, Op, Program

_WITHOUT_SETTINGS = frozenset(
    """RELU RELU6 LOGISTIC TANH EXP LOG ABS NEG ADD SUB MUL DIV MAXIMUM MINIMUM RESHAPE NOTHING""".split()
)


def merge_alike(program: Program, order: dict[int, int]) -> Program:
    """Keeps the first of all operators that are alike."""
    first: dict[Any, int] = {}
    instead: dict[int, int] = {}
    ops = dict(program.ops)
    for number in sorted(ops, key=order.__getitem__):
        op = ops[number]
        reads = tuple(instead.get(read, read) for read in op.reads)
        ops[number] = dataclasses.replace(op, reads=reads)
        kept = first.setdefault(_signature(number, op, reads), number)
        if kept != number:
            instead[number] = kept
            del ops[number]
    return Program(program.name, {n: ops[n] for n in program.ops if n in ops}, _renamed(program.outputs, instead))


def _renamed(numbers: tuple[int, ...], instead: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(instead.get(number, number) for number in numbers)


def _signature(number: int, op: Op, reads: tuple[int, ...]) -> Any:
    """Equal for two operators that compute the same."""
    if op.kind in ("INPUT", "UNKNOWN", BALLAST):
        return number
    settings: Any = ()
    if op.kind not in _WITHOUT_SETTINGS or any(c.kind != "index" for c in op.constants):
        config = {key: value for key, value in op.node.config.items() if key not in ("name", "trainable")}
        settings = (op.label.rpartition("/")[2].partition("_")[0], _frozen(config), _frozen(op.node.arguments))
    return op.kind, reads, op.value.shape, op.roots, settings


def _frozen(value: Any) -> Any:
    """A hashable form in which equal settings are equal."""
    if isinstance(value, Mapping):
        return tuple(sorted((key, _frozen(entry)) for key, entry in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(entry) for entry in value)
    if hasattr(value, "__array__"):  # a tensor shows but a part of its values
        value = np.asarray(value)
        return value.shape, str(value.dtype), value.tobytes()
    return repr(value)
