"""Quantization-aware training in a process of its own, which may be another Python: this one keeps its Keras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tflite_tools.aware.blueprint import read
from tflite_tools.aware.rewriting import rewrite
from tflite_tools.aware.settings import QatSettings
from tflite_tools.errors import QatError, QatWarning, first_line
from tflite_tools.flatbuffer import read_facts
from tflite_tools.keras_models import input_specs, signature_names
from tflite_tools.promises import require_kept
from tflite_tools.recipe import RECIPES
from tflite_tools.representative import InputSpec
from tflite_tools.sampling import Calibration, arrays_of
from tflite_tools.sources import resolved
from tflite_tools.verification import by_signature, reference_outputs

PYTHON_VARIABLE = "TFLITE_QAT_PYTHON"
_PREFIX = "qat: "


@dataclass(frozen=True)
class QatResult:
    """What came out.

    Attributes:
        data: the content of the int8 `.tflite` file.
        history: one line of numbers for each epoch; epoch 0 is before training, with ranges from the data.
        difference: between the Keras 3 network and its tf_keras twin, relative to the greatest output.
        over_limits: what of the pruning's own limits of bytes the file exceeds; empty without such limits.
    """

    data: bytes
    history: tuple[Mapping[str, float], ...]
    difference: float
    over_limits: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [", ".join(f"{name} {value:g}" for name, value in row.items()) for row in self.history]
        lines.append(f"int8 file of {len(self.data):,} bytes; twin within {self.difference:.1g}")
        return "\n".join([*lines, *(f"OVER THE LIMIT: {text}" for text in self.over_limits)])


def qat(
    model: Any,
    data: Any,
    labels: np.ndarray | Sequence[int] | None = None,
    *,
    teacher: Any = None,
    settings: QatSettings | None = None,
    python: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> QatResult:
    """Trains with simulated quantization and converts to int8; the given model is not changed.

    Args:
        model: a Functional or Sequential Keras 3 model of built-in layers, or what `keras_qcqp.prune` returned; widths
            stay as they are.
        data: inputs to train on, as for `convert`.
        labels: int[samples]; without them the network only imitates the teacher.
        teacher: a Keras 3 model with the same inputs and outputs that is imitated; the model itself if None.
        settings: `QatSettings()` if None.
        python: interpreter with tensorflow-model-optimization; the variable TFLITE_QAT_PYTHON, or this one, if None.
        progress: called with a line of text after each epoch.

    Returns:
        File, history, and how exactly the network was carried over. If the file exceeds a limit of bytes that the
        network was pruned to, `over_limits` says so, and a `QatWarning`: the training is not thrown away.

    Raises:
        QatError: a layer that cannot be quantized, a package that is missing there, or training that fails.
        RepresentativeDataError, ConversionError: as for `convert`.
    """
    settings = settings or QatSettings()
    limits = getattr(getattr(model, "problem", None), "limits", {})
    model = resolved(model)
    specs = input_specs(model)
    names = signature_names(specs)
    listed = [names[spec.name] for spec in specs]
    rewrite(read(model, listed))  # what cannot be done is refused before anything is started
    if teacher is not None:
        teacher = resolved(teacher)
        teacher_specs = _same_inputs(input_specs(teacher), specs)
        rewrite(read(teacher, listed))
    chosen = data if isinstance(data, Calibration) else Calibration(data, max_samples=1 << 40)
    inputs = by_signature(arrays_of(chosen, specs), specs)
    _check(inputs, labels, settings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save(read(model, listed), folder / "model")
        if teacher is not None:
            _save(read(teacher, listed), folder / "teacher")
        first = {k: np.asarray(x[:8], np.float32) for k, x in inputs.items()}
        _expect(folder / "expected.npz", model, reference_outputs(model, specs, first))
        if teacher is not None:
            given = dict(zip(signature_names(teacher_specs).values(), first.values(), strict=True))
            _expect(folder / "teacher.npz", teacher, reference_outputs(teacher, teacher_specs, given))
        for number, key in enumerate(listed):
            np.save(folder / f"input_{number}.npy", np.asarray(inputs[key], np.float32))
        if labels is not None:
            np.save(folder / "labels.npy", np.asarray(labels).reshape(-1).astype(np.int64))
        (folder / "settings.json").write_text(json.dumps(asdict(settings)), encoding="utf-8")
        result = _run(folder, str(python or os.environ.get(PYTHON_VARIABLE) or sys.executable), progress)
        content = (folder / "model.tflite").read_bytes()
    require_kept(content, RECIPES["int8"], set(listed), False)
    over = _over(content, limits)
    if over:
        warnings.warn(f"The trained file exceeds what was asked for: {'; '.join(over)}.", QatWarning, stacklevel=2)
    return QatResult(content, tuple(result["history"]), float(result["difference"]), over)


def _over(content: bytes, limits: Mapping[str, int]) -> tuple[str, ...]:
    facts = read_facts(content)
    found = {"tflite_bytes": facts.size_bytes, "peak_bytes": facts.peak_bytes}
    return tuple(
        f"{name} {value:,}, limit {limits[name]:,}" for name, value in found.items() if value > limits.get(name, value)
    )


def _same_inputs(teacher: list[InputSpec], student: list[InputSpec]) -> list[InputSpec]:
    """Both get the same arrays in the same order, so that equal names must stand at equal places."""
    if [spec.shape for spec in teacher] != [spec.shape for spec in student]:
        shapes = [[list(spec.shape) for spec in specs] for specs in (teacher, student)]
        raise QatError(f"The teacher has inputs of shape {shapes[0]}, the model {shapes[1]}; they must be the same.")
    names = [[spec.name for spec in specs] for specs in (teacher, student)]
    if names[0] != names[1] and set(names[0]) == set(names[1]):
        raise QatError(f"The teacher takes {names[0]}, the model {names[1]}: build both with the same order of inputs.")
    return teacher


def _check(inputs: Mapping[str, np.ndarray], labels: Any, settings: QatSettings) -> None:
    count = len(next(iter(inputs.values())))
    if labels is not None and np.asarray(labels).reshape(-1).shape != (count,):
        raise QatError(f"There are labels of shape {list(np.shape(labels))} for {count} samples; give one number each.")
    if count - settings.num_validation < 1:
        raise QatError(f"num_validation={settings.num_validation} leaves nothing of {count} samples to train on.")
    for name, array in inputs.items():
        if not np.isfinite(array).all():
            raise QatError(f"The data for '{name}' holds NaN or infinity.")


def _save(blueprint: Any, folder: Path) -> None:
    folder.mkdir()
    blueprint.save(folder)


def _expect(path: Path, model: Any, outputs: Mapping[str, np.ndarray]) -> None:
    """Writes outputs in the order of `model.outputs`, which for a dictionary is that of its sorted keys."""
    names = sorted(outputs) if isinstance(getattr(model, "output", None), Mapping) else list(outputs)
    np.savez(path, **{f"output_{k}": outputs[name] for k, name in enumerate(names)})  # type: ignore[arg-type]


def _run(folder: Path, python: str, progress: Callable[[str], None] | None) -> dict[str, Any]:
    # A link instead of our own import path, whose packages may be those of another Python.
    (folder / "tflite_tools").symlink_to(Path(__file__).resolve().parents[1], target_is_directory=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONHOME"}
    environment |= {"PYTHONPATH": str(folder), "KERAS_BACKEND": "tensorflow"}
    environment |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if os.path.dirname(python):  # it starts in another folder; links stay, since they tell a venv from its base
        python = os.path.abspath(python)
    errors = folder / "errors.txt"
    with errors.open("w", encoding="utf-8") as stream:
        try:
            process = subprocess.Popen(
                [python, "-m", "tflite_tools.aware.worker", str(folder)],
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env=environment,
                cwd=folder,
            )
        except OSError as error:
            raise QatError(f"Cannot start the interpreter '{python}': {error.strerror}. {_WAY_OUT}") from error
        with process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    if progress and line.startswith(_PREFIX):
                        progress(line.removeprefix(_PREFIX).strip())
            except BaseException:
                process.kill()
                raise
    path = folder / "result.json"
    if not path.exists():
        last = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise QatError(f"The training process ended with status {process.returncode}: {last[0][:300]}")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "error" in result:
        way_out = f" {_WAY_OUT}" if result.get("missing") else ""
        raise QatError(f"{first_line(Exception(result['error']), 600)}{way_out}")
    return result


_WAY_OUT = (
    "Make an environment for it, python3.11 -m venv qat && qat/bin/pip install 'keras-qcqp[qat]', and give its "
    f"interpreter: python='qat/bin/python', or the variable {PYTHON_VARIABLE}."
)
