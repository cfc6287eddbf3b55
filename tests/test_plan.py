"""Plans: the file, every refusal by its text, and the match with a model."""

from __future__ import annotations

import dataclasses
import json

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_qcqp.coupling import couple
from keras_qcqp.errors import FileError, PlanError
from keras_qcqp.graph import read
from keras_qcqp.plan import LayerPlan, Plan, plan_from
from keras_qcqp.plan_check import require_match
from keras_qcqp.rebuilder import masked, rebuild

SMALL = Plan(
    "net",
    {
        "conv": LayerPlan("Conv2D", (3,), (4,), ((0, 1, 2),), ((0, 3),)),
        "join": LayerPlan("Concatenate", (4, 2), (6,), ((0, 3), (1,)), ((0, 3, 5),)),
        "constant": LayerPlan("Whatever", (), (), (), ()),
    },
)


@pytest.fixture(scope="module")
def chain():
    return networks.shake(networks.chain())


@pytest.fixture(scope="module")
def coupling(chain):
    return couple(read(chain))


@pytest.fixture(scope="module")
def plan(coupling):
    """Every second channel of what may go."""
    return plan_from(
        coupling, tuple(np.arange(m.size) % 2 == 0 if not m.frozen else np.ones(m.size, bool) for m in coupling.masks)
    )


def changed(plan: Plan, layer: str, **fields) -> Plan:
    """The plan with other fields in one layer."""
    return Plan(plan.model, {**plan.layers, layer: dataclasses.replace(plan.layers[layer], **fields)})


def edited(**changes) -> str:
    """JSON of a small plan with changed top-level entries; None removes one."""
    data = {**json.loads(SMALL.to_json()), **changes}
    return json.dumps({key: value for key, value in data.items() if value is not None})


def with_layer(**changes) -> str:
    """JSON of a plan whose only layer 'a' has changed entries."""
    layer = {"kind": "Dense", "in_size": [2], "out_size": [3], "in_index": [None], "out_index": [[0, 2]], **changes}
    return edited(layers={"a": layer})


def test_json_round_trip():
    assert Plan.from_json(SMALL.to_json()) == SMALL
    assert Plan.from_json(with_layer())["a"].in_index == ((0, 1),)


def test_json_round_trip_of_a_real_plan(plan):
    assert Plan.from_json(plan.to_json()) == plan


def test_an_index_that_keeps_everything_is_null():
    data = json.loads(SMALL.to_json())
    assert (data["format"], data["version"], data["model"]) == ("keras_qcqp.plan", 1, "net")
    assert data["layers"]["conv"] == {
        "kind": "Conv2D",
        "in_size": [3],
        "out_size": [4],
        "in_index": [None],
        "out_index": [[0, 3]],
    }


def test_everything_in_another_order_is_not_null():
    """A permutation is information."""
    turned = Plan("net", {"a": LayerPlan("Dense", (2,), (1,), ((1, 0),), ((0,),))})
    assert json.loads(turned.to_json())["layers"]["a"]["in_index"] == [[1, 0]]
    assert Plan.from_json(turned.to_json()) == turned


