"""Rules and coupling: who is tied to whom, what is frozen and why, what a custom layer can say."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from networks import NETWORKS, images, outputs, shake
from selections import random_keep

import keras_qcqp
from keras_qcqp import In, Spec
from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.graph import read
from keras_qcqp.plan import plan_from
from keras_qcqp.resources import count_all
from keras_qcqp.rules import RULES

L = keras.layers


def coupling_of(network: str) -> Coupling:
    return couple(read(NETWORKS[network]()))


def sizes(coupling: Coupling) -> dict[str, int]:
    return {m.name: m.size for m in coupling.masks if not m.frozen}


def model_of(*layers: keras.layers.Layer, shape: tuple[int, ...] = (6, 6, 3)) -> keras.Model:
    """A chain on an image."""
    x = image = keras.Input(shape, name="image")
    for layer in layers:
        x = layer(x)
    return keras.Model(image, x, name="probe")


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("chain", {"a_conv": 6, "b_conv": 5, "hidden": 7}),
        ("residual", {"stem_conv": 8, "a1_conv": 6, "b1_conv": 7, "b2_conv": 12}),
        ("option_a", {"stem_conv": 6, "a_conv": 6}),  # 6 of a's 12 channels meet padding, 6 meet the stem's
        ("dense_block", {"x0": 6, "x1": 4, "x2": 4, "mix": 8}),
        ("inverted_residual", {"stem_conv": 6, "expand_conv": 12, "reduce": 5, "separable": 9}),
        ("two_by_two", {"tower/t1_conv": 6, "tower/t2_conv": 8, "after_conv": 7}),
        ("u_net", {"down_conv": 5, "deep_conv": 7, "grow": 6}),
        ("operations", {"a": 6, "c": 5, "d": 4, "e": 5}),  # d: 16 units are 4 channels at 4 positions
        ("grouped", {"a": 2, "b": 3}),  # one of 2 channels in each of 4 groups
        ("shared_layer", {"a": 6}),  # the layer's second call ties its output to its input
        ("sequential", {"sep": 5, "block/c1": 6}),
        ("volume", {"a": 5, "b": 4}),
        ("frozen_parts", {"b": 6, "d": 6}),
    ],
)
def test_coupled_masks(network, expected):
    assert sizes(coupling_of(network)) == expected


def test_what_is_frozen_and_why():
    reasons = {f.node: f.reason for f in coupling_of("frozen_parts").frozen}
    assert reasons == {
        "layer_norm": "mean and variance over channels change with each that goes; "
        "RMSNormalization or GroupNormalization can do it exactly",
        "mixing": "softmax over channels: removing one changes all others",
    }


def test_strict_refuses_what_would_be_frozen():
    with pytest.raises(keras_qcqp.FrozenLayerError) as caught:
        couple(read(NETWORKS["frozen_parts"]()), strict=True)
    assert str(caught.value).startswith(
        "strict=True and 2 calls cannot be pruned through: 'layer_norm' (LayerNormalization): mean and variance"
    )
    couple(read(NETWORKS["residual"]()), strict=True)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([L.Conv2D(4, 3, activation="softmax"), L.Conv2D(3, 1)], "activation 'softmax' is not known to work channel"),
        ([L.Conv2D(4, 3), L.Activation("softmax"), L.Conv2D(3, 1)], "activation 'softmax' is not known to work"),
        ([L.Conv2D(4, 3), L.Rescaling([1.0, 2.0, 3.0, 4.0]), L.Conv2D(3, 1)], "one factor for each channel"),
        ([L.Conv2D(4, 3), L.Lambda(lambda x: x * 2), L.Conv2D(3, 1)], "no rule for layer class Lambda"),
        ([L.Conv2D(4, 3), L.MaxPooling2D(2, data_format="channels_first"), L.Conv2D(3, 1)], "pools along axis 3"),
        ([L.Conv2D(4, 3), L.Dropout(0.1, noise_shape=(None, 1, 1, 4)), L.Conv2D(3, 1)], "noise_shape fixes"),
        ([L.Conv2D(6, 3), L.Reshape((24, 4)), L.Conv1D(3, 1)], "mixes channels with positions"),
        ([L.Conv2D(4, 3), L.Permute((3, 1, 2)), L.Conv2D(3, 1)], "Conv2D mixes along axis 3, the channels lie along"),
        (
            [L.Conv2D(4, 3), L.Reshape((16, 4)), L.LSTM(5, activation="softmax"), L.Dense(2)],
            "activation 'softmax' is not known",
        ),
    ],
)
def test_reasons_and_the_law_where_something_is_frozen(layers, reason):
    model = shake(model_of(*layers, L.GlobalAveragePooling1D() if isinstance(layers[-1], L.Conv1D) else L.Flatten()))
    coupling = couple(read(model))
    assert any(reason in f.reason for f in coupling.frozen), coupling.frozen
    keep = tuple(np.arange(m.size) % 2 == 0 if not m.frozen else np.ones(m.size, bool) for m in coupling.masks)
    plan = plan_from(coupling, keep)
    arrays = images(model)
    got, wanted = (outputs(m, arrays)[0] for m in (keras_qcqp.rebuild(model, plan), keras_qcqp.masked(model, plan)))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def sliced(key) -> keras.Model:
    """conv 6 -> x[key] -> flatten -> dense"""
    image = keras.Input((6, 6, 3), name="image")
    x = L.Conv2D(6, 3, padding="same", name="a")(image)
    return keras.Model(image, L.Dense(2, name="head")(L.Flatten(name="flat")(x[key])), name="sliced")


def operated(operation) -> keras.Model:
    """conv 6 -> operation -> flatten -> dense"""
    image = keras.Input((6, 6, 3), name="image")
    x = operation(L.Conv2D(6, 3, padding="same", name="a")(image))
    return keras.Model(image, L.Dense(2, name="head")(L.Flatten(name="flat")(x)), name="operated")


ALL = slice(None)
ops = keras.ops


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: sliced((ALL, slice(None, None, 2), slice(1, 5, 3))), {"a": 6}),
        (lambda: sliced((ALL, 2, slice(-3, None))), {"a": 6}),
        (lambda: sliced((Ellipsis, None)), {"a": 6}),
        (lambda: sliced((ALL, None, slice(2, 4))), {"a": 6}),
        (lambda: sliced((Ellipsis, slice(2, 5))), {"a": 3, "a/2": 3}),
        (lambda: sliced((Ellipsis, 3, slice(-2, None))), {"a": 4, "a/2": 2}),
        (lambda: operated(lambda x: ops.take(x, [4, 0, 4], axis=-1)), {"a": 4, "a/2": 1, "a/3": 1}),
        (lambda: operated(lambda x: ops.take(x, [[4, 0], [1, 2]], axis=1)), {"a": 6}),
        (lambda: operated(lambda x: ops.take(x, 3, axis=2)), {"a": 6}),
        (lambda: operated(lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 2), (0, 0)), "reflect")), {"a": 6}),
        (lambda: operated(lambda x: ops.pad(x, ((0, 0), (1, 0), (0, 0), (1, 3)))), {"a": 6, "pad": 4}),
        (lambda: operated(lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, 2)), constant_values=1.5)), None),
        (lambda: operated(lambda x: ops.concatenate([ops.zeros_like(x), x], axis=-1)), {"a": 6}),
    ],
)
def test_slices_pads_and_picks_are_followed(model, expected):
    """And the law holds: the numbers in a slice, a pad or a list of positions follow the channels."""
    model = shake(model())
    coupling = couple(read(model))
    assert coupling.frozen == ()
    if expected:
        found = sizes(coupling)
        assert sorted(found.values()) == sorted(expected.values())
        assert {name for name in found if name.startswith("a")} == {name for name in expected if name.startswith("a")}
    arrays = images(model)
    for seed in range(3):
        plan = plan_from(coupling, random_keep(coupling, seed))
        smaller = keras_qcqp.rebuild(model, plan)
        np.testing.assert_allclose(
            outputs(smaller, arrays)[0], outputs(keras_qcqp.masked(model, plan), arrays)[0], atol=1e-5
        )
        counts = [int(k.sum()) for k in random_keep(coupling, seed)]
        assert keras_qcqp.measure(smaller) == {r.name: r.usage(counts) for r in count_all(coupling)}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: sliced((Ellipsis, 2)), "x[2] picks along axis 3, which carries the channels"),
        (lambda: sliced((Ellipsis, slice(None, None, 2))), "slice with a stride (or of nothing) along the channels"),
        (lambda: sliced((slice(1, None),)), "slice along the batch axis"),
        (lambda: operated(lambda x: ops.take(x, 2, axis=-1)), "ops.take along the batch axis, or of a single channel"),
        (lambda: operated(lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (2, 2)), "symmetric")), "mode 'symmetric'"),
    ],
)
def test_slices_pads_and_picks_that_freeze(model, reason):
    frozen = couple(read(model())).frozen
    assert any(reason in f.reason for f in frozen), frozen


def test_a_broadcast_operand_stays_free():
    """x[.., C] * s[.., 1]: the single channel of the spatial gate is not tied to x's channels."""
    image = keras.Input((6, 6, 3))
    x = L.Conv2D(5, 3, padding="same", name="x")(image)
    gate = L.Conv2D(1, 3, padding="same", activation="sigmoid", name="gate")(x)
    model = keras.Model(image, L.Conv2D(2, 1)(L.Multiply()([x, gate])))
    assert sizes(couple(read(model))) == {"x": 5, "gate": 1}


