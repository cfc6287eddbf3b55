"""The process that trains: reads a folder, writes the `.tflite` file and what happened into it.

    python -m tflite_tools.aware.worker FOLDER

It needs tensorflow, tf_keras and tensorflow-model-optimization; Keras 3 only as far as TensorFlow brings it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np

_TOLERANCE = 1e-3  # relative to the greatest output


def main(folder: Path) -> None:
    """Does the job; errors that a user can do something about end up in the result."""
    try:
        result = _work(folder)
    except ImportError as error:
        result = {"error": f"the interpreter {sys.executable} lacks a package: {error}", "missing": True}
    except Exception as error:  # reported by the process that asked
        from tflite_tools.errors import TfliteToolsError

        known = isinstance(error, TfliteToolsError)
        result = {"error": str(error) if known else f"{type(error).__name__}: {error}"}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _work(folder: Path) -> dict[str, Any]:
    from tflite_tools.aware import training, twin
    from tflite_tools.aware.blueprint import Blueprint
    from tflite_tools.aware.rewriting import rewrite
    from tflite_tools.aware.settings import QatSettings

    settings = QatSettings(**json.loads((folder / "settings.json").read_text(encoding="utf-8")))
    blueprint = rewrite(Blueprint.load(folder / "model"))
    inputs = [np.load(folder / f"input_{k}.npy") for k in range(len(blueprint.inputs))]
    labels = np.load(folder / "labels.npy") if (folder / "labels.npy").exists() else None
    material = training.Material(inputs, labels)
    teacher = twin.build(blueprint, quantized=False)
    difference = _difference(teacher, [x[:8] for x in inputs], folder / "expected.npz")
    if (folder / "teacher").is_dir():
        teacher = twin.build(rewrite(Blueprint.load(folder / "teacher")), quantized=False)
        difference = max(difference, _difference(teacher, [x[:8] for x in inputs], folder / "teacher.npz"))
    model = twin.build(blueprint, quantized=True)
    training.choose_ranges(model, material, settings)
    history = training.train(model, teacher, material, settings, lambda line: print(f"qat: {line}", flush=True))
    (folder / "model.tflite").write_bytes(_converted(model, blueprint))
    return {"history": history, "difference": difference}


def _difference(model: Any, inputs: list[np.ndarray], path: Path) -> float:
    """Greatest error against Keras 3, relative to the greatest output.

    Raises:
        QatError: the twin computes something else.
    """
    from tflite_tools.aware.twin import outputs_of
    from tflite_tools.errors import QatError

    found = outputs_of(model, inputs)
    with np.load(path) as expected:
        right = [expected[f"output_{k}"] for k in range(len(found))]
    worst = max(float(np.abs(f - r).max() / max(np.abs(r).max(), 1e-9)) for f, r in zip(found, right, strict=True))
    if not worst <= _TOLERANCE:
        raise QatError(f"Carried to tf_keras the network computes something else: {worst:.2g} of the greatest output.")
    return worst


def _converted(model: Any, blueprint: Any) -> bytes:
    from tflite_tools import tensorflow_engine
    from tflite_tools.engines import Job
    from tflite_tools.recipe import RECIPES
    from tflite_tools.representative import InputSpec

    specs = tuple(InputSpec(name, blueprint.shapes[number], "float32") for number, name in blueprint.inputs)
    return tensorflow_engine.convert(Job(model, specs, RECIPES["int8"], trained=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
