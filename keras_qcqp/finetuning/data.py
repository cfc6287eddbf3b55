"""Training data of every kind, with an order and an augmentation that depend on (seed, epoch, batch) alone.

That is what makes a resumed run see exactly what the killed one would have seen.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_qcqp.errors import TrainingError
from keras_qcqp.finetuning.checkpoint import digest_of

_KNOWN_BY = 256  # samples


class Arrays(keras.utils.PyDataset):
    """Batches of arrays (x, y) or (x, y, sample_weight), in a new order for each epoch."""

    def __init__(self, arrays: tuple[Any, ...], batch_size: int, seed: int) -> None:
        super().__init__()
        self._arrays = arrays
        self._batch_size, self._seed = batch_size, seed
        self._count = len(keras.tree.flatten(arrays)[0])
        self.start(0)

    def __len__(self) -> int:
        return math.ceil(self._count / self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return keras.tree.map_structure(lambda array: array[chosen], self._arrays)

    def spread(self, count: int) -> list[np.ndarray]:
        """Some samples out of all, to know the data by."""
        chosen = np.unique(np.linspace(0, self._count - 1, count).astype(int))
        return [array[chosen] for array in keras.tree.flatten(self._arrays) if not array.dtype.hasobject]

    def start(self, epoch: int) -> None:
        """Draws the order of an epoch."""
        self._order = np.random.default_rng([self._seed, epoch]).permutation(self._count)


class Augmented(keras.utils.PyDataset):
    """Another dataset's batches, with random changes to x."""

    def __init__(self, source: keras.utils.PyDataset, augment: Callable[..., Any], seed: int) -> None:
        super().__init__()
        self.source, self._seed, self._epoch = source, seed, 0
        self._change = _as_function(augment)
        self._lock = threading.Lock()  # Keras may still prefetch for a look at the data when the first epoch begins

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        epoch = self._epoch
        x, *rest = self.source[index]
        with self._lock:
            return (self._change(x, np.random.default_rng([self._seed, epoch, index])), *rest)

    def start(self, epoch: int) -> None:
        """Sets the epoch whose randomness is used."""
        self._epoch = epoch
        if isinstance(self.source, Arrays):
            self.source.start(epoch)

    def on_epoch_end(self) -> None:
        self.source.on_epoch_end()


class Stream:
    """All batches of a run from a `tf.data.Dataset`, epoch after epoch.

    Keras itself iterates a dataset once or twice for an epoch, depending on the backend, and a shuffle draws a new
    order each time: here it is once, so that the orders of epochs that were trained before can be passed over.
    """

    def __init__(self, dataset: Any, augment: Callable[..., Any] | None, seed: int) -> None:
        self._dataset, self._seed = dataset, seed
        self._change = _as_function(augment) if augment is not None else None
        self.num_batches = int(dataset.cardinality())

    def batches(self, first: int, last: int) -> Iterator[Any]:
        """Those of epochs `first` to `last - 1`."""
        for _ in range(first):
            iter(self._dataset)  # draws an order; no element is read
        for epoch in range(first, last):
            for index, batch in enumerate(self._dataset.as_numpy_iterator()):
                yield self._changed(batch, epoch, index)

    def _changed(self, batch: Any, epoch: int, index: int) -> Any:
        if self._change is None:
            return batch
        x, *rest = batch
        return (self._change(x, np.random.default_rng([self._seed, epoch, index])), *rest)


def _as_function(augment: Callable[..., Any]) -> Callable[[Any, np.random.Generator], Any]:
    """A function of a batch and a random generator; of a layer a copy is used, whose seeds are drawn for each batch."""
    if not isinstance(augment, keras.layers.Layer):
        accepted = [p for p in inspect.signature(augment).parameters.values() if p.default is p.empty]
        return augment if len(accepted) > 1 else lambda x, random: augment(x)
    if augment.weights:
        raise TrainingError(
            f"augment: layer '{augment.name}' has weights. Put it into the model, or give a function of x."
        )
    layer = type(augment).from_config(augment.get_config())

    def apply(x: Any, random: np.random.Generator) -> Any:
        for state in layer.variables:
            state.assign(random.integers(2**31, size=state.shape).astype(state.dtype))
        return keras.tree.map_structure(keras.ops.convert_to_numpy, layer(x, training=True))

    return apply


def prepared(
    data: Any, batch_size: int, seed: int, augment: Callable[..., Any] | None
) -> keras.utils.PyDataset | Stream:
    """Batches whose order, where it is ours, and augmentation can be reproduced.

    Raises:
        TrainingError: data of another kind, without labels or of unequal lengths.
    """
    if hasattr(data, "element_spec") and hasattr(data, "as_numpy_iterator"):  # asked without importing TensorFlow
        return Stream(data, augment, seed)
    source = data if isinstance(data, keras.utils.PyDataset) else Arrays(_arrays(data), batch_size, seed)
    return source if augment is None else Augmented(source, augment, seed)


def fingerprint(data: keras.utils.PyDataset | Stream) -> str | None:
    """Of arrays, by samples spread over all of them; None for datasets, which need not give the same batch twice."""
    source = data.source if isinstance(data, Augmented) else data
    return digest_of(source.spread(_KNOWN_BY)) if isinstance(source, Arrays) else None


def _arrays(data: Any) -> tuple[Any, ...]:
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise TrainingError(
            "train_data must be arrays (x, y) or (x, y, sample_weight), a tf.data.Dataset or a keras.utils.PyDataset, "
            f"got {type(data).__name__}."
        )
    arrays = keras.tree.map_structure(np.asarray, tuple(data))
    lengths = sorted({len(array) if array.ndim else 0 for array in keras.tree.flatten(arrays)})
    if len(lengths) != 1 or not lengths[0]:
        found = " and ".join(map(str, lengths))
        raise TrainingError(f"All arrays of train_data must have as many samples, at least one; got {found}.")
    return arrays


def num_steps(data: keras.utils.PyDataset | Stream) -> int:
    """Batches of an epoch, which the learning rate is planned by.

    Raises:
        TrainingError: a dataset that does not know, or has no end.
    """
    length = data.num_batches
    if isinstance(data, Stream) and length <= 0:
        what = {-1: "has no end", -2: "does not know its length"}.get(length, "is empty")
        raise TrainingError(
            f"The tf.data.Dataset of train_data {what}, but the learning rate is planned by the steps of an epoch. "
            "End it with dataset.take(n), or tell its batches: tf.data.experimental.assert_cardinality(n)."
        )
    if not length:
        raise TrainingError("The PyDataset of train_data has no length, or is empty. Define __len__.")
    return int(length)


def arguments_of_fit(data: keras.utils.PyDataset | Stream, first: int, last: int) -> dict[str, Any]:
    """What `fit` is told to train epochs `first` to `last - 1`; a user's PyDataset is told of those before."""
    if isinstance(data, Stream):
        return {"x": data.batches(first, last), "steps_per_epoch": data.num_batches, "shuffle": False}
    for _ in range(first):
        data.on_epoch_end()
    return {"x": data, "shuffle": False}