def test_unknown_weights_freeze_a_layer():
    """LoRA adds weights that the rule for Dense does not describe."""
    dense = L.Dense(6, name="dense")
    model = model_of(dense, L.Dense(2, name="head"), shape=(4,))
    dense.enable_lora(2)
    coupling = couple(read(model))
    assert [(f.node, f.reason) for f in coupling.frozen] == [
        ("dense", "weights lora_kernel_a, lora_kernel_b are not described by the rule for Dense")
    ]


@keras.saving.register_keras_serializable("tests")
class Scale(L.Layer):
    """One learned factor for each channel: the custom layer of the documentation."""

    def build(self, shape):
        self.factor = self.add_weight(name="factor", shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.factor


def scale_rule(call: keras_qcqp.Call) -> Spec:
    return Spec(call.inputs, weights={"factor": (In(),)})


def test_a_registered_rule_makes_a_custom_layer_prunable():
    build = lambda: shake(model_of(L.Conv2D(8, 3, name="a"), Scale(name="scale"), L.Conv2D(4, 1), L.Flatten()))  # noqa: E731
    assert [f.node for f in couple(read(build())).frozen] == ["scale"]
    keras_qcqp.register_rule(Scale, scale_rule)
    try:
        model = build()
        result = keras_qcqp.prune(model, {"params": 0.6})
        assert result.report.frozen == ()
        assert result.model.get_layer("scale").factor.shape[0] < 8
        arrays = images(model)
        got, wanted = (outputs(m, arrays)[0] for m in (result.model, keras_qcqp.masked(model, result.plan)))
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    finally:
        del RULES[Scale]


def test_rules_that_contradict_their_layer_are_errors():
    keras_qcqp.register_rule(Scale, lambda call: Spec(()))
    try:
        with pytest.raises(keras_qcqp.ModelError, match="The rule for Scale gave 0 outputs, layer 'scale' has 1"):
            couple(read(model_of(Scale(name="scale"))))
        keras_qcqp.register_rule(Scale, lambda call: Spec(call.inputs, weights={"factor": (In(repeat=2),)}))
        frozen = couple(read(model_of(L.Conv2D(3, 1), Scale(name="scale"), L.Conv2D(2, 1)))).frozen
        assert [f.reason for f in frozen] == ["weight factor has shape (3,), the rule for Scale expects [6]"]
    finally:
        del RULES[Scale]
    with pytest.raises(TypeError, match="register_rule expects a layer class, got 'Scale'"):
        keras_qcqp.register_rule("Scale", scale_rule)
    with pytest.raises(TypeError, match="The rule for Scale must be a function call -> Spec, got 3"):
        keras_qcqp.register_rule(Scale, 3)


def test_a_coupling_prints_readably():
    assert str(coupling_of("frozen_parts")).splitlines() == [
        "frozen_parts: 6 coupled masks, 28 channels",
        "  image: 3 frozen (input of the network); read by a",
        "  a: 5 frozen (at layer_norm); read by b; carried by layer_norm",
        "  b: 6; read by c",
        "  c: 5 frozen (at mixing); read by d; carried by mixing",
        "  d: 6; read by head; carried by mean",
        "  head: 3 frozen (output of the network)",
        "  frozen at layer_norm (LayerNormalization): mean and variance over channels change with each that "
        "goes; RMSNormalization or GroupNormalization can do it exactly",
        "  frozen at mixing (Softmax): softmax over channels: removing one changes all others",
    ]


@pytest.mark.parametrize(
    ("network", "lines"),
    [
        (
            "residual",
            [
                "  stem_conv: 8; made by stem_conv, a2_conv; read by a1_conv, b1_conv, short; "
                "carried by stem_bn, stem_act, +4 more"
            ],
        ),
        ("dense_block", ["  x1: 4; read by x2, mix; carried by join1, act2, +3 more"]),
        ("grouped", ["  b: 3 x 4; read by head; carried by c, mean"]),
        ("two_by_two", ["  right: 3 frozen (input of the network); made by right, left; read by tower/t1_conv"]),
    ],
)
def test_each_mask_names_its_layers(network, lines):
    text = str(coupling_of(network)).splitlines()
    start = text.index(lines[0])
    assert text[start : start + len(lines)] == lines


def test_union_residuals_and_zeros_are_told():
    text = str(couple(read(NETWORKS["option_a"]()), residual="union"))
    assert ", sums with channels of their own: 1 (union residuals)\n" in text
    assert "dead (zeros that only pad an addition)" in text


def test_what_is_joined_with_an_output_is_told_once():
    image = keras.Input((6, 6, 3), name="image")
    x = image
    for k in range(6):
        x = L.Add(name=f"add{k}")([x, L.Conv2D(3, 3, padding="same", name=f"conv{k}")(x)])
    *_, last = str(couple(read(keras.Model(image, x)))).splitlines()
    assert last == (
        "  always kept whole: conv0 (Conv2D, 3), conv1 (Conv2D, 3), conv2 (Conv2D, 3), +3 more: "
        "its channels are joined element by element with an input or output of the network"
    )


def test_large_networks_print_one_or_two_short_lines_a_mask():
    x = image = keras.Input((6, 6, 3), name="image")
    for k in range(40):
        x = L.Add(name=f"add{k}")([L.Conv2D(8, 3, padding="same", name=f"b{k}")(L.Conv2D(6, 1, name=f"a{k}")(x))] * 2)
    for k in range(20):
        x = L.LayerNormalization(name=f"norm{k}")(x)
    coupling = couple(read(keras.Model(image, L.Conv2D(2, 1, name="head")(x))))
    lines = str(coupling).splitlines()
    assert len(lines) <= 2 + 2 * len(coupling.masks)
    assert max(map(len, lines)) < 200
    assert "  frozen at norm0, norm1, norm2, +17 more (LayerNormalization): mean and" in str(coupling)


def test_a_mask_inside_a_layer_is_told_with_that_layer():
    """Widths that no tensor has, such as the heads of an attention."""
    coupling = coupling_of("chain")
    inner = dataclasses.replace(coupling.masks[0], name="hidden/heads", size=4, frozen=False)
    mask_of = np.concatenate([coupling.mask_of, np.full(4, len(coupling.masks))])
    text = str(dataclasses.replace(coupling, masks=(*coupling.masks, inner), mask_of=mask_of))
    assert "  hidden/heads: 4; made by hidden" in text.splitlines()
