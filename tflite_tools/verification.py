"""What quantization did to a network: outputs, the task's own metric, every tensor, and what to do about it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tflite_tools.errors import VerificationError
from tflite_tools.flatbuffer import TfliteSource, read_bytes, read_facts
from tflite_tools.inference import predict
from tflite_tools.keras_models import input_specs, packed, signature_names
from tflite_tools.output_errors import OutputError, output_error, top1
from tflite_tools.representative import InputSpec
from tflite_tools.sampling import Calibration, arrays_of
from tflite_tools.sources import resolved
from tflite_tools.tensor_errors import TensorError, tensor_errors

Metric = Callable[[np.ndarray, np.ndarray], float]

_FINE_DROP = 0.005  # of the metric
_FINE_AGREEMENT = 0.99
_CLIPPED = 0.01  # share of values beyond the range of their tensor
_NOISY_DB = 25.0


@dataclass(frozen=True)
class Verification:
    """Print it; `save_plot` draws the noise of all tensors.

    Attributes:
        outputs: one for each output of the model.
        metric: (Keras, file), None without labels.
        tensors: one for each operator that float and quantized file share, in execution order; empty for float files.
        suggestions: what to do, the most promising first.
        num_samples: for outputs and metric; `tensors` are from the first few of them.
        quantized: whether any operator of the file hands on integers of 8 or 16 bits.
    """

    outputs: tuple[OutputError, ...]
    metric: tuple[float, float] | None
    tensors: tuple[TensorError, ...]
    suggestions: tuple[str, ...]
    num_samples: int
    quantized: bool = False

    def worst(self, count: int = 5) -> tuple[TensorError, ...]:
        """The operators that add most noise of their own, relative to their signal."""
        return tuple(sorted(self.tensors, key=lambda t: t.added_db)[:count])

    def to_json(self) -> str:
        """Everything, as one JSON object."""
        return json.dumps(asdict(self), indent=1)

    def save_plot(self, path: str | os.PathLike[str]) -> None:
        """Draws signal-to-noise over the operators, the worst named, as an SVG.

        Raises:
            VerificationError: there are no tensors to draw, or Matplotlib is missing.
            OutputFileError: the place is not writable.
        """
        from tflite_tools.error_plot import save

        save(self, path)

    def __str__(self) -> str:
        lines = [f"{self.num_samples} samples against the Keras model"]
        for row in self.outputs:
            same = "" if row.agreement is None else f", same class {row.agreement:.2%}"
            lines.append(
                f"{row.name}: greatest error {row.max_error:.4g}, mean {row.mean_error:.4g}, "
                f"SNR {row.snr_db:.1f} dB, cosine {row.cosine:.5f}{same}"
            )
        if self.metric:
            before, after = self.metric
            lines.append(f"metric: {before:.4f} in Keras, {after:.4f} in the file ({after - before:+.4f})")
        for tensor in self.worst():
            cut = f", {tensor.clipped:.1%} of its values clipped" if tensor.clipped > _CLIPPED else ""
            lines.append(
                f"  {tensor.layer} ({tensor.operator}): adds noise at {tensor.added_db:.1f} dB, "
                f"{tensor.snr_db:.1f} dB with all before{cut}"
            )
        return "\n".join([*lines, *(f"-> {text}" for text in self.suggestions)])


def compare(
    keras_model: Any,
    tflite: TfliteSource,
    data: Any,
    labels: np.ndarray | Sequence[int] | None = None,
    *,
    metric: Metric | None = None,
    num_tensor_samples: int = 16,
) -> Verification:
    """Runs the Keras model and its file on the same samples.

    Args:
        keras_model: what the file was made from; a pruning result will do.
        tflite: the file.
        data: inputs as for `convert`, all of them are used; or a `Calibration`, whose `max_samples` counts.
        labels: what the metric needs; without them there is none.
        metric: (outputs of the first output, labels) -> a number, greater is better; top-1 accuracy if None.
        num_tensor_samples: on how many of the samples the tensors are compared; 0 to leave that out.

    Raises:
        VerificationError: labels and samples differ in number, or the file is that of another network.
        RepresentativeDataError, TfliteFileError, DeviceError, ConversionError: as elsewhere.
    """
    model, content = resolved(keras_model), read_bytes(tflite)
    specs = input_specs(model)
    chosen = data if isinstance(data, Calibration) else Calibration(data, max_samples=1 << 40)
    inputs = by_signature(arrays_of(chosen, specs), specs)
    count = len(next(iter(inputs.values())))
    if labels is not None and len(labels) != count:
        raise VerificationError(f"There are {len(labels)} labels for {count} samples.")
    expected = reference_outputs(model, specs, inputs)
    found = predict(content, inputs)
    if set(found) != set(expected) or any(found[k].shape != expected[k].shape for k in found):
        shapes = [{k: list(v.shape[1:]) for k, v in outputs.items()} for outputs in (expected, found)]
        raise VerificationError(f"The model has outputs {shapes[0]}, the file {shapes[1]}. It was made from another.")
    first = next(iter(expected))
    scores = None
    if labels is not None:
        judge = metric or top1
        scores = (float(judge(expected[first], np.asarray(labels))), float(judge(found[first], np.asarray(labels))))
    samples = [{name: x[k] for name, x in inputs.items()} for k in range(min(num_tensor_samples, count))]
    quantized = _is_quantized(content)
    rows = _tensors(model, content, samples) if samples and quantized else ()
    outputs = tuple(output_error(name, expected[name], found[name]) for name in expected)
    made = Verification(outputs, scores, rows, (), count, quantized)
    return replace(made, suggestions=suggestions(made))


def reference_outputs(
    model: Any, specs: Sequence[InputSpec], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What Keras computes, by the names the file's signature gives to outputs."""
    names = signature_names(specs)
    arrays = [inputs[names[spec.name]] for spec in specs]
    parts = []
    for start in range(0, len(arrays[0]), 64):
        batch = [x[start : start + 64].astype(s.dtype) for x, s in zip(arrays, specs, strict=True)]
        outputs = model(packed(model, batch), training=False)
        if isinstance(outputs, dict):
            parts.append({name: np.asarray(x) for name, x in outputs.items()})
        else:
            flat = outputs if isinstance(outputs, (list, tuple)) else [outputs]
            parts.append({f"output_{k}": np.asarray(x) for k, x in enumerate(flat)})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def by_signature(data: Any, specs: Sequence[InputSpec]) -> dict[str, np.ndarray]:
    """Arrays by signature input name, from a list, a dictionary or a single array.

    Raises:
        VerificationError: some are missing, or do not have the same number of samples.
    """
    names = signature_names(specs)
    if isinstance(data, Mapping):
        missing = [spec.name for spec in specs if spec.name not in data]
        if missing:
            raise VerificationError(f"The data lacks input '{missing[0]}'; it has {sorted(data)}.")
        arrays = [np.asarray(data[spec.name]) for spec in specs]
    else:
        arrays = [np.asarray(x) for x in (data if isinstance(data, (list, tuple)) else [data])]
    if len(arrays) != len(specs) or len({len(x) for x in arrays}) != 1 or not len(arrays[0]):
        counts = [len(x) for x in arrays]
        raise VerificationError(
            f"Give one array for each of {[s.name for s in specs]}, with as many samples; got {counts}."
        )
    return {names[spec.name]: x for spec, x in zip(specs, arrays, strict=True)}


