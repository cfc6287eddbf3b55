"""What an operation is called with: its arguments by name, its constant arrays, the axes it is told."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_qcqp.channels import Call, Frozen, normal_axis
from keras_qcqp.graph import TensorRef


def bound(call: Call) -> Mapping[str, Any]:
    """Parameter name -> what the operation is called with, defaults included, tensors as `TensorRef`."""
    args, kwargs = call.node.arguments
    found = inspect.signature(call.node.cls.call).bind(None, *args, **kwargs)  # type: ignore[attr-defined]
    found.apply_defaults()
    return dict(list(found.arguments.items())[1:])


def holds_tensors(value: Any) -> bool:
    """Whether a (nested) argument contains a tensor of the network."""
    return any(isinstance(x, TensorRef) for x in keras.tree.flatten(value))


def constants(call: Call) -> dict[str, Any]:
    """Argument (or "argument/k", an item of a list of operands) -> a constant array of more than one number."""
    found: dict[str, Any] = {}
    for name, value in bound(call).items():
        if isinstance(value, (list, tuple)) and holds_tensors(value):
            found |= {f"{name}/{k}": item for k, item in enumerate(value) if is_array(item)}
        elif is_array(value):
            found[name] = value
    return found


def is_array(value: Any) -> bool:
    """Whether a value is an array, a tensor that is no part of the network, or a list of numbers.

    Raises:
        Frozen: it is a variable, which may change.
    """
    if isinstance(value, keras.Variable):
        raise Frozen("a variable outside any layer is an operand; make it a layer with a weight")
    return not holds_tensors(value) and np.ndim(value) > 0 and np.size(value) > 1


def refuse_arrays(call: Call) -> None:
    """For functions of one value at a time that could be told another number for each channel.

    Raises:
        Frozen: an argument or a setting is an array.
    """
    if constants(call) or any(is_array(value) for value in call.node.config.values()):
        raise Frozen("a setting is an array, one number for each channel or position; write it with ops.multiply etc.")


def numbers(value: Any) -> list[int]:
    """One whole number or several."""
    return [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]


def axes_of(value: Any, rank: int) -> list[int]:
    """Axis numbers, none of them negative, in the order given; None stands for all."""
    return list(range(rank)) if value is None else [normal_axis(a, rank) for a in numbers(value)]
