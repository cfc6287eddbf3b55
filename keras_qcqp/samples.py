"""The user's examples, in whatever form they come, as arrays: enough of them to look at a network with."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_qcqp.errors import DataError
from keras_qcqp.keras_graph import as_functional, structures

NUM_SAMPLES = 1024
"""How many examples are looked at unless the user says otherwise."""

Batch = tuple[list[np.ndarray], Any]
"""(inputs in the order of the model's own, labels in the structure of its outputs or None)."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """Examples in memory.

    Attributes:
        inputs: float or integer [samples, ...], one array for each input of the model, in its order.
        labels: the same for the outputs, in the user's structure; None where there are none.
    """

    inputs: tuple[np.ndarray, ...]
    labels: Any = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def __getitem__(self, part: slice | np.ndarray) -> Samples:
        return Samples(tuple(x[part] for x in self.inputs), _each(lambda y: y[part], self.labels))

    def batches(self, size: int) -> Iterator[Batch]:
        """All of them in order, `size` at a time."""
        for start in range(0, len(self), size):
            part = self[start : start + size]
            yield list(part.inputs), part.labels


def collect(data: Any, model: keras.Model, num_samples: int = NUM_SAMPLES, seed: int = 0) -> Samples:
    """Takes at most `num_samples` examples: of arrays a random choice, of what comes in batches the first.

    Args:
        data: inputs; `(inputs, labels)`; a `tf.data.Dataset`, `keras.utils.PyDataset` or another iterable of batches of
            either. Inputs and labels may be nested like those of the model (a list, or a dict by input name).

    Raises:
        DataError: there are none, they do not fit the inputs of the model, or some are NaN or infinite.
    """
    if num_samples < 1:
        raise DataError(f"num_samples must be at least 1, got {num_samples}.")
    if isinstance(data, Samples):
        found = data
    elif _is_arrays(data):
        whole = _entering(model, data)
        random = np.random.default_rng(seed)
        found = whole if len(whole) <= num_samples else whole[np.sort(random.permutation(len(whole))[:num_samples])]
    else:
        found = _first(_batches(data), model, num_samples)
    found = found[:num_samples]
    _require_fitting(found, model)
    return found


def _is_arrays(data: Any) -> bool:
    """Whether the data is there as a whole: an array, or a structure of arrays."""
    if isinstance(data, (np.ndarray, Mapping)) or keras.ops.is_tensor(data):
        return True
    if isinstance(data, tuple):  # inputs come first
        return bool(data) and _is_arrays(data[0])
    # Tuples and dictionaries in a list are batches.
    plain = isinstance(data, list) and not any(isinstance(x, (tuple, Mapping)) for x in data)
    return plain and bool(data) and all(_is_arrays(x) for x in data)


def _batches(data: Any) -> Iterable[Any]:
    if isinstance(data, keras.utils.PyDataset):
        number = data.num_batches  # None: there is no end
        return (data[k] for k in (itertools.count() if number is None else range(number)))
    if not isinstance(data, Iterable):
        raise DataError(
            f"Examples of type {type(data).__name__} cannot be read. Give an array, (inputs, labels), a "
            "tf.data.Dataset, a keras.utils.PyDataset or another iterable of batches."
        )
    return data


def _first(batches: Iterable[Any], model: keras.Model, num_samples: int) -> Samples:
    parts, total = list[Samples](), 0
    for batch in batches:
        parts.append(_entering(model, batch))
        total += len(parts[-1])
        if total >= num_samples:
            break
    if not parts:
        raise DataError("The data is empty: at least one batch of examples was expected.")
    join = lambda *arrays: np.concatenate(arrays)  # noqa: E731
    try:
        inputs = tuple(itertools.starmap(join, zip(*(p.inputs for p in parts), strict=True)))
        return Samples(inputs, _each(join, *(p.labels for p in parts)))
    except (TypeError, ValueError) as error:
        raise DataError(f"The batches of examples differ in structure or shape: {error}") from error


def _each(function: Callable[..., Any], *labels: Any) -> Any:
    """Applies a function to the arrays of labels; None stands for no labels."""
    return keras.tree.map_structure(lambda *ys: None if all(y is None for y in ys) else function(*ys), *labels)


def _entering(model: keras.Model, data: Any) -> Samples:
    """Splits inputs from labels, and brings the inputs into the order of the model's own."""
    labels = None
    # A list is a list of inputs; a pair, or inputs, labels and weights of samples, come as a tuple.
    if isinstance(data, tuple) and len(data) in (1, 2, 3):
        data, labels = data[0], data[1] if len(data) > 1 else None
    functional = as_functional(model)
    assert functional is not None
    wanted = structures(functional)[0]
    if isinstance(data, Mapping):
        data = _by_name(data, wanted, functional)
    inputs = tuple(_array(x) for x in keras.tree.flatten(data))
    if labels is not None:
        numbers = isinstance(labels, (list, tuple)) and all(np.isscalar(y) for y in labels)
        labels = np.asarray(labels) if numbers else _each(_array, labels)
    arrays = [x for x in (*inputs, *keras.tree.flatten(labels)) if x is not None]
    if not all(x.ndim for x in arrays):
        raise DataError("Inputs and labels must be arrays with an axis of examples, got a number.")
    sizes = {len(x) for x in arrays}
    if len(sizes) != 1:
        raise DataError(f"Inputs and labels must have the same number of examples, got {sorted(sizes)}.")
    return Samples(inputs, labels)


def _by_name(data: Mapping[str, Any], wanted: Any, functional: keras.Model) -> list[Any]:
    names = list(wanted) if isinstance(wanted, dict) else [x.name for x in functional.inputs]
    missing = [name for name in names if name not in data]
    if missing:
        raise DataError(f"The data lacks the inputs {', '.join(missing)}; it has {', '.join(map(str, data))}.")
    order = sorted(names) if isinstance(wanted, dict) else names  # as Keras flattens dictionaries
    return [data[name] for name in order]


def _array(x: Any) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else np.asarray(keras.ops.convert_to_numpy(x))


def _require_fitting(samples: Samples, model: keras.Model) -> None:
    if not len(samples):
        raise DataError("The data is empty: at least one example was expected.")
    if len(samples.inputs) != len(model.inputs):
        raise DataError(
            f"Model '{model.name}' has {len(model.inputs)} inputs, the data has {len(samples.inputs)}. Give inputs and "
            "labels as a tuple (inputs, labels), several inputs as a list or a dict by name."
        )
    for x, wanted in zip(samples.inputs, model.inputs, strict=True):
        fits = x.ndim == len(wanted.shape) and all(
            w in (None, n) for n, w in zip(x.shape[1:], wanted.shape[1:], strict=True)
        )
        if not fits:
            raise DataError(f"Input '{wanted.name}' has shape {tuple(wanted.shape)}, the data has {x.shape}.")
        if x.dtype.kind not in "biufV" and wanted.dtype != "string":
            raise DataError(f"Input '{wanted.name}' takes {wanted.dtype}, the data has {x.dtype}: give numbers.")
        if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
            raise DataError(f"Input '{wanted.name}' has NaN or infinite values among the examples; remove them.")
