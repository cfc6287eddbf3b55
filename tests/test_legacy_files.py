"""Model files that Keras 2 wrote: read, converted, checked, and never executed."""

from __future__ import annotations

import json
import os
import sys
import zipfile

import h5py
import keras2_networks
import networks
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras2_networks import L, image_model, shake

from keras_qcqp.errors import ModelError
from keras_qcqp.model_io import load_model

READ = ("residual", "hard_sigmoid", "sequences", "convolutions", "mixed_precision", "normalisations", "frozen")
WITHOUT = (sys.modules, "tf_keras", None)


def written(model, path, edit=None):
    """The model's file, its configuration changed if `edit` says how."""
    model.save(path)
    if edit is not None:
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = edit(file.attrs["model_config"])
    return str(path)


@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.parametrize("name", READ)
def test_files_of_keras_2_load_and_compute_the_same(name, suffix, tmp_path, caplog):
    old = shake(keras2_networks.NETWORKS[name]())
    new = load_model(written(old, tmp_path / f"old.{suffix}"))
    x = [np.random.default_rng(2).normal(size=(2, *i.shape[1:])).astype("float32") for i in old.inputs]
    expected = tf.nest.flatten(old(tf.nest.pack_sequence_as(old.input, x), training=False))
    loose = name == "mixed_precision"
    for a, b in zip(expected, networks.outputs(new, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2 if loose else 2e-5, atol=1e-2 if loose else 2e-6)
    assert f"old.{suffix}' was written by Keras {tf_keras.__version__}: read by tf_keras, converted to" in caplog.text


def test_an_old_file_with_the_suffix_of_a_new_one(tmp_path):
    path = written(shake(keras2_networks.frozen()), tmp_path / "old.h5")
    os.rename(path, tmp_path / "old.keras")  # Keras 2.11 and earlier wrote HDF5 there
    assert load_model(str(tmp_path / "old.keras")).count_params() > 0


def test_a_compiled_model_loads_without_its_settings(tmp_path):
    old = keras2_networks.frozen()
    old.compile("adam", "mse", metrics=["mae"])
    assert not load_model(written(old, tmp_path / "old.h5")).compiled


def test_without_tf_keras_keras_3_reads_what_it_can(tmp_path, monkeypatch):
    old = shake(image_model(L.Conv2D(4, 3), L.BatchNormalization(), L.Dense(2)))
    old.compile("adam", "mse", metrics=["mae"])
    path = written(old, tmp_path / "old.h5")
    monkeypatch.setitem(*WITHOUT)
    x = np.ones((1, 8, 8, 4), "float32")
    np.testing.assert_allclose(old(x), load_model(path)(x), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "suffix", "text"),
    [
        ("hard_sigmoid", "h5", "uses hard_sigmoid, which is another function in Keras 3. Install tf_keras"),
        ("residual", "h5", "and Keras .* cannot read it: .*. Install tf_keras .pip install tf_keras."),
        ("frozen", "keras", "and Keras .* cannot read it: .*. Install tf_keras .pip install tf_keras."),
    ],
)
def test_without_tf_keras_the_way_out_is_named(name, suffix, text, tmp_path, monkeypatch):
    path = written(keras2_networks.NETWORKS[name](), tmp_path / f"old.{suffix}")
    monkeypatch.setitem(*WITHOUT)
    with pytest.raises(ModelError, match=text):
        load_model(path)


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize(
    ("layers", "edit", "text"),
    [
        (
            [L.Lambda(lambda x: 2 * x)],
            None,
            "it holds a Lambda layer, which is code. Load it yourself",
        ),
        (
            [tf.nn.relu],
            lambda text: text.replace("nn.relu", "io.write_file"),
            "layer 'tf.io.write_file.*' calls tf.io.write_file, which has no counterpart here.",
        ),
        (
            [L.Dense(2)],
            lambda text: text.replace('"keras.initializers"', '"os"').replace('"GlorotUniform"', '"system"'),
            "it uses 'os.system', which is not a part of Keras.",
        ),
        (
            [L.Dense(2)],
            lambda text: text.replace(
                '"activation": "linear"',
                '"activation": {"class_name": "function", "module": "keras.utils", "config": "get_file"}',
            ),
            "it uses 'keras.utils.function', which is not a part of Keras.",
        ),
        (
            [L.Dense(2)],
            lambda text: text.replace(
                '"activation": "linear"',
                '"activation": {"class_name": "function", "module": "keras.layers", "config": "os.system"}',
            ),
            "it uses 'keras.layers.function', which is not a part of Keras.",
        ),
        (
            [tf.nn.relu],
            lambda text: text.replace(
                '"TFOpLambda"', '"X", "module": "keras.src.layers.core.tf_op_layer", "registered_name": "TFOpLambda"'
            ).replace("nn.relu", "io.read_file"),
            "calls tf.io.read_file, which has no counterpart here.",
        ),
    ],
)
def test_code_in_a_file_is_not_run(layers, edit, text, installed, tmp_path, monkeypatch):
    path = written(image_model(*layers), tmp_path / "old.h5", edit)
    if not installed:
        monkeypatch.setitem(*WITHOUT)
    monkeypatch.setattr(tf_keras.models, "load_model", None)  # not even tried
    with pytest.raises(ModelError, match=text):
        load_model(path)


def test_code_in_an_archive_is_not_run(tmp_path):
    path = written(image_model(L.Dense(2)), tmp_path / "old.keras")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new.keras", "w") as new:
        for name in old.namelist():
            text = old.read(name)
            new.writestr(name, text.replace(b"keras.initializers", b"subprocess") if name == "config.json" else text)
    with pytest.raises(ModelError, match="it uses 'subprocess.GlorotUniform', which is not a part of Keras"):
        load_model(str(tmp_path / "new.keras"))


class Own(L.Layer):
    pass


@pytest.mark.parametrize(("suffix", "text"), [("h5", "cannot be read by tf_keras .*Own"), ("keras", "it uses '.*Own'")])
def test_a_layer_nobody_knows_is_named_with_the_way_out(suffix, text, tmp_path):
    path = written(image_model(Own()), tmp_path / f"old.{suffix}")
    with pytest.raises(ModelError, match=f"{text}.* give the model to keras_qcqp.from_tf_keras"):
        load_model(path)


def test_what_is_no_model_is_left_to_keras(tmp_path):
    old = keras2_networks.frozen()
    old.save_weights(tmp_path / "weights.h5")
    with pytest.raises(ModelError, match="weights.h5' is not a readable Keras model: "):
        load_model(str(tmp_path / "weights.h5"))
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n and then nothing")
    with pytest.raises(ModelError, match="cut.h5' is not a readable Keras model: "):
        load_model(str(tmp_path / "cut.h5"))
    with h5py.File(tmp_path / "broken.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Functional"})
    with pytest.raises(ModelError, match="broken.h5', written by Keras 1, cannot be read by tf_keras"):
        load_model(str(tmp_path / "broken.h5"))


def test_a_file_of_keras_3_is_not_for_keras_2(tmp_path, caplog):
    networks.chain().save(tmp_path / "new.h5")
    assert load_model(str(tmp_path / "new.h5")).count_params() == networks.chain().count_params()
    assert "tf_keras" not in caplog.text
