"""Live Keras 2 models become Keras 3 models that compute the same, and the public doors take them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import keras
import keras2_networks
import networks
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras2_networks import L, image_model, shake

import keras_qcqp
from keras_qcqp import ModelError, from_tf_keras
from keras_qcqp.legacy import files, verify

HARD_SIGMOID = "Keras 3's hard_sigmoid is another function than that of Keras 2"


@pytest.mark.parametrize("name", keras2_networks.NETWORKS)
def test_outputs_names_and_weights_are_the_same(name, tmp_path):
    old = shake(keras2_networks.NETWORKS[name]())
    before = [w.numpy() for w in old.weights]
    new = from_tf_keras(old)
    random = np.random.default_rng(3)
    x = [random.uniform(0, 1, [n or 9 for n in i.shape[1:]]).astype("float32") for i in old.inputs]
    x = [np.stack([a] * (i.shape[0] or 1)) for a, i in zip(x, old.inputs, strict=True)]
    expected = tf.nest.flatten(old(tf.nest.pack_sequence_as(old.input, x), training=False))
    loose = name == "mixed_precision"
    for a, b in zip(expected, networks.outputs(new, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2 if loose else 2e-5, atol=1e-2 if loose else 2e-6)
    assert isinstance(new, keras.Model) and new.count_params() == old.count_params()
    assert sum(int(np.prod(v.shape)) for v in new.trainable_weights) == sum(
        int(np.prod(v.shape)) for v in old.trainable_weights
    )
    assert new.name == old.name
    assert [x.name for x in new.inputs] == [x.name for x in old.inputs]
    assert {layer.name.replace("/", "_") for layer in old.layers} <= {o.name for o in keras_graph_operations(new)}
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, old.weights, strict=True))
    new.save(tmp_path / "new.keras")


def keras_graph_operations(model):
    return model.layers if isinstance(model, keras.Sequential) else model.operations


def test_structures_flags_and_nesting_stay():
    new = from_tf_keras(shake(keras2_networks.nested()))
    assert set(new.input) == {"c", "d"}
    y, rest = new.output
    assert (y.shape, rest["w"].shape) == ((None, 4), (None, 2))
    inner = new.get_layer("inner")
    assert not inner.trainable and set(inner.output) == {"y", "z"}
    assert inner.get_layer("shared") is new.get_layer("shared")
    frozen = from_tf_keras(keras2_networks.frozen())
    assert [layer.trainable for layer in frozen.layers] == [True, False, False, True, True]


def test_precision_and_regularisers_stay():
    new = from_tf_keras(keras2_networks.mixed_precision())
    assert [layer.dtype_policy.name for layer in new.layers[1:]] == ["mixed_float16", "mixed_float16", "float32"]
    new = from_tf_keras(keras2_networks.NETWORKS["convolutions"]())
    assert isinstance(new.layers[4].kernel_regularizer, keras.regularizers.L1L2)
    assert new.layers[4].kernel_regularizer.l2 == pytest.approx(0.2)
    assert isinstance(new.layers[5].kernel_constraint, keras.constraints.NonNeg)


def test_hard_sigmoid_keeps_the_meaning_it_had_in_keras_2(tmp_path):
    old = shake(keras2_networks.hard_sigmoid_everywhere())
    from_tf_keras(old).save(tmp_path / "new.keras")
    new = keras.models.load_model(tmp_path / "new.keras")
    assert [layer.name for layer in new.layers] == ["d", "d_hard_sigmoid_scaled", "d_hard_sigmoid", "a_scaled", "a"]
    x = np.linspace(-9, 9, 40).reshape(10, 4).astype("float32")
    np.testing.assert_allclose(old(x), new(x), atol=1e-6)


def test_prune_takes_a_keras_2_model():
    old = shake(keras2_networks.residual())
    result = keras_qcqp.prune(old, {"macs": 0.6}, time_limit_s=3)
    assert isinstance(result.model, keras.Model)
    assert keras_qcqp.measure(result.model)["macs"] <= 0.6 * keras_qcqp.measure(old)["macs"]
    assert not keras_qcqp.couple(keras_qcqp.read(old)).frozen
    x = networks.images(result.model)
    again, masked = keras_qcqp.rebuild(old, result.plan), keras_qcqp.masked(old, result.plan)
    (a,), (b,), (c,) = (networks.outputs(model, x) for model in (result.model, again, masked))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-5)
    assert result.model.get_layer("stem_conv") and result.model.get_layer("b_conv").filters < 8


class Twice(L.Layer):
    def __init__(self, by=2.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def build(self, shape):
        self.shift = self.add_weight(name="shift", shape=(shape[-1],))

    def call(self, x):
        return self.by * x + self.shift

    def get_config(self):
        return {**super().get_config(), "by": self.by}


class Twice3(keras.layers.Layer):
    def __init__(self, by, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def build(self, shape):
        self.shift = self.add_weight(name="shift", shape=(shape[-1],))

    def call(self, x):
        return self.by * x + self.shift


class Thrice3(Twice3):
    def call(self, x):
        return 3.0 * x + self.shift


class Almost3(Twice3):
    def call(self, x):
        return 1.0002 * super().call(x)


class Narrow3(Twice3):
    def build(self, shape):
        self.shift = self.add_weight(name="shift", shape=(1,))


class Mine(tf_keras.regularizers.Regularizer):
    def __call__(self, x):
        return 0.0

    def get_config(self):
        return {}


class Mine3(keras.regularizers.Regularizer):
    def __call__(self, x):
        return 0.0


def test_own_classes_are_exchanged():
    old = shake(image_model(Twice(0.5, name="twice"), L.Dense(3, kernel_regularizer=Mine())))
    new = from_tf_keras(old, custom_objects={"Twice": Twice3, "Mine": Mine3})
    assert type(new.get_layer("twice")) is Twice3 and new.get_layer("twice").by == 0.5
    assert type(new.layers[-1].kernel_regularizer) is Mine3


@pytest.mark.parametrize(
    ("build", "custom", "text"),
    [
        (
            lambda: Twice(name="t"),
            {},
            r"Layer 't' \(test_legacy.Twice\) has no counterpart in Keras 3. Write it as a Ker",
        ),
        (
            lambda: Twice(name="t"),
            {"Twice": Thrice3},
            r"outputs differ by .* The first layer that differs is 't' \(Twice",
        ),
        (
            lambda: Twice(name="t"),
            {"Twice": Narrow3},
            r"The weights of layer 't' \(Twice\) do not fit Narrow3 of Keras 3: t/shift \(4,\) against shift \(1,\).",
        ),
        (lambda: L.LocallyConnected2D(3, 2, name="t"), {}, "LocallyConnected2D.* has no counterpart in Keras 3"),
        (
            lambda: L.Dense(3, kernel_regularizer=Mine()),
            {},
            r"it holds a 'Mine', which Keras 3 does not have \(custom_ob",
        ),
        (lambda: L.BatchNormalization(axis=[1, 3], name="t"), {}, r"it normalises over several axes, \[1, 3\]"),
        (lambda: L.ConvLSTM1D(3, 3, recurrent_activation="hard_sigmoid", name="t"), {}, HARD_SIGMOID),
        (lambda: L.Bidirectional(L.ConvLSTM1D(3, 3, activation="hard_sigmoid")), {}, HARD_SIGMOID),
        (
            lambda: L.ConvLSTM1D(3, 3, recurrent_activation="tanh", time_major=True),
            {},
            "its setting time_major=True is",
        ),
    ],
)
def test_what_cannot_be_converted_says_which_layer_and_why(build, custom, text):
    with pytest.raises(ModelError, match=text):
        from_tf_keras(image_model(build()), custom_objects=custom)


class Subclassed(tf_keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            Subclassed,
            r"Keras 2 model 'subclassed\w*' is a subclassed model \(Subclassed\): its own call\(\) cannot be read",
        ),
        (lambda: tf_keras.Sequential([L.Dense(2)]), r"Keras 2 Sequential model 'sequential\w*' is not built"),
        (
            lambda: tf_keras.Model(*[L.Input((3,), ragged=True, name="r")] * 2),
            "Input 'r' is ragged, which Keras 3 models",
        ),
    ],
)
@pytest.mark.parametrize("door", [from_tf_keras, keras_qcqp.read, lambda model: keras_qcqp.prune(model, {"macs": 0.5})])
def test_every_door_says_what_is_wrong_with_a_keras_2_model(door, build, text):
    with pytest.raises(ModelError, match=text):
        door(build())


def test_only_keras_2_models_are_converted():
    with pytest.raises(ModelError, match="A model of tf_keras was expected, got builtins.str."):
        from_tf_keras("model.h5")


def test_as_much_as_rounding_explains_may_differ(monkeypatch):
    old = image_model(L.Dense(4, name="before"), Twice(name="t"), L.Dense(3))
    with pytest.raises(ModelError, match=r"outputs differ by 0.0002 .*differs is 't' \(Twice\)"):
        from_tf_keras(old, custom_objects={"Twice": Almost3})
    monkeypatch.setattr(verify, "_JITTER", 1e-2)  # as if much were rounded off
    new = from_tf_keras(old, custom_objects={"Twice": Almost3})
    assert all(np.array_equal(a, b) for a, b in zip(old.get_weights(), new.get_weights(), strict=True))
    with pytest.raises(ModelError, match="outputs differ by"):
        from_tf_keras(old, custom_objects={"Twice": Thrice3})


@pytest.mark.parametrize("around", [lambda x: tf_keras.Sequential([L.InputLayer((4,)), x]), lambda x: x])
def test_a_difference_inside_is_found_in_nested_and_sequential_models(around):
    old = tf_keras.Sequential([L.Dense(4, input_shape=(4,)), around(Twice(name="t")), L.Dense(3)])
    with pytest.raises(ModelError, match=f"The first layer that differs is '{old.layers[1].name}'"):
        from_tf_keras(old, custom_objects={"Twice": Thrice3})


def test_models_that_read_strings_cannot_be_checked():
    text = L.Input((1,), dtype="string")
    with pytest.raises(ModelError, match="could not be run on random numbers.* If it reads strings, begin the model"):
        from_tf_keras(tf_keras.Model(text, L.StringLookup(vocabulary=["a", "b"])(text)))


def test_models_of_kerases_before_tf_keras_are_sent_through_a_file():
    ancient = type("Functional", (), {"__module__": "tensorflow.python.keras.engine.functional"})()
    text = "got tensorflow.python.keras.engine.functional.Functional. Save this Keras 2 model as .h5, install tf_keras"
    with pytest.raises(ModelError, match=text):
        keras_qcqp.measure(ancient)


def test_a_model_that_is_random_cannot_be_compared():
    old = tf_keras.Sequential([L.Dense(4, input_shape=(4,))])
    image = L.Input((4,))
    with pytest.warns(UserWarning, match="gives other outputs at each call"):
        from_tf_keras(tf_keras.Model(image, L.Dropout(0.5)(old(image), training=True)))


def test_names_that_collide_without_their_slash_stay_apart():
    old = image_model(L.ReLU(name="a/b"), L.ReLU(name="a_b"), L.ReLU(name="a/b_"))
    assert len({layer.name for layer in from_tf_keras(old).layers}) == 4


def test_not_a_number_equals_itself_and_nothing_else():
    nan, one = [np.array([np.nan, 1.0])], [np.array([1.0, 1.0])]
    assert verify._difference(nan, nan) == 0
    assert verify._difference(nan, one) == np.inf
    assert verify._difference(one, [np.array([1.0])]) == np.inf


def test_keras_3_models_need_no_keras_2(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)  # whoever imports it fails
    model = networks.shake(networks.chain())
    assert keras_qcqp.measure(keras_qcqp.prune(model, {"macs": 0.8}, time_limit_s=1).model)["macs"] > 0
    top = [node for node in ast.parse(Path(files.__file__).read_text()).body if isinstance(node, ast.Import)]
    assert "tf_keras" not in {name.name for node in top for name in node.names}


def test_the_users_own_hard_sigmoid_goes_into_recurrent_layers():
    def keras_2_hard_sigmoid(x):
        return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)

    custom = {"hard_sigmoid": keras_2_hard_sigmoid}
    inside = L.Bidirectional(L.LSTM(3, recurrent_activation="hard_sigmoid", return_sequences=True))
    old = image_model(L.Reshape((16, 16)), inside, L.GRU(2, activation="hard_sigmoid"), L.Dense(2, "hard_sigmoid"))
    new = from_tf_keras(shake(old), custom_objects=custom)
    assert [type(layer).__name__ for layer in new.layers[1:]] == ["Reshape", "Bidirectional", "GRU", "Dense"]
