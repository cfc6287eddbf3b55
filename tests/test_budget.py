"""Budgets and width rules: every accepted form, every refusal by its text."""

from __future__ import annotations

import math
from collections import OrderedDict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_qcqp.budget import Budget, resource_of
from keras_qcqp.build import Widths
from keras_qcqp.errors import BudgetError
from keras_qcqp.partition import CoupledMask

ORIGINAL = {"macs": 1_000_001, "params": 5000, "weight_bytes": 20_000, "activation_bytes": 777}
KNOWN = "Known: activation_bytes, flops, macs, params, weight_bytes."


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
    assert resource_of("flops") == "macs"
    assert resource_of("params") == "params"


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
        ({"latency": 0.5}, f"Unknown budget 'latency'. {KNOWN}"),
        ({1: 0.5}, f"Unknown budget '1'. {KNOWN}"),
        ("macs", "Cannot read budget 'macs'. Write name=value, for example 'macs=0.5,params=0.6'."),
        ("macs=", "Cannot read budget 'macs='. Write name=value, for example 'macs=0.5,params=0.6'."),
        ("macs=half", "Cannot read budget 'macs=half'. Write name=value, for example 'macs=0.5,params=0.6'."),
        ("macs=50%", "Cannot read budget 'macs=50%'. Write name=value, for example 'macs=0.5,params=0.6'."),
        ("macs:0.5", "Cannot read budget 'macs:0.5'. Write name=value, for example 'macs=0.5,params=0.6'."),
        ("0.5", "Cannot read budget '0.5'. Write name=value, for example 'macs=0.5,params=0.6'."),
        ("macs=0.5,macs=0.4", "Budget 'macs' is given twice."),
        (0.5, "A budget is a Budget, a dict or a string such as 'macs=0.5', got 0.5."),
        (None, "A budget is a Budget, a dict or a string such as 'macs=0.5', got None."),
        (["macs"], "A budget is a Budget, a dict or a string such as 'macs=0.5', got ['macs']."),
    ],
)
def test_unknown_unreadable_and_duplicate_are_refused(budget, text):
    with pytest.raises(BudgetError) as caught:
        Budget.of(budget)
    assert str(caught.value) == text


@pytest.mark.parametrize("budget", [{}, "", " , ", {"macs": None}])
def test_an_empty_budget_is_refused(budget):
    with pytest.raises(BudgetError) as caught:
        Budget.of(budget)
    assert str(caught.value) == (
        "The budget is empty. Give at least one of macs, flops, params, weight_bytes, activation_bytes, for example "
        "macs=0.5."
    )


@given(st.text(alphabet="macsprflo=0.5,-+e_ \n", max_size=30))
def test_any_text_is_a_budget_or_a_budget_error(text):
    try:
        budget = Budget.of(text)
    except BudgetError as error:
        assert str(error).endswith(".")
    else:
        assert Budget.of(str(budget)).asked() == pytest.approx(budget.asked(), rel=1e-9)


def test_text_of_a_budget_can_be_read_again():
    budget = Budget(macs=0.5, weight_bytes=100_000)
    assert str(budget) == "macs=0.5,weight_bytes=100000"
    assert Budget.of(str(budget)) == budget


def allowed(size: int, multiplicity: int = 1, frozen: bool = False, **rules) -> tuple[int, ...]:
    return Widths(**rules).mask(CoupledMask("m", size, multiplicity, frozen)).allowed


def test_width_rules_become_allowed_counts():
    assert allowed(5) == (2, 3, 4, 5)  # a quarter at least, unless told otherwise
    assert allowed(5, min_keep=1) == (1, 2, 3, 4, 5)
    assert allowed(5, min_keep=3) == (3, 4, 5)
    assert allowed(5, min_keep=99) == (5,)
    assert allowed(20, multiple=8) == (8, 16, 20)
    assert allowed(20, min_keep=9, multiple=8) == (16, 20)
    assert allowed(6, multiple=8) == (6,)
    assert allowed(5, frozen=True, min_keep=1, multiple=2) == (5,)


def test_a_fraction_of_the_width_is_rounded_up():
    assert allowed(10, min_keep=0.25)[0] == 3
    assert allowed(10, min_keep=0.2)[0] == 2
    assert allowed(10, min_keep=1e-9)[0] == 1
    assert allowed(10, min_keep=0.999)[0] == 10


def test_width_rules_speak_of_the_tensor_where_channels_repeat():
    """Each channel of this mask appears 4 times in its tensor: 8 wide means 2, at least 6 means 2."""
    assert allowed(5, multiplicity=4, multiple=8) == (2, 4, 5)
    assert allowed(5, multiplicity=4, min_keep=6) == (2, 3, 4, 5)
    assert allowed(5, multiplicity=4, min_keep=0.5) == (3, 4, 5)


@pytest.mark.parametrize("value", [0, -1, -0.5, 1.5, math.nan, math.inf, True, "2", None])
def test_min_keep_out_of_range_is_refused(value):
    with pytest.raises(BudgetError) as caught:
        Widths(min_keep=value)
    assert str(caught.value) == f"min_keep must be a count >= 1 or a fraction in (0, 1), got {value!r}."


@pytest.mark.parametrize("value", [0, -8, 1.0, True, "8", None])
def test_width_multiple_out_of_range_is_refused(value):
    with pytest.raises(BudgetError) as caught:
        Widths(multiple=value)
    assert str(caught.value) == f"width_multiple must be an integer >= 1, got {value!r}."
