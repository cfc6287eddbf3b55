"""The only door to the private side of Keras 2 (`tf_keras`) graphs; it never imports the library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keras_qcqp.errors import ModelError

_HOME = "tf_keras."


def is_tf_keras(model: Any) -> bool:
    """Whether this is a model of `tf_keras`, which is then imported already."""
    return _has_base(model, "Model")


def is_functional(layer: Any) -> bool:
    """A graph and nothing but: Functional or built Sequential."""
    plain = _has_base(layer, "Functional") and type(layer).call.__module__.startswith(_HOME)
    return plain and (not is_sequential(layer) or bool(layer._graph_initialized))


def is_sequential(layer: Any) -> bool:
    return _has_base(layer, "Sequential")


def is_own(layer: Any) -> bool:
    """Whether the class of a layer is one of `tf_keras` itself, not the user's."""
    return type(layer).__module__.startswith(_HOME)


def require_functional(model: Any) -> None:
    """Raises ModelError unless it is a Functional or built Sequential tf_keras model."""
    if is_functional(model):
        return
    if is_sequential(model) and type(model).call.__module__.startswith(_HOME):
        raise ModelError(
            f"Keras 2 Sequential model '{model.name}' is not built, so its shapes are unknown. "
            "Give its first layer an input_shape or call model.build(input_shape) first."
        )
    raise ModelError(
        f"Keras 2 model '{model.name}' is a subclassed model ({type(model).__name__}): its own call() cannot be read "
        "as a graph. Write it with the Functional API: tf_keras.Model(inputs, outputs)."
    )


def calls(model: Any) -> Iterator[Any]:
    """The nodes of a model in topological order: `layer`, `call_args`, `call_kwargs`, `outputs`, `is_input`."""
    by_depth: Mapping[int, list[Any]] = model._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from by_depth[depth]


def structures(model: Any) -> tuple[Any, Any]:
    """The (possibly nested) structures in which the model takes its inputs and returns its outputs."""
    return model._nested_inputs, model._nested_outputs


def submodel(model: Any, outputs: list[Any]) -> Any:
    """A tf_keras model with the same inputs and other outputs."""
    cls = next(c for c in type(model).__mro__ if c.__name__ == "Model" and c.__module__.startswith(_HOME))
    return cls(model.inputs, outputs)


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Applies a function to the leaves of nested lists, tuples and dicts; wrappers around those become plain ones."""
    if isinstance(value, Mapping):
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [mapped(function, item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return function(value)


def flat(value: Any) -> list[Any]:
    """The leaves in the order in which both Kerases flatten them: dicts by sorted key."""
    if isinstance(value, Mapping):
        return [leaf for key in sorted(value) for leaf in flat(value[key])]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in flat(item)]
    return [value]


def _has_base(value: Any, name: str) -> bool:
    return any(c.__name__ == name and c.__module__.startswith(_HOME) for c in type(value).__mro__)
