"""Keras model files, read in safe mode and written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_qcqp.errors import FileError, ModelError
from keras_qcqp.files import replacing


def load_model(path: str) -> Any:
    """Loads a .keras or .h5 file, those that Keras 2 wrote included; nothing in it is executed.

    Raises:
        FileError: the file is missing.
        ModelError: it is no intact Keras model, or needs code that is not here (for a file of Keras 2, maybe tf_keras).
    """
    if not Path(path).is_file():
        raise FileError(f"Cannot read model '{path}': no such file.")
    if path.endswith(".keras") and not (zipfile.is_zipfile(path) or _is_hdf5(path)):
        raise ModelError(f"'{path}' is not a readable Keras model: not a zip archive, or cut off. Save it again.")
    with hushed():
        import keras

        # Whatever the backend, Keras imports TensorFlow, if it is installed, when it first serialises something.
        keras.saving.serialize_keras_object(keras.DTypePolicy("float32"))
        from keras_qcqp.legacy.files import load, written_by_keras2

    written = written_by_keras2(path)
    if written is not None:
        return load(path, written)
    try:
        return keras.models.load_model(path, safe_mode=True)
    except Exception as error:
        raise ModelError(f"'{path}' is not a readable Keras model: {_explain(error)}{_age(path)}") from error


def _is_hdf5(path: str) -> bool:
    """Keras 2 wrote HDF5 under any name, `.keras` included."""
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _explain(error: Exception) -> str:
    text = str(error).strip()
    missing = re.search(r"Could not locate (?:class|function) '(\w+)'", text)
    if missing:
        return (
            f"it uses '{missing[1]}', which is not a part of Keras. Prune it from Python, where that is registered "
            "with keras.saving.register_keras_serializable."
        )
    if "ambda" in text:
        return "it holds a Lambda layer, which is code. Load it yourself, if you trust it, and prune it from Python."
    first = text.splitlines()[0].rstrip(".") if text else type(error).__name__
    return f"{first}. Save it again with model.save('name.keras')."


def _age(path: str) -> str:
    """A hint when the file was written by another Keras than the one that reads it."""
    import keras

    try:
        with zipfile.ZipFile(path) as archive:
            written_by = str(json.loads(archive.read("metadata.json"))["keras_version"])
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return ""
    if written_by == keras.__version__:
        return ""
    return f" It was written by Keras {written_by:.20}, this is {keras.__version__}: a newer file needs a newer Keras."


def save_model(model: Any, path: str) -> None:
    """Writes a .keras file atomically."""
    with replacing(path) as temporary:
        model.save(temporary)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keeps TensorFlow's greetings off standard error; on import it ignores its own log level."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
