"""What quantization did: against numbers computed by hand, on a network with one bad layer, and on a real one."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tflite_tools
from tflite_tools import MixBudget, RecipeError, VerificationError
from tflite_tools.output_errors import output_error, top1
from tflite_tools.verification import suggestions

L = keras.layers


@pytest.fixture(scope="module")
def spiky(images):
    """A network with one layer whose outputs have ranges a thousand times apart: int8 loses the small ones.

    image -> conv "calm" -> relu -> conv "spiky" -> relu -> conv "back" that undoes it -> mean -> dense
    """
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3), name="image")
    x = L.ReLU(name="calm_relu")(L.Conv2D(8, 3, name="calm")(image))
    spiky, back = L.Conv2D(8, 1, name="spiky"), L.Conv2D(8, 1, name="back")
    x = back(L.ReLU(name="spiky_relu")(spiky(x)))
    model = keras.Model(image, L.Dense(4, name="head")(L.GlobalAveragePooling2D()(x)), name="net")
    scale = np.float32([1000, 1, 1, 1, 1, 1, 1, 1])
    spiky.set_weights([spiky.get_weights()[0] * scale, np.zeros(8)])
    back.set_weights([back.get_weights()[0] / scale[:, None], np.zeros(8)])
    return model


def test_numbers_of_an_output():
    right = np.float32([[3, 4], [0, 2]])
    row = output_error("y", right, np.float32([[3, 4.5], [2, 0]]))
    assert (row.max_error, row.mean_error, row.agreement) == (2, 4.5 / 4, 0.5)
    assert row.snr_db == pytest.approx(10 * np.log10(29 / 8.25))
    assert row.cosine == pytest.approx((25 + 2) / (5 * np.hypot(3, 4.5)) / 2)
    assert output_error("y", right, right).snr_db == 200
    assert output_error("y", np.ones((3, 1)), np.ones((3, 1))).agreement is None


@given(st.integers(1, 20), st.integers(2, 6), st.integers(0, 9))
def test_top1_of_numbers_and_of_one_hot_labels(count, classes, seed):
    random = np.random.default_rng(seed)
    outputs, labels = random.normal(size=(count, classes)), random.integers(0, classes, count)
    assert top1(outputs, labels) == top1(outputs, np.eye(classes)[labels]) == np.mean(outputs.argmax(1) == labels)


def test_the_bad_layer_is_named_drawn_and_cured(spiky, images, tmp_path):
    data = tflite_tools.convert(spiky, "int8", images)
    labels = np.asarray(spiky(images)).argmax(1)
    made = tflite_tools.compare(spiky, data, images, labels)
    assert made.metric[0] == 1 > made.metric[1] == made.outputs[0].agreement
    assert "spiky" in made.worst(1)[0].layer
    assert any("spiky" in text and "tflite_tools.mix" in text for text in made.suggestions)
    assert "metric: 1.0000 in Keras" in str(made) and json.loads(made.to_json())["num_samples"] == 80
    made.save_plot(tmp_path / "noise.svg")
    assert "spiky" in (tmp_path / "noise.svg").read_text()

    mixed = tflite_tools.mix(spiky, images, budget=MixBudget(extra_bytes=0.5, num_ops=3))
    assert any("spiky" in tensor for tensor in mixed.kept)
    assert mixed.steps[-1].snr_db > mixed.steps[0].snr_db + 6
    assert len(mixed.data) == mixed.steps[-1].size_bytes <= 1.5 * mixed.steps[0].size_bytes
    after = tflite_tools.compare(spiky, mixed.data, images, labels)
    assert after.outputs[0].snr_db > made.outputs[0].snr_db + 6
    assert "operators keep more" in str(mixed)


def test_float_layers_and_small_budgets(spiky, images):
    mixed = tflite_tools.mix(spiky, images, precision="float32", budget=MixBudget(extra_bytes=0.9, num_ops=2))
    assert set(mixed.kept.values()) == {"float32"} and mixed.steps[-1].snr_db > mixed.steps[0].snr_db + 3
    nothing = tflite_tools.mix(spiky, images, budget=MixBudget(extra_bytes=0))
    assert not nothing.kept and len(nothing.steps) == 1
    with pytest.raises(RecipeError, match="Operators cannot keep 'int15'. Did you mean 'int16'?"):
        tflite_tools.mix(spiky, images, precision="int15")
    with pytest.raises(RecipeError, match="leaves nothing to do"):
        MixBudget(num_ops=0)


def test_too_narrow_calibration_is_seen(small_cnn, images):
    narrow = tflite_tools.convert(small_cnn, "int8", images / 20)
    made = tflite_tools.compare(small_cnn, narrow, images)
    assert made.metric is None
    assert "are clipped, first in" in made.suggestions[0]


def test_a_good_file_needs_nothing(small_cnn, images):
    made = tflite_tools.compare(small_cnn, tflite_tools.convert(small_cnn), images)
    assert made.suggestions == ("nothing to do: the file does what the model does",)
    assert not made.tensors and made.outputs[0].agreement == 1
    with pytest.raises(VerificationError, match="no tensors to draw"):
        made.save_plot("nowhere.svg")


def test_two_inputs_and_outputs_by_name(two_inputs, two_arrays):
    made = tflite_tools.compare(two_inputs, tflite_tools.convert(two_inputs), two_arrays)
    assert [row.name for row in made.outputs] == ["output_0", "output_1"]
    assert all(row.max_error < 1e-3 for row in made.outputs)
    listed = [two_arrays["narrow"], two_arrays["wide"]]
    assert tflite_tools.compare(two_inputs, tflite_tools.convert(two_inputs), listed).outputs == made.outputs


def test_a_dictionary_of_inputs_is_not_swapped(dictionary):
    model, arrays = dictionary
    assert tflite_tools.compare(model, tflite_tools.convert(model), arrays).outputs[0].max_error < 1e-4
    assert tflite_tools.mix(model, arrays).steps[0].snr_db > 5  # swapped, it is below 0


def test_a_quantized_file_without_tensors_is_not_called_float(spiky, images):
    made = tflite_tools.compare(spiky, tflite_tools.convert(spiky, "int8", images), images, num_tensor_samples=0)
    assert made.quantized and not made.tensors and "set num_tensor_samples" in made.suggestions[0]


def test_samples_of_an_iterator_are_read_once(small_cnn, images):
    batches = (images[k : k + 20] for k in (0, 20, 40))
    once = tflite_tools.mix(small_cnn, batches, budget=MixBudget(extra_bytes=0))
    again = tflite_tools.mix(small_cnn, images[:60], budget=MixBudget(extra_bytes=0))
    assert once.data == again.data and once.steps == again.steps


def test_operators_that_stay_in_float_are_refused(images):
    image = keras.Input((12, 12, 3), name="image")
    x = L.Dense(3, name="head")(L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(image)))
    model = keras.Model(image, keras.ops.floor(x), name="net")
    with pytest.raises(tflite_tools.ConversionError, match="left operators in float: FLOOR"):
        tflite_tools.mix(model, images)


def test_what_does_not_belong_together(small_cnn, two_inputs, images, two_arrays):
    data = tflite_tools.convert(small_cnn)
    with pytest.raises(VerificationError, match="There are 3 labels for 80 samples."):
        tflite_tools.compare(small_cnn, data, images, [1, 2, 3])
    with pytest.raises(VerificationError, match="The data lacks input 'narrow'"):
        tflite_tools.compare(two_inputs, data, {"wide": two_arrays["wide"]})
    other = keras.Sequential([keras.Input((12, 12, 3), name="image"), L.Flatten(), L.Dense(3)])
    with pytest.raises(VerificationError, match="It was made from another."):
        tflite_tools.compare(other, data, images)


def test_an_unquantized_file_that_differs_is_suspected(small_cnn, images):
    made = tflite_tools.compare(small_cnn, tflite_tools.convert(small_cnn), images)
    wrong = [r for r in made.outputs]
    assert (
        "is the data preprocessed"
        in suggestions(type(made)((type(wrong[0])("y", 1, 1, 0, 0, 0.5),), None, (), (), 80))[0]
    )
