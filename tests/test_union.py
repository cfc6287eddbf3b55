"""Union residuals: which additions have channels of their own, what a selection owes them, how operands are aligned."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, conv_bn, images, outputs, shake
from selections import random_keep

import keras_qcqp
import tflite_tools
from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.graph import read
from keras_qcqp.plan import Plan, plan_from
from keras_qcqp.report import Report
from keras_qcqp.residual.alignment import alignments
from keras_qcqp.residual.layout import best_order

L, ops = keras.layers, keras.ops


def union(model: keras.Model) -> Coupling:
    return couple(read(model), residual="union")


def free(coupling: Coupling) -> dict[str, int]:
    return {m.name: m.size for m in coupling.masks if not m.frozen and not m.dead}


def said(coupling: Coupling) -> dict[str, list[str]]:
    """Every need in words: "u0" -> ["v0"], with the name of the mask and the position in it."""
    names = [m.name for m in coupling.masks]
    found: dict[str, list[str]] = {}
    for need in coupling.needs:
        for link, channel in enumerate(need.index.tolist()):
            sources = [f"{names[mask]}.{index[link]}" for mask, index in need.sources]
            found.setdefault(f"{names[need.mask]}.{channel}", []).append(" | ".join(sources))
    return found


def image_model(build) -> keras.Model:
    """A network whose head reads what `build` makes of an 8 x 8 image."""
    image = keras.Input((8, 8, 3), name="image")
    x = L.GlobalAveragePooling2D(name="mean")(build(image))
    return shake(keras.Model(image, L.Dense(4, name="head")(x), name="probe"))


def conv(x, filters: int, name: str, **options):
    return L.Conv2D(filters, 3, padding="same", name=name, **options)(x)


def test_an_unknown_residual_is_refused():
    with pytest.raises(keras_qcqp.ModelError) as caught:
        couple(read(NETWORKS["residual"]()), residual="unoin")
    assert str(caught.value) == "residual='unoin' is unknown. Did you mean 'union'? Known: tied, union."


def test_a_sum_has_channels_of_its_own():
    coupling = union(NETWORKS["residual"]())
    assert (coupling.residual, [j.node for j in coupling.joins]) == ("union", ["sum_a", "sum_b"])
    assert free(coupling) == {
        **{"stem_conv": 8, "a1_conv": 6, "a2_conv": 8, "sum_a": 8},
        **{"b1_conv": 7, "b2_conv": 12, "short": 12, "sum_b": 12},
    }
    wanted = {}
    for c in range(8):  # the stem has another reader, the branch a1, so nothing asks sum_a to keep it
        wanted |= {f"a2_conv.{c}": [f"sum_a.{c}"], f"sum_a.{c}": [f"stem_conv.{c} | a2_conv.{c}"]}
    for c in range(12):
        wanted |= {f"b2_conv.{c}": [f"sum_b.{c}"], f"short.{c}": [f"sum_b.{c}"]}
        wanted |= {f"sum_b.{c}": [f"b2_conv.{c} | short.{c}"]}
    assert said(coupling) == wanted


def test_tied_residuals_need_nothing():
    coupling = couple(read(NETWORKS["option_a"]()))
    assert (coupling.residual, coupling.joins, coupling.needs) == ("tied", (), ())
    assert not any(m.dead for m in coupling.masks)


@pytest.mark.parametrize("name", ["option_a", "option_a_forms"])
def test_zeros_are_never_kept_and_bring_nothing(name):
    """Of what a zero-padded shortcut cannot bring, the sum keeps exactly what the branch makes: v = u."""
    coupling = union(NETWORKS[name]())
    owed = said(coupling)
    if name == "option_a":
        assert [(m.name, m.size) for m in coupling.masks if m.dead] == [("widen", 6)]
        for c in range(12):
            brought = f"stem_conv.{c - 3} | " if 3 <= c < 9 else ""
            assert owed[f"sum.{c}"] == [f"{brought}a_conv.{c}"]
            assert owed[f"a_conv.{c}"] == [f"sum.{c}"]
    else:
        dead = [m for m in coupling.masks if m.dead]
        assert [m.size for m in dead] == [6]  # of ops.pad; zeros_like has as many channels as what it is like
        for c in [*range(5), *range(17, 24)]:
            assert not any(" | " in text for text in owed.get(f"sum_b.{c}", []))


def test_zeros_that_something_else_can_see_are_ordinary_channels():
    def build(image, activation):
        x = L.ZeroPadding2D(((0, 0), (2, 2)), data_format="channels_first", name="widen")(conv(image, 4, "a"))
        x = L.Activation(activation, name="act")(x)
        return L.Add(name="sum")([x, conv(image, 8, "b")])

    assert [m.name for m in union(image_model(lambda i: build(i, "relu"))).masks if m.dead] == ["widen"]
    seen = union(image_model(lambda i: build(i, "sigmoid")))
    assert not any(m.dead for m in seen.masks)
    assert said(seen)["sum.0"] == ["widen.0 | b.0"]  # sigmoid(0) = 0.5 is worth keeping
    read_by_conv = image_model(lambda i: conv(build(i, "relu"), 3, "c") + conv(i, 3, "d"))
    assert [m.name for m in union(read_by_conv).masks if m.dead] == ["widen"]
    also_read = image_model(lambda i: L.Concatenate(name="join")([build(i, "relu"), i]))
    assert [m.name for m in union(also_read).masks if m.dead] == ["widen"]


def test_a_padded_tensor_with_another_reader_keeps_its_zeros():
    def build(image):
        x = ops.pad(conv(image, 4, "a"), ((0, 0), (0, 0), (0, 0), (2, 2)))
        return L.Add(name="sum")([x, conv(x, 8, "b")])

    coupling = union(image_model(build))
    assert not any(m.dead for m in coupling.masks)
    assert said(coupling)["sum.0"] == ["b.0"]  # zeros bring nothing, whoever reads them


def test_additions_of_three_branches():
    coupling = union(NETWORKS["residual_stage"]())
    owed = said(coupling)
    assert owed["sum_a.0"] == ["stem_conv.0 | a2_conv.0 | side.0"]
    assert owed["side.0"] == ["sum_a.0"]
    assert "stem_conv.0" not in owed


def test_what_two_sums_read_one_of_them_keeps():
    def build(image):
        x = conv(image, 6, "x")
        return L.Concatenate(name="join")(
            [x + conv(image, 6, "y"), L.Average(name="mean_xz")([x, conv(image, 6, "z")])]
        )

    model = image_model(build)
    coupling = union(model)
    sums = [j.node for j in coupling.joins]
    assert sums[0].startswith("add") and sums[1] == "mean_xz"
    assert said(coupling)["x.0"] == [f"{sums[0]}.0 | mean_xz.0"]


@pytest.mark.parametrize("kind", [L.Add, L.Subtract, L.Average])
def test_layers_whose_sum_may_have_channels_of_its_own(kind):
    coupling = union(image_model(lambda i: kind(name="merge")([conv(i, 5, "a"), conv(i, 5, "b")])))
    assert [j.node for j in coupling.joins] == ["merge"]


@pytest.mark.parametrize("kind", [L.Multiply, L.Maximum, L.Minimum])
def test_layers_that_always_tie(kind):
    coupling = union(image_model(lambda i: kind(name="merge")([conv(i, 5, "a"), conv(i, 5, "b")])))
    assert coupling.joins == ()
    assert free(coupling) == {"a": 5}


def shared_block() -> keras.Model:
    inner = keras.Input((8, 8, 5), name="inner")
    block = keras.Model(inner, L.Add(name="sum")([inner, conv(inner, 5, "c")]), name="block")
    return image_model(lambda i: block(block(conv(i, 5, "a"))))


TIED = {
    "network input": lambda: image_model(lambda i: L.Add(name="sum")([i, conv(i, 3, "a")])),
    "broadcast over channels": lambda: image_model(
        lambda i: L.Add(name="sum")([conv(i, 5, "a"), conv(i, 5, "b"), conv(i, 1, "c")])
    ),
    "called twice": shared_block,
    "softmax over the sum": lambda: image_model(
        lambda i: L.Softmax(name="soft")(L.Add(name="sum")([conv(i, 5, "a"), conv(i, 5, "b")]))
    ),
    "sum tied to its operand": lambda: image_model(
        lambda i: L.Multiply(name="times")([a := conv(i, 5, "a"), L.Add(name="sum")([a, conv(i, 5, "b")])])
    ),
}


@pytest.mark.parametrize("why", TIED)
def test_additions_that_stay_tied(why):
    model = TIED[why]()
    coupling, tied = union(model), couple(read(model))
    assert coupling.joins == ()
    assert free(coupling) == free(tied)
    assert [m.size for m in coupling.masks] == [m.size for m in tied.masks]


def test_tying_one_addition_can_tie_the_one_before_it():
    """The last sum is the output, so it is tied; that freezes the first sum, which is tied in turn."""
    image = keras.Input((8, 8, 3), name="image")
    x = L.Add(name="first")([conv(image, 5, "a"), conv(image, 5, "b")])
    model = keras.Model(image, L.Add(name="last")([x, conv(x, 5, "c")]))
    coupling = union(model)
    assert coupling.joins == ()
    assert free(coupling) == {}


def test_resnet20_with_padded_shortcuts_is_the_program_of_the_paper(shared_file):
    """19 produced vectors u and 9 sums v; u <= v <= u + v_s, and v = u where the shortcut is padded."""
    model = keras.models.load_model(shared_file("models/resnet20_cifar10_padA.keras"), compile=False)
    coupling = union(model)
    widths = [16] * 10 + [32] * 9 + [64] * 9
    assert sorted(free(coupling).values()) == widths
    assert [m.size for m in coupling.masks if m.dead] == [16, 32]
    owed = said(coupling)
    shortcut = "conv1"
    for stage, (width, before) in enumerate([(16, 0), (32, 8), (64, 16)], 1):
        for block in range(3):
            name = f"layer{stage}_{block}"
            for c in range(width):
                assert owed[f"{name}_conv2.{c}"] == [f"{name}_add.{c}"]
                inside = before <= c < width - before or block > 0
                place = c if block else c - before
                brought = f"{shortcut}.{place} | " if inside else ""
                assert owed[f"{name}_add.{c}"] == [f"{brought}{name}_conv2.{c}"]
            shortcut = f"{name}_add"
    assert len(owed) == 9 * 2 * 16 // 3 + 9 * 2 * 32 // 3 + 9 * 2 * 64 // 3


def require_law(model: keras.Model, plan: Plan, atol: float = 2e-5) -> keras.Model:
    smaller, reference = keras_qcqp.rebuild(model, plan), keras_qcqp.masked(model, plan)
    arrays = images(model)
    for got, wanted in zip(outputs(smaller, arrays), outputs(reference, arrays), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=atol * max(1.0, np.abs(wanted).max()))
    return smaller


def written(model: keras.Model) -> int:
    """Bytes that operations named as alignments write for one sample, from the model itself."""
    return sum(int(np.prod(op.output.shape[1:])) * 4 for op in model.operations if "_align_" in op.name)


@pytest.mark.parametrize("name", ["resnet20_cifar10", "resnet20_cifar10_padA", "resnet56_cifar10_padA"])
def test_real_networks(name, shared_file):
    model = keras.models.load_model(shared_file(f"models/{name}.keras"), compile=False)
    coupling = union(model)
    plan = plan_from(coupling, random_keep(coupling, 1))
    smaller = require_law(model, plan)
    found = alignments(coupling, plan)
    assert sum(a.bytes for a in found) == written(smaller)
    times = {kind: sum(a.kind == kind for a in found) for kind in {a.kind for a in found}}
    assert times["gather"] <= len(found) / 2  # of branch and shortcut one needs none


def test_mobilenet():
    model = shake(keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=5))
    coupling = union(model)
    assert len(coupling.joins) == 10
    require_law(model, plan_from(coupling, random_keep(coupling, 0)), atol=1e-4)


def test_branches_always_stand_as_one_piece_in_their_sum():
    coupling = union(NETWORKS["residual_stage"]())
    for seed in range(5):
        found = alignments(coupling, plan_from(coupling, random_keep(coupling, seed)))
        assert all(a.kind in ("none", "pad") for a in found if a.node in ("sum_b", "sum_c") and a.operand == 1)


def test_operations_of_alignments_are_named_after_the_addition():
    model = shake(NETWORKS["option_a"]())
    coupling = union(model)
    keep = [np.ones(m.size, bool) & (not m.dead) for m in coupling.masks]
    plan = plan_from(coupling, tuple(keep))
    smaller = require_law(model, plan)
    added = {op.name for op in smaller.operations} - {op.name for op in model.operations}
    assert added == {"sum_align_0_pad"}
    assert smaller.get_layer("widen").padding == ((0, 0), (0, 0))
    assert [(a.node, a.operand, a.kind, a.channels, a.bytes) for a in alignments(coupling, plan)] == [
        ("sum", 0, "pad", 12, 12 * 4 * 4 * 4),
        ("sum", 1, "none", 12, 0),
    ]


def test_a_pruned_model_can_be_pruned_again():
    """Its slices, pads and gathers are followed, tied and as unions, and new alignments get names of their own."""
    model = shake(NETWORKS["residual_stage"]())
    coupling = union(model)
    first = require_law(model, plan_from(coupling, random_keep(coupling, 4)))
    assert any("gather" in op.name for op in first.operations)
    for residual in ("tied", "union"):
        again = couple(read(first), residual=residual)
        assert [f for f in again.frozen if not f.tied] == []
        second = require_law(first, plan_from(again, random_keep(again, 0)))
        assert keras_qcqp.measure(second)["params"] < keras_qcqp.measure(first)["params"]


@pytest.mark.parametrize("name", ["residual_stage", "option_a_forms"])
def test_converted_to_tflite(name, tmp_path):
    """Gathers, pads and slices survive the file, the float converter (exactly) and int8 (as well as anything does)."""
    model = shake(NETWORKS[name]())
    coupling = union(model)
    plan = plan_from(coupling, random_keep(coupling, 4))
    smaller = require_law(model, plan)
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    samples = images(model, count=60)
    wanted = outputs(smaller, samples)[0]
    np.testing.assert_array_equal(outputs(loaded, samples)[0], wanted)
    for recipe, tolerance in (("float32", 1e-4), ("int8", 0.15)):
        given = {} if recipe == "float32" else {"representative_data": samples[0]}
        (got,) = tflite_tools.predict(tflite_tools.convert(loaded, recipe, **given), samples[0]).values()
        assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def dense_blocks() -> keras.Model:
    x = features = keras.Input((7,), name="features")
    x = L.Dense(9, activation="relu", name="stem")(x)
    for block in "ab":
        y = L.Dense(9, name=f"{block}2")(L.Dense(5, activation="tanh", name=f"{block}1")(x))
        x = L.Add(name=f"sum_{block}")([x, y])
    return shake(keras.Model(features, L.Dense(3, name="head")(x), name="dense_blocks"))


def channels_in_the_middle() -> keras.Model:
    def build(image):
        turned = [L.Permute((3, 1, 2), name=f"turn_{name}")(conv(image, 6, name)) for name in "abc"]
        return conv(L.Permute((2, 3, 1), name="back")(L.Add(name="sum")(turned)), 4, "d")

    return image_model(build)


def in_a_nested_model() -> keras.Model:
    def build(image):
        inner = keras.Input((8, 8, 6), name="inner")
        x = L.Add(name="sum")([inner, conv(inner, 6, "c")])
        block = keras.Model(inner, L.Add(name="sum_2")([x, conv(x, 6, "d")]), name="block")
        return L.Add(name="sum")([x := conv(image, 6, "a"), block(x)])

    return image_model(build)


def half_precision() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return NETWORKS["residual_stage"]()
    finally:
        keras.config.set_dtype_policy("float32")


def grouped_and_flattened() -> keras.Model:
    def build(image):
        x = L.Conv2D(8, 3, padding="same", groups=2, name="a")(conv(image, 6, "stem"))
        x = L.Add(name="sum")([x, conv(image, 8, "b")])
        x = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="dw")(x) + conv(x, 16, "c")
        return L.Reshape((1, 1, 8), name="as_image")(L.Dense(8, name="d")(L.Flatten(name="flat")(x)))

    return image_model(build)


@pytest.mark.parametrize(
    "build", [dense_blocks, channels_in_the_middle, in_a_nested_model, half_precision, grouped_and_flattened]
)
def test_the_law_in_other_surroundings(build):
    model = build()
    coupling = union(model)
    assert coupling.joins
    for seed in range(3):
        plan = plan_from(coupling, random_keep(coupling, seed))
        require_law(model, plan, atol=2e-2 if build is half_precision else 2e-5)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_plan_is_refused_or_obeys_the_law(data, staged):
    """Whatever is dropped, added or swapped in one list."""
    model, plan = staged
    path = data.draw(st.sampled_from(sorted(plan.layers)))
    field = data.draw(st.sampled_from(["in", "out"]))
    rows = [list(row) for row in getattr(plan[path], f"{field}_index")]
    port = data.draw(st.integers(0, len(rows) - 1))
    row, size = rows[port], getattr(plan[path], f"{field}_size")[port]
    at = data.draw(st.integers(0, len(row) - 1))
    change = data.draw(st.sampled_from(["drop", "add", "swap"]))
    if change == "drop":
        del row[at]
    elif change == "add":
        row.insert(at, data.draw(st.sampled_from([c for c in range(size) if c not in row] or [row[at]])))
    else:
        row[at], row[at - 1] = row[at - 1], row[at]
    damaged = changed(plan, path, **{f"{field}_index": tuple(map(tuple, rows))})
    if damaged == plan:
        return
    try:
        Plan.from_json(damaged.to_json())
        smaller = keras_qcqp.rebuild(model, damaged)
    except keras_qcqp.PlanError:
        return
    wanted = outputs(keras_qcqp.masked(model, damaged), images(model))[0]
    np.testing.assert_allclose(outputs(smaller, images(model))[0], wanted, atol=2e-5 * max(1.0, np.abs(wanted).max()))


@pytest.fixture(scope="module")
def staged():
    model = shake(NETWORKS["residual_stage"]())
    coupling = union(model)
    return model, plan_from(coupling, random_keep(coupling, 0))


def test_masks_that_stand_in_two_orders_keep_theirs():
    """A tensor and its channels the other way round: what one order wins, the other loses."""

    def build(image):
        x = conv(image, 6, "x")
        turned = ops.take(x, [5, 4, 3, 2, 1, 0], axis=-1)
        return L.Concatenate(name="join")([turned, L.Add(name="sum")([x, conv(image, 6, "y")])])

    model = image_model(build)
    coupling = union(model)
    number = [m.name for m in coupling.masks].index("x")
    for seed in range(8):
        keep = random_keep(coupling, seed)
        assert number not in best_order(coupling, coupling.alive(keep))
        require_law(model, plan_from(coupling, keep))


def test_the_report_counts_alignments():
    model = shake(NETWORKS["option_a"]())
    coupling = union(model)
    keep = tuple(np.ones(m.size, bool) & (not m.dead) for m in coupling.masks)
    found = alignments(coupling, plan_from(coupling, keep))
    report = Report("net", "macs=0.5", (), (), (), (), "OPTIMAL", found)
    line = "alignments: 2 operands of 1 additions: 1 none, 1 pad; they write 768 B for one sample"
    assert line in str(report).splitlines()
    assert json.loads(report.to_json())["alignments"][0] == {
        "node": "sum",
        "operand": 0,
        "kind": "pad",
        "channels": 12,
        "bytes": 768,
    }
    assert "alignments" not in str(dataclasses.replace(report, alignments=()))


def changed(plan: Plan, layer: str, **fields) -> Plan:
    return dataclasses.replace(plan, layers={**plan.layers, layer: dataclasses.replace(plan[layer], **fields)})


@pytest.fixture(scope="module")
def network():
    model = shake(NETWORKS["option_a"]())
    coupling = union(model)
    keep = {m.name: np.ones(m.size, bool) & (not m.dead) for m in coupling.masks}
    for name in ("a_conv", "sum"):
        keep[name][[0, 3, 4]] = False
    keep["sum"][3] = True  # which the shortcut brings
    return model, plan_from(coupling, tuple(keep.values()))


def refusal(model: keras.Model, plan: Plan) -> str:
    with pytest.raises(keras_qcqp.PlanError) as caught:
        keras_qcqp.rebuild(model, plan)
    return str(caught.value)


def test_the_file_of_a_plan_says_how_residuals_were_coupled(network):
    model, plan = network
    assert json.loads(plan.to_json())["residual"] == "union"
    again = Plan.from_json(plan.to_json())
    assert again == plan
    require_law(model, again)
    assert [sorted(i) for i in plan["sum"].in_index] == [[3, 4, 5, 6, 7, 8], [1, 2, 5, 6, 7, 8, 9, 10, 11]]
    tied = couple(read(model))
    assert "residual" not in json.loads(plan_from(tied, random_keep(tied, 0)).to_json())
    with pytest.raises(keras_qcqp.PlanError) as caught:
        Plan.from_json(plan.to_json().replace('"union"', '"onion"'))
    assert str(caught.value) == "The plan has residual 'onion'. Did you mean 'union'? Known: tied, union."


def test_a_plan_of_the_other_kind_is_refused(network):
    model, plan = network
    text = refusal(model, dataclasses.replace(plan, residual="tied"))
    assert text.endswith("the plan has layer 'sum', the model does not.")
    assert "'sum' (Add) is not in the plan" in refusal(
        model, dataclasses.replace(plan, layers={k: v for k, v in plan.layers.items() if k != "sum"})
    )


def test_a_plan_that_keeps_zeros_is_refused(network):
    model, plan = network
    kept = changed(plan, "widen", out_index=((0, *plan["widen"].out_index[0]),))
    assert refusal(model, kept) == (
        "The plan contradicts itself: layer 'widen' keeps channel 0 of its output, which is nothing but zeros."
    )


def test_a_plan_whose_sum_keeps_what_nothing_brings_is_refused(network):
    model, plan = network
    row = (0, *plan["sum"].out_index[0])
    plan = changed(changed(plan, "sum", out_index=(row,)), "head", in_index=(row,))
    assert refusal(model, plan) == (
        "The plan keeps channel 0 of 'sum' without that of a_conv, so an addition would have nothing to add, or a "
        "layer would compute it for nothing."
    )


def test_a_plan_that_makes_what_no_sum_keeps_is_refused(network):
    model, plan = network
    branch = (0, *plan["sum"].in_index[1])
    plan = changed(plan, "sum", in_index=(plan["sum"].in_index[0], branch))
    plan = changed(changed(plan, "a_conv", out_index=(branch,)), "a_bn", in_index=(branch,), out_index=(branch,))
    assert refusal(model, plan).startswith("The plan keeps channel 0 of 'a_conv' without that of sum, so")


def test_a_plan_may_put_channels_into_another_order(network):
    """As long as every layer that sees them does the same."""
    model, plan = network
    turned = plan["sum"].out_index[0][::-1]
    half = changed(plan, "sum", out_index=(turned,))
    text = refusal(model, half)
    assert text.startswith(
        "The plan puts the channels of layer 'head' (input) into another order than the layers around"
    )
    both = changed(half, "head", in_index=(turned,))
    require_law(model, both)
    assert {a.kind for a in alignments(union(model), both)} == {"gather"}


def test_conv_bn_of_a_branch_is_counted_like_any_layer():
    """MACs and parameters of the rebuilt model are those the polynomials promise; activations are bounded by them."""
    model = image_model(lambda i: L.Add(name="sum")([conv_bn(i, 6, "a"), conv_bn(i, 6, "b")]))
    coupling = union(model)
    keep = random_keep(coupling, 2)
    smaller = require_law(model, plan_from(coupling, keep))
    counted = keras_qcqp.measure(smaller)
    by_hand = sum(layer.count_params() for layer in smaller.layers)
    assert counted["params"] == by_hand
    outputs_of = sum(int(np.prod(op.output.shape[1:])) * 4 for op in smaller.operations)
    assert counted["activation_bytes"] == outputs_of
