"""Width rules: what they allow, layer by layer and for coupled layers, and every refusal by its text."""

from __future__ import annotations

import math

import keras
import networks
import numpy as np
import pytest

from keras_qcqp import BudgetError, Coupling, Widths, couple, read
from keras_qcqp.limits.allowed import allowed_masks, freeze
from keras_qcqp.limits.width_text import parse_rule, parse_set

L = keras.layers


def chain(*widths: int, groups: int = 1) -> keras.Model:
    """image -> conv0 -> bn0 -> conv1 -> bn1 ... -> 1x1 conv "head" """
    x = image = keras.Input((4, 4, 3), name="image")
    for number, width in enumerate(widths):
        x = L.Conv2D(width, 1, groups=groups if number else 1, name=f"conv{number}")(x)
        x = L.BatchNormalization(name=f"bn{number}")(x)
    return keras.Model(image, L.Conv2D(2, 1, name="head")(x), name="chain")


def coupled(model: keras.Model, **how) -> Coupling:
    return couple(read(model), **how)


def allowed(model: keras.Model | Coupling, **rules) -> dict[str, tuple[int, ...]]:
    """Name of each free mask -> its allowed counts."""
    coupling = model if isinstance(model, Coupling) else coupled(model)
    widths = Widths(**rules)
    free = {m.name for m in coupling.masks if not m.frozen}
    return {m.name: m.allowed for m in allowed_masks(coupling, widths) if m.name in free}


@pytest.mark.parametrize(
    ("width", "rules", "counts"),
    [
        (5, {}, (2, 3, 4, 5)),  # a quarter at least, unless told otherwise
        (5, {"min_keep": 1}, (1, 2, 3, 4, 5)),
        (5, {"min_keep": 3}, (3, 4, 5)),
        (5, {"min_keep": 99}, (5,)),
        (20, {"width_multiple": 8}, (8, 16, 20)),
        (20, {"min_keep": 9, "width_multiple": 8}, (16, 20)),
        (20, {"max_keep": 17, "width_multiple": 8}, (8, 16)),
        (6, {"width_multiple": 8}, (6,)),
        (6, {"max_keep": 3}, (2, 3)),
        (6, {"max_keep": 1, "min_keep": 1}, (1,)),
        (6, {"max_keep": 99}, (2, 3, 4, 5, 6)),
        (100, {"min_keep": 0.07, "max_keep": 0.29, "width_multiple": 7}, (7, 14, 21, 28)),
        (100, {"min_keep": 0.29, "max_keep": 0.29}, (29,)),  # floats: 0.29 * 100 < 29 and 0.07 * 100 > 7
    ],
)
def test_width_rules_become_allowed_counts(width, rules, counts):
    assert allowed(chain(width), **rules) == {"conv0": counts}


@pytest.mark.parametrize(("least", "first"), [(0.25, 3), (0.2, 2), (1e-9, 1), (0.999, 10)])
def test_a_fraction_of_the_width_is_rounded_up(least, first):
    assert allowed(chain(10), min_keep=least)["conv0"][0] == first


def test_width_rules_speak_of_the_tensor_where_channels_repeat():
    """All four groups keep the same channels: 8 wide means 2 in each, at least 6 means 2, at most 15 means 3."""
    model = chain(8, 20, groups=4)
    assert allowed(model, width_multiple={"conv1": 8})["conv1"] == (2, 4, 5)
    assert allowed(model, min_keep={"conv1": 6})["conv1"] == (2, 3, 4, 5)
    assert allowed(model, min_keep={"conv1": 0.5})["conv1"] == (3, 4, 5)
    assert allowed(model, max_keep={"conv1": 15})["conv1"] == (2, 3)


def test_the_most_specific_pattern_counts_whatever_the_order():
    model = chain(8, 8, 8, 8)
    for rule in ({"conv1": 3, "conv?": 4, "*": 5, "*3": 6}, {"*3": 6, "*": 5, "conv?": 4, "conv1": 3}):
        assert {name: counts[0] for name, counts in allowed(model, min_keep=rule).items()} == {
            "conv0": 4,
            "conv1": 3,
            "conv2": 4,
            "conv3": 4,
        }
    assert allowed(model, min_keep={"conv[01]": 6, "conv[12]": 7})["conv1"][0] == 7  # of equals, the last


