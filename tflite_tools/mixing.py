"""Mixed precision: which operators of an int8 network keep more, chosen by measurement within a budget.

Every candidate is tried alone in a real file, since noise that enters in one place may not matter at the output. Then
they are taken by what they gain for a byte, as long as the file fits and the outputs come closer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflite_tools.conversion import Tell, convert, dataset_of
from tflite_tools.edge_quantizer import PRECISIONS, Calibrated
from tflite_tools.errors import DeviceError, RecipeError, did_you_mean
from tflite_tools.inference import predict
from tflite_tools.keras_models import input_specs
from tflite_tools.output_errors import output_error
from tflite_tools.promises import require_integers_but
from tflite_tools.recipe import RECIPES
from tflite_tools.representative import Arrays
from tflite_tools.sampling import Calibration, arrays_of
from tflite_tools.sources import resolved
from tflite_tools.tensor_errors import TensorError, tensor_errors
from tflite_tools.tensors import layer_of
from tflite_tools.verification import by_signature, reference_outputs

_LEAST_GAIN_DB = 0.1


@dataclass(frozen=True)
class MixBudget:
    """How much more precise than int8 the file may be.

    Attributes:
        extra_bytes: how much larger than the int8 file; below 1 a share of it.
        num_ops: how many operators may keep more.
        goal_db: signal-to-noise ratio of the outputs at which nothing more is asked for.

    Raises:
        RecipeError: a number that makes no sense.
    """

    extra_bytes: float = 0.1
    num_ops: int = 8
    goal_db: float = 40.0

    def __post_init__(self) -> None:
        if self.extra_bytes < 0 or self.num_ops < 1:
            raise RecipeError(
                f"A budget of {self.extra_bytes} bytes and {self.num_ops} operators leaves nothing to do."
            )


@dataclass(frozen=True)
class MixStep:
    """A file that was measured: the operators that were added, bytes, and signal-to-noise ratio of its outputs."""

    tensors: tuple[str, ...]
    size_bytes: int
    snr_db: float


@dataclass(frozen=True)
class Mixed:
    """The file and how it came about.

    Attributes:
        data: the content of the `.tflite` file.
        kept: output tensor of each operator that keeps more -> "int16" or "float32".
        steps: the int8 file first, then one for each operator that was taken.
    """

    data: bytes
    kept: Mapping[str, str]
    steps: tuple[MixStep, ...]

    def __str__(self) -> str:
        first, last = self.steps[0], self.steps[-1]
        lines = [f"int8: {first.size_bytes:,} bytes, {first.snr_db:.1f} dB"]
        for step in self.steps[1:]:
            names = ", ".join(f"{layer_of(tensor)} in {self.kept[tensor]}" for tensor in step.tensors)
            lines.append(f"+ {names}: {step.size_bytes:,} bytes, {step.snr_db:.1f} dB")
        share = last.size_bytes / first.size_bytes - 1
        return "\n".join([*lines, f"{len(self.kept)} operators keep more, for {share:.1%} more bytes"])


def mix(
    keras_model: Any,
    representative_data: Any,
    data: Any = None,
    *,
    precision: str = "int16",
    budget: MixBudget | None = None,
    num_samples: int = 64,
    progress: Tell | None = None,
) -> Mixed:
    """An int8 file in which the operators that hurt most keep more; needs ai-edge-quantizer.

    Whatever is kept inside, its inputs and outputs are float32, with a QUANTIZE and a DEQUANTIZE at the ends.

    Args:
        keras_model: as for `convert`.
        representative_data: what scales are chosen from.
        data: samples the noise of the outputs is measured on, as for `compare`; the representative ones if None.
        precision: what the chosen operators keep, "int16" activations (weights stay int8) or "float32" (everything).
        budget: `MixBudget()` if None.
        num_samples: how many of `data` are used.
        progress: called with a line of text for each file that was measured.

    Raises:
        RecipeError: an unknown precision.
        ConversionError: an operator that was to be int8 stayed in float.
        RepresentativeDataError, DeviceError: as elsewhere.
    """
    if precision not in PRECISIONS:
        raise RecipeError(f"Operators cannot keep '{precision}'. {did_you_mean(precision, PRECISIONS)}")
    model = resolved(keras_model)
    specs = input_specs(model)
    plain = convert(model, "float32")
    once = Calibration.of(representative_data)
    once = replace(once, source=arrays_of(once, specs), preprocess=None)  # an iterator gives its samples only once
    dataset = dataset_of(RECIPES["edge_int8"], once, specs, model, progress)
    source = once if data is None else Calibration.of(data)
    inputs = by_signature(_first(arrays_of(source, specs), num_samples), specs)
    judge = _Judge(Calibrated(plain, dataset), inputs, reference_outputs(model, specs, inputs), progress)
    base = judge.measured({}, ())
    assert base is not None
    samples = [{name: x[k] for name, x in inputs.items()} for k in range(min(8, num_samples, _count(inputs)))]
    rows = tensor_errors(plain, judge.files[()], samples)
    return _grown(judge, rows, base, precision, budget or MixBudget())


@dataclass
class _Judge:
    """Makes files and measures them."""

    calibrated: Calibrated
    inputs: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    progress: Tell | None

    def __post_init__(self) -> None:
        self.files: dict[tuple[str, ...], bytes] = {}

    def measured(self, kept: Mapping[str, str], last: tuple[str, ...]) -> MixStep | None:
        """None where the runtime refuses the combination."""
        recipe = replace(RECIPES["edge_int8"], name="mixed", input_output_dtype="float32")
        content = self.calibrated.quantize(recipe, kept)
        require_integers_but(content, recipe, kept)
        try:
            found = predict(content, self.inputs)
        except DeviceError:
            if not kept:
                raise
            return None
        self.files[tuple(sorted(kept))] = content
        worst = min(output_error(k, self.expected[k], found[k]).snr_db for k in self.expected)
        step = MixStep(last, len(content), worst)
        if self.progress:
            self.progress(
                f"{len(kept)} kept, last {[layer_of(x) for x in last]}: {len(content):,} bytes, {worst:.2f} dB"
            )
        return step


def _grown(judge: _Judge, rows: Sequence[TensorError], base: MixStep, precision: str, budget: MixBudget) -> Mixed:
    """Takes candidates in the order of what they gain for a byte, and keeps those that really help."""
    extra = budget.extra_bytes * base.size_bytes if budget.extra_bytes < 1 else budget.extra_bytes
    tried = [judge.measured(dict.fromkeys(unit, precision), unit) for unit in _candidates(rows, budget.num_ops)]
    alone = [step for step in tried if step is not None and step.snr_db > base.snr_db + _LEAST_GAIN_DB]
    gain = lambda step: (step.snr_db - base.snr_db) / max(step.size_bytes - base.size_bytes, 64)  # noqa: E731
    kept: dict[str, str] = {}
    steps = [base]
    for candidate in sorted(alone, key=gain, reverse=True):
        more = {**kept, **dict.fromkeys(candidate.tensors, precision)}
        if len(more) > budget.num_ops or len(more) == len(kept) or steps[-1].snr_db >= budget.goal_db:
            continue
        new = tuple(tensor for tensor in candidate.tensors if tensor not in kept)
        step = judge.measured(more, new)
        if step and step.size_bytes <= base.size_bytes + extra and step.snr_db > steps[-1].snr_db + _LEAST_GAIN_DB:
            kept = more
            steps.append(step)
    return Mixed(judge.files[tuple(sorted(kept))], kept, tuple(steps))


def _candidates(rows: Sequence[TensorError], num_ops: int) -> list[tuple[str, ...]]:
    """The noisiest operators, each alone and with those that read it: else its result is cut to int8 in between."""
    found: list[tuple[str, ...]] = []
    for row in sorted(rows, key=lambda row: row.added_db)[: 2 * num_ops]:
        readers = [other.tensor for other in rows if row.tensor in other.reads]
        found += [(row.tensor,), (row.tensor, *readers)]
    return [unit for unit in dict.fromkeys(found) if len(unit) <= num_ops]


def _first(data: Arrays, count: int) -> Arrays:
    if isinstance(data, Mapping):
        return {name: x[:count] for name, x in data.items()}
    return [x[:count] for x in data] if isinstance(data, (list, tuple)) else data[:count]


def _count(inputs: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(inputs.values())))
