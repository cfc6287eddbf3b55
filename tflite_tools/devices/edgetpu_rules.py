"""Which operators the Edge TPU can run, before any compiler sees the file.

Source: https://coral.ai/docs/edgetpu/models-intro (table "All operations supported by the Edge TPU") and the operator
versions compiler 16.0 knows, as far as public issues tell. A rule can only promise a refusal: what passes here
may still stay on the CPU, and by default everything behind the first unsupported operator does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tflite_tools.latency.flat_graph import FlatGraph, FlatOp

_PLAIN = """ADD CONCATENATION EXPAND_DIMS L2_NORMALIZATION LOGISTIC MAXIMUM MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE
REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX
SPACE_TO_DEPTH SPLIT SQUEEZE STRIDED_SLICE SUB SUM SQUARED_DIFFERENCE TANH TRANSPOSE TRANSPOSE_CONV AVERAGE_POOL_2D
MAX_POOL_2D CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED UNIDIRECTIONAL_SEQUENCE_LSTM"""
SUPPORTED = frozenset(_PLAIN.split())
_TOO_NEW: Mapping[str, int] = {"CONV_2D": 6, "TRANSPOSE_CONV": 4, "EXP": 2}  # this version and above
_NO_FUSED_ACTIVATION = ("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION")
_LONGEST_SOFTMAX, _MOST_LONG_DIMENSIONS = 16_000, 3
_QUANTIZED = ("int8", "uint8")


def reasons(graph: FlatGraph, version: Mapping[int, int]) -> dict[int, str]:
    """Operator number -> why it cannot run on the Edge TPU.

    Args:
        version: operator number -> version of its code.
    """
    found = {number: _reason(graph, op, version.get(number, 1)) for number, op in enumerate(graph.ops)}
    return {number: reason for number, reason in found.items() if reason}


def _reason(graph: FlatGraph, op: FlatOp, version: int) -> str:
    if op.kind not in SUPPORTED:
        return "operation not supported"
    if version >= _TOO_NEW.get(op.kind, 1000):
        return f"operation version {version} is newer than the compiler knows"
    tensors = [graph.tensors[t] for t in (*graph.activations(op), *op.outputs) if t >= 0]
    for tensor in tensors:
        is_cell = tensor.dtype == "int16" and op.kind == "UNIDIRECTIONAL_SEQUENCE_LSTM"
        if tensor.dtype not in _QUANTIZED and not is_cell:
            return f"data type {tensor.dtype or 'unknown'}; everything must be int8"
        if tensor.source.shapeSignature is not None and min(tensor.source.shapeSignature, default=1) < 0:
            return "dynamic shape; convert with a fixed batch of 1"
        if sum(size > 1 for size in tensor.shape) > _MOST_LONG_DIMENSIONS:
            return f"more than {_MOST_LONG_DIMENSIONS} dimensions are larger than 1"
    options: Any = op.source.builtinOptions
    if op.kind in _NO_FUSED_ACTIVATION and options.fusedActivationFunction:
        return "fused activation"
    rule = _RULES.get(op.kind)
    return rule(graph, op) if rule else ""


def _dilations(graph: FlatGraph, op: FlatOp) -> str:
    options: Any = op.source.builtinOptions
    return "" if options.dilationHFactor == options.dilationWFactor else "different dilations in height and width"


def _dense(graph: FlatGraph, op: FlatOp) -> str:
    scales = graph.tensors[op.inputs[1]].source.quantization
    if scales is not None and scales.scale is not None and len(scales.scale) > 1:
        return "weights are quantized per channel; one scale is expected"
    shape = graph.tensors[op.outputs[0]].shape
    return "" if sum(size > 1 for size in shape) <= 1 else "output has more than one dimension"


def _softmax(graph: FlatGraph, op: FlatOp) -> str:
    shape = graph.tensors[op.inputs[0]].shape
    if sum(size > 1 for size in shape) > 1:
        return "input has more than one dimension"
    return "" if max(shape, default=1) <= _LONGEST_SOFTMAX else f"more than {_LONGEST_SOFTMAX} values"


def _strides(graph: FlatGraph, op: FlatOp) -> str:
    strides = graph.tensors[op.inputs[3]].data
    return "" if strides is not None and bool((strides == 1).all()) else "strides must be 1"


_RULES: Mapping[str, Callable[[FlatGraph, FlatOp], str]] = {
    "CONV_2D": _dilations,
    "DEPTHWISE_CONV_2D": _dilations,
    "FULLY_CONNECTED": _dense,
    "SOFTMAX": _softmax,
    "STRIDED_SLICE": _strides,
}
