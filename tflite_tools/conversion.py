"""Keras model -> `.tflite` bytes. The only module that imports TensorFlow, and only inside its functions.

The model is traced once with a batch of one, which edge compilers want, and saved as a bare function over its
variables. Nothing is cloned, so nested models, several inputs and custom layers need no rule, and the user's
model is left as it was.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tflite_tools.errors import ConversionError, RecipeError, RepresentativeDataError, first_line
from tflite_tools.flatbuffer import OpFacts, read_facts
from tflite_tools.quiet import silenced
from tflite_tools.recipe import Recipe, get_recipe
from tflite_tools.representative import Arrays, InputSpec, representative_dataset

# Builtin operators only: Select (Flex) operators would need TensorFlow on the device.
_OP_SETS = {
    "float32": "TFLITE_BUILTINS",
    "int8": "TFLITE_BUILTINS_INT8",
}
_UNNAMED = re.compile(r"keras_tensor(_\d+)?")
_UNSUPPORTED = re.compile(r"^(?:TF Select|Flex|Custom) ops: *(.+)$", re.MULTILINE)


def convert(model: Any, recipe: str | Recipe = "float32", representative_data: Arrays | None = None) -> bytes:
    """Converts with a static batch of one, builtin operators only, and checks what came out.

    Args:
        model: a Functional or Sequential Keras 3 model, left unchanged; only its batch axis may be unknown.
        recipe: a name in `RECIPES` or a `Recipe`.
        representative_data: `float[samples, ...]`, already preprocessed; for several inputs a list in the
            order of `model.inputs` or a dictionary by input name. Only integer recipes use it.

    Returns:
        The content of the `.tflite` file. Its signature names inputs as Keras does; inputs never named are
        `input_0`, `input_1`, ... Outputs are `output_0`, ..., or the keys of a model returning a dictionary.

    Raises:
        RecipeError: unknown recipe, or one this converter has no operator set for.
        RepresentativeDataError: data missing or unfit.
        ConversionError: wrong backend or model type, unknown shapes, operators without a builtin kernel, or
            float operators left behind by an integer recipe.
    """
    chosen = get_recipe(recipe)
    if chosen.activations not in _OP_SETS:
        raise RecipeError(f"Recipe '{chosen.name}': activations '{chosen.activations}' cannot be converted yet.")
    keras = _import_keras()
    specs = _input_specs(keras, model)
    dataset = _dataset(chosen, representative_data, specs)
    data = _convert_traced(keras, model, specs, chosen, dataset)
    if chosen.activations != "float32":
        _check_integer(data, chosen, specs)
    return data


def load_keras_model(path: str | os.PathLike[str]) -> Any:
    """Loads a `.keras` or `.h5` file for inference; code stored in the file is not run (safe mode).

    Raises:
        ConversionError: missing, damaged, or made with classes that are not registered here.
    """
    if not Path(path).is_file():
        raise ConversionError(f"Model '{path}' does not exist. Give a file written by model.save('name.keras').")
    if Path(path).suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ConversionError(
            f"Model '{path}' is no .keras archive or is cut off ({Path(path).stat().st_size:,} bytes). "
            "Write it again with model.save('name.keras')."
        )
    keras = _import_keras()
    try:
        with silenced():
            return keras.saving.load_model(path, compile=False)
    except Exception as error:  # damage surfaces as almost anything: KeyError, OSError, BadZipFile, ...
        raise ConversionError(
            f"Model '{path}' cannot be loaded: {type(error).__name__}: {first_line(error)} "
            "Expected a file written by model.save('name.keras') with built-in or registered layers."
        ) from error


def _import_keras() -> Any:
    try:
        with silenced():
            import keras

            backend = keras.config.backend()
            if backend == "tensorflow":
                import tensorflow  # noqa: F401
    except ImportError as error:
        raise ConversionError(
            f"Conversion needs TensorFlow and Keras 3: {first_line(error)}. Run 'pip install tensorflow' and "
            "set KERAS_BACKEND=tensorflow."
        ) from error
    if backend != "tensorflow":
        raise ConversionError(
            f"Conversion needs the Keras backend 'tensorflow', but '{backend}' is active. Save the model as "
            ".keras and convert it in a process started with KERAS_BACKEND=tensorflow."
        )
    return keras


def _input_specs(keras: Any, model: Any) -> list[InputSpec]:
    if not isinstance(model, keras.Model):
        raise ConversionError(
            f"convert() takes a Keras 3 model, got {type(model).__module__}.{type(model).__name__}. "
            "Load files with load_keras_model(path)."
        )
    try:
        tensors = model.inputs or []
    except (AttributeError, ValueError):
        tensors = []
    if not tensors:
        raise ConversionError(
            f"Model '{model.name}' has no known inputs. Build it with keras.Input(...), as a Functional or "
            "Sequential model."
        )
    specs = []
    for position, tensor in enumerate(tensors):
        # Keras numbers unnamed tensors over the whole process: such a name would differ from run to run.
        name = f"input_{position}" if _UNNAMED.fullmatch(tensor.name) else tensor.name
        shape = tuple(tensor.shape[1:])
        if None in shape:
            raise ConversionError(
                f"Input '{name}' of model '{model.name}' has shape {list(tensor.shape)}; only the batch axis "
                "may be unknown. Fix the others in keras.Input(shape=...)."
            )
        specs.append(InputSpec(name, shape, str(tensor.dtype)))
    return specs


def _dataset(recipe: Recipe, data: Arrays | None, specs: Sequence[InputSpec]) -> Callable | None:
    if not recipe.needs_representative_data:
        return None
    if data is None:
        shapes = ", ".join(f"'{s.name}' [samples{''.join(f', {n}' for n in s.shape)}]" for s in specs)
        raise RepresentativeDataError(
            f"Recipe '{recipe.name}' needs representative data to choose its scales. Give about 100 samples: {shapes}."
        )
    return representative_dataset(data, specs)


def _convert_traced(
    keras: Any, model: Any, specs: Sequence[InputSpec], recipe: Recipe, dataset: Callable | None
) -> bytes:
    import tensorflow as tf

    names = _signature_names(specs)
    try:
        with silenced(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # TensorFlow announces the end of its own interpreter at each calibration
            _save_function(keras, tf, model, specs, folder)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, _OP_SETS[recipe.activations])]
            if recipe.is_quantized:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if dataset is not None:
                converter.representative_dataset = lambda: (
                    {names[name]: array for name, array in sample.items()} for sample in dataset()
                )
                io_dtype = tf.as_dtype(recipe.input_output_dtype)
                converter.inference_input_type = converter.inference_output_type = io_dtype
            return converter.convert()
    except Exception as error:  # the converter raises its own, ValueError, RuntimeError, ...
        raise ConversionError(_explain(model.name, recipe, error)) from error


def _save_function(keras: Any, tf: Any, model: Any, specs: Sequence[InputSpec], folder: str) -> None:
    """Saves `model` as one function of static shape; variables go along, layers do not."""
    names = _signature_names(specs)
    signature = [tf.TensorSpec((1, *spec.shape), spec.dtype, name=names[spec.name]) for spec in specs]

    def infer(*flat: Any) -> Any:
        # A Sequential model has one input and, until called, no `input` attribute.
        single = isinstance(model, keras.Sequential)
        outputs = model(flat[0] if single else keras.tree.pack_sequence_as(model.input, list(flat)), training=False)
        return outputs if isinstance(outputs, dict) else keras.tree.flatten(outputs)

    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    tf.saved_model.save(module, folder, signatures=tf.function(infer, input_signature=signature))


def _signature_names(specs: Sequence[InputSpec]) -> dict[str, str]:
    """Keras allows any text as a name; TensorFlow replaces some characters and then loses the connection."""
    names: dict[str, str] = {}
    for spec in specs:
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", spec.name)
        name = name if name[0].isalnum() else f"input{name}"
        while name in names.values():
            name += "_"
        names[spec.name] = name
    return names


def _explain(name: str, recipe: Recipe, error: Exception) -> str:
    text = str(error)
    unsupported = sorted({op.strip() for ops in _UNSUPPORTED.findall(text) for op in ops.split(",")})
    if not unsupported:
        return f"Model '{name}' does not convert with recipe '{recipe.name}': {first_line(error)}"
    hint = "Replace the layers that use them."
    if "xf16>" in text:
        hint = "It computes in float16: rebuild it with the dtype policy 'float32' and load the same weights."
    return (
        f"Model '{name}' does not convert with recipe '{recipe.name}': TensorFlow Lite has no builtin kernel "
        f"for {', '.join(unsupported)}. {hint}"
    )


def _check_integer(data: bytes, recipe: Recipe, specs: Sequence[InputSpec]) -> None:
    """The converter keeps an operator in float without a word where it has no integer kernel; refuse that."""
    facts = read_facts(data)
    ends = facts.inputs + facts.outputs
    if recipe.input_output_dtype != "float32":
        left = _counted(facts.float_ops)
        wrong = [tensor for tensor in ends if "float" in tensor.dtype]
    else:
        left, wrong = _counted(op for op in facts.float_ops if op.name not in ("QUANTIZE", "DEQUANTIZE")), []
    if left:
        raise ConversionError(
            f"Recipe '{recipe.name}' left operators in float: {left}. They have no {recipe.activations} "
            "kernel; replace the layers that use them, or use recipe 'float32'."
        )
    quantized = {_signature_names(specs)[spec.name] for spec in specs if "float" in spec.dtype}
    wrong += [
        t for t in facts.inputs if t.name in quantized and t.dtype != recipe.input_output_dtype and t not in wrong
    ]
    if wrong:
        listed = ", ".join(f"'{tensor.name}' {tensor.dtype}" for tensor in wrong)
        raise ConversionError(
            f"Recipe '{recipe.name}' promises {recipe.input_output_dtype} inputs and outputs, but the file "
            f"has {listed}. Please report it with the model."
        )


def _counted(operators: Iterable[OpFacts]) -> str:
    counts = Counter(op.name for op in operators)
    # The casts only surround the culprits; name them when they are all there is.
    culprits = {name: n for name, n in counts.items() if name not in ("QUANTIZE", "DEQUANTIZE")} or counts
    return ", ".join(f"{name} x{n}" for name, n in culprits.items())