def test_without_a_star_the_others_keep_the_usual_rule():
    model = chain(8, 8)
    found = allowed(model, min_keep={"conv0": 1}, width_multiple={"conv1": 4}, max_keep={"conv1": 0.5})
    assert found == {"conv0": (1, 2, 3, 4, 5, 6, 7, 8), "conv1": (4,)}


def test_coupled_layers_keep_the_rules_of_all():
    """`stem_conv`, `a2_conv` are tied by an addition: the greatest minimum, the least common multiple, the least
    maximum."""
    model = networks.residual()
    rules = {
        "min_keep": {"stem_conv": 1, "a2_conv": 2},
        "width_multiple": {"stem_conv": 2, "a2_conv": 3},
        "max_keep": {"stem_conv": 7, "a2_conv": 6},
    }
    assert allowed(model, **rules)["stem_conv"] == (6,)


def test_union_residuals_have_rules_for_each_operand_and_for_the_sum():
    coupling = coupled(networks.residual(), residual="union")
    found = allowed(coupling, min_keep={"a2_conv": 2, "sum_a": 3, "*": 4})
    assert (found["stem_conv"][0], found["a2_conv"][0], found["sum_a"][0]) == (4, 2, 3)


def test_channels_that_are_never_kept_have_no_choice():
    coupling = coupled(networks.option_a(), residual="union")
    dead = [m.name for m in coupling.masks if m.dead]
    assert dead
    assert all(m.allowed == (0,) for m in allowed_masks(coupling, Widths()) if m.name in dead)


def sliced() -> keras.Model:
    """conv 12 -> its first 3 channels, and the other 9 -> a 1x1 conv each -> add"""
    image = keras.Input((4, 4, 3), name="image")
    x = L.Conv2D(12, 1, name="conv")(image)
    heads = [L.Conv2D(2, 1, name="few")(x[..., :3]), L.Conv2D(2, 1, name="many")(x[..., 3:])]
    return keras.Model(image, L.Add(name="sum")(heads), name="sliced")


@pytest.mark.parametrize("rule", ["min_keep", "max_keep"])
@pytest.mark.parametrize("value", [2, 3, 5, 8, 11, 0.3, 0.5, 0.9])
def test_sets_of_one_layer_share_its_rule(rule, value):
    """Whatever each set keeps within its allowed counts, the whole layer keeps to the rule."""
    few, many = allowed(sliced(), **{"min_keep": 1, rule: value}).values()
    if rule == "min_keep":
        assert few[0] + many[0] >= (value if value >= 1 else value * 12)
        assert few[0] >= 1 and many[0] >= 1  # each half is a tensor of its own
    else:
        assert few[-1] + many[-1] <= (value if value >= 1 else value * 12)


@pytest.mark.parametrize("value", [1, 5, 8, 12, 0.5])
def test_a_set_that_may_go_altogether_is_made_up_for(value):
    """Four channels of 16 live or die as one: they may die, and the other 12 keep the layer to its rules."""
    coupling = coupled(chain(16), together=[{"conv0": [0, 1, 2, 3]}])
    asked = value if value >= 1 else value * 16
    least = allowed(coupling, min_keep=value)
    assert [counts[0] for counts in least.values()] == [0, max(1, asked)]
    if value != 1:
        most = allowed(coupling, min_keep=1, max_keep=value)
        assert [counts[-1] for counts in most.values()] == [1, asked - 4]


