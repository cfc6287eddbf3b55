"""Writes a folder with everything a device needs: .tflite files, metadata, C source, an example, checksums.

Examples:
  Float and int8, with the names of the classes:
    python -m tflite_tools.export_main --model=net.keras --representative_data=samples.npy --labels=labels.txt \\
        --output=bundle

  The original and the plan of keras_qcqp_prune, int8 only, an old bundle replaced:
    python -m tflite_tools.export_main --model=net.keras --plan=plan.json --recipes=int8 \\
        --representative_data=samples.npy --output=bundle --overwrite
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from tflite_tools import command
from tflite_tools.errors import OutputFileError
from tflite_tools.recipe import get_recipe
from tflite_tools.sources import load_plan, resolved

_FLAGS = command.new_flags()
_MODEL = flags.DEFINE_string("model", None, "Keras model to read (.keras or .h5).", flag_values=_FLAGS)
_PLAN = flags.DEFINE_string("plan", None, "Plan (.json) by which the model is pruned first.", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write.", flag_values=_FLAGS)
_RECIPES = flags.DEFINE_list("recipes", None, "Which files; by default float32 and an int8 one.", flag_values=_FLAGS)
_DATA = flags.DEFINE_string(
    "representative_data", None, "About 100 samples, preprocessed: .npy, .npz, image folder.", flag_values=_FLAGS
)
_LABELS = flags.DEFINE_string("labels", None, "Text file with the name of a class on each line.", flag_values=_FLAGS)
_RANGE = flags.DEFINE_list("input_range", [], "least,greatest of a preprocessed input.", flag_values=_FLAGS)
_PREPROCESSING = flags.DEFINE_string("preprocessing", "", "The model's own, in words.", flag_values=_FLAGS)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an exported folder.", flag_values=_FLAGS)


def main(progress: command.Progress) -> str:
    """Exports as the flags say.

    Raises:
        TfliteToolsError: whatever goes wrong.
    """
    source, output = command.required(_MODEL), command.required(_OUTPUT)
    for recipe in _RECIPES.value or ():
        get_recipe(recipe)
    labels, limits = _labels(), _limits()
    plan = load_plan(_PLAN.value) if _PLAN.value else None
    with progress("Loading TensorFlow and the model"):
        from tflite_tools.bundle import BundleOptions, export
        from tflite_tools.keras_models import load_keras_model

        model = resolved(load_keras_model(source), plan)
    options = BundleOptions(labels, limits, _PREPROCESSING.value)
    with progress("Converting"):
        folder = export(model, output, _RECIPES.value, _DATA.value, options=options, overwrite=_OVERWRITE.value)
    files = sorted(folder.iterdir())
    return "\n".join([f"{folder}:", *(f"  {f.name}  {f.stat().st_size:,} bytes" for f in files)])


def _labels() -> tuple[str, ...]:
    if not _LABELS.value:
        return ()
    try:
        return tuple(Path(_LABELS.value).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise OutputFileError(f"Labels '{_LABELS.value}' cannot be read: {error}.") from error


def _limits() -> tuple[float, float] | None:
    if not _RANGE.value:
        return None
    try:
        low, high = (float(x) for x in _RANGE.value)
    except ValueError as error:
        raise command.UsageError("--input_range takes two numbers: least,greatest") from error
    return low, high


def run() -> None:
    """Entry point of the console script."""
    command.run_command(command.Command("tflite_export", __doc__ or "", _FLAGS, main))


if __name__ == "__main__":
    run()
