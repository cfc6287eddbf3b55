"""Keras models as the converters want them: what goes in by name, of Keras 3 or of Keras 2 (`tf_keras`)."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tflite_tools.errors import ConversionError, first_line
from tflite_tools.quiet import silenced
from tflite_tools.representative import InputSpec

_UNNAMED = re.compile(r"keras_tensor(_\d+)?")


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
    keras = import_keras()
    try:
        with silenced():
            return keras.saving.load_model(path, compile=False)
    except Exception as error:  # damage surfaces as almost anything: KeyError, OSError, BadZipFile, ...
        raise ConversionError(
            f"Model '{path}' cannot be loaded: {type(error).__name__}: {first_line(error)} "
            "Expected a file written by model.save('name.keras') with built-in or registered layers."
        ) from error


def import_keras() -> Any:
    """Keras 3 on TensorFlow, imported without a word.

    Raises:
        ConversionError: either is missing, or another backend is active.
    """
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


def is_keras2(model: Any) -> bool:
    """Whether it is a model of `tf_keras`; that package is not imported for the question."""
    return any(cls.__module__.split(".")[0] == "tf_keras" and cls.__name__ == "Model" for cls in type(model).__mro__)


def packed(model: Any, flat: Sequence[Any]) -> Any:
    """Tensors or arrays in the order of `model.inputs`, as the model wants them: one, a list or a dictionary."""
    keras = import_keras()
    if type(model).__name__ == "Sequential" or isinstance(model, keras.Sequential):
        return flat[0]  # it has one input and, until called, no attribute `input`
    if not is_keras2(model):
        return keras.tree.pack_sequence_as(model.input, list(flat))
    import tensorflow as tf

    return tf.nest.pack_sequence_as(model.input, list(flat))


def input_specs(model: Any) -> list[InputSpec]:
    """What the model takes, in the order of `model.inputs`.

    Raises:
        ConversionError: no model, or one whose inputs are not known but for the batch axis.
    """
    keras = import_keras()
    if not isinstance(model, keras.Model) and not is_keras2(model):
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
        specs.append(InputSpec(name, shape, getattr(tensor.dtype, "name", None) or str(tensor.dtype)))
    return specs


def signature_names(specs: Sequence[InputSpec]) -> dict[str, str]:
    """Keras name -> name in the file: TensorFlow replaces some characters and then loses the connection."""
    names: dict[str, str] = {}
    for spec in specs:
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", spec.name)
        name = name if name[0].isalnum() else f"input{name}"
        while name in names.values():
            name += "_"
        names[spec.name] = name
    return names
