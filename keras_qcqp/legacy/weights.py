"""Carries the weights of a Keras 2 layer over, to the last bit."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_qcqp.errors import ModelError
from keras_qcqp.keras_graph import named_weights

_NOT_KEPT = ("count",)  # of Normalization: how many samples its statistics come from


def copy_weights(old: Any, new: Any, path: str) -> None:
    """Sets the weights of a Keras 3 layer to those of its Keras 2 original.

    Raises:
        ModelError: they differ in number, names or shapes.
    """
    source = [(v.name.split(":")[0].rpartition("/")[2], np.asarray(v.numpy())) for v in old.weights]
    target = [(name.rpartition("/")[2], variable) for name, variable in named_weights(new).items()]
    if len(source) != len(target):
        source = [(name, value) for name, value in source if name not in _NOT_KEPT]
        target = [(name, variable) for name, variable in target if name not in _NOT_KEPT]
    if [value.shape for _, value in source] != [tuple(variable.shape) for _, variable in target]:
        source = _by_name(source, target)
    if source is None:
        raise ModelError(
            f"The weights of layer '{path}' ({type(old).__name__}) do not fit {type(new).__name__} of Keras 3: "
            f"{_listed(old.weights)} against {_listed(new.weights)}. Give from_tf_keras a class with the same weights "
            f"by custom_objects={{'{type(old).__name__}': YourKeras3Layer}}."
        )
    for (_, value), (_, variable) in zip(source, target, strict=True):
        variable.assign(value)
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()


def _by_name(source: list[Any], target: list[Any]) -> Any:
    """The same weights in the order of the new layer; None unless names are unique and shapes fit."""
    named = dict(source)
    if len(named) != len(source) or len(source) != len(target) or set(named) != {name for name, _ in target}:
        return None
    ordered = [(name, named[name]) for name, _ in target]
    fits = all(value.shape == tuple(variable.shape) for (_, value), (_, variable) in zip(ordered, target, strict=True))
    return ordered if fits else None


def _listed(variables: Any) -> str:
    return ", ".join(f"{v.name.split(':')[0]} {tuple(v.shape)}" for v in variables) or "none"
