"""The only door to the private side of Keras graphs: what a model is made of, and copies of its parts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.saving.serialization_lib import SafeModeScope

from keras_qcqp.errors import ModelError

Shape = tuple[int | None, ...]


def require_functional(model: Any) -> None:
    """Raises ModelError unless `model` is a Functional or built Sequential Keras 3 model."""
    if not isinstance(model, keras.Model):
        found = f"{type(model).__module__}.{type(model).__name__}"
        hint = ""
        if found.startswith(("tensorflow.python.keras", "keras.engine")):
            hint = " Save this Keras 2 model as .h5, install tf_keras and load it with keras_qcqp.model_io.load_model."
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


def makers(model: keras.Model) -> list[Any]:
    """The layer or operation that makes each output, looked for inside nested models and before linear activations."""
    functional = as_functional(model)
    assert functional is not None
    return [_maker(x) for x in functional.outputs]


def _maker(x: Any) -> Any:
    operation, number, place = x._keras_history
    if as_functional(operation) is not None:
        return makers(operation)[place]
    if isinstance(operation, keras.layers.Activation) and operation.activation is keras.activations.linear:
        (before,) = operation._inbound_nodes[number].input_tensors  # the usual end of a mixed precision model
        return _maker(before)
    return operation


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


def float64(variable: Any) -> np.ndarray:
    """The values of a variable, to calculate with."""
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)


def infer(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Calls a layer or operation as a model does with `training=False`: left alone, image layers would augment."""
    mode = {"training": False} if getattr(operation, "_call_has_training_arg", False) else {}
    return operation(*args, **{**kwargs, **mode})


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


def name_steps(outputs: Sequence[Any], given: Sequence[Any], name: str) -> None:
    """Names the `keras.ops` operations between two sets of tensors: the last one `name`, those before it after it."""
    old, named = {id(x) for x in given}, set[int]()
    todo = [x for x in outputs if id(x) not in old]
    for x in todo:  # grows
        operation = x._keras_history.operation
        if id(operation) not in named:
            operation.name = f"{name}.step{len(named)}" if named else name
            named.add(id(operation))
            todo += [y for y in operation._inbound_nodes[-1].input_tensors if id(y) not in old]


def copy_lambda(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """A new Lambda around the same function: it is in memory already, so nothing untrusted is unpacked."""
    config = {k: v for k, v in layer.get_config().items() if k in ("name", "trainable", "dtype", "arguments")}
    return keras.layers.Lambda(layer.function, output_shape=layer._output_shape, mask=layer.mask, **config)


@contextlib.contextmanager
def copying(layer: Any) -> Iterator[Callable[[Any], None]]:
    """For making a layer from the configuration of another that is in memory, so nothing untrusted is unpacked.

    Gives what is to be done to the copy: a Lambda inside it gets the very function of the original, which would come
    out of a configuration without the names it refers to.
    """

    def share(copy: Any) -> None:
        for old, new in zip(layer._flatten_layers(), copy._flatten_layers(), strict=False):
            if isinstance(old, keras.layers.Lambda) and isinstance(new, keras.layers.Lambda):
                new.function = old.function

    with SafeModeScope(safe_mode=False):
        yield share


def sublayers(layer: Any) -> tuple[Any, ...]:
    """The layers that a layer holds directly: the cell of a recurrent layer, what a wrapper wraps."""
    return tuple(layer._layers) if isinstance(layer, keras.layers.Layer) else ()


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

    Names are those of the layers inside and of the variable. A variable's own path does not do: it tells where it was
    built, and the cell of a loaded recurrent layer is built before that layer has it. Random seeds are not weights.
    """
    inside = _names_inside(layer, "")
    variables = list(getattr(layer, "weights", ()))
    return dict(zip(numbered([inside.get(id(v), v.name) for v in variables]), variables, strict=True))


def numbered(names: Iterable[str]) -> list[str]:
    """The same names, with a numbered suffix where one was there before."""
    found: dict[str, None] = {}
    for name in names:
        number = 1
        while name in found:
            number += 1
            name = f"{name.partition(':')[0]}:{number}"
        found[name] = None
    return list(found)


def _names_inside(layer: Any, prefix: str) -> dict[int, str]:
    """Variable -> its name; one that several layers hold is named after the innermost."""
    if not isinstance(layer, keras.layers.Layer):
        return {}
    own = (*layer._trainable_variables, *layer._non_trainable_variables)
    found = {id(v): prefix + _own_name(v, layer.name) for v in own}
    for inner in sublayers(layer):
        found |= _names_inside(inner, f"{prefix}{inner.name}/")
    return found


def _own_name(variable: Any, owner: str) -> str:
    """What follows the owner's name in the path; the bare name if it is not there, since the owner was renamed."""
    *scopes, name = variable.path.split("/")
    if owner not in scopes:
        return variable.name
    last = len(scopes) - scopes[::-1].index(owner)
    return "/".join((*scopes[last:], name))


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