def test_frozen_channels_count_in_a_maximum():
    """Three of the ten channels are added to the image, and stay."""
    image = keras.Input((4, 4, 3), name="image")
    x = L.Conv2D(10, 1, name="conv")(image)
    y = L.Add(name="sum")([x[..., :3], image])
    model = keras.Model(image, [L.Conv2D(2, 1, name="a")(y), L.Conv2D(2, 1, name="b")(x[..., 3:])])
    assert [c[-1] for c in allowed(model, min_keep=1, max_keep={"conv": 8}).values()] == [5]
    with pytest.raises(BudgetError, match="contradict each other for the 7 coupled channels of 'conv.*at most 0 "):
        allowed(model, min_keep=1, max_keep={"conv": 3})


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        (
            {"min_keep": {"conv0": 6}, "max_keep": {"conv?": 4}},
            "The width rules contradict each other for the 8 coupled channels of 'conv0': at least 6, at most 4 "
            "(min_keep 6 of 'conv0', max_keep 4 of 'conv0'). Change one of them.",
        ),
        (
            {"min_keep": 5, "max_keep": 7, "width_multiple": 4},
            "The width rules contradict each other for the 8 coupled channels of 'conv0': at least 5, at most 7 in "
            "multiples of 4 (min_keep 5 of 'conv0', max_keep 7 of 'conv0', width_multiple 4 of 'conv0'). Change",
        ),
        ({"min_keep": {"cnov0": 1}}, "min_keep: 'cnov0' matches no layer. Did you mean 'conv0'"),
        (
            {"width_multiple": {"zz*": 8}},
            "width_multiple: 'zz*' matches no layer. The model has 6 layers: image, ",
        ),
        (
            {"max_keep": {"bn*": 2}},
            "max_keep: 'bn*' matches no layer whose width is free, only bn0, bn1. Name layers that make channels "
            "(convolutions, Dense) and are not frozen.",
        ),
        ({"max_keep": {"head": 1}}, "max_keep: 'head' matches no layer whose width is free, only head."),
    ],
)
def test_rules_that_cannot_hold_are_refused(rules, text):
    with pytest.raises(BudgetError) as caught:
        allowed(chain(8, 8), **rules)
    assert str(caught.value).startswith(text)


SHARE = "a count >= 1 or a fraction in (0, 1)"


_WRONG = [-1, -0.5, 1.5, math.nan, math.inf, True, "2"]


@pytest.mark.parametrize(
    ("name", "value"), [*(("min_keep", v) for v in _WRONG), *(("max_keep", v) for v in [0, *_WRONG])]
)
def test_shares_out_of_range_are_refused(name, value):
    for given, where in ((value, ""), ({"conv*": value}, " of 'conv*'")):
        with pytest.raises(BudgetError) as caught:
            Widths(**{name: given})
        hint = " (leave it out for no limit)" if name == "max_keep" else ", or 0"
        assert str(caught.value) == f"{name}{where} must be {SHARE}{hint}, got {value!r}."


def test_a_maximum_of_one_point_zero_is_ambiguous():
    with pytest.raises(BudgetError, match=r"max_keep must be a count .*, got 1\.0\."):
        Widths(max_keep=1.0)


@pytest.mark.parametrize("value", [0, -8, 1.0, True, "8", None])
def test_width_multiple_out_of_range_is_refused(value):
    with pytest.raises(BudgetError) as caught:
        Widths(width_multiple=value)
    assert str(caught.value) == f"width_multiple must be an integer >= 1, got {value!r}."


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"min_keep": {3: 1}}, "min_keep: a pattern over layer paths must be a text, got 3."),
        ({"frozen": "stem*"}, "frozen must be a list of patterns over layer paths such as ['stem*'], got 'stem*'."),
        ({"frozen": [1]}, "frozen must be a list of patterns over layer paths such as ['stem*'], got [1]."),
        ({"together": {"a": [1, 2]}}, "together must be a list of sets, got {'a': [1, 2]}. For example [["),
        ({"together": ["ab"]}, "together: a set is a list of two or more layers, or maps layers to two or more pos"),
        ({"together": [["a"]]}, "together: a set is a list of two or more layers, "),
        ({"together": [{"a": [1]}]}, "together: a set is a list of two or more layers, "),
        ({"together": [{"a": [1.0, 2]}]}, "together: a set is a list of two or more layers, "),
        ({"together": [{"a": "12"}]}, "together: a set is a list of two or more layers, "),
        ({"min_kep": 1}, "Unknown width rule 'min_kep'. Did you mean 'min_keep'? Known: frozen, max_keep, min_keep, "),
    ],
)
def test_rules_that_make_no_sense_are_refused(rules, text):
    with pytest.raises(BudgetError) as caught:
        Widths.of(rules)
    assert str(caught.value).startswith(text)


def test_widths_must_be_rules():
    with pytest.raises(BudgetError, match="widths must be Widths or a dict such as {'width_multiple': 8}, got 8."):
        Widths.of(8)  # type: ignore[arg-type]


