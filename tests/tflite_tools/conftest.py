"""Shared data, small networks and subprocess calls for the tests of `tflite_tools`."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def fixture_model(shared_file):
    """Path of a genuine `.tflite` by its bare name."""
    return lambda name: shared_file(f"edge_fixtures/models/{name}.tflite")


@pytest.fixture(scope="session")
def small_cnn():
    """A residual network whose batch norm has statistics as after training.

    image[12, 12, 3] -> conv 8 -> norm -> relu -+-> conv 8 -> relu -+-> add -> mean -> dense 5 -> softmax
                                                +-------------------+
    """
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    image = keras.Input((12, 12, 3), name="image")
    stem = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(image)
    stem = layers.ReLU()(layers.BatchNormalization(name="norm")(stem))
    branch = layers.Conv2D(8, 3, padding="same", activation="relu")(stem)
    pooled = layers.GlobalAveragePooling2D()(layers.Add()([stem, branch]))
    model = keras.Model(image, layers.Dense(5, activation="softmax")(pooled), name="small_cnn")
    random = np.random.default_rng(2)
    model.get_layer("norm").set_weights([random.uniform(0.5, 1.5, 8) for _ in range(4)])
    return model


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(3).uniform(-1, 1, (80, 12, 12, 3)).astype("float32")


@pytest.fixture(scope="session")
def two_inputs():
    """Two inputs and two outputs.

    narrow[4] -> dense 3 -+-> add -> output_0
    wide[6]   -> dense 3 -+--------> output_1
    """
    import keras

    keras.utils.set_random_seed(4)
    narrow, wide = keras.Input((4,), name="narrow"), keras.Input((6,), name="wide")
    left, right = keras.layers.Dense(3)(narrow), keras.layers.Dense(3)(wide)
    return keras.Model([narrow, wide], [keras.layers.Add()([left, right]), right], name="two_inputs")


@pytest.fixture(scope="session")
def dictionary():
    """A dictionary of inputs whose order is not that of its keys: (alpha[4] - zeta[4]) -> dense 3, and its arrays."""
    import keras

    keras.utils.set_random_seed(6)
    zeta, alpha = keras.Input((4,), name="zeta"), keras.Input((4,), name="alpha")
    made = keras.layers.Dense(3, name="head")(keras.layers.Subtract()([alpha, zeta]))
    random = np.random.default_rng(7)
    arrays = {
        "zeta": random.uniform(-1, 1, (120, 4)).astype("float32"),
        "alpha": random.uniform(-5, 5, (120, 4)).astype("float32"),
    }
    return keras.Model({"zeta": zeta, "alpha": alpha}, made, name="dictionary"), arrays


@pytest.fixture(scope="session")
def two_arrays():
    """Ranges a hundred times apart, so that swapped inputs show."""
    random = np.random.default_rng(5)
    return {
        "narrow": random.uniform(-1, 1, (120, 4)).astype("float32"),
        "wide": random.uniform(-100, 100, (120, 6)).astype("float32"),
    }


@pytest.fixture(scope="session")
def run_tflite():
    """Runs one sample through LiteRT by signature name, quantizing and dequantizing where needed."""
    from ai_edge_litert.interpreter import Interpreter

    def run(data: bytes, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        interpreter = Interpreter(model_content=data)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
        feeds = {}
        for name, detail in runner.get_input_details().items():
            scale, zero = detail["quantization"]
            value = sample[name]
            if scale:
                limits = np.iinfo(detail["dtype"])
                value = np.clip(np.round(value / scale + zero), limits.min, limits.max)
            feeds[name] = value.astype(detail["dtype"])
        results = runner(**feeds)
        for name, detail in runner.get_output_details().items():
            scale, zero = detail["quantization"]
            if scale:
                results[name] = (results[name].astype("float32") - zero) * scale
        return results

    return run