def test_text_of_a_plan():
    assert str(SMALL) == "Plan for 'net'\n  conv: 4 -> 2\n  join: 6 -> 3\n  constant: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The plan is not JSON: "),
        ("{", "The plan is not JSON: "),
        ("[" * 100_000, "The plan is not JSON: "),
        ("1" * 5000, "The plan is not JSON: "),
        ("null", "This JSON is not a plan: 'format' should be 'keras_qcqp.plan'."),
        ("[]", "This JSON is not a plan: 'format' should be 'keras_qcqp.plan'."),
        ("{}", "This JSON is not a plan: 'format' should be 'keras_qcqp.plan'."),
        (edited(format="keras_qcqp.problem"), "This JSON is not a plan: 'format' should be 'keras_qcqp.plan'."),
        (edited(version=2), "The plan has version 2; this package reads 1. Update it."),
        (edited(version="1"), "The plan has version '1'; this package reads 1. Update it."),
        (edited(version=None), "The plan has version None; this package reads 1. Update it."),
        (edited(model=None), "The plan needs 'model' (a string) and 'layers' (an object)."),
        (edited(model=3), "The plan needs 'model' (a string) and 'layers' (an object)."),
        (edited(layers=[]), "The plan needs 'model' (a string) and 'layers' (an object)."),
        (edited(layers={"a": 1}), "Plan of layer 'a': an object with 'kind', sizes and indices expected."),
        (with_layer(kind=None), "Plan of layer 'a': an object with 'kind', sizes and indices expected."),
        (with_layer(in_size=2), "Plan of layer 'a': lists of whole numbers expected."),
        (with_layer(in_size=[2.0]), "Plan of layer 'a': lists of whole numbers expected."),
        (with_layer(in_size=[True]), "Plan of layer 'a': lists of whole numbers expected."),
        (with_layer(out_size=None), "Plan of layer 'a': lists of whole numbers expected."),
        (with_layer(in_size=[-1]), "Plan of layer 'a': sizes must lie in 0..2^24."),
        (with_layer(out_size=[10**9]), "Plan of layer 'a': sizes must lie in 0..2^24."),
        (with_layer(in_index=None), "Plan of layer 'a': 'in_index' needs one list for each of 1 tensors."),
        (with_layer(in_index=[]), "Plan of layer 'a': 'in_index' needs one list for each of 1 tensors."),
        (with_layer(out_index=[None, None]), "Plan of layer 'a': 'out_index' needs one list for each of 1 tensors."),
        (with_layer(out_index=["01"]), "Plan of layer 'a': lists of whole numbers expected."),
        (with_layer(out_index=[[0, 1.5]]), "Plan of layer 'a': lists of whole numbers expected."),
        (
            with_layer(out_index=[[3]]),
            "Plan of layer 'a': 'out_index' must list different channels of 0..2.",
        ),
        (
            with_layer(out_index=[[-1]]),
            "Plan of layer 'a': 'out_index' must list different channels of 0..2.",
        ),
        (
            with_layer(out_index=[[1, 1]]),
            "Plan of layer 'a': 'out_index' must list different channels of 0..2.",
        ),
    ],
)
def test_text_that_is_no_plan_is_refused(text, message):
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text)
    assert str(caught.value).startswith(message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
LAYER = st.fixed_dictionaries(
    {},
    optional={
        "kind": JSON | st.just("Dense"),
        **{key: JSON | st.lists(st.integers(0, 4), max_size=2) for key in ("in_size", "out_size")},
        **{
            key: JSON | st.lists(st.none() | st.lists(st.integers(0, 3), max_size=3), max_size=2)
            for key in ("in_index", "out_index")
        },
    },
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=3), LAYER | JSON, max_size=2) | JSON, JSON | st.just("net"))
def test_random_json_is_a_plan_or_a_plan_error(layers, model):
    """What is accepted survives a round trip."""
    text = json.dumps({"format": "keras_qcqp.plan", "version": 1, "model": model, "layers": layers})
    try:
        plan = Plan.from_json(text)
    except PlanError:
        return
    assert Plan.from_json(plan.to_json()) == plan


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20) | JSON.map(json.dumps))
def test_random_text_is_refused(text):
    with pytest.raises(PlanError):
        Plan.from_json(text)


def test_save_and_load(tmp_path):
    SMALL.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == SMALL
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_saving_where_nothing_can_be_written(tmp_path):
    with pytest.raises(FileError, match="does not exist. Create it first."):
        SMALL.save(tmp_path / "no" / "plan.json")


def test_loading_what_cannot_be_read(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(FileError) as caught:
        Plan.load(path)
    assert str(caught.value) == f"Cannot read plan '{path}': No such file or directory."
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match=r"Cannot read plan '.*plan\.json': 'utf-8' codec can't decode"):
        Plan.load(path)
    path.write_text(SMALL.to_json()[:-20])
    with pytest.raises(PlanError, match="The plan is not JSON"):
        Plan.load(path)


