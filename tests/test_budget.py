"""Budgets: every accepted form, every refusal by its text."""

from __future__ import annotations

import math
from collections import OrderedDict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_qcqp.errors import BudgetError
from keras_qcqp.limits.budget import Budget, Limit

ORIGINAL = {"macs": 1_000_001, "params": 5000, "weight_bytes": 20_000, "activation_bytes": 777}
KNOWN = "Known: activation_bytes, flops, latency_ms, macs, params, peak_bytes, tflite_bytes, weight_bytes."
HOW = (
    "Write name=value, for example 'macs=0.5,params=0.6', or pattern:name=value for some layers, for example "
    "'stage3/*:params=0.4'."
)


@pytest.mark.parametrize(
    "form",
    [
        Budget(macs=0.5, params=600),
        {"macs": 0.5, "params": 600},
        OrderedDict(params=600, macs=0.5),
        "macs=0.5,params=600",
        " params = 600 , macs = 5e-1 ,",
        {"macs": np.float32(0.5), "params": np.int64(600)},
        {"macs": Fraction(1, 2), "params": 600, "flops": None},
    ],
    ids=["Budget", "dict", "mapping", "text", "loose text", "NumPy numbers", "fraction and None"],
)
def test_all_forms_mean_the_same(form):
    budget = Budget.of(form)
    assert budget == Budget(macs=0.5, params=600)
    assert budget.limits(ORIGINAL) == {"macs": 500_000, "params": 600}


def test_a_budget_passes_through_unchanged():
    budget = Budget(macs=0.5)
    assert Budget.of(budget) is budget


@pytest.mark.parametrize(
    ("value", "limit"),
    [(1, 1_000_001), (1.0, 1_000_001), (0.5, 500_000), (1e-9, 0), (1.5, 1), (2, 2), (600_000.9, 600_000)],
)
def test_up_to_one_is_a_fraction_and_above_one_absolute(value, limit):
    """Both are rounded down: the limit is hard."""
    assert Budget(macs=value).limits(ORIGINAL) == {"macs": limit}


def test_flops_are_two_macs():
    """As a fraction both mean the same; absolute flops allow half as many macs, rounded down."""
    assert Budget(flops=0.5).limits(ORIGINAL) == {"macs": 500_000}
    assert Budget(flops=900_001).limits(ORIGINAL) == {"macs": 450_000}
    assert Limit("flops", 0.5).resource == "macs"
    assert Limit("params", 0.5).resource == "params"


def test_of_macs_and_flops_the_tighter_counts():
    assert Budget(macs=600_000, flops=900_000).limits(ORIGINAL) == {"macs": 450_000}
    assert Budget(macs=0.4, flops=900_000).limits(ORIGINAL) == {"macs": 400_000}


@given(st.floats(min_value=0, max_value=1, exclude_min=True), st.integers(0, 10**15))
def test_a_fraction_never_allows_more_than_it_says(fraction, full):
    limit = Budget(macs=fraction).limits({"macs": full})["macs"]
    assert 0 <= limit <= full
    assert limit <= fraction * full * (1 + 1e-12)  # 0.29 of 100 is 29, whatever floats say
    assert fraction * full - limit < 1 or full > 2**50


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("macs", 0, "Budget macs=0 must be finite and above 0"),
        ("macs", 0.0, "Budget macs=0.0 must be finite and above 0"),
        ("params", -0.5, "Budget params=-0.5 must be finite and above 0"),
        ("params", -100, "Budget params=-100 must be finite and above 0"),
        ("flops", math.nan, "Budget flops=nan must be finite and above 0"),
        ("weight_bytes", -math.inf, "Budget weight_bytes=-inf must be finite and above 0"),
    ],
)
def test_zero_negative_and_nan_are_refused(name, value, text):
    for attempt in (lambda: Budget(**{name: value}), lambda: Budget.of({name: value})):
        with pytest.raises(BudgetError) as caught:
            attempt()
        assert str(caught.value) == f"{text}: a fraction of the original in (0, 1], or an absolute limit."


@pytest.mark.parametrize("value", [math.inf, 10**400], ids=["inf", "beyond all floats"])
def test_infinite_is_refused(value):
    with pytest.raises(BudgetError, match="a fraction of the original in"):
        Budget(macs=value)


