"""Facts of a `.tflite` file, read from its flatbuffer; neither TensorFlow nor an interpreter is needed."""

from __future__ import annotations

import math
import os
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tflite_tools import memory
from tflite_tools.errors import TfliteFileError
from tflite_tools.memory import Lifetime

TfliteSource = bytes | str | os.PathLike[str]

_BITS = {
    **{"int2": 2, "int4": 4, "uint4": 4, "bool": 8, "int8": 8, "uint8": 8},
    **{"int16": 16, "uint16": 16, "float16": 16, "bfloat16": 16},
    **{"int32": 32, "uint32": 32, "float32": 32},
    **{"int64": 64, "uint64": 64, "float64": 64, "complex64": 64, "complex128": 128},
    **{"string": 0, "resource": 0, "variant": 0},  # not in the arena
}
_IDENTIFIER = b"TFL3"  # at byte 4 of every model since schema version 3


@dataclass(frozen=True)
class TensorFacts:
    """An input or output. Real value = (stored - zero_point) * scale; both are None for a float tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclass(frozen=True)
class OpFacts:
    """One operator; `inputs` and `outputs` are the dtypes of its activations, constants left out."""

    name: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def is_float(self) -> bool:
        """Whether it reads or writes a floating-point activation; QUANTIZE at a float input does."""
        return any("float" in dtype for dtype in self.inputs + self.outputs)


@dataclass(frozen=True)
class TfliteFacts:
    """What a model is made of.

    Attributes:
        size_bytes: the whole file. Names, scales and versions can be half of a small one.
        weight_bytes: all constant buffers, which is what grows with the channels.
        peak_bytes: the most bytes of activations alive at once when the operators of the main graph run one by one;
            no runtime can do with less, unless it computes in place.
        arena_bytes: the same when a planner places them, greedy by size, at multiples of 64 bytes; working memory of
            the operators is not in it.
        operators: of all subgraphs, in execution order.
        inputs: in the order and under the names of the signature; of the tensors where there is none.
        outputs: the same for the results.
    """

    size_bytes: int
    weight_bytes: int
    peak_bytes: int
    arena_bytes: int
    operators: tuple[OpFacts, ...]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]

    @property
    def op_counts(self) -> Mapping[str, int]:
        """How often each operator occurs, the most frequent first."""
        return MappingProxyType(dict(Counter(op.name for op in self.operators).most_common()))

    @property
    def float_ops(self) -> tuple[OpFacts, ...]:
        """The operators a processor without floating point cannot run."""
        return tuple(op for op in self.operators if op.is_float)

    @property
    def has_int8_activations(self) -> bool:
        """Whether any operator hands on int8 values; int8 weights alone do not count."""
        return any("int8" in op.outputs for op in self.operators)


def read_bytes(source: TfliteSource) -> bytes:
    """The content of a model given as bytes or as a path.

    Raises:
        TfliteFileError: there is no such file, or `source` is of another type.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if not isinstance(source, (str, os.PathLike)):
        raise TfliteFileError(f"A TFLite model is a path or bytes, got {type(source).__name__}.")
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise TfliteFileError(f"Cannot read '{source}': {error.strerror}. Give the path of a .tflite file.") from error


