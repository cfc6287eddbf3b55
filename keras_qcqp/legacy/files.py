"""Model files written by Keras 2: HDF5, and `.keras` archives of its last releases.

Keras 3 cannot read most of them, and some it reads as another function without a word. So `tf_keras` reads them where
it is installed, and the result is converted and checked.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import zipfile
from typing import Any

import h5py
import keras

from keras_qcqp.errors import ModelError
from keras_qcqp.legacy.convert import from_tf_keras
from keras_qcqp.legacy.layers import cause
from keras_qcqp.legacy.vetting import require_harmless, uses_hard_sigmoid

_LOG = logging.getLogger("keras_qcqp")
_WAY_OUT = "Install tf_keras (pip install tf_keras): with it, files of Keras 2 are read, converted and checked."


@dataclasses.dataclass(frozen=True)
class Written:
    """What a file says of itself: the version of Keras that wrote it, and the configuration of the model."""

    version: str
    config: Any


def written_by_keras2(path: str) -> Written | None:
    """None for a file of Keras 3 and for one that holds no model."""
    try:
        written = _from_archive(path) if zipfile.is_zipfile(path) else _from_hdf5(path)
    except (OSError, KeyError, TypeError, ValueError):
        return None  # whoever loads it says what is wrong
    return written if written.version.partition(".")[0] in ("1", "2") else None


def _from_archive(path: str) -> Written:
    with zipfile.ZipFile(path) as archive:
        version = json.loads(archive.read("metadata.json"))["keras_version"]
        config = json.loads(archive.read("config.json"))
    return Written(str(version), {**config, "compile_config": None})  # which is not read


def _from_hdf5(path: str) -> Written:
    with h5py.File(path, "r") as file:
        version, config = file.attrs.get("keras_version", "1"), file.attrs["model_config"]
    version = version.decode() if isinstance(version, bytes) else version
    return Written(str(version), json.loads(config))


def load(path: str, written: Written) -> keras.Model:
    """Loads a file of Keras 2 as a Keras 3 model, which is not compiled; nothing in the file is executed.

    Raises:
        ModelError: it holds code, or cannot be read or converted; says whether tf_keras would help.
    """
    require_harmless(written.config, path)
    if importlib.util.find_spec("tf_keras") is None:
        return _without_tf_keras(path, written)
    import tf_keras

    try:
        model = tf_keras.models.load_model(path, compile=False)
    except Exception as error:
        raise ModelError(
            f"'{path}', written by Keras {written.version:.20}, cannot be read by tf_keras {tf_keras.__version__}: "
            f"{cause(error)}. If it needs classes of your own, load it with them and tf_keras yourself, and give "
            "the model to keras_qcqp.from_tf_keras."
        ) from error
    converted = from_tf_keras(model)
    _LOG.warning(
        "'%s' was written by Keras %.20s: read by tf_keras, converted to Keras 3 and checked. It is not compiled.",
        path,
        written.version,
    )
    return converted


def _without_tf_keras(path: str, written: Written) -> keras.Model:
    if uses_hard_sigmoid(written.config):
        raise ModelError(
            f"'{path}', written by Keras {written.version:.20}, uses hard_sigmoid, which is another function in Keras "
            f"3. {_WAY_OUT}"
        )
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise ModelError(
            f"'{path}' was written by Keras {written.version:.20}, and Keras {keras.__version__} cannot read it: "
            f"{cause(error)}. {_WAY_OUT}"
        ) from error