def test_frozen_layers_keep_all_their_output_channels():
    coupling = freeze(coupled(networks.residual()), Widths(frozen=["a1*", "sum_a"]))
    full = {m.name: m.allowed == (m.size,) for m in allowed_masks(coupling, Widths(min_keep=1))}
    assert (full["stem_conv"], full["a1_conv"], full["b1_conv"]) == (True, True, False)
    told = {f.node: (f.reason, f.num_channels) for f in coupling.frozen}
    assert told["a1_conv"] == told["a1_act"] == ("asked for", 6)
    assert told["sum_a"] == ("asked for", 8)
    assert "b1_conv" not in told
    with pytest.raises(BudgetError, match="frozen: 'a1conv' matches no layer. Did you mean 'a1_conv'"):
        freeze(coupled(networks.residual()), Widths(frozen=["a1conv"]))


def test_frozen_says_nothing_of_what_is_frozen_anyway():
    assert freeze(coupled(chain(4)), Widths(frozen=["image", "head"])).frozen == ()


def masks_of(coupling: Coupling, layer: str) -> np.ndarray:
    return coupling.mask_of[coupling.specs[layer].outputs[0].ids]


def test_layers_that_are_kept_together_have_the_same_channels():
    model = chain(6, 5, 6)
    coupling = coupled(model, together=[["conv0", "conv2"]])
    first, last = (coupling.specs[name].outputs[0].ids for name in ("conv0", "conv2"))
    assert np.array_equal(first, last)
    assert len(coupling.masks) == len(coupled(model).masks) - 1


def test_blocks_that_live_or_die_as_one_are_one_mask_of_blocks():
    coupling = coupled(chain(16, 8), together=[{"conv0": range(k, k + 4)} for k in (0, 4, 8, 12)])
    mask = coupling.masks[masks_of(coupling, "conv0")[0]]
    assert (mask.name, mask.size, mask.multiplicity) == ("conv0", 4, 4)
    assert allowed(coupling, min_keep=5, width_multiple=8)["conv0"] == (2, 4)


def test_a_single_block_splits_its_mask_and_may_reach_across_layers():
    coupling = coupled(chain(16, 8), together=[{"conv0": [0, 1, 2, 3], "conv1": [6, 7]}])
    sizes = {(coupling.masks[m].size, coupling.masks[m].multiplicity) for m in masks_of(coupling, "conv0").tolist()}
    assert sizes == {(1, 4), (12, 1)}
    assert masks_of(coupling, "conv0")[0] == masks_of(coupling, "conv1")[7]


@pytest.mark.parametrize(
    ("together", "text"),
    [
        (
            [["conv0", "conv1"]],
            "together: layers keep the same channels only if they have equally many, got conv0 ",
        ),
        ([["conv0", "cnov1"]], "together: there is no layer 'cnov1'. Did you mean 'conv1'"),
        ([{"conv0": [5, 6]}], "together: 'conv0' has channels 0..5, got 6."),
        ([{"conv0": [-1, 0]}], "together: 'conv0' has channels 0..5, got -1."),
    ],
)
def test_sets_that_do_not_exist_are_refused(together, text):
    with pytest.raises(BudgetError) as caught:
        coupled(chain(6, 5), together=together)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("8", 8),
        ("0.25", 0.25),
        ("stage1/*=8,*=4", {"stage1/*": 8, "*": 4}),
        (" a = 0.5 , b=2,", {"a": 0.5, "b": 2}),
    ],
)
def test_rules_are_read_from_text(text, rule):
    assert parse_rule("min_keep", text) == rule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b", ["a", "b"]),
        ("a:0-3", {"a": [0, 1, 2, 3]}),
        ("a:0-1+7,b/c:4", {"a": [0, 1, 7], "b/c": [4]}),
    ],
)
def test_sets_are_read_from_text(text, expected):
    assert parse_set(text) == expected


@pytest.mark.parametrize(
    ("read_text", "text"),
    [
        (lambda: parse_rule("min_keep", "few"), "min_keep: cannot read 'few'. Write a number, or pattern=number,..."),
        (lambda: parse_rule("min_keep", "a=1,b"), "min_keep: cannot read 'b'. Write a number, or pattern=number,..."),
        (lambda: parse_rule("min_keep", "a=1,a=2"), "min_keep: 'a' is given twice."),
        (lambda: parse_set("a:0-3,b"), "together: cannot read 'a:0-3,b'. Write conv_a,conv_b for layers"),
        (lambda: parse_set("a:x"), "together: cannot read 'a:x'. Write conv_a,conv_b for layers"),
    ],
)
def test_text_that_cannot_be_read_is_refused(read_text, text):
    with pytest.raises(BudgetError) as caught:
        read_text()
    assert str(caught.value).startswith(text)
