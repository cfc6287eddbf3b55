"""Representative samples from everywhere, and the ranges that are refused or doubted."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from PIL import Image

from tflite_tools import Calibration, RepresentativeDataError, RepresentativeDataWarning, convert
from tflite_tools.representative import InputSpec
from tflite_tools.sampling import samples_of

L = keras.layers
IMAGE = (InputSpec("image", (6, 8, 3), "float32"),)
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 6, 8, 3)).astype("uint8")


def taken(data, specs=IMAGE, **options):
    samples, count = samples_of(Calibration(data, **options), specs)
    found = list(samples())
    assert len(found) == count
    return {name: np.concatenate([sample[name] for sample in found]) for name in found[0]}


def test_datasets_of_batches_pairs_and_single_samples():
    import tensorflow as tf

    images = PIXELS.astype("float32")
    plain = tf.data.Dataset.from_tensor_slices(images)
    for dataset in (plain, plain.batch(16), tf.data.Dataset.from_tensor_slices((images, range(60))).batch(7)):
        np.testing.assert_array_equal(taken(dataset)["image"], images)
    assert len(taken(plain.batch(16), max_samples=50)["image"]) == 50
    named = ({"image": images[k : k + 10]} for k in range(0, 60, 10))
    np.testing.assert_array_equal(taken(named)["image"], images)


def test_two_inputs_in_batches():
    specs = (InputSpec("a", (4,), "float32"), InputSpec("b", (2,), "float32"))
    a, b = np.ones((60, 4), "float32"), np.zeros((60, 2), "float32")
    batches = [(a[k : k + 20], b[k : k + 20]) for k in (0, 20, 40)]
    with pytest.warns(RepresentativeDataWarning, match="holds 60 times the same sample"):
        assert taken(iter(batches), specs)["b"].shape == (60, 2)
    with pytest.warns(RepresentativeDataWarning):
        assert taken(((x, None) for x in batches), specs)["a"].shape == (60, 4)


def test_a_folder_of_images_is_resized_cropped_and_preprocessed(tmp_path):
    for number, pixels in enumerate(PIXELS):
        (tmp_path / str(number % 3)).mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((30, 12), 0).save(tmp_path / str(number % 3) / f"{number:03}.png")
    found = taken(tmp_path, preprocess=lambda x: x / 127.5 - 1, input_range=(-1, 1))["image"]
    assert found.shape == (60, 6, 8, 3)
    assert -1 <= found.min() < -0.5 < 0.5 < found.max() <= 1
    assert len(taken(str(tmp_path), max_samples=51)["image"]) == 51


def test_npz_files_may_hold_labels_too(tmp_path):
    np.savez(tmp_path / "d.npz", x_train=PIXELS, y_train=np.arange(60))
    np.testing.assert_array_equal(taken(tmp_path / "d.npz")["image"], PIXELS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Calibration(p), "There are no images in"),
        (lambda p: Calibration(iter([])), "has 0 samples: the iterable is empty"),
        (lambda p: Calibration(iter([{"x": PIXELS}])), r"Batches hold \['x'\]; the inputs are \['image'\]"),
        (lambda p: Calibration(PIXELS, preprocess=lambda x: x.nothing), "preprocess fails on .*: AttributeError"),
        (lambda p: Calibration(PIXELS, input_range=(-1, 1)), "0 to 255, which leaves .* It looks like raw pixels"),
        (lambda p: Calibration(PIXELS / 255, input_range=(0, 255)), "less than 2 % of .* pixels scaled to 0 to 1"),
        (lambda p: Calibration(PIXELS, input_range=(1, -1)), "input_range is"),
        (lambda p: Calibration(PIXELS, max_samples=0), "max_samples is 0"),
    ],
)
def test_refusals(tmp_path, make, message):
    with pytest.raises(RepresentativeDataError, match=message):
        samples_of(make(tmp_path), IMAGE)


def test_the_first_batch_norm_remembers_the_range(shared_file):
    """The classic: raw pixels for a network trained on normalised ones quantize without an error."""
    model = keras.models.load_model(shared_file("models/resnet20_cifar10.keras"), compile=False)
    specs = (InputSpec("image", (32, 32, 3), "float32"),)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3)).repeat(4, 1).repeat(4, 2).astype("float32")
    normalised = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples_of(Calibration(normalised), specs, model)
    for wrong in (pixels, pixels / 255 / 20):
        with pytest.warns(RepresentativeDataWarning, match="is not what the model was trained on: in front of '"):
            samples_of(Calibration(wrong), specs, model)


def test_a_rescaling_layer_wants_pixels():
    model = keras.Sequential([keras.Input((6, 8, 3), name="image"), L.Rescaling(1 / 255), L.Conv2D(2, 3)])
    with pytest.warns(RepresentativeDataWarning, match="Rescaling by 0.003922, .* it was rescaled already"):
        samples_of(Calibration(PIXELS / 255), IMAGE, model)
    lines: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(model, "int8", PIXELS, progress=lines.append)
    assert "calibration: 60 of 60 samples" in lines
