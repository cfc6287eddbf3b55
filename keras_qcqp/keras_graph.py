"""The only door to the private side of Keras graphs: what a model is made of, and copies of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_qcqp.errors import ModelError

Shape = tuple[int | None, ...]


def require_functional(model: Any) -> None:
    """Raises ModelError unless `model` is a Functional or built Sequential Keras 3 model."""
    if not isinstance(model, keras.Model):
        found = f"{type(model).__module__}.{type(model).__name__}"
        hint = ""
        if found.startswith(("tf_keras.", "tensorflow.python.keras", "keras.engine")):
            hint = " This is a Keras 2 model: save it as .h5 or .keras and load it with Keras 3."
        elif isinstance(model, (str, bytes)) or hasattr(model, "__fspath__"):
            hint = " Load the file first: keras.models.load_model(path)."
        raise ModelError(f"A Keras 3 model was expected, got {found}.{hint}")
    if isinstance(model, keras.Sequential):
        if as_functional(model) is None:
            raise ModelError(
                f"Sequential model '{model.name}' is not built, so its shapes are unknown. "
                "Start it with keras.Input(shape) or call model.build(input_shape) first."
            )
    elif not _is_functional(model):
        raise ModelError(
            f"Model '{model.name}' is a subclassed model ({type(model).__name__}): its own call() cannot be read as "
            "a graph. Write it with the Functional API: keras.Model(inputs, outputs)."
        )


def as_functional(model: Any) -> keras.Model | None:
    """The Functional graph behind a Functional or built Sequential model; None for anything else."""
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None) if type(model).call is keras.Sequential.call else None
    return model if _is_functional(model) else None


def _is_functional(model: Any) -> bool:
    """A graph and nothing but: a subclass with a `call` of its own may do anything around it."""
    graph = isinstance(model, keras.Model) and hasattr(model, "_nodes_by_depth") and hasattr(model, "_inputs_struct")
    return graph and type(model).call.__module__.startswith("keras.src.models.")


def calls(functional: keras.Model) -> Iterator[Any]:
    """Keras' own nodes of a Functional model in topological order, inputs first."""
    by_depth: dict[int, list[Any]] = functional._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        yield from by_depth[depth]


def structures(functional: keras.Model) -> tuple[Any, Any]:
    """The (possibly nested) structures in which the model takes its inputs and returns its outputs."""
    return functional._inputs_struct, functional._outputs_struct


def new_input(x: Any, shape: Shape) -> Any:
    """An input tensor like `x`, of another shape; its layer keeps its name too, which may be another one."""
    layer = x._keras_history.operation
    options = {"optional": True} if getattr(layer, "optional", False) else {}
    tensor = keras.Input(batch_shape=shape, dtype=x.dtype, name=layer.name, sparse=x.sparse, **options)
    tensor.name = x.name
    return tensor


def entering(node: Any, inner: keras.Model) -> list[Any]:
    """The tensors given to a nested model by a call of it, in the order of its own inputs."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    given = args[0] if args else kwargs.get("inputs")
    if isinstance(given, dict) and not isinstance(structures(inner)[0], dict):
        return [given[x.name] for x in inner.inputs]
    tensors = list(keras.tree.flatten(given))
    if len(tensors) != len(inner.inputs):
        raise ModelError(
            f"Nested model '{node.operation.name}' has {len(inner.inputs)} inputs but is called with "
            f"{len(tensors)} tensors. Pass them in the structure of its inputs."
        )
    return tensors


def compile_settings(model: keras.Model) -> dict[str, Any]:
    """The arguments `compile` was given, as the user's own objects."""
    return dict(model._compile_config.config)


def copy_operation(operation: Any) -> Any:
    """A copy of a stateless `keras.ops` operation that shares no graph history with the original."""
    clone = object.__new__(type(operation))  # copy.copy would serialise it
    clone.__dict__.update(operation.__dict__)
    clone._inbound_nodes, clone._outbound_nodes = [], []
    return clone


def rename(tensor: Any, name: str) -> Any:
    """Gives the `keras.ops` operation behind a symbolic tensor a name; returns the tensor."""
    tensor._keras_history.operation.name = name
    return tensor


def copy_lambda(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """A new Lambda around the same function: it is in memory already, so nothing untrusted is unpacked."""
    config = {k: v for k, v in layer.get_config().items() if k in ("name", "trainable", "dtype", "arguments")}
    return keras.layers.Lambda(layer.function, output_shape=layer._output_shape, mask=layer.mask, **config)


def require_float(layer: Any, path: str) -> None:
    """Raises ModelError where a layer, or one inside it, was quantized by Keras: its integers cannot be judged."""
    parts = layer._flatten_layers() if isinstance(layer, keras.layers.Layer) else ()
    for part in parts:
        mode = getattr(part, "quantization_mode", None)
        if mode is not None:
            inside = "" if part is layer else f" in '{path}'"
            raise ModelError(
                f"Layer '{path if part is layer else part.name}'{inside} ({type(part).__name__}) is quantized "
                f"(mode '{mode}'); float weights were expected. Prune the float model first, then quantize the result."
            )


def named_weights(layer: Any) -> dict[str, Any]:
    """The layer's variables under names relative to the layer, in Keras' order.

    Random seeds are not weights. Two variables of the same name get a numbered suffix.
    """
    named: dict[str, Any] = {}
    for variable in getattr(layer, "weights", ()):
        _, inside, name = variable.path.rpartition(f"{layer.name}/")
        name = name if inside else variable.name  # the layer was renamed after it was built
        number = 1
        while name in named:
            number += 1
            name = f"{name.partition(':')[0]}:{number}"
        named[name] = variable
    return named


def layers_by_path(model: keras.Model) -> dict[str, Any]:
    """Every leaf layer and operation of the model under its first path; nested models are opened, not listed."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(functional: keras.Model, prefix: str) -> None:
        for node in calls(functional):
            operation = node.operation
            inner = as_functional(operation)
            if inner is not None:
                visit(inner, f"{prefix}{operation.name}/")
            elif id(operation) not in seen:
                seen.add(id(operation))
                found[f"{prefix}{operation.name}"] = operation

    functional = as_functional(model)
    assert functional is not None
    visit(functional, "")
    return found


def weight_values(model: keras.Model) -> dict[str, dict[str, np.ndarray]]:
    """Layer path -> weight name -> values."""
    return {
        path: {name: np.asarray(keras.ops.convert_to_numpy(v)) for name, v in named_weights(layer).items()}
        for path, layer in layers_by_path(model).items()
    }
