"""A `.tflite` file as operators and tensors that can be cut out and resized; the only door to its object API."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflite_tools.errors import TfliteFileError
from tflite_tools.flatbuffer import TfliteSource, read_bytes, read_facts

_DTYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}
Sizes = Mapping[int, Mapping[int, int]]
"""Tensor number -> axis -> its new size."""


@dataclass(frozen=True)
class FlatTensor:
    """A tensor; `data` are the values of a constant, in the tensor's shape, and None for an activation."""

    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray | None
    source: Any


@dataclass(frozen=True)
class FlatOp:
    """An operator; `inputs` and `outputs` are tensor numbers, -1 where an optional input is left out."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    source: Any


@dataclass(frozen=True)
class FlatGraph:
    """The main graph of a file, its operators in the order of execution."""

    tensors: tuple[FlatTensor, ...]
    ops: tuple[FlatOp, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    codes: tuple[Any, ...]

    def activations(self, op: FlatOp) -> list[int]:
        """The tensors that an operator reads while it runs, each once."""
        return list(dict.fromkeys(t for t in op.inputs if t >= 0 and self.tensors[t].data is None))

    def single(self, number: int) -> FlatGraph:
        """One operator with its constants, as a graph of its own; tensors keep their numbers."""
        op = self.ops[number]
        return FlatGraph(self.tensors, (op,), tuple(self.activations(op)), op.outputs, self.codes)


def read_graph(source: TfliteSource) -> FlatGraph:
    """Reads the main graph of a file.

    Raises:
        TfliteFileError: missing, no TFLite model, cut off, or of several graphs (control flow).
    """
    facts, data = read_facts(source), read_bytes(source)
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    if len(model.subgraphs) != 1:
        raise TfliteFileError(
            f"The file has {len(model.subgraphs)} graphs; one is expected. Networks with control flow cannot be cut up."
        )
    graph = model.subgraphs[0]
    ops = tuple(
        FlatOp(facts.operators[number].name, _numbers(op.inputs), _numbers(op.outputs), op)
        for number, op in enumerate(graph.operators)
    )
    tensors = tuple(_tensor(tensor, model.buffers) for tensor in graph.tensors)
    return FlatGraph(tensors, ops, _numbers(graph.inputs), _numbers(graph.outputs), tuple(model.operatorCodes))


def write_graph(graph: FlatGraph, sizes: Sizes, values: Mapping[int, np.ndarray] | None = None) -> bytes:
    """The file of a graph in which some axes have other sizes; constants repeat or lose entries along them.

    Args:
        values: tensor number -> what a constant holds instead, for shapes and other indices.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, sub = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, b"resized"
    model.buffers = [schema.BufferT()]  # the first one is empty by convention
    used = [t for op in graph.ops for t in (*op.inputs, *op.outputs) if t >= 0] + [*graph.inputs, *graph.outputs]
    place = {tensor: number for number, tensor in enumerate(dict.fromkeys(used))}
    sub.name, sub.tensors = b"main", []
    for number in place:
        tensor, data = _resized(graph.tensors[number], sizes.get(number, {}), (values or {}).get(number))
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        sub.tensors.append(tensor)
    codes = list(dict.fromkeys(op.source.opcodeIndex for op in graph.ops))
    model.operatorCodes = [graph.codes[code] for code in codes]
    sub.operators = [_operator(op, place, codes) for op in graph.ops]
    sub.inputs, sub.outputs = [place[t] for t in graph.inputs], [place[t] for t in graph.outputs]
    model.subgraphs = [sub]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _operator(op: FlatOp, place: Mapping[int, int], codes: Sequence[int]) -> Any:
    written = copy.copy(op.source)
    written.opcodeIndex = codes.index(op.source.opcodeIndex)
    written.inputs = [place.get(t, -1) for t in op.inputs]
    written.outputs = [place[t] for t in op.outputs]
    if op.kind == "RESHAPE":  # the shape is an input as well, and only that one is kept up to date
        written.builtinOptionsType, written.builtinOptions = 0, None
    return written


def _numbers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values) if values is not None else ()


def _tensor(tensor: Any, buffers: Sequence[Any]) -> FlatTensor:
    shape = _numbers(tensor.shape)
    raw = buffers[tensor.buffer].data
    dtype = _DTYPES.get(tensor.type, "")
    data = None
    if raw is not None and len(raw):
        data = np.frombuffer(np.asarray(raw, np.uint8).tobytes(), dtype or "uint8")
        data = data.reshape(shape) if dtype else data
    return FlatTensor(shape, dtype, data, tensor)


def _resized(tensor: FlatTensor, sizes: Mapping[int, int], values: np.ndarray | None) -> tuple[Any, np.ndarray | None]:
    written, data = copy.copy(tensor.source), tensor.data if values is None else values
    shape = [sizes.get(axis, size) for axis, size in enumerate(tensor.shape)]
    written.shape = np.array(shape, np.int32)
    written.shapeSignature = None
    if data is None or values is not None:
        return written, data
    for axis, size in sizes.items():
        data = np.take(data, np.arange(size) % tensor.shape[axis], axis)
    written.quantization = _scales(tensor, sizes)
    return written, np.ascontiguousarray(data)


def _scales(tensor: FlatTensor, sizes: Mapping[int, int]) -> Any:
    """The scales of a constant, which lie along one axis, in the same way as its values."""
    given = tensor.source.quantization
    if given is None or given.scale is None or len(given.scale) < 2 or given.quantizedDimension not in sizes:
        return given
    index = np.arange(sizes[given.quantizedDimension]) % len(given.scale)
    written = copy.copy(given)
    written.scale, written.zeroPoint = np.asarray(given.scale)[index], np.asarray(given.zeroPoint)[index]
    written.min = written.max = None
    return written
