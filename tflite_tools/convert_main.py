"""Converts a Keras model file to a .tflite file.

Examples:
  Unchanged numbers:
    python -m tflite_tools.convert_main --model=net.keras --output=net.tflite

  Integers throughout, scales chosen from samples (an .npy array float[samples, ...], already preprocessed):
    python -m tflite_tools.convert_main --model=net.keras --recipe=int8 \\
        --representative_data=samples.npy --output=net_int8.tflite

  A folder of images, with the model's own preprocessing, (pixel - mean) / std:
    python -m tflite_tools.convert_main --model=net.keras --recipe=int8 --output=net_int8.tflite \\
        --representative_data=photos --mean=127.5 --std=127.5 --input_range=-1,1

  Several inputs: an .npz with one array per input, under the inputs' names:
    python -m tflite_tools.convert_main --model=two.keras --recipe=int8 \\
        --representative_data=samples.npz --output=two_int8.tflite

  The original and the plan of keras_qcqp_prune:
    python -m tflite_tools.convert_main --model=net.keras --plan=plan.json --output=small.tflite
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from tflite_tools import command
from tflite_tools.errors import RepresentativeDataError
from tflite_tools.files import check_writable, write_bytes
from tflite_tools.flatbuffer import read_facts
from tflite_tools.recipe import RECIPES, Recipe, get_recipe
from tflite_tools.sampling import Calibration
from tflite_tools.sources import load_plan

_FLAGS = command.new_flags()
_RECIPE_HELP = "; ".join(f"{name}: {recipe.summary}" for name, recipe in RECIPES.items())

_MODEL = flags.DEFINE_string("model", None, "Keras model to read (.keras or .h5).", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "The .tflite file to write.", flag_values=_FLAGS)
_RECIPE = flags.DEFINE_string("recipe", "float32", f"How to store numbers. {_RECIPE_HELP}.", flag_values=_FLAGS)
_DATA = flags.DEFINE_string(
    "representative_data",
    None,
    "About 100 samples, for integer recipes: .npy, .npz, image folder.",
    flag_values=_FLAGS,
)
_MEAN = flags.DEFINE_list("mean", [], "Subtracted from the samples: one number, or one a channel.", flag_values=_FLAGS)
_STD = flags.DEFINE_list("std", [], "Then they are divided by this.", flag_values=_FLAGS)
_RANGE = flags.DEFINE_list("input_range", [], "least,greatest that a sample may have then.", flag_values=_FLAGS)
_PLAN = flags.DEFINE_string("plan", None, "Plan (.json) by which the model is pruned first.", flag_values=_FLAGS)
_SELECT = flags.DEFINE_list(
    "allow_select_ops", [], "TensorFlow's own operators that may be in the file, or 'all'.", flag_values=_FLAGS
)


def main(progress: command.Progress) -> str:
    """Converts as the flags say; everything cheap is checked before TensorFlow is loaded.

    Raises:
        TfliteToolsError: whatever goes wrong.
    """
    source, output = command.required(_MODEL), command.required(_OUTPUT)
    recipe = get_recipe(_RECIPE.value)
    check_writable(output)
    samples = _samples(recipe)
    plan = load_plan(_PLAN.value) if _PLAN.value else None
    with progress("Loading TensorFlow and the model"):
        from tflite_tools.conversion import convert
        from tflite_tools.keras_models import load_keras_model

        model = load_keras_model(source)
    with progress(f"Converting with recipe {recipe.name}"):
        allowed = True if _SELECT.value == ["all"] else _SELECT.value or False
        data = convert(model, recipe, samples, plan=plan, allow_select_ops=allowed)
    write_bytes(output, data)
    facts = read_facts(data)
    ops = ", ".join(f"{name} x{count}" for name, count in facts.op_counts.items())
    return (
        f"{output}: recipe {recipe.name}, {facts.size_bytes:,} bytes, "
        f"{facts.weight_bytes:,} of them constants\n"
        f"{len(facts.operators)} operators: {ops}"
    )


def _samples(recipe: Recipe) -> Calibration | None:
    if not recipe.needs_representative_data:
        return None
    if not _DATA.value:
        raise RepresentativeDataError(
            f"Recipe '{recipe.name}' needs representative data. Give --representative_data=samples.npy."
        )
    if not Path(_DATA.value).exists():
        raise RepresentativeDataError(
            f"Representative data '{_DATA.value}' does not exist. Give an .npy or .npz file or a folder of images."
        )
    return Calibration(_DATA.value, _preprocess(), _limits())


def _preprocess() -> Callable[[Any], Any] | None:
    if not _MEAN.value and not _STD.value:
        return None
    mean, std = _numbers(_MEAN, [0.0]), _numbers(_STD, [1.0])
    return lambda x: ((np.asarray(x, np.float32) - mean) / std).astype(np.float32)


def _limits() -> tuple[float, float] | None:
    if not _RANGE.value:
        return None
    if len(_RANGE.value) != 2:
        raise command.UsageError("--input_range takes two numbers: least,greatest")
    low, high = _numbers(_RANGE, [])
    return float(low), float(high)


def _numbers(flag: flags.FlagHolder[Any], default: list[float]) -> np.ndarray:
    try:
        return np.array([float(x) for x in flag.value] or default, np.float32)
    except ValueError as error:
        raise command.UsageError(f"--{flag.name} takes numbers, got {','.join(flag.value)}") from error


def run() -> None:
    """Entry point of the console script."""
    command.run_command(command.Command("tflite_convert", __doc__ or "", _FLAGS, main))


if __name__ == "__main__":
    run()
