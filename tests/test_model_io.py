"""Model files that cannot be used say why, by cause."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import keras
import networks
import pytest

from keras_qcqp.errors import FileError, ModelError
from keras_qcqp.model_io import load_model, save_model

L = keras.layers


@keras.saving.register_keras_serializable("elsewhere")
class Unknown(L.Layer):
    def call(self, x):
        return x


def saved(path: Path, *layers: L.Layer) -> str:
    """A model file with these layers, which nobody knows when it is read."""
    x = image = keras.Input((4,))
    for layer in layers:
        x = layer(x)
    keras.Model(image, L.Dense(2)(x)).save(path)
    return str(path)


def test_round_trip(tmp_path):
    model = networks.shake(networks.residual())
    save_model(model, str(tmp_path / "a.keras"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.keras"]
    assert load_model(str(tmp_path / "a.keras")).count_params() == model.count_params()


def test_a_file_that_is_missing_or_no_archive(tmp_path):
    with pytest.raises(FileError, match="Cannot read model '.*none.keras': no such file."):
        load_model(str(tmp_path / "none.keras"))
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ModelError, match="cut.keras' is not a readable Keras model: not a zip archive, or cut off"):
        load_model(str(tmp_path / "cut.keras"))


def test_code_in_a_file_is_not_run(tmp_path):
    path = saved(tmp_path / "code.keras", L.Lambda(lambda x: 2 * x))
    with pytest.raises(ModelError, match="it holds a Lambda layer, which is code. Load it yourself, if you trust it"):
        load_model(path)


def test_an_unknown_layer_is_named(tmp_path, monkeypatch):
    path = saved(tmp_path / "own.keras", Unknown())
    monkeypatch.delitem(keras.saving.get_custom_objects(), "elsewhere>Unknown")
    edited = tmp_path / "edited.keras"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(edited, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            if name == "config.json":  # as if its module were not installed
                text = text.replace(b'"module": null', b'"module": "gone"').replace(b'"test_model_io"', b'"gone"')
            new.writestr(name, text)
    with pytest.raises(ModelError, match="it uses 'Unknown', which is not a part of Keras"):
        load_model(str(edited))


def test_a_file_of_another_keras_is_told(tmp_path):
    path = saved(tmp_path / "new.keras", L.Dense(3))
    edited = tmp_path / "edited.keras"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(edited, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            if name == "metadata.json":
                text = json.dumps({**json.loads(text), "keras_version": "99.1"}).encode()
            if name == "config.json":
                text = text.replace(b'"units": 3', b'"units": 3, "of_the_future": 1')
            new.writestr(name, text)
    with pytest.raises(ModelError, match="It was written by Keras 99.1, this is .*: a newer file needs a newer Keras"):
        load_model(str(edited))
