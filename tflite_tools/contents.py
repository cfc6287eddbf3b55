"""Where the bytes of a `.tflite` are: by operator and by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tflite_tools.flatbuffer import (
    TfliteFacts,
    TfliteSource,
    activation_lifetimes,
    op_outputs,
    read_bytes,
    read_facts,
    tensor_bytes,
)
from tflite_tools.latency.flat_graph import FlatGraph, FlatTensor, read_graph


@dataclass(frozen=True)
class OpContent:
    """An operator of the main graph.

    Attributes:
        constant_bytes: weights and other constants it reads, those of an earlier operator not again.
        output_bytes: what it writes.
        live_bytes: activations alive while it runs; the greatest is the peak of the whole.
    """

    index: int
    kind: str
    version: int
    name: str
    output_shape: tuple[int, ...]
    output_dtype: str
    constant_bytes: int
    output_bytes: int
    live_bytes: int


@dataclass(frozen=True)
class TensorContent:
    """A tensor of the main graph; `op` is the first that reads a constant or writes an activation, None for inputs."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    is_constant: bool
    op: int | None


@dataclass(frozen=True)
class Contents:
    """A file, operator by operator and tensor by tensor; `other_bytes` are names, scales, shapes and tables."""

    facts: TfliteFacts
    ops: tuple[OpContent, ...]
    tensors: tuple[TensorContent, ...]

    @property
    def other_bytes(self) -> int:
        return self.facts.size_bytes - self.facts.weight_bytes

    @property
    def constant_bytes_by_kind(self) -> Mapping[str, int]:
        """Of each kind of operator, the greatest first."""
        kinds = {op.kind: 0 for op in self.ops}
        for op in self.ops:
            kinds[op.kind] += op.constant_bytes
        return dict(sorted(kinds.items(), key=lambda item: -item[1]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        facts = self.facts
        return {
            "size_bytes": facts.size_bytes,
            "weight_bytes": facts.weight_bytes,
            "other_bytes": self.other_bytes,
            "peak_bytes": facts.peak_bytes,
            "arena_bytes": facts.arena_bytes,
            "constant_bytes_by_kind": dict(self.constant_bytes_by_kind),
            "inputs": [asdict(tensor) for tensor in facts.inputs],
            "outputs": [asdict(tensor) for tensor in facts.outputs],
            "operators": [asdict(op) for op in self.ops],
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }


def read_contents(source: TfliteSource) -> Contents:
    """Reads a file with one graph.

    Raises:
        TfliteFileError: missing, no TFLite model, cut off, or of several graphs (control flow).
    """
    data = read_bytes(source)
    facts, graph = read_facts(data), read_graph(data)
    owner = _owners(graph)
    lifetimes, names = activation_lifetimes(data), op_outputs(data)
    sizes, counted = [0] * len(graph.ops), set()
    for number, index in sorted(owner.items(), key=lambda item: item[1]):
        tensor = graph.tensors[number]
        if tensor.data is not None and tensor.source.buffer not in counted:  # several tensors may share one
            counted.add(tensor.source.buffer)
            sizes[index] += tensor.data.nbytes
    written = tensor_bytes(data)
    ops = tuple(
        OpContent(
            index=index,
            kind=op.kind,
            version=facts.operators[index].version,
            name=names[index],
            output_shape=graph.tensors[op.outputs[0]].shape if op.outputs else (),
            output_dtype=graph.tensors[op.outputs[0]].dtype if op.outputs else "",
            constant_bytes=sizes[index],
            output_bytes=sum(written[t] for t in op.outputs if t >= 0),
            live_bytes=sum(life.size for life in lifetimes if life.first <= index <= life.last),
        )
        for index, op in enumerate(graph.ops)
    )
    tensors = tuple(
        _tensor(number, graph.tensors[number], written[number], owner.get(number))
        for number in range(len(graph.tensors))
    )
    return Contents(facts, ops, tensors)


def _owners(graph: FlatGraph) -> dict[int, int]:
    """Tensor -> the first operator that reads a constant or writes an activation."""
    owner: dict[int, int] = {}
    for index, op in enumerate(graph.ops):
        for number in op.outputs:
            owner.setdefault(number, index)
        for number in op.inputs:
            if number >= 0 and graph.tensors[number].data is not None:
                owner.setdefault(number, index)
    return owner


def _tensor(number: int, tensor: FlatTensor, size: int, op: int | None) -> TensorContent:
    name = (tensor.source.name or b"").decode("utf-8", "replace")
    constant = tensor.data is not None
    size = tensor.data.nbytes if tensor.data is not None else size
    return TensorContent(number, name, tensor.shape, tensor.dtype or "other", size, constant, op)
