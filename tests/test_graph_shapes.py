"""Graphs that are easy to get wrong: what is shared, nested, free in size, renamed, or only looks like a graph."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from networks import NETWORKS, images, outputs, shake
from test_law import require_law

import keras_qcqp
from keras_qcqp.coupling import couple
from keras_qcqp.graph import read
from keras_qcqp.plan import plan_from

L = keras.layers


def keep_everything(model: keras.Model) -> keras.Model:
    coupling = couple(read(model))
    return keras_qcqp.rebuild(model, plan_from(coupling, tuple(np.ones(m.size, bool) for m in coupling.masks)))


@pytest.mark.parametrize("name", NETWORKS)
def test_keeping_everything_changes_nothing(name):
    model = shake(NETWORKS[name]())
    arrays = images(model)
    for got, wanted in zip(outputs(keep_everything(model), arrays), outputs(model, arrays), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def tower(name: str, layer: keras.layers.Layer, width: int) -> keras.Model:
    x = keras.Input((8, 8, width), name=f"{name}_in")
    return keras.Model(x, L.ReLU(name=f"{name}_relu")(layer(x)), name=name)


def layer_in_two_towers() -> keras.Model:
    """One convolution inside two different nested models and once outside of both."""
    shared = L.Conv2D(4, 3, padding="same", name="shared")
    x = image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(4, 1, name="a")(x)
    y, z = tower("left", shared, 4)(x), tower("right", shared, 4)(x)
    x = L.Concatenate(name="join")([y, z, shared(x)])
    return keras.Model(image, L.Dense(3, name="head")(L.Flatten(name="flat")(x)), name="layer_in_two_towers")


def tower_in_two_branches() -> keras.Model:
    """One nested model inside two others."""
    inner = tower("inner", L.Conv2D(5, 3, padding="same", name="c"), 3)
    image = keras.Input((8, 8, 3), name="image")
    branches = []
    for name in ("left", "right"):
        x = keras.Input((8, 8, 3), name=f"{name}_in")
        branches.append(keras.Model(x, L.Conv2D(4, 1, name=f"{name}_c")(inner(x)), name=name)(image))
    x = L.GlobalAveragePooling2D(name="mean")(L.Add(name="sum")(branches))
    return keras.Model(image, L.Dense(3, name="head")(x), name="tower_in_two_branches")


def free_sizes() -> keras.Model:
    """A head built for any size, called at two sizes, as in a feature pyramid."""
    x = keras.Input((None, None, 6), name="any")
    y = L.Conv2D(4, 1, name="h2")(L.Conv2D(7, 3, padding="same", activation="relu", name="h1")(x))
    head = keras.Model(x, y, name="head")
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(6, 3, padding="same", name="a")(image)
    fine, coarse = head(x), head(L.MaxPooling2D(2, name="pool")(x))
    return keras.Model(image, [L.Flatten(name="f1")(fine), L.Flatten(name="f2")(coarse)], name="free_sizes")


def named_entries() -> keras.Model:
    """A nested model with inputs [z, a] that is called with a dictionary."""
    z, a = keras.Input((6,), name="z"), keras.Input((6,), name="a")
    inner = keras.Model([z, a], L.Concatenate(name="join")([L.Dense(4, name="dz")(z), a]), name="inner")
    x = keras.Input((8,), name="x")
    y = inner({"z": L.Dense(6, name="one")(x), "a": L.Dense(6, name="two")(x)})
    return keras.Model(x, L.Dense(2, name="out")(y), name="named_entries")


@pytest.mark.parametrize("build", [layer_in_two_towers, tower_in_two_branches, free_sizes, named_entries])
@pytest.mark.parametrize("seed", [1, 2])
def test_law_where_things_are_shared(build, seed):
    smaller = require_law(shake(build(), seed), seed)
    assert smaller.count_params() < build().count_params()


def test_macs_are_counted_where_a_free_size_becomes_known():
    inside = 64 * (9 * 6 * 7 + 7 * 4) + 16 * (9 * 6 * 7 + 7 * 4)
    assert keras_qcqp.measure(free_sizes())["macs"] == 64 * 9 * 3 * 6 + inside
    smaller = keras_qcqp.prune(free_sizes(), {"macs": 0.5}).model
    assert smaller.get_layer("head").input_shape == (None, None, None, smaller.get_layer("a").filters)


def test_a_renamed_layer_and_automatic_weight_names():
    class Anonymous(L.Layer):
        def build(self, shape):
            self.weight = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, x):
            return x * self.weight

    x = image = keras.Input((6, 6, 3), name="image")
    x = L.Conv2D(6, 3, name="before")(x)
    x = Anonymous(name="anonymous")(L.Conv2D(5, 1, name="b")(x))
    model = keras.Model(image, L.Dense(2, name="head")(L.Flatten(name="flat")(x)))
    model.get_layer("before").name = "after"
    coupling = couple(read(shake(model)))
    assert [f.node for f in coupling.frozen] == ["anonymous"]
    smaller = require_law(model, 0)
    assert smaller.get_layer("after").filters < 6


def test_optional_inputs_stay_optional():
    image, extra = keras.Input((6, 6, 3), name="image"), keras.Input((4,), name="extra", optional=True)
    x = L.Flatten()(L.Conv2D(5, 3, name="a")(image))
    model = keras.Model([image, extra], [L.Dense(2, name="head")(x), L.Identity(name="same")(extra)])
    assert [layer.optional for layer in keep_everything(model).layers if isinstance(layer, L.InputLayer)] == [
        False,
        True,
    ]


def test_initializers_that_hold_an_array():
    x = image = keras.Input((6, 6, 3), name="image")
    start = keras.initializers.Constant(np.arange(5.0))
    x = L.Conv2D(5, 3, bias_initializer=start, name="a")(x)
    require_law(keras.Model(image, L.Dense(2, name="head")(L.Flatten(name="flat")(x))), 1)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda x: keras.ops.clip(x, np.array([-1.0, -2.0, -3.0, -4.0]), 5.0), "does not tell its arguments"),
        (lambda x: x * np.array([1.0, 2.0, 3.0, 4.0], "float32"), None),
        (lambda x: keras.ops.softmax(x, axis=-1), "softmax over channels"),
        (lambda x: keras.ops.cumsum(x, axis=-1), "Cumsum over channels"),
        (lambda x: keras.ops.squeeze(keras.ops.expand_dims(x, 1), 1), None),
    ],
)
def test_operations_that_are_followed_or_frozen(operation, reason):
    x = image = keras.Input((6, 6, 3), name="image")
    x = operation(L.Conv2D(4, 3, name="a")(x))
    model = shake(keras.Model(image, L.Dense(2, name="head")(L.Flatten(name="flat")(x))))
    reasons = [f.reason for f in couple(read(model)).frozen]
    assert (reasons == []) if reason is None else any(reason in r for r in reasons)
    require_law(model, 0)


def test_a_reshape_that_joins_samples_is_frozen():
    x = image = keras.Input((6, 6, 3), name="image")
    x = keras.ops.reshape(L.Conv2D(4, 3, name="a")(x), (-1, 4))
    model = keras.Model(image, L.Dense(2, name="head")(x))
    assert "reshape joins samples of the batch" in [f.reason for f in couple(read(model)).frozen]
    keep_everything(model)


def test_a_functional_model_with_a_call_of_its_own_is_no_graph():
    class Doubled(keras.Model):
        def call(self, x, training=None):
            return 2 * super().call(x, training=training)

    x = keras.Input((4,), name="x")
    model = Doubled(x, L.Dense(3)(x), name="doubled")
    with pytest.raises(
        keras_qcqp.ModelError, match="Model 'doubled' is a subclassed model \\(Doubled\\): its own call"
    ):
        keras_qcqp.prune(model, {"params": 0.5})


def test_a_softmax_head_is_fine_in_strict_mode():
    x = image = keras.Input((6, 6, 3), name="image")
    x = L.Flatten(name="flat")(L.Conv2D(4, 3, name="a")(x))
    couple(read(keras.Model(image, L.Softmax(name="p")(L.Dense(3, name="head")(x)))), strict=True)


def test_channels_joined_with_the_input_are_explained():
    image = keras.Input((6, 6, 3), name="image")
    x = L.Add(name="sum")([L.Conv2D(3, 3, padding="same", name="a")(image), image])
    coupling = couple(read(keras.Model(image, L.Conv2D(2, 1, name="head")(x))), strict=True)
    assert [(f.node, f.num_channels, f.tied) for f in coupling.frozen] == [("a", 3, True)]
    assert "joined element by element with an input or output" in coupling.frozen[0].reason


def test_rules_that_fail_are_named():
    class Mine(L.Layer):
        def call(self, x):
            return x

    x = keras.Input((4,), name="x")
    model = keras.Model(x, L.Dense(2)(Mine(name="mine")(L.Dense(5)(x))))
    from keras_qcqp.rules import RULES

    for rule, text in [
        (lambda call: 1 // 0, "The rule for Mine failed on 'mine': ZeroDivisionError"),
        (lambda call: None, "The rule for Mine returned NoneType, a Spec was expected."),
    ]:
        keras_qcqp.register_rule(Mine, rule)
        try:
            with pytest.raises(keras_qcqp.ModelError, match=text):
                couple(read(model))
        finally:
            del RULES[Mine]
