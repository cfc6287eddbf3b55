"""`predict`: real values in and out, for float and int8 files, inputs found by name."""

from __future__ import annotations

import numpy as np
import pytest

from tflite_tools import convert, predict
from tflite_tools.errors import DeviceError, TfliteFileError


def test_float_and_int8_files_agree_with_keras(small_cnn):
    x = np.random.default_rng(0).normal(size=(60, *small_cnn.input_shape[1:])).astype(np.float32)
    wanted = np.asarray(small_cnn(x, training=False))
    (exact,) = predict(convert(small_cnn), x).values()
    np.testing.assert_allclose(exact, wanted, atol=1e-5)
    (close,) = predict(convert(small_cnn, "int8", x), x).values()
    assert close.dtype == np.float32
    assert np.abs(close - wanted).max() < 0.1
    assert np.mean(close.argmax(-1) == wanted.argmax(-1)) > 0.9


def test_several_inputs_go_by_name(fixture_model):
    path = fixture_model("two_inputs_f32")
    with pytest.raises(DeviceError, match="give a mapping with an array for each"):
        predict(path, np.zeros((2, 3), np.float32))
    with pytest.raises(DeviceError, match="were expected, got \\['nope'\\]"):
        predict(path, {"nope": np.zeros((2, 3), np.float32)})


def test_wrong_shapes_and_files(small_cnn, tmp_path):
    with pytest.raises(DeviceError, match=r"takes samples of shape \(12, 12, 3\), got an array of \(2, 5\)"):
        predict(convert(small_cnn), np.zeros((2, 5), np.float32))
    with pytest.raises(TfliteFileError, match="Cannot read '.*none.tflite'"):
        predict(tmp_path / "none.tflite", np.zeros((2, 5)))
    with pytest.raises(DeviceError, match="does not load on the host"):
        predict(b"TFL3 nonsense", np.zeros((2, 5)))
