"""A Keras 3 network as plain data: which layer is called on which values, with which weights.

Read from `model.get_config()`, so that the process that trains needs no Keras 3. Nested models dissolve into paths.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tflite_tools.errors import QatError

_CONTAINERS = ("Functional", "Model", "Sequential")
_OPERATIONS = ("Add", "Subtract", "Multiply", "Maximum")
"""Operations of two tensors that are layers too."""


@dataclass
class Layer:
    """One layer: `config` as Keras 3 wrote it; `output_only`: nothing but its result is quantized."""

    kind: str
    config: dict[str, Any]
    weights: list[np.ndarray] = field(default_factory=list)
    output_only: bool = False


@dataclass(frozen=True)
class Call:
    """`layer` is applied to the values `reads` (as a list if there are several) and makes `makes`."""

    layer: str
    reads: tuple[int, ...]
    makes: int


@dataclass
class Blueprint:
    """Values are numbers; `shapes` of all of them, without the batch axis."""

    name: str
    inputs: list[tuple[int, str]]
    outputs: list[int]
    layers: dict[str, Layer]
    calls: list[Call]
    shapes: dict[int, tuple[int, ...]]

    def readers(self, value: int) -> list[Call]:
        """The calls that read a value."""
        return [call for call in self.calls if value in call.reads]

    def maker(self, value: int) -> Call | None:
        """The call that makes a value; None for an input."""
        return next((call for call in self.calls if call.makes == value), None)

    def save(self, folder: Path) -> None:
        """Writes `blueprint.json` and `weights.npz`."""
        arrays = {f"{name}#{k}": w for name, layer in self.layers.items() for k, w in enumerate(layer.weights)}
        np.savez(folder / "weights.npz", **arrays)  # type: ignore[arg-type]
        plain = asdict(self)
        for layer in plain["layers"].values():
            layer["weights"] = len(layer["weights"])
        (folder / "blueprint.json").write_text(json.dumps(plain), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Blueprint:
        """Reads what `save` wrote."""
        plain = json.loads((folder / "blueprint.json").read_text(encoding="utf-8"))
        with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
            layers = {
                name: Layer(**{**row, "weights": [arrays[f"{name}#{k}"] for k in range(row["weights"])]})
                for name, row in plain.pop("layers").items()
            }
        calls = [Call(row["layer"], tuple(row["reads"]), row["makes"]) for row in plain.pop("calls")]
        shapes = {int(k): tuple(v) for k, v in plain.pop("shapes").items()}
        inputs = [(int(k), str(v)) for k, v in plain.pop("inputs")]
        return cls(layers=layers, calls=calls, shapes=shapes, inputs=inputs, **plain)


def read(model: Any, input_names: Sequence[str]) -> Blueprint:
    """The blueprint of a Functional or Sequential Keras 3 model.

    Raises:
        QatError: it holds an operation or a way of calling layers that cannot be carried over; names it.
    """
    made = Blueprint(model.name, [], [], {}, [], {})
    numbers = []
    for tensor, name in zip(model.inputs, input_names, strict=True):
        if str(tensor.dtype) != "float32":
            raise QatError(f"Input '{name}' is {tensor.dtype}; quantization-aware training takes float32 inputs.")
        numbers.append(_value(made, tuple(tensor.shape[1:])))
        made.inputs.append((numbers[-1], name))
    made.outputs = _expand(made, model, numbers, "")
    return made


def _value(made: Blueprint, shape: tuple[int, ...]) -> int:
    made.shapes[len(made.shapes)] = shape
    return len(made.shapes) - 1


def _expand(made: Blueprint, model: Any, inputs: list[int], prefix: str) -> list[int]:
    """Adds all calls of a model; returns its outputs."""
    if type(model).__name__ == "Sequential":
        values = inputs
        for layer in model.layers:
            values = _call(made, layer, values, prefix, tuple(layer.output.shape[1:]))
        return values
    config = model.get_config()
    known: dict[tuple[str, int, int], int] = {}
    for ref, number in zip(_refs(config["input_layers"]), inputs, strict=True):
        known[ref] = number
    waiting = [
        (entry, number, node) for entry in config["layers"] for number, node in enumerate(entry["inbound_nodes"])
    ]
    while waiting:
        ready = [x for x in waiting if all(ref in known for ref in _tensors(x[2]["args"]))]
        if not ready:
            raise QatError(f"Model '{model.name}' cannot be put in order; is it Functional?")
        for entry, number, node in ready:
            for position, value in enumerate(_node(made, model, entry, node, known, prefix)):
                known[entry["name"], number, position] = value
        waiting = [x for x in waiting if x not in ready]
    return [known[ref] for ref in _refs(config["output_layers"])]


def _refs(listed: Any) -> list[tuple[str, int, int]]:
    """One [layer, node, tensor], a list or a dictionary, which Keras takes in the order of its keys."""
    if isinstance(listed, Mapping):
        return [ref for key in sorted(listed) for ref in _refs(listed[key])]
    if listed and isinstance(listed[0], str):
        return [(listed[0], listed[1], listed[2])]
    return [ref for value in listed for ref in _refs(value)]


def _tensors(arguments: Any) -> Iterator[tuple[str, int, int]]:
    if isinstance(arguments, Mapping):
        if arguments.get("class_name") == "__keras_tensor__":
            yield tuple(arguments["config"]["keras_history"])  # type: ignore[misc]
            return
        arguments = [arguments[key] for key in sorted(arguments)]
    if isinstance(arguments, (list, tuple)):
        for value in arguments:
            yield from _tensors(value)


def _node(
    made: Blueprint,
    model: Any,
    entry: Mapping[str, Any],
    node: Mapping[str, Any],
    known: Mapping[Any, int],
    prefix: str,
) -> list[int]:
    name, kind, path = entry["name"], entry["class_name"], f"{prefix}{entry['name']}"
    reads = [known[ref] for ref in _tensors(node["args"])]
    extra = {k: v for k, v in node["kwargs"].items() if v is not None and k != "training"}
    if extra or any(True for _ in _tensors(node["kwargs"])):
        raise QatError(f"'{path}' ({kind}) is called with {sorted(extra)}, which training cannot do.")
    if ".ops" not in str(entry.get("module", "")):
        layer = model.get_layer(name)
        return _call(made, layer, reads, prefix, tuple(layer.output.shape[1:]) if kind not in _CONTAINERS else ())
    if kind not in _OPERATIONS or len(reads) != 2:
        raise QatError(
            f"'{path}' is the operation ops.{kind}, which tf_keras has no layer for. Replace it by a layer, or "
            "rebuild the model with residual='tied'."
        )
    made.layers.setdefault(path, Layer(kind, {"name": name}))
    shape = tuple(np.broadcast_shapes(*(made.shapes[r] for r in reads)))
    made.calls.append(Call(path, tuple(reads), _value(made, shape)))
    return [made.calls[-1].makes]


def _call(made: Blueprint, layer: Any, reads: list[int], prefix: str, shape: tuple[int, ...]) -> list[int]:
    kind, path = type(layer).__name__, f"{prefix}{layer.name}"
    if kind == "InputLayer":
        return reads
    if kind in _CONTAINERS:
        return _expand(made, layer, reads, f"{path}/")
    if not str(type(layer).__module__).startswith("keras."):
        raise QatError(f"'{path}' is a {kind} of your own; tf_keras does not have it. Replace it by built-in layers.")
    if path not in made.layers:
        made.layers[path] = Layer(kind, _plain(layer.get_config()), [np.asarray(w) for w in layer.get_weights()])
    made.calls.append(Call(path, tuple(reads), _value(made, shape)))
    return [made.calls[-1].makes]


def _plain(value: Any) -> Any:
    """Serialised objects reduced to class name and configuration; tuples to lists, arrays to numbers."""
    if isinstance(value, Mapping):
        if "class_name" in value and "config" in value:
            return {"class_name": value["class_name"], "config": _plain(value["config"])}
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value
