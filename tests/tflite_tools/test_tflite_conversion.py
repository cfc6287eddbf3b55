"""Conversion: equal to Keras in float, integers throughout in int8, and clear refusals."""

import numpy as np
import pytest

from tflite_tools.conversion import convert, load_keras_model
from tflite_tools.errors import ConversionError, RecipeError, RepresentativeDataError
from tflite_tools.flatbuffer import read_facts
from tflite_tools.recipe import Recipe


@pytest.fixture(scope="module")
def keras():
    import keras

    return keras


@pytest.fixture(scope="module")
def cnn_float(small_cnn):
    return convert(small_cnn)


@pytest.fixture(scope="module")
def cnn_int8(small_cnn, images):
    return convert(small_cnn, "int8", images)


def assert_equal_to_keras(model, data, inputs, run_tflite):
    """Every output within 1e-5 of the largest Keras value, for one sample."""
    expected = model(list(inputs.values()) if len(inputs) > 1 else next(iter(inputs.values())), training=False)
    expected = expected if isinstance(expected, (list, tuple)) else [expected]
    results = run_tflite(data, inputs)
    assert len(results) == len(expected)
    for number, reference in enumerate(np.asarray(value) for value in expected):
        error = np.abs(results[f"output_{number}"] - reference).max()
        assert error <= 1e-5 * np.abs(reference).max()


def test_float_equals_keras(small_cnn, cnn_float, images, run_tflite):
    for index in (0, 17):
        assert_equal_to_keras(small_cnn, cnn_float, {"image": images[index : index + 1]}, run_tflite)


def test_batch_is_one_and_names_are_kept(cnn_float):
    facts = read_facts(cnn_float)
    assert [(t.name, t.shape, t.dtype) for t in facts.inputs] == [("image", (1, 12, 12, 3), "float32")]
    assert [(t.name, t.shape, t.dtype) for t in facts.outputs] == [("output_0", (1, 5), "float32")]


def test_conversion_repeats_bit_for_bit(small_cnn, cnn_float):
    assert convert(small_cnn, "float32") == cnn_float


def test_the_users_model_is_untouched(keras, images):
    image = keras.Input((12, 12, 3))
    layer = keras.layers.BatchNormalization()
    model = keras.Model(image, layer(keras.layers.Dropout(0.5)(image)))
    before = [variable.numpy().copy() for variable in model.variables]
    config, nodes = model.get_config(), len(layer._inbound_nodes)
    convert(model, "int8", images)
    assert all(np.array_equal(old, new.numpy()) for old, new in zip(before, model.variables, strict=True))
    assert model.get_config() == config
    assert len(layer._inbound_nodes) == nodes
    assert model.inputs[0].shape == (None, 12, 12, 3)


def test_int8_has_integers_only(cnn_int8, cnn_float):
    facts = read_facts(cnn_int8)
    assert not facts.float_ops
    assert {tensor.dtype for tensor in facts.inputs + facts.outputs} == {"int8"}
    assert facts.op_counts.keys() <= {"CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED", "SOFTMAX"}
    assert facts.weight_bytes < read_facts(cnn_float).weight_bytes / 2


def test_int8_input_scale_comes_from_the_data(cnn_int8):
    (image,) = read_facts(cnn_int8).inputs
    assert image.scale == pytest.approx(2 / 255, rel=0.02)


def test_int8_stays_near_keras(small_cnn, cnn_int8, images, run_tflite):
    reference = np.asarray(small_cnn(images[:20]))
    results = [run_tflite(cnn_int8, {"image": image[None]})["output_0"][0] for image in images[:20]]
    assert np.abs(np.array(results) - reference).max() < 0.05


def test_two_inputs_in_float(two_inputs, two_arrays, run_tflite):
    sample = {name: value[:1] for name, value in two_arrays.items()}
    assert_equal_to_keras(two_inputs, convert(two_inputs), sample, run_tflite)


@pytest.mark.parametrize("order", ["reversed dictionary", "list"])
def test_two_inputs_are_calibrated_by_name(two_inputs, two_arrays, run_tflite, order):
    """TFLite numbers the two tensors in the reverse of Keras's order; swapped samples would swap scales."""
    data = dict(reversed(two_arrays.items())) if order != "list" else list(two_arrays.values())
    converted = convert(two_inputs, "int8", data)
    scales = {tensor.name: tensor.scale for tensor in read_facts(converted).inputs}
    assert scales == pytest.approx({"narrow": 2 / 255, "wide": 200 / 255}, rel=0.02)
    sample = {name: value[:1] for name, value in two_arrays.items()}
    results = run_tflite(converted, sample)
    for number, reference in enumerate(two_inputs(list(sample.values()))):
        assert np.abs(results[f"output_{number}"] - np.asarray(reference)).max() < 3.0  # outputs reach 100