def _is_quantized(content: bytes) -> bool:
    return any("int8" in op.outputs or "int16" in op.outputs for op in read_facts(content).operators)


def _tensors(model: Any, content: bytes, samples: list[dict[str, np.ndarray]]) -> tuple[TensorError, ...]:
    from tflite_tools.conversion import convert

    return tensor_errors(convert(model, "float32"), content, samples)


def suggestions(made: Verification) -> tuple[str, ...]:
    """What to do, from what was measured."""
    drop = made.metric[0] - made.metric[1] if made.metric else None
    agreement = min((row.agreement for row in made.outputs if row.agreement is not None), default=None)
    if drop is not None:
        fine = drop <= _FINE_DROP
    else:
        fine = (
            agreement >= _FINE_AGREEMENT if agreement is not None else min(r.snr_db for r in made.outputs) > _NOISY_DB
        )
    if fine:
        return ("nothing to do: the file does what the model does",)
    if not made.quantized:
        return ("the file computes in float: was it made from this model, and is the data preprocessed as for it?",)
    if not made.tensors:
        return (
            "no tensors were compared, so that the layer at fault is not known: set num_tensor_samples, or compare a "
            "file that convert made, whose tensors are named as in the model",
        )
    found = []
    clipped = [t for t in made.tensors if t.clipped > _CLIPPED]
    if clipped:
        found.append(
            f"values of {len(clipped)} tensors are clipped, first in '{clipped[0].layer}': use more, or more varied, "
            "representative data"
        )
    worst = made.worst(3)
    names = ", ".join(f"'{t.layer}'" for t in worst)
    found.append(f"keep {names} in int16 or float32: tflite_tools.mix chooses by measurement, within a budget of bytes")
    found.append("if that is not enough, train with quantization: tflite_tools.qat")
    return tuple(found)
