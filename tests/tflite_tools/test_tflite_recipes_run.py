"""Every recipe on a network: what is stored, that it runs, and what is said where it cannot be."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tf_keras

import keras_qcqp
import tflite_tools
from tflite_tools import ConversionError, RecipeError
from tflite_tools.promises import select_operators
from tflite_tools.recipe import RECIPES, Recipe
from tflite_tools.tensors import layer_of, operator_outputs

L = keras.layers
ERRORS = {"float32": 1e-5, "float16": 2e-3, "weight_int4": 0.2, "dynamic_int4": 0.2}


@pytest.fixture(scope="module")
def files(small_cnn, images):
    return {name: tflite_tools.convert(small_cnn, name, images) for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_keeps_its_promise(files, small_cnn, images, name):
    facts = tflite_tools.read_facts(files[name])
    recipe = RECIPES[name]
    assert {t.dtype for t in facts.inputs + facts.outputs} == {recipe.input_output_dtype}
    assert facts.has_int8_activations == (recipe.activations == "int8")
    found = tflite_tools.predict(files[name], images[:20])["output_0"]
    assert np.abs(found - np.asarray(small_cnn(images[:20]))).max() < ERRORS.get(name, 0.05)
    assert select_operators(facts) == ()


def test_fewer_bits_are_fewer_bytes(files):
    constants = {name: tflite_tools.read_facts(data).weight_bytes for name, data in files.items()}
    assert constants["float16"] < 0.55 * constants["float32"]
    assert constants["weight_int4"] < constants["weight_int8"] < 0.4 * constants["float32"]


def test_a_float_file_is_quantized_without_keras(files, images):
    again = tflite_tools.convert(files["float32"], "edge_int8", images)
    assert tflite_tools.read_facts(again).has_int8_activations
    assert again == files["edge_int8"]
    with pytest.raises(ConversionError, match="The file is quantized already. Give the float32 one."):
        tflite_tools.convert(files["edge_int8"], "edge_int8", images)


def test_float_ends_by_the_other_engine(small_cnn, images):
    recipe = Recipe("mine", "int8", "int8", "float32", engine="ai_edge_quantizer")
    facts = tflite_tools.read_facts(tflite_tools.convert(small_cnn, recipe, images))
    assert (facts.inputs[0].dtype, facts.outputs[0].dtype) == ("float32", "float32")
    assert facts.has_int8_activations


def test_keras_2_models_convert(images):
    model = tf_keras.Sequential(
        [tf_keras.layers.Input((12, 12, 3), name="image"), tf_keras.layers.Conv2D(4, 3), tf_keras.layers.Flatten()]
    )
    found = tflite_tools.predict(tflite_tools.convert(model), images[:3])["output_0"]
    np.testing.assert_allclose(found, model(images[:3]).numpy(), atol=1e-4)
    assert tflite_tools.read_facts(tflite_tools.convert(model, "int8", images)).inputs[0].dtype == "int8"


def test_results_and_plans_stand_for_models(small_cnn, images):
    result = keras_qcqp.prune(small_cnn, {"macs": 0.6}, time_limit_s=1)
    assert tflite_tools.convert(result) == tflite_tools.convert(small_cnn, plan=result.plan)
    other = keras.Sequential([keras.Input((3,)), L.Dense(2)])
    with pytest.raises(ConversionError, match="The plan does not fit the model: "):
        tflite_tools.convert(other, plan=result.plan)


def test_select_operators_are_refused_unless_allowed():
    model = keras.Sequential([keras.Input((6, 4), name="x"), L.Dense(4), L.Lambda(keras.ops.sinh)])
    with pytest.raises(ConversionError, match="no builtin kernel for Sinh. Replace the layers that use them, or all"):
        tflite_tools.convert(model)
    with pytest.raises(ConversionError, match=r"needs operators of TensorFlow itself: Sinh.*=\['Other', 'Sinh'\]"):
        tflite_tools.convert(model, allow_select_ops=["Other"])
    data = tflite_tools.convert(model, allow_select_ops=["Sinh"])
    assert select_operators(tflite_tools.read_facts(data)) == ("Sinh",)


def test_dead_activations_are_named_in_int16(images):
    image = keras.Input((12, 12, 3), name="image")
    tiny = keras.initializers.RandomUniform(-1e-7, 1e-7, seed=0)
    dead = L.ReLU(6, name="dead")(L.Conv2D(4, 3, name="conv", kernel_initializer=tiny)(image))
    model = keras.Model(image, L.Conv2D(2, 3, name="next")(dead), name="net")
    with pytest.raises(ConversionError, match="dead activation in node 0, CONV_2D '.*dead.*': on the representative"):
        tflite_tools.convert(model, "int16x8", images)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": "int4", "engine": "tensorflow"}, "has no int4 and no integer weights alone"),
        ({"weights": "float16", "engine": "ai_edge_quantizer"}, "stores integers and has no uint8"),
        ({"weights": "float32", "dynamic": True}, "dynamic means float32 activations and weights int8 or int4"),
        ({"weights": "int8", "engine": "tensorflaw"}, "engine is 'tensorflaw'. Did you mean 'tensorflow'?"),
    ],
)
def test_recipes_no_engine_can_do(fields, message):
    with pytest.raises(RecipeError, match=message):
        Recipe("mine", **{"activations": "float32", "input_output_dtype": "float32", **fields})


def test_tensors_lead_back_to_layers(files):
    layers = [layer_of(tensor) for _, tensor in operator_outputs(files["int8"])]
    assert "stem" in layers[0] or "re_lu" in layers[0]
    assert len(layers) == len(tflite_tools.read_facts(files["int8"]).operators)