def test_sequential_nested_and_shared_layers(keras, run_tflite):
    keras.utils.set_random_seed(6)
    shared = keras.layers.Dense(4, activation="tanh")
    inner = keras.Sequential([keras.Input((4,)), shared, keras.layers.Dense(4)])
    outer = keras.Sequential([keras.Input((4,)), inner, shared])
    sample = {"input_0": np.linspace(-1, 1, 4, dtype="float32")[None]}
    assert_equal_to_keras(outer, convert(outer), sample, run_tflite)


def test_dictionaries_in_and_out(keras, run_tflite):
    left, right = keras.Input((2,), name="left"), keras.Input((3,), name="right")
    double, triple = keras.layers.Rescaling(2.0)(left), keras.layers.Rescaling(3.0)(right)
    model = keras.Model({"right": right, "left": left}, {"triple": triple, "double": double})
    sample = {"left": np.ones((1, 2), "float32"), "right": np.ones((1, 3), "float32")}
    results = run_tflite(convert(model), sample)
    assert {name: value.tolist() for name, value in results.items()} == {
        "double": [[2, 2]],
        "triple": [[3, 3, 3]],
    }


def test_names_tensorflow_would_change(keras):
    first, second = keras.Input((2,), name="a b"), keras.Input((2,), name="a_b")
    data = {"a b": np.random.rand(60, 2), "a_b": np.random.rand(60, 2) * 50}
    model = keras.Model([first, second], keras.layers.Concatenate()([first, second]))
    facts = read_facts(convert(model, "int8", data))
    assert [tensor.name for tensor in facts.inputs] == ["a_b", "a_b_"]


def test_integer_inputs_stay_integers(keras):
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    model = keras.Model(tokens, keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.Embedding(7, 3)(tokens))))
    facts = read_facts(convert(model, "int8", np.tile(np.arange(5), (60, 1))))
    assert (facts.inputs[0].dtype, facts.outputs[0].dtype) == ("int32", "int8")


def test_a_recipe_of_ones_own(small_cnn, images):
    facts = read_facts(convert(small_cnn, Recipe("float_ends", "int8", "int8", "float32"), images))
    assert (facts.inputs[0].dtype, facts.outputs[0].dtype) == ("float32", "float32")
    assert {op.name for op in facts.float_ops} == {"QUANTIZE", "DEQUANTIZE"}


@pytest.mark.parametrize("name", ["mlperf_kws_dscnn", "mlperf_resnet8_cifar10", "resnet20_cifar10_padA"])
def test_trained_networks_equal_keras(shared_file, run_tflite, name):
    model = load_keras_model(shared_file(f"models/{name}.keras"))
    (tensor,) = model.inputs
    sample = np.random.default_rng(7).standard_normal((1, *tensor.shape[1:])).astype("float32")
    data = convert(model)
    assert_equal_to_keras(model, data, {read_facts(data).inputs[0].name: sample}, run_tflite)


def test_trained_network_in_int8_classifies_alike(shared_file, run_tflite):
    model = load_keras_model(shared_file("models/mlperf_kws_dscnn.keras"))
    with np.load(shared_file("mlperf_tiny/kws01.npz")) as stored:
        clips = ((stored["x_int8"][:300].astype("float32") - 83) * 0.5847029).astype("float32")
    data = convert(model, "int8", clips[:150])
    (tensor,) = read_facts(data).inputs
    quantized = [run_tflite(data, {tensor.name: clip[None]})["output_0"].argmax() for clip in clips[150:]]
    agreement = np.mean(np.array(quantized) == np.asarray(model(clips[150:])).argmax(1))
    assert agreement >= 0.95


def test_missing_data_names_the_shapes(two_inputs):
    with pytest.raises(RepresentativeDataError) as caught:
        convert(two_inputs, "int8")
    assert str(caught.value) == (
        "Recipe 'int8' needs representative data to choose its scales. "
        "Give about 100 samples: 'narrow' [samples, 4], 'wide' [samples, 6]."
    )


