"""The converter of TensorFlow: Keras model -> `.tflite` bytes. The only module of this process that imports TensorFlow.

The model is traced once with a batch of one, which edge compilers want, and saved as a bare function over its
variables. Nothing is cloned, so nested models, several inputs and custom layers need no rule, and the user's
model is left as it was.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from typing import Any

from tflite_tools.engines import Job
from tflite_tools.errors import ConversionError, first_line
from tflite_tools.keras_models import import_keras, is_keras2, packed, signature_names
from tflite_tools.quiet import silenced

# Builtin operators only, unless the caller allows more: Select (Flex) operators need TensorFlow on the device.
_OP_SETS = {
    "float32": "TFLITE_BUILTINS",
    "int8": "TFLITE_BUILTINS_INT8",
    "int16": "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8",
}
_UNSUPPORTED = re.compile(r"^(?:TF Select|Flex|Custom) ops: *(.+)$", re.MULTILINE)


def convert(job: Job) -> bytes:
    """Runs the converter.

    Raises:
        ConversionError: it refuses the model; says which operators have no kernel.
    """
    keras = import_keras()
    import tensorflow as tf

    try:
        with silenced(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # TensorFlow announces the end of its own interpreter at each calibration
            _save_function(keras, tf, job, folder)
            return _converter(tf, job, folder).convert()
    except Exception as error:  # the converter raises its own, ValueError, RuntimeError, ...
        raise ConversionError(_explain(job.model.name, job.recipe.name, error)) from error


def _converter(tf: Any, job: Job, folder: str) -> Any:
    recipe = job.recipe
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    sets = [_OP_SETS["float32" if job.trained else recipe.activations], *(["SELECT_TF_OPS"] if job.select_ops else [])]
    converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, name) for name in sets]
    if recipe.is_quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if recipe.weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if job.dataset is not None:
        converter.representative_dataset = job.dataset
    if recipe.needs_representative_data:
        io_dtype = tf.as_dtype(recipe.input_output_dtype)
        converter.inference_input_type = converter.inference_output_type = io_dtype
    return converter


def _save_function(keras: Any, tf: Any, job: Job, folder: str) -> None:
    """Saves the model as one function of static shape; variables go along, layers do not."""
    model, names = job.model, signature_names(job.specs)
    signature = [tf.TensorSpec((1, *spec.shape), spec.dtype, name=names[spec.name]) for spec in job.specs]
    old = is_keras2(model)
    flatten = tf.nest.flatten if old else keras.tree.flatten

    def infer(*flat: Any) -> Any:
        outputs = model(packed(model, flat), training=False)
        return outputs if isinstance(outputs, dict) else flatten(outputs)

    module = tf.Module()
    module.variables_of_model = [variable if old else variable.value for variable in model.variables]
    tf.saved_model.save(module, folder, signatures=tf.function(infer, input_signature=signature))


def _explain(name: str, recipe: str, error: Exception) -> str:
    text = str(error)
    unsupported = sorted({op.strip() for ops in _UNSUPPORTED.findall(text) for op in ops.split(",")})
    if not unsupported:
        return f"Model '{name}' does not convert with recipe '{recipe}': {first_line(error)}"
    hint = "Replace the layers that use them, or allow them with allow_select_ops if the device runs TensorFlow's."
    if "xf16>" in text:
        hint = "It computes in float16: rebuild it with the dtype policy 'float32' and load the same weights."
    return (
        f"Model '{name}' does not convert with recipe '{recipe}': TensorFlow Lite has no builtin kernel "
        f"for {', '.join(unsupported)}. {hint}"
    )
