"""`keras_qcqp.prune` with everything that can be asked for beside a budget for the whole model."""

from __future__ import annotations

import math

import numpy as np
import pytest
from networks import NETWORKS, images, outputs, shake

import keras_qcqp
import tflite_tools
from keras_qcqp import CostModel, LayerCost, selecting
from keras_qcqp.limits.meter import Meter


def test_layers_costs_and_width_rules_at_once_hold_in_the_rebuilt_model():
    model = shake(NETWORKS["residual"]())
    table = 7 * np.add.outer(-(-np.arange(9) // 4), -(-np.arange(8) // 2))  # of b1_conv: staircases
    latency = CostModel("us", "us", 5, (LayerCost("b1_conv", table), LayerCost("head", per_pair=2)))
    widths = {
        "min_keep": 1,
        "max_keep": {"b2_conv": 9},
        "width_multiple": {"stem_conv": 2},
        "frozen": ["b1_conv"],
        "together": [{"a1_conv": [0, 1]}],
    }
    budget = {"macs": 0.7, "us": 110, "layers": {"a?_conv": {"params": 0.5}}}
    result = keras_qcqp.prune(model, budget, widths=widths, costs=[latency], time_limit_s=5)
    stem, b1, b2 = (result.model.get_layer(f"{name}_conv").filters for name in ("stem", "b1", "b2"))
    assert stem % 2 == 0 and b1 == 7 and b2 <= 9
    assert keras_qcqp.measure(result.model)["macs"] <= 0.7 * keras_qcqp.measure(model)["macs"]
    kernels = sum(math.prod(result.model.get_layer(name).kernel.shape) for name in ("a1_conv", "a2_conv"))
    assert kernels <= 0.5 * 2 * 9 * 8 * 6
    assert result.solution.usage["us"] == 5 + table[stem, b1] + 2 * b2 * 5 <= 110
    assert len({position in result.plan["a1_conv"].out_index[0] for position in (0, 1)}) == 1
    rows = {row.resource: (row.before, row.limit) for row in result.report.budgets}
    assert rows["params[a?_conv]"] == (864, 432)
    assert rows["us"] == (5 + table[8, 7] + 2 * 12 * 5, 110)
    assert ("b1_conv", "asked for") in {(f.node, f.reason) for f in result.report.frozen}
    assert result.report.asked == "macs=0.7,us=110,a?_conv:params=0.5"


@pytest.mark.parametrize("together", [[], [{"a2_conv": [0, 1]}, ["b1_conv", "c1_conv"]]], ids=["", "together"])
def test_union_residuals_meet_a_share_of_what_the_original_uses(together):
    """What alignments may write counts in what is promised, not in what the share is of."""
    model = shake(NETWORKS["residual_stage"]())
    before = keras_qcqp.measure(model)
    budget = {"macs": 0.5, "activation_bytes": 0.9, "tflite_bytes": 0.9, "peak_bytes": 0.9}
    result = keras_qcqp.prune(model, budget, residual="union", widths={"together": together}, time_limit_s=4)
    after = keras_qcqp.measure(result.model)
    assert result.plan.residual == "union"
    assert {row.resource: row.before for row in result.report.budgets} == before
    assert {row.resource: row.after for row in result.report.budgets} == after
    for name, share in budget.items():
        assert after[name] <= result.solution.usage[name] <= share * before[name], name
    assert after["macs"] == result.solution.usage["macs"]
    x = images(model)
    for a, b in zip(outputs(result.model, x), outputs(keras_qcqp.masked(model, result.plan), x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_auto_keeps_the_better_of_tied_and_union_residuals():
    model = shake(NETWORKS["residual_stage"]())
    result = keras_qcqp.prune(model, {"macs": 0.5}, residual="auto", time_limit_s=3)
    objectives = {
        residual: keras_qcqp.prune(model, {"macs": 0.5}, residual=residual, time_limit_s=1.5).solution.objective
        for residual in ("tied", "union")
    }
    best = max(objectives, key=objectives.__getitem__)
    assert result.plan.residual == best
    assert result.solution.objective == pytest.approx(objectives[best], rel=0.02)
    assert f"; residual auto: {best}, objectives tied " in result.report.solution


def test_auto_does_not_solve_twice_where_nothing_is_added():
    lines: list[str] = []
    result = keras_qcqp.prune(shake(NETWORKS["chain"]()), {"macs": 0.5}, residual="auto", progress=lines.append)
    assert result.plan.residual == "tied"
    assert result.report.solution.endswith("; residual auto: tied, no sum can have channels of its own")
    assert sum("coupled masks" in line for line in lines) == 1


def test_auto_is_infeasible_only_if_both_are(monkeypatch):
    model = shake(NETWORKS["residual"]())
    real = selecting.solve

    def tied_fails(problem, *settings):
        if not problem.needs:
            raise keras_qcqp.InfeasibleError("tied fails.")
        return real(problem, *settings)

    monkeypatch.setattr(selecting, "solve", tied_fails)
    result = keras_qcqp.prune(model, {"macs": 0.9}, residual="auto", time_limit_s=2)
    assert "residual auto: union, objectives tied infeasible, union " in result.report.solution
    with pytest.raises(keras_qcqp.InfeasibleError, match="No selection meets the budget"):
        keras_qcqp.prune(model, {"macs": 0.001}, residual="auto")


@pytest.mark.parametrize("recipe", ["float32", "int8"])
def test_the_deployed_file_keeps_its_budget(recipe):
    model = shake(NETWORKS["residual"]())
    samples = np.random.default_rng(0).normal(size=(100, 8, 8, 3)).astype("float32")
    before = len(tflite_tools.convert(model, recipe, representative_data=samples))
    result = keras_qcqp.prune(model, {"tflite_bytes": 0.85, "peak_bytes": 0.9}, recipe=recipe, time_limit_s=4)
    limits = {row.resource: row.limit for row in result.report.budgets}
    unit = next(row.unit for row in result.report.budgets if row.resource == "tflite_bytes")
    assert unit == ("B" if recipe == "float32" else "B int8")
    assert abs(limits["tflite_bytes"] - 0.85 * before) < 0.05 * before
    assert len(tflite_tools.convert(result.model, recipe, representative_data=samples)) <= limits["tflite_bytes"]
    assert keras_qcqp.measure(result.model, recipe)["peak_bytes"] <= limits["peak_bytes"]


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        (
            {"residual": "unoin"},
            keras_qcqp.ModelError,
            "residual='unoin' is unknown. Did you mean 'union'?",
        ),
        ({"recipe": "int4"}, keras_qcqp.BudgetError, "Unknown recipe 'int4'. "),
        ({"costs": ["us"]}, keras_qcqp.BudgetError, "costs must be CostModel objects, got 'us'."),
        ({"widths": {"multiple": 8}}, keras_qcqp.BudgetError, "Unknown width rule 'multiple'. Did you mean 'width_mul"),
        ({"widths": {"frozen": ["zz"]}}, keras_qcqp.BudgetError, "frozen: 'zz' matches no layer. The model has "),
        ({"widths": {"together": [["zz", "a_conv"]]}}, keras_qcqp.BudgetError, "together: there is no layer 'zz'."),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, error, text):
    with pytest.raises(error) as caught:
        keras_qcqp.prune(NETWORKS["chain"](), {"macs": 0.5}, **settings)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_promise_that_the_rebuilt_model_breaks_is_an_internal_error(monkeypatch, wrong):
    real = Meter.usage
    monkeypatch.setattr(Meter, "usage", lambda *a, **k: {n: v + wrong for n, v in real(*a, **k).items()})
    with pytest.raises(keras_qcqp.QcqpError, match="Internal error: the rebuilt model costs"):
        keras_qcqp.prune(shake(NETWORKS["chain"]()), {"macs": 0.5})


def test_the_layers_that_hold_up_a_budget_of_layers_are_named():
    cost = CostModel("us", "us", 0, (LayerCost("hidden", per_out=10),))
    budget = {"us": 0.01, "layers": {"b*": {"params": 0.01}}}
    with pytest.raises(keras_qcqp.InfeasibleError) as caught:
        keras_qcqp.prune(shake(NETWORKS["chain"]()), budget, costs=[cost])
    assert "Largest layers at their smallest, us: hidden 20" in str(caught.value)
    assert "Largest layers at their smallest, params[b*]: b_conv " in str(caught.value)
