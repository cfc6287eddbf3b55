"""Cuts every operator out of a `.tflite`, with its constants, into a file of its own."""

from __future__ import annotations

import copy
from typing import Any

from tflite_tools.errors import TfliteFileError


def single_op_models(data: bytes) -> list[bytes]:
    """One file for each operator of the main graph, in order; the results of one are not the inputs of the next.

    Raises:
        TfliteFileError: the file has several graphs (control flow).
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    if len(model.subgraphs) != 1:
        raise TfliteFileError(f"The file has {len(model.subgraphs)} graphs; files with control flow cannot be cut up.")
    return [_single(schema, model, op) for op in model.subgraphs[0].operators]


def _single(schema: Any, model: Any, source: Any) -> bytes:
    import flatbuffers

    tensors = model.subgraphs[0].tensors
    used = list(dict.fromkeys(int(t) for t in (*source.inputs, *source.outputs) if t >= 0))
    place = {number: position for position, number in enumerate(used)} | {-1: -1}  # -1: an optional input is absent
    alone, graph, op = schema.ModelT(), schema.SubGraphT(), copy.copy(source)
    alone.version, alone.description, alone.buffers = 3, b"single operator", [schema.BufferT()]
    graph.name, graph.tensors = b"main", []
    constant = set()
    for number in used:
        tensor = copy.copy(tensors[number])
        buffer = model.buffers[tensor.buffer]
        tensor.buffer, tensor.shapeSignature = 0, None
        if buffer.data is not None and len(buffer.data):
            constant.add(number)
            tensor.buffer = len(alone.buffers)
            alone.buffers.append(buffer)
        graph.tensors.append(tensor)
    alone.operatorCodes, op.opcodeIndex = [model.operatorCodes[source.opcodeIndex]], 0
    op.inputs, op.outputs = [place[int(t)] for t in source.inputs], [place[int(t)] for t in source.outputs]
    fed = dict.fromkeys(int(t) for t in source.inputs if t >= 0 and int(t) not in constant)
    graph.inputs, graph.outputs, graph.operators = [place[t] for t in fed], list(op.outputs), [op]
    alone.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(alone.Pack(builder), b"TFL3")
    return bytes(builder.Output())