@pytest.mark.parametrize("value", ["0.5", True, [0.5], 0.5 + 0j, np.array([0.5])])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(BudgetError) as caught:
        Budget(macs=value)
    assert str(caught.value) == f"Budget macs must be a number, got {value!r}."


@pytest.mark.parametrize(
    ("budget", "original", "text"),
    [
        ("macs=1000001", ORIGINAL, "Budget macs=1,000,001 is met already: the model has 1,000,001."),
        ("flops=2000002.5", ORIGINAL, "Budget flops=2,000,002.5 is met already: the model has 2,000,002."),
        ("params=1e9", ORIGINAL, "Budget params=1,000,000,000 is met already: the model has 5,000."),
        ("macs=2", {"macs": 0}, "Budget macs=2 is met already: the model has 0."),
    ],
)
def test_an_absolute_limit_that_is_met_already_is_refused(budget, original, text):
    with pytest.raises(BudgetError) as caught:
        Budget.of(budget).limits(original)
    assert str(caught.value) == f"{text} Ask for less, or for a fraction in (0, 1], or leave it out."


def test_one_below_the_original_is_a_budget():
    assert Budget(params=4999).limits(ORIGINAL) == {"params": 4999}


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        ({"mac": 0.5}, f"Unknown budget 'mac'. Did you mean 'macs'? {KNOWN}"),
        ("flop=0.5", f"Unknown budget 'flop'. Did you mean 'flops'? {KNOWN}"),
        ("weights_bytes=0.5", f"Unknown budget 'weights_bytes'. Did you mean 'weight_bytes'? {KNOWN}"),
        ("=0.5", f"Unknown budget ''. {KNOWN}"),
        ({"latency": 0.5}, f"Unknown budget 'latency'. Did you mean 'latency_ms'? {KNOWN}"),
        ({1: 0.5}, f"Unknown budget '1'. {KNOWN}"),
        ("macs", f"Cannot read budget 'macs'. {HOW}"),
        ("macs=", f"Cannot read budget 'macs='. {HOW}"),
        ("macs=half", f"Cannot read budget 'macs=half'. {HOW}"),
        ("macs=50%", f"Cannot read budget 'macs=50%'. {HOW}"),
        ("macs:0.5", f"Cannot read budget 'macs:0.5'. {HOW}"),
        ("0.5", f"Cannot read budget '0.5'. {HOW}"),
        ("macs=0.5,macs=0.4", "Budget 'macs' is given twice."),
        ("a:macs=0.5,a : macs=0.4", "Budget 'a : macs' is given twice."),
        ("layers=0.5", f"Unknown budget 'layers'. {KNOWN}"),
        ("a:layers=0.5", "Budget a:layers: 'layers' cannot be limited for layers. "),
        (0.5, "A budget is a Budget, a dict or a string such as 'macs=0.5', got 0.5."),
        (None, "A budget is a Budget, a dict or a string such as 'macs=0.5', got None."),
        (["macs"], "A budget is a Budget, a dict or a string such as 'macs=0.5', got ['macs']."),
    ],
)
def test_unknown_unreadable_and_duplicate_are_refused(budget, text):
    with pytest.raises(BudgetError) as caught:
        Budget.of(budget)
    assert str(caught.value).startswith(text) if text.endswith(" ") else str(caught.value) == text


@pytest.mark.parametrize("budget", [{}, "", " , ", {"macs": None}])
def test_an_empty_budget_is_refused(budget):
    with pytest.raises(BudgetError) as caught:
        Budget.of(budget)
    assert str(caught.value) == (
        "The budget is empty. Give at least one of macs, flops, params, weight_bytes, activation_bytes, peak_bytes, "
        "tflite_bytes, latency_ms, for example macs=0.5."
    )