def test_a_plan_fits_the_model_it_was_made_for(plan, coupling):
    require_match(plan, coupling)
    assert plan["b_conv"].in_index == ((0, 2, 4),)
    assert plan["hidden"].in_size == (4 * 4 * 5,)
    assert len(plan["hidden"].in_index[0]) == 4 * 4 * 3


def assert_refused(plan: Plan, model, text: str) -> None:
    """By both doors, and with exactly this text."""
    for door in (rebuild, masked):
        with pytest.raises(PlanError) as caught:
            door(model, plan)
        assert str(caught.value) == text


def test_a_plan_for_another_model_names_the_first_mismatch(plan, chain):
    assert_refused(
        plan,
        networks.residual(),
        "The plan was made for model 'chain' and does not fit 'residual': "
        "layer 'stem_conv' (Conv2D) is not in the plan.",
    )
    more = Plan("chain", {**plan.layers, "extra": SMALL["conv"]})
    assert_refused(
        more,
        chain,
        "The plan was made for model 'chain' and does not fit 'chain': the plan has layer 'extra', the model does not.",
    )


def test_a_layer_of_another_kind_or_width_is_named(plan, chain):
    begin = "The plan was made for model 'chain' and does not fit 'chain': layer 'b_conv' has "
    assert_refused(changed(plan, "b_conv", kind="Conv1D"), chain, f"{begin}kind Conv2D, the plan says Conv1D.")
    wider = changed(plan, "b_conv", in_size=(8,))
    assert_refused(wider, chain, f"{begin}in_size (6,), the plan says (8,).")
    other = changed(plan, "b_conv", out_size=(5, 5), out_index=((0,), (0,)))
    assert_refused(other, chain, f"{begin}out_size (5,), the plan says (5, 5).")


def test_a_plan_that_contradicts_itself_is_refused(plan, chain):
    """Also where the numbers of channels agree and nothing but the selection is wrong: the model would be garbage."""
    begin = "The plan contradicts itself: layer "
    fewer = changed(plan, "b_conv", in_index=((0, 2),))
    assert_refused(fewer, chain, f"{begin}'b_conv' drops channel 4 of its input, which 'a_conv' keeps.")
    other = changed(plan, "b_conv", in_index=((1, 2, 4),))
    assert_refused(other, chain, f"{begin}'b_conv' drops channel 0 of its input, which 'a_conv' keeps.")
    partly = changed(plan, "hidden", in_index=(plan["hidden"].in_index[0][1:],))
    assert_refused(partly, chain, f"{begin}'hidden' drops channel 0 of its input, which 'b_conv' keeps.")


def test_a_plan_that_drops_what_must_stay_is_refused(plan, chain):
    because = "which is an input or output of the model, or frozen."
    assert_refused(
        changed(plan, "head", out_index=((0, 1, 2),)),
        chain,
        f"The plan contradicts itself: layer 'head' drops channel 3 of its output, {because}",
    )
    assert_refused(
        changed(plan, "a_conv", in_index=((0, 1),)),
        chain,
        f"The plan contradicts itself: layer 'a_conv' drops channel 2 of its input, {because}",
    )


def test_a_refused_plan_leaves_the_model_alone(plan, chain):
    before = [np.array(v) for v in chain.weights]
    with pytest.raises(PlanError):
        rebuild(chain, changed(plan, "b_conv", in_index=((0,),)))
    for old, variable in zip(before, chain.weights, strict=True):
        assert np.array_equal(old, np.array(variable))


def test_a_plan_that_reorders_channels_is_refused(plan, chain):
    """One layer in another order than its neighbours would be a wrong model."""
    turned = changed(plan, "b_conv", in_index=(plan["b_conv"].in_index[0][::-1],))
    assert_refused(
        turned,
        chain,
        "The plan puts the channels of layer 'b_conv' (input) into another order than the layers around it, "
        "or into one that this layer cannot have.",
    )
