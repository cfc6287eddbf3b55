"""Holds a converted model against its original: both compute the same, or the first layer that does not is named."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_qcqp import keras_graph
from keras_qcqp.errors import ModelError
from keras_qcqp.keras_graph import as_functional
from keras_qcqp.legacy.graph import calls, flat, mapped, structures, submodel

_TOLERANCE = 1e-4  # of the greatest output in single precision
_HALF_TOLERANCE = 5e-2
_JITTER = 1e-6  # some roundings of single precision
_MOST_NOISE = 1e-2  # beyond, a comparison would say nothing
_FREE_SIZES = (32, 96, 224)  # tried for sizes the model leaves open


def require_equal(old: Any, new: keras.Model) -> None:
    """Runs both models on random inputs; weights of the new one are moved a little and set back, if need be.

    Raises:
        ModelError: their outputs differ by more than rounding explains, or the original cannot be run.
    """
    inputs, expected = _run(old)
    found = _numbers(_called(new, old, inputs))
    worst, tolerance = _difference(expected, found), _tolerance(old)
    if worst <= tolerance:
        return
    if _difference(expected, _numbers(_called(old, old, inputs))) > tolerance:
        warnings.warn(
            f"Keras 2 model '{old.name}' gives other outputs at each call (a layer called with training=True?), so the "
            "converted model could not be compared with it.",
            stacklevel=3,
        )
        return
    noise = _difference(found, _jittered(new, old, inputs))
    if worst <= min(noise, _MOST_NOISE):
        return
    raise ModelError(
        f"The converted model computes something else than Keras 2 model '{old.name}': outputs differ by {worst:.2g} "
        f"of the greatest, expected {tolerance:.0e} at most. {_first_difference(old, new, inputs, tolerance)} "
        "Please report this model; until then replace that layer."
    )


def _jittered(new: keras.Model, old: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs after the weights were changed by about what single precision rounds off: deep networks magnify it."""
    random, values = np.random.default_rng(1), [np.asarray(v) for v in new.weights]
    try:
        for variable, value in zip(new.weights, values, strict=True):
            if np.issubdtype(value.dtype, np.floating):
                variable.assign(value * (1 + _JITTER * random.choice([-1, 1], value.shape)))
        return _numbers(_called(new, old, inputs))
    finally:
        for variable, value in zip(new.weights, values, strict=True):
            variable.assign(value)


def _run(old: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Inputs that the original accepts, and its outputs; an Embedding takes no negative numbers."""
    failure: Exception | None = None
    for size, draw in itertools.product(_free_sizes(old), ("standard_normal", "random")):
        try:
            inputs = _random_inputs(old, size, draw)
            return inputs, _numbers(_called(old, old, inputs))
        except Exception as error:
            failure = error
    raise ModelError(
        f"Keras 2 model '{old.name}' could not be run on random numbers, so its conversion cannot be checked: "
        f"{failure}. If it reads strings, begin the model behind the layer that turns them into numbers."
    ) from failure


def _free_sizes(old: Any) -> tuple[int, ...]:
    return _FREE_SIZES if any(size is None for x in old.inputs for size in x.shape[1:]) else (0,)


def _random_inputs(old: Any, size: int, draw: str) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    shapes = [tuple(2 if k == 0 and n is None else n or size for k, n in enumerate(x.shape)) for x in old.inputs]
    arrays = [np.asarray(getattr(random, draw)(shape)) for shape in shapes]
    return [array.astype(x.dtype.name) for array, x in zip(arrays, old.inputs, strict=True)]


def _called(model: Any, old: Any, inputs: list[np.ndarray]) -> Any:
    place = {id(x): value for x, value in zip(old.inputs, inputs, strict=True)}
    return model(mapped(lambda x: place[id(x)], structures(old)[0]), training=False)


def _numbers(outputs: Any) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(x)).astype(np.float64) for x in flat(outputs)]


def _difference(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Of all outputs, relative to the greatest value of each."""
    if [x.shape for x in expected] != [x.shape for x in found]:
        return np.inf
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        if not same.all():
            difference = np.abs(np.where(same, 0, a - b)).max()
            worst = max(worst, difference / np.abs(a).max() if np.isfinite(difference) else np.inf)
    return float(worst)


def _tolerance(old: Any) -> float:
    half = any("16" in str(layer.compute_dtype) for layer in _leaves(old))
    return _HALF_TOLERANCE if half else _TOLERANCE


def _leaves(model: Any) -> Iterator[Any]:
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from _leaves(layer)


def _first_difference(old: Any, new: keras.Model, inputs: list[np.ndarray], tolerance: float) -> str:
    """Compares call by call, at the level of the model itself."""
    functional = as_functional(new)
    assert functional is not None
    outputs = {name: node.outputs for name, node in _named(keras_graph.calls(functional), "operation")}
    pairs = []
    for name, node in _named(calls(old), "layer"):
        name = (name[0].replace("/", "_"), name[1])
        if not node.is_input and name in outputs:
            pairs += [(node.layer, a, b) for a, b in zip(flat(node.outputs), outputs[name], strict=False)]
    try:
        before = _called(submodel(old, [x for _, x, _ in pairs]), old, inputs)
        after = _called(keras.Model(functional.input, [x for _, _, x in pairs]), old, inputs)
    except Exception:
        return "Its layers could not be compared one by one."
    for (layer, _, _), a, b in zip(pairs, flat(before), flat(after), strict=True):
        if _difference(_numbers(a), _numbers(b)) > tolerance:
            return f"The first layer that differs is '{layer.name}' ({type(layer).__name__})."
    return "No single layer differs by that much."


def _named(nodes: Iterator[Any], attribute: str) -> Iterator[tuple[tuple[str, int], Any]]:
    """Each call under the name of what is called and how often that was called before."""
    times: dict[str, int] = {}
    for node in nodes:
        name = getattr(node, attribute).name
        times[name] = times.get(name, -1) + 1
        yield (name, times[name]), node
