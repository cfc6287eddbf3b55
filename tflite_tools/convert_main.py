"""Converts a Keras model file to a .tflite file.

Examples:
  Unchanged numbers:
    python -m tflite_tools.convert_main --model=net.keras --output=net.tflite

  Integers throughout, scales chosen from samples (an .npy array float[samples, ...], already preprocessed):
    python -m tflite_tools.convert_main --model=net.keras --recipe=int8 \\
        --representative_data=samples.npy --output=net_int8.tflite

  Several inputs: an .npz with one array per input, under the inputs' names:
    python -m tflite_tools.convert_main --model=two.keras --recipe=int8 \\
        --representative_data=samples.npz --output=two_int8.tflite
"""

from __future__ import annotations

from absl import flags

from tflite_tools import command
from tflite_tools.errors import RepresentativeDataError
from tflite_tools.files import check_writable, write_bytes
from tflite_tools.flatbuffer import read_facts
from tflite_tools.recipe import RECIPES, Recipe, get_recipe
from tflite_tools.representative import Arrays, load_arrays

_FLAGS = command.new_flags()
_RECIPE_HELP = "; ".join(f"{name}: {recipe.summary}" for name, recipe in RECIPES.items())

_MODEL = flags.DEFINE_string("model", None, "Keras model to read (.keras or .h5).", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "The .tflite file to write.", flag_values=_FLAGS)
_RECIPE = flags.DEFINE_string("recipe", "float32", f"How to store numbers. {_RECIPE_HELP}.", flag_values=_FLAGS)
_DATA = flags.DEFINE_string(
    "representative_data", None, "About 100 samples (.npy or .npz) for integer recipes.", flag_values=_FLAGS
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
    with progress("Loading TensorFlow and the model"):
        from tflite_tools.conversion import convert, load_keras_model

        model = load_keras_model(source)
    with progress(f"Converting with recipe {recipe.name}"):
        data = convert(model, recipe, samples)
    write_bytes(output, data)
    facts = read_facts(data)
    ops = ", ".join(f"{name} x{count}" for name, count in facts.op_counts.items())
    return (
        f"{output}: recipe {recipe.name}, {facts.size_bytes:,} bytes, "
        f"{facts.weight_bytes:,} of them constants\n"
        f"{len(facts.operators)} operators: {ops}"
    )


def _samples(recipe: Recipe) -> Arrays | None:
    if not recipe.needs_representative_data:
        return None
    if not _DATA.value:
        raise RepresentativeDataError(
            f"Recipe '{recipe.name}' needs representative data. Give --representative_data=samples.npy."
        )
    return load_arrays(_DATA.value)


def run() -> None:
    """Entry point of the console script."""
    command.run_command(command.Command("tflite_convert", __doc__ or "", _FLAGS, main))


if __name__ == "__main__":
    run()