@given(st.text(alphabet="macsprflo=0.5,-+e_ :*/[]\n", max_size=30))
def test_any_text_is_a_budget_or_a_budget_error(text):
    try:
        budget = Budget.of(text)
    except BudgetError as error:
        assert str(error).endswith(".")
    else:
        assert Budget.of(str(budget)) == budget


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(macs=0.5, weight_bytes=100_000), "macs=0.5,weight_bytes=100000"),
        (Budget(macs=1 / 3, params=12_345_678_901), f"macs={1 / 3!r},params=12345678901"),
        (Budget(params=2**60 + 1, peak_bytes=3e5), f"params={2**60 + 1},peak_bytes=300000"),
        (
            Budget(macs=0.5, layers={"stage3/*": {"params": 0.4, "flops": 1000}, "a=b:c": {"macs": 1}}),
            "macs=0.5,stage3/*:params=0.4,stage3/*:flops=1000,a=b:c:macs=1",
        ),
        (Budget(layers={"conv?": {"weight_bytes": 0.25, "activation_bytes": None}}), "conv?:weight_bytes=0.25"),
    ],
)
def test_text_of_a_budget_can_be_read_again(budget, text):
    assert str(budget) == text
    assert Budget.of(text) == budget
    assert hash(Budget.of(text)) == hash(budget)


def test_budgets_of_layers_have_limits_of_their_own():
    budget = Budget.of({"macs": 0.5, "layers": {"a*": {"macs": 0.25, "flops": 90}, "b": {"params": 0.5}}})
    original = {**ORIGINAL, "macs[a*]": 100, "params[b]": 11}
    assert budget.limits(original) == {"macs": 500_000, "macs[a*]": 25, "params[b]": 5}
    assert [(x.key, x.resource, x.pattern) for x in budget.asked()] == [
        ("macs", "macs", None),
        ("macs[a*]", "macs", "a*"),
        ("macs[a*]", "macs", "a*"),
        ("params[b]", "params", "b"),
    ]
    with pytest.raises(BudgetError, match=r"Budget a\*:flops=200 is met already: these layers have 200\. Ask"):
        Budget(layers={"a*": {"flops": 200}}).limits(original)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (
            {"a": {"peak_bytes": 0.5}},
            "Budget a:peak_bytes: 'peak_bytes' is not a sum over layers. Limit macs, flops, params, ",
        ),
        ({"a": {"tflite_bytes": 0.5}}, "Budget a:tflite_bytes: 'tflite_bytes' is not a sum over layers."),
        ({"a": {"latency_us": 9}}, "Budget a:latency_us: 'latency_us' cannot be limited for layers."),
        ({"a": {"mac": 0.5}}, "Budget a:mac: 'mac' cannot be limited for layers. Did you mean 'macs'?"),
        ({"a": {"macs": 0}}, "Budget a:macs=0 must be finite and above 0"),
        ({"a": {"macs": "0.5"}}, "Budget a:macs must be a number, got '0.5'."),
        ({"a": 0.5}, "Budgets of layers are written {'layers': {'stage3/*': {'params': 0.4}}}, got {'a': 0.5}."),
        ({"a,b": {"macs": 0.5}}, "A pattern over layers is a text without commas"),
        ({" ": {"macs": 0.5}}, "A pattern over layers is a text without commas"),
        ({3: {"macs": 0.5}}, "A pattern over layers is a text without commas"),
        ({}, "The budget is empty."),
        ({"a": {}}, "The budget is empty."),
    ],
)
def test_budgets_of_layers_that_make_no_sense_are_refused(layers, text):
    with pytest.raises(BudgetError) as caught:
        Budget.of({"layers": layers})
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("form", [{"macs": 0.5, "latency_us": 900}, "macs=0.5,latency_us=900"])
def test_cost_models_are_limited_by_name(form):
    budget = Budget.of(form, ["latency_us"])
    assert budget == Budget(macs=0.5, costs={"latency_us": 900})
    assert Budget.of(budget, ["latency_us"]) == budget == Budget.of(str(budget), ["latency_us"])
    assert budget.limits({**ORIGINAL, "latency_us": 1000}) == {"macs": 500_000, "latency_us": 900}
    for unknown in (form, budget):
        with pytest.raises(BudgetError) as caught:
            Budget.of(unknown, ["latency_ns"])
        assert str(caught.value).startswith("Unknown budget 'latency_us'. Did you mean 'latency_ns'? Known: activation")


def test_cost_models_may_not_take_a_name_with_a_meaning():
    with pytest.raises(BudgetError, match="A cost model may not be called 'macs'"):
        Budget(costs={"macs": 3})
    with pytest.raises(BudgetError, match=r"Budgets of cost models are written .* got 0\.5"):
        Budget.of({"costs": 0.5})
