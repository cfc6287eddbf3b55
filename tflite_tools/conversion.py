"""Keras model -> `.tflite` bytes: the door. Decides the engine, prepares the samples, holds the file to its promise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tflite_tools import edge_quantizer, tensorflow_engine
from tflite_tools.engines import Dataset, Job
from tflite_tools.errors import ConversionError, RecipeError, RepresentativeDataError
from tflite_tools.flatbuffer import TfliteFacts, read_facts
from tflite_tools.keras_models import input_specs, signature_names
from tflite_tools.keras_models import load_keras_model as load_keras_model
from tflite_tools.promises import require_kept
from tflite_tools.recipe import RECIPES, Recipe, get_recipe
from tflite_tools.representative import InputSpec
from tflite_tools.sampling import Calibration, samples_of
from tflite_tools.sources import resolved

Tell = Callable[[str], None]


def convert(
    model: Any,
    recipe: str | Recipe = "float32",
    representative_data: Any = None,
    *,
    plan: Any = None,
    allow_select_ops: bool | Collection[str] = False,
    progress: Tell | None = None,
) -> bytes:
    """Converts with a static batch of one and checks what came out; the model is left unchanged.

    Args:
        model: a Functional or Sequential Keras 3 model, one of `tf_keras`, or what `keras_qcqp.prune` returned; only
            the batch axis may be unknown. For recipes of ai-edge-quantizer also the bytes of a float `.tflite` file.
        recipe: a name in `RECIPES` or a `Recipe`; it also says which engine does it.
        representative_data: samples, already preprocessed, for recipes with integer activations: arrays (for several
            inputs a list in the order of `model.inputs` or a dictionary by input name), batches such as a
            `tf.data.Dataset`, the path of an .npy or .npz file or of a folder of images; or a `Calibration` of these.
        plan: a `keras_qcqp.Plan`: the model is the original, and is rebuilt by it first.
        allow_select_ops: TensorFlow's own (Flex) operators: none, all, or the names of those that may be in the file.
        progress: called with a line of text now and then while samples go through.

    Returns:
        The content of the `.tflite` file. Its signature names inputs as Keras does; inputs never named are
        `input_0`, `input_1`, ... Outputs are `output_0`, ..., or the keys of a model returning a dictionary.

    Raises:
        RecipeError: unknown recipe, or one that does not fit the model.
        RepresentativeDataError: data missing or unfit.
        ConversionError: wrong backend or model type, unknown shapes, operators without a builtin kernel, or
            float operators left behind by an integer recipe.
    """
    chosen = get_recipe(recipe)
    if isinstance(model, (bytes, bytearray)):
        return _quantized(bytes(model), chosen, representative_data, allow_select_ops, progress)
    model = resolved(model, plan)
    specs = input_specs(model)
    names = signature_names(specs)
    dataset = dataset_of(chosen, representative_data, specs, model, progress)
    data = _run(Job(model, tuple(specs), chosen, dataset, allow_select_ops is not False))
    require_kept(data, chosen, {names[s.name] for s in specs if "float" in s.dtype}, allow_select_ops)
    return data


def dataset_of(
    recipe: Recipe, data: Any, specs: Sequence[InputSpec], model: Any = None, progress: Tell | None = None
) -> Dataset | None:
    """Samples by signature input name, checked; None for a recipe without integer activations.

    Raises:
        RepresentativeDataError: missing or unfit.
    """
    if not recipe.needs_representative_data:
        return None
    if data is None:
        shapes = ", ".join(f"'{s.name}' [samples{''.join(f', {n}' for n in s.shape)}]" for s in specs)
        raise RepresentativeDataError(
            f"Recipe '{recipe.name}' needs representative data to choose its scales. Give about 100 samples: {shapes}."
        )
    samples, count = samples_of(Calibration.of(data), specs, model)
    names = signature_names(specs)

    def named() -> Iterator[Mapping[str, np.ndarray]]:
        for number, sample in enumerate(samples(), 1):
            if progress and (number % 50 == 0 or number == count):
                progress(f"calibration: {number} of {count} samples")
            yield {names[name]: array for name, array in sample.items()}

    return named  # type: ignore[return-value]


def _run(job: Job) -> bytes:
    if job.recipe.engine == "tensorflow":
        return tensorflow_engine.convert(job)
    plain = Job(job.model, job.specs, RECIPES["float32"], None, job.select_ops)
    return edge_quantizer.Calibrated(tensorflow_engine.convert(plain), job.dataset).quantize(job.recipe)


def _quantized(
    model: bytes, recipe: Recipe, data: Any, allowed: bool | Collection[str], progress: Tell | None
) -> bytes:
    if recipe.engine != "ai_edge_quantizer":
        names = ", ".join(name for name, row in RECIPES.items() if row.engine == "ai_edge_quantizer")
        raise RecipeError(f"Recipe '{recipe.name}' starts from a Keras model, not from a file. From a file: {names}.")
    facts = read_facts(model)
    specs = file_specs(facts)
    result = edge_quantizer.Calibrated(model, dataset_of(recipe, data, specs, None, progress)).quantize(recipe)
    require_kept(result, recipe, {s.name for s in specs if "float" in s.dtype}, allowed)
    return result


def file_specs(facts: TfliteFacts) -> list[InputSpec]:
    """The inputs of a float `.tflite` file.

    Raises:
        ConversionError: it is quantized already, or its batch is not one.
    """
    if facts.has_int8_activations:
        raise ConversionError("The file is quantized already. Give the float32 one.")
    for tensor in facts.inputs:
        if tensor.shape[:1] != (1,):
            raise ConversionError(f"Input '{tensor.name}' has shape {list(tensor.shape)}; a batch of one is expected.")
    return [InputSpec(tensor.name, tensor.shape[1:], tensor.dtype) for tensor in facts.inputs]