def test_unfit_data_is_refused_before_conversion(small_cnn, images):
    with pytest.raises(RepresentativeDataError, match=r"\[80, 12, 12, 2\]; expected \[samples, 12, 12, 3\]."):
        convert(small_cnn, "int8", images[..., :2])


def test_operators_without_a_kernel_are_named(keras):
    x = keras.Input((8,))
    model = keras.Model(x, [keras.ops.erfinv(x), keras.ops.sinh(x)], name="odd")
    with pytest.raises(ConversionError) as caught:
        convert(model)
    assert str(caught.value) == (
        "Model 'odd' does not convert with recipe 'float32': TensorFlow Lite has no builtin kernel for "
        "Erfinv, Sinh. Replace the layers that use them, or allow them with allow_select_ops if the device runs "
        "TensorFlow's."
    )


def test_operators_left_in_float_are_named(keras):
    x = keras.Input((8,))
    model = keras.Model(x, keras.ops.sin(keras.layers.Dense(3)(x)))
    with pytest.raises(ConversionError) as caught:
        convert(model, "int8", np.random.default_rng(8).random((60, 8)))
    assert str(caught.value) == (
        "Recipe 'int8' left operators in float: SIN x1. They have no int8 kernel; replace the layers "
        "that use them, or use recipe 'float32'."
    )


def test_half_precision_models_are_explained(keras):
    x = keras.Input((8,))
    with pytest.raises(ConversionError, match="It computes in float16: rebuild it with the dtype policy 'float32'"):
        convert(keras.Model(x, keras.layers.Dense(3, dtype="mixed_float16")(x)))


def test_unknown_shapes_are_refused(keras):
    x = keras.Input((None, 3), name="wave")
    with pytest.raises(ConversionError, match=r"Input 'wave' .* has shape \[None, None, 3\]; only the batch axis"):
        convert(keras.Model(x, keras.layers.Dense(3)(x)))


def test_models_without_inputs_are_refused(keras):
    unbuilt = keras.Sequential([keras.layers.Dense(2)], name="unbuilt")
    with pytest.raises(ConversionError, match="Model 'unbuilt' has no known inputs. Build it with keras.Input"):
        convert(unbuilt)


def test_other_things_are_refused(small_cnn):
    with pytest.raises(ConversionError, match=r"convert\(\) takes a Keras 3 model, got builtins.str."):
        convert("net.keras")
    with pytest.raises(RecipeError, match="There is no recipe 'int7'. Did you mean 'int8'?"):
        convert(small_cnn, "int7")
    with pytest.raises(RecipeError, match="Recipe 'int8' starts from a Keras model, not from a file. "):
        convert(b"TFL3", "int8")


def test_nothing_is_printed(small_cnn, capfd):
    convert(small_cnn)
    assert capfd.readouterr() == ("", "")


def test_other_backends_are_refused(keras, small_cnn, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ConversionError) as caught:
        convert(small_cnn)
    assert str(caught.value) == (
        "Conversion needs the Keras backend 'tensorflow', but 'jax' is active. Save the model as .keras and "
        "convert it in a process started with KERAS_BACKEND=tensorflow."
    )


def test_a_missing_tensorflow_is_explained(run_python):
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from tflite_tools import convert\n"
        "try: convert(None)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    output = run_python("-c", code, KERAS_BACKEND="tensorflow").stdout
    assert output.startswith("ConversionError Conversion needs TensorFlow and Keras 3: ")
    assert output.endswith("Run 'pip install tensorflow' and set KERAS_BACKEND=tensorflow.\n")


def test_damaged_keras_files(tmp_path, small_cnn):
    path = tmp_path / "net.keras"
    with pytest.raises(ConversionError, match="net.keras' does not exist. Give a file written by model.save"):
        load_keras_model(path)
    small_cnn.save(path)
    assert load_keras_model(path).name == "small_cnn"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConversionError, match=rf"is no .keras archive or is cut off \({len(whole) // 2:,} bytes\)"):
        load_keras_model(path)
    path.write_bytes(whole.replace(b"config.json", b"gifnoc.json"))
    with pytest.raises(ConversionError, match="net.keras' cannot be loaded: "):
        load_keras_model(path)


def test_stored_code_is_not_run(tmp_path, keras):
    x = keras.Input((3,))
    keras.Model(x, keras.layers.Lambda(lambda value: value * 2)(x)).save(tmp_path / "code.keras")
    with pytest.raises(ConversionError, match="code.keras' cannot be loaded: .*Lambda"):
        load_keras_model(tmp_path / "code.keras")