def read_facts(source: TfliteSource) -> TfliteFacts:
    """Reads sizes, operators, inputs and outputs without running the model.

    Raises:
        TfliteFileError: missing, no TFLite model, or cut off.
    """
    data = read_bytes(source)
    label = f"'{source}'" if isinstance(source, (str, os.PathLike)) else f"Model of {len(data):,} bytes"
    if len(data) < 8 or data[4:8] != _IDENTIFIER:
        raise TfliteFileError(
            f"{label} is no TFLite model: bytes 4 to 8 are {data[4:8]!r}, expected {_IDENTIFIER!r}. "
            "Give a file written by a TFLite converter."
        )
    try:
        return _facts(data)
    except (struct.error, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        # The flatbuffer reader trusts its offsets; wrong ones surface as any of these.
        raise TfliteFileError(
            f"{label} is damaged or cut off ({len(data):,} bytes): {type(error).__name__}. Copy or convert it again."
        ) from error


def _facts(data: bytes) -> TfliteFacts:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    inputs, outputs = _named_tensors(model, graph)
    lifetimes = _lifetimes(model, graph)
    return TfliteFacts(
        size_bytes=len(data),
        weight_bytes=sum(_buffer_lengths(model, len(data))),
        peak_bytes=memory.peak_bytes(lifetimes),
        arena_bytes=memory.arena_bytes(lifetimes),
        operators=tuple(_operators(model)),
        inputs=tuple(_tensor(graph.Tensors(index), name) for name, index in inputs),
        outputs=tuple(_tensor(graph.Tensors(index), name) for name, index in outputs),
    )


def op_outputs(data: bytes) -> list[str]:
    """The name of the first result of every operator of the main graph, in order; "" where there is none."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(data, 0).Subgraphs(0)
    ops = (graph.Operators(index) for index in range(graph.OperatorsLength()))
    return [text(graph.Tensors(op.Outputs(0)).Name()) if op.OutputsLength() else "" for op in ops]


def activation_lifetimes(data: bytes) -> tuple[Lifetime, ...]:
    """Of every activation of the main graph, inputs first; operators are counted from 0."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    return _lifetimes(model, model.Subgraphs(0))


def tensor_bytes(data: bytes) -> list[int]:
    """What each tensor of the main graph holds, by its shape and data type."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(data, 0).Subgraphs(0)
    return [_bytes(graph.Tensors(index)) for index in range(graph.TensorsLength())]


def _buffer_lengths(model: Any, size: int) -> Iterator[int]:
    for index in range(model.BuffersLength()):
        buffer = model.Buffers(index)
        if buffer.Offset() > 1:  # files above 2 GB keep the constants behind the flatbuffer
            start, length = buffer.Offset(), buffer.Size()
        else:
            field, length = buffer._tab.Offset(4), buffer.DataLength()
            start = buffer._tab.Vector(field) if field else 0
        if start + length > size:
            raise IndexError(f"buffer {index} ends at {start + length}")
        yield length


def _operators(model: Any) -> Iterator[OpFacts]:
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for index in range(graph.OperatorsLength()):
            op = graph.Operators(index)
            code = model.OperatorCodes(op.OpcodeIndex())
            ins = [op.Inputs(i) for i in range(op.InputsLength())]
            outs = [op.Outputs(i) for i in range(op.OutputsLength())]
            yield OpFacts(
                name=op_name(code),
                version=code.Version(),
                inputs=tuple(_activation_dtypes(model, graph, ins)),
                outputs=tuple(_activation_dtypes(model, graph, outs)),
            )


def _activation_dtypes(model: Any, graph: Any, indices: list[int]) -> Iterator[str]:
    for index in indices:
        if index < 0:  # an optional input that is absent
            continue
        tensor = graph.Tensors(index)
        if not _is_constant(model, tensor):
            yield _dtype(tensor)


def _is_constant(model: Any, tensor: Any) -> bool:
    buffer = model.Buffers(tensor.Buffer())
    return buffer.DataLength() > 0 or buffer.Size() > 0


def _lifetimes(model: Any, graph: Any) -> tuple[Lifetime, ...]:
    """Of every activation: inputs live from the start, outputs to the end, the others from maker to last reader."""
    first = {graph.Inputs(i): -1 for i in range(graph.InputsLength())}
    last = dict(first)
    for step in range(graph.OperatorsLength()):
        op = graph.Operators(step)
        for made in (op.Outputs(i) for i in range(op.OutputsLength())):
            last[made] = max(step, last.get(made, step))
            first.setdefault(made, step)
        for read in (op.Inputs(i) for i in range(op.InputsLength())):
            if read in first:  # neither a constant nor an absent input
                last[read] = step
    last |= {graph.Outputs(i): graph.OperatorsLength() for i in range(graph.OutputsLength())}
    return tuple(Lifetime(first[t], last[t], _bytes(graph.Tensors(t))) for t in first if t >= 0)


def _bytes(tensor: Any) -> int:
    count = math.prod(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
    return -(-count * _BITS[_dtype(tensor)] // 8)


def _named_tensors(model: Any, graph: Any) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    if model.SignatureDefsLength():
        signature = model.SignatureDefs(0)
        ins = [signature.Inputs(i) for i in range(signature.InputsLength())]
        outs = [signature.Outputs(i) for i in range(signature.OutputsLength())]
        return [(text(m.Name()), m.TensorIndex()) for m in ins], [(text(m.Name()), m.TensorIndex()) for m in outs]
    numbers = [graph.Inputs(i) for i in range(graph.InputsLength())]
    results = [graph.Outputs(i) for i in range(graph.OutputsLength())]
    return [(text(graph.Tensors(i).Name()), i) for i in numbers], [(text(graph.Tensors(i).Name()), i) for i in results]


def _tensor(tensor: Any, name: str) -> TensorFacts:
    shape = tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
    quantization = tensor.Quantization()
    if quantization is None or not quantization.ScaleLength():
        return TensorFacts(name, shape, _dtype(tensor), None, None)
    return TensorFacts(name, shape, _dtype(tensor), float(quantization.Scale(0)), int(quantization.ZeroPoint(0)))


def _dtype(tensor: Any) -> str:
    return _names("TensorType")[tensor.Type()].lower()


def op_name(code: Any) -> str:
    """The operator of an operator code; a custom one by its own name."""
    # The one-byte field overflowed at 127 operators; whichever of the two is larger is the true code.
    name = _names("BuiltinOperator")[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    return text(code.CustomCode()) if name == "CUSTOM" else name


@lru_cache
def _names(enum: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(getattr(schema, enum)).items() if isinstance(value, int)}


def text(raw: bytes | None) -> str:
    """A name of the file."""
    return (raw or b"").decode("utf-8", "replace")
