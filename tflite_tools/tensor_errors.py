"""Every tensor of a quantized file against the same tensor of the float file: where the noise comes in.

Both files run with builtin kernels and keep all their tensors; those of one name belong together, since the converters
keep names.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tflite_tools.errors import DeviceError, first_line
from tflite_tools.flatbuffer import op_name, text
from tflite_tools.inference import quantize
from tflite_tools.output_errors import decibels
from tflite_tools.quiet import silenced
from tflite_tools.tensors import layer_of


@dataclass(frozen=True)
class TensorError:
    """The result of one operator.

    Attributes:
        tensor, layer, operator: its name, the Keras layer it comes from, what makes it.
        dtype: in which it is stored.
        max_error, mean_error: absolute, against float.
        snr_db: with the noise of everything before it.
        added_db: signal-to-noise ratio of what this operator itself adds, the noise of its noisiest input left out.
            Each channel (last axis) counts alike, however small its values: what reads it may scale them up.
        clipped: share of the float values that lie beyond what the tensor can hold.
        reads: names of the activations the operator reads.
    """

    tensor: str
    layer: str
    operator: str
    dtype: str
    max_error: float
    mean_error: float
    snr_db: float
    added_db: float
    clipped: float
    reads: tuple[str, ...] = ()


@dataclass
class _Sums:
    signal: Any = 0.0  # of each channel
    noise: Any = 0.0
    absolute: float = 0.0
    greatest: float = 0.0
    clipped: int = 0
    count: int = 0

    def add(self, right: np.ndarray, found: np.ndarray, limits: tuple[float, float]) -> None:
        error = np.abs(found - right)
        axes = tuple(range(right.ndim - 1))
        self.signal = self.signal + (right**2).sum(axes)
        self.noise = self.noise + (error**2).sum(axes)
        self.absolute += float(error.sum())
        self.greatest = max(self.greatest, float(error.max(initial=0)))
        self.clipped += int(((right < limits[0]) | (right > limits[1])).sum())
        self.count += right.size

    def share(self) -> float:
        """Noise by signal, the mean over channels; a lost channel counts as one, a dead one not at all."""
        signal, noise = np.atleast_1d(self.signal), np.atleast_1d(self.noise)
        alive = signal > 1e-9 * max(signal.max(), 1e-300)
        return float(np.minimum(noise[alive] / signal[alive], 1.0).mean()) if alive.any() else 0.0


@dataclass
class _Graph:
    """A file that runs and lets all its tensors be read."""

    data: bytes
    interpreter: Any = field(init=False)
    ops: list[tuple[str, str, tuple[str, ...]]] = field(init=False)
    details: Mapping[str, Mapping[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            with silenced(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.interpreter = Interpreter(
                    model_content=self.data, experimental_op_resolver_type=plain, experimental_preserve_all_tensors=True
                )
                self.interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise DeviceError(f"The model does not load with builtin kernels: {first_line(error)}") from error
        self.ops = list(_operators(self.data))
        self.details = {d["name"]: d for d in self.interpreter.get_tensor_details() if d["name"]}

    def run(self, sample: Mapping[str, np.ndarray]) -> None:
        runner = next(iter(self.interpreter.get_signature_list().values()))
        inputs = self.interpreter.get_signature_runner().get_input_details()
        for name in runner["inputs"]:
            detail = inputs[name]
            self.interpreter.set_tensor(detail["index"], quantize(np.asarray(sample[name])[None], detail))
        self.interpreter.invoke()

    def value(self, name: str) -> np.ndarray:
        detail = self.details[name]
        scale, zero_point = detail["quantization"]
        values = self.interpreter.get_tensor(detail["index"]).astype(np.float64)
        return (values - zero_point) * scale if scale else values

    def limits(self, name: str) -> tuple[float, float]:
        """The least and the greatest value it can hold, half a step beyond either."""
        detail = self.details[name]
        scale, zero_point = detail["quantization"]
        if not scale:
            return -np.inf, np.inf
        ends = np.iinfo(detail["dtype"])
        return (ends.min - zero_point - 0.5) * scale, (ends.max - zero_point + 0.5) * scale


def tensor_errors(
    float_model: bytes, quantized: bytes, samples: Sequence[Mapping[str, np.ndarray]]
) -> tuple[TensorError, ...]:
    """One row for each operator result that both files have, in execution order.

    Args:
        float_model: the float32 file of the same network.
        quantized: the file that is judged.
        samples: real values by signature input name, without a batch axis.

    Raises:
        DeviceError: one of them does not run.
    """
    plain, judged = _Graph(float_model), _Graph(quantized)
    shared = [op for op in judged.ops if _fits(plain, judged, op[1])]
    sums = {name: _Sums() for _, name, _ in shared}
    sums |= {name: _Sums() for _, _, reads in shared for name in reads if _fits(plain, judged, name)}
    limits = {name: judged.limits(name) for name in sums}
    for sample in samples:
        plain.run(sample)
        judged.run(sample)
        for name, total in sums.items():
            total.add(plain.value(name), judged.value(name), limits[name])
    return tuple(_row(op, judged, sums) for op in shared)


def _fits(plain: _Graph, judged: _Graph, name: str) -> bool:
    if name not in plain.details or name not in judged.details:
        return False
    return list(plain.details[name]["shape"]) == list(judged.details[name]["shape"])


def _row(op: tuple[str, str, tuple[str, ...]], judged: _Graph, sums: Mapping[str, _Sums]) -> TensorError:
    operator, name, reads = op
    total = sums[name]
    before = max((sums[r].share() for r in reads if r in sums), default=0.0)
    return TensorError(
        name,
        layer_of(name),
        operator,
        np.dtype(judged.details[name]["dtype"]).name,
        total.greatest,
        total.absolute / max(total.count, 1),
        decibels(float(np.sum(total.signal)), float(np.sum(total.noise))),
        decibels(1.0, max(total.share() - before, 0.0)),
        total.clipped / max(total.count, 1),
        reads,
    )


def _operators(data: bytes) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(operator, first result, activations it reads) of the main graph."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    for number in range(graph.OperatorsLength()):
        op = graph.Operators(number)
        reads = [op.Inputs(i) for i in range(op.InputsLength()) if op.Inputs(i) >= 0]
        names = [text(graph.Tensors(i).Name()) for i in reads if not _constant(model, graph.Tensors(i))]
        kind = op_name(model.OperatorCodes(op.OpcodeIndex()))
        yield kind, text(graph.Tensors(op.Outputs(0)).Name()), tuple(names)


def _constant(model: Any, tensor: Any) -> bool:
    return model.Buffers(tensor.Buffer()).DataLength() > 0
