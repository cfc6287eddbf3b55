"""The only door to automatic differentiation: one small function for each backend of Keras."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_qcqp.errors import ModelError

Loss = Callable[[Any, Any], Any]
"""(labels, outputs of the model) -> scalar tensor; either may be nested as in the model."""

Gradients = Callable[[Sequence[np.ndarray], Any], list[np.ndarray]]
"""(inputs, labels) -> gradient of each variable."""

LossAndGradients = Callable[[Sequence[np.ndarray], Any], tuple[float, list[np.ndarray]]]
"""(inputs, labels) -> loss, and its gradient by each variable."""


def gradients_of(model: keras.Model, loss: Loss, variables: Sequence[Any]) -> Gradients:
    """`loss_and_gradients_of` without the loss."""
    both = loss_and_gradients_of(model, loss, variables)
    return lambda inputs, labels: both(inputs, labels)[1]


def loss_and_gradients_of(model: keras.Model, loss: Loss, variables: Sequence[Any]) -> LossAndGradients:
    """A function that differentiates the loss of one batch, in inference mode (batch norms use what they have learnt).

    Args:
        variables: Keras variables of the model, trainable or not.

    Raises:
        ModelError: the backend of Keras cannot differentiate.
    """
    backend = keras.backend.backend()
    if backend not in _MAKERS:
        raise ModelError(
            f"Gradients are not available with the Keras backend '{backend}'. Known: {', '.join(sorted(_MAKERS))}."
        )
    compute = _MAKERS[backend](model, loss, list(variables))

    def both(inputs: Sequence[np.ndarray], labels: Any) -> tuple[float, list[np.ndarray]]:
        tensors = [keras.ops.convert_to_tensor(x) for x in inputs]
        given = keras.tree.map_structure(lambda y: None if y is None else keras.ops.convert_to_tensor(y), labels)
        value, found = compute(tensors, given)
        gradients = [np.asarray(keras.ops.convert_to_numpy(g), np.float32) for g in found]
        return float(keras.ops.convert_to_numpy(value)), gradients

    return both


@contextlib.contextmanager
def without_gradients() -> Iterator[None]:
    """What is computed inside is not recorded: PyTorch would keep every intermediate result."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    with torch.no_grad():
        yield


def _tensorflow(model: keras.Model, loss: Loss, variables: list[Any]) -> Callable[..., Any]:
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)  # which would wrap our errors; Keras trains without
    def compute(tensors: Any, labels: Any) -> Any:
        watched = [v.value for v in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            value = loss(labels, model(_entering(model, tensors), training=False))
        found = tape.gradient(value, watched, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return value, [tf.convert_to_tensor(g) for g in found]

    return compute


def _jax(model: keras.Model, loss: Loss, variables: list[Any]) -> Callable[..., Any]:
    import jax

    every = [*model.trainable_variables, *model.non_trainable_variables]
    place = {id(v): k for k, v in enumerate(every)}
    wanted = [place[id(v)] for v in variables]
    num_trainable = len(model.trainable_variables)

    def value(moving: list[Any], fixed: list[Any], tensors: Any, labels: Any) -> Any:
        values = list(fixed)
        for k, v in zip(wanted, moving, strict=True):
            values[k] = v
        outputs, _ = model.stateless_call(
            values[:num_trainable], values[num_trainable:], _entering(model, tensors), training=False
        )
        return loss(labels, outputs)

    differentiate = jax.jit(jax.value_and_grad(value))

    def compute(tensors: Any, labels: Any) -> Any:
        fixed = [v.value for v in every]
        return differentiate([fixed[k] for k in wanted], fixed, tensors, labels)

    return compute


def _torch(model: keras.Model, loss: Loss, variables: list[Any]) -> Callable[..., Any]:
    import torch

    def compute(tensors: Any, labels: Any) -> Any:
        watched = [v.value for v in variables]
        flags = [w.requires_grad for w in watched]
        try:
            for w in watched:
                w.requires_grad_(True)
            with torch.enable_grad():
                value = loss(labels, model(_entering(model, tensors), training=False))
                found = torch.autograd.grad(value, watched, allow_unused=True)
        finally:
            for w, flag in zip(watched, flags, strict=True):
                w.requires_grad_(flag)
        return value.detach(), [torch.zeros_like(w) if g is None else g for g, w in zip(found, watched, strict=True)]

    return compute


_MAKERS: Mapping[str, Callable[[keras.Model, Loss, list[Any]], Callable[..., Any]]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
}


def _entering(model: keras.Model, tensors: Sequence[Any]) -> Any:
    """The inputs in the structure in which the model takes them."""
    return keras.tree.pack_sequence_as(model.input, list(tensors)) if len(model.inputs) > 1 else tensors[0]
