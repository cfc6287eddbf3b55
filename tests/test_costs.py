"""Costs of the user's own and budgets of some layers: stated over masks, they are what they say layer by layer."""

from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from generator import CONVOLUTIONAL, Generator

from keras_qcqp import (
    Budget,
    BudgetError,
    CostModel,
    Coupling,
    LayerCost,
    Widths,
    couple,
    masked,
    read,
    rebuild,
    resources,
)
from keras_qcqp.limits.allowed import allowed_masks
from keras_qcqp.limits.costs import as_resource
from keras_qcqp.limits.meter import Meter
from keras_qcqp.plan import plan_from
from keras_qcqp.problem import Keep, counts_of

L = keras.layers


def random_keep(coupling: Coupling, seed: int) -> Keep:
    """At least one channel of each mask, all of those that must stay."""
    random = np.random.default_rng(seed)
    keep = []
    for mask in coupling.masks:
        least = mask.size if mask.frozen else 1
        kept = np.zeros(mask.size, bool)
        kept[random.permutation(mask.size)[: random.integers(least, mask.size + 1)]] = not mask.dead
        keep.append(kept)
    return tuple(keep)


def staircase(num_in: int, num_out: int, seed: int = 0) -> np.ndarray:
    """Rounded up to blocks of four, and not even monotone."""
    blocks = np.add.outer(-(-np.arange(num_in + 1) // 4), -(-np.arange(num_out + 1) // 4))
    return blocks * 10 + np.random.default_rng(seed).integers(0, 9, (num_in + 1, num_out + 1))


def width(model: keras.Model, layer: str) -> tuple[int, int]:
    found = model.get_layer(layer)
    return found.input.shape[-1], found.output.shape[-1]


@pytest.mark.parametrize("seed", range(4))
def test_a_cost_over_masks_is_the_sum_over_the_layers_of_the_rebuilt_model(seed):
    """Tables where one set makes a side (also behind a Flatten), products everywhere, and a constant."""
    model = networks.chain()
    layers = (
        LayerCost("a_conv", staircase(3, 6)),  # reads the image, which is frozen
        LayerCost("b_conv", staircase(6, 5), per_pair=3),
        LayerCost("hidden", staircase(80, 7), per_in=2),  # 16 positions of each of 5 channels
        LayerCost("head", per_out=7, per_pair=1),
        LayerCost("b_bn", staircase(5, 5)),  # the same set on both sides
    )
    costs = CostModel("us", "us", 40, layers)
    coupling = couple(read(model))
    keep = random_keep(coupling, seed)
    smaller = rebuild(model, plan_from(coupling, keep))
    expected = 40 + sum(c.at(*width(smaller, c.layer)) for c in layers)
    assert as_resource(coupling, costs).usage(counts_of(keep)) == expected
    meter, budget = Meter(models=(costs,)), Budget(costs={"us": 0.5})
    assert meter.usage(couple(read(smaller)), budget)["us"] == expected
    shares = meter.by_layer(coupling, budget, "us", coupling.alive(keep))
    assert sum(shares.values()) == expected - 40
    assert shares["head"] == layers[3].at(*width(smaller, "head"))


def test_products_are_stated_where_tables_cannot_be():
    """Two sets side by side; a table over them would need a third axis."""
    coupling = couple(read(networks.dense_block()))
    mix = CostModel("us", "us", 0, (LayerCost("mix", per_in=2, per_pair=3),))
    keep = random_keep(coupling, 1)
    smaller = rebuild(networks.dense_block(), plan_from(coupling, keep))
    num_in, num_out = width(smaller, "mix")
    assert as_resource(coupling, mix).usage(counts_of(keep)) == 2 * num_in + 3 * num_in * num_out
    table = np.zeros([n + 1 for n in width(networks.dense_block(), "mix")], int)
    with pytest.raises(BudgetError) as caught:
        as_resource(coupling, CostModel("us", "us", 0, (LayerCost("mix", table),)))
    assert str(caught.value) == (
        "Layer 'mix' cannot have a cost table: one side of it is made of 3 sets of channels that are kept "
        "independently (x0, x1, x2). State its cost by per_in, per_out and per_pair."
    )


def test_every_call_of_a_shared_layer_costs():
    coupling = couple(read(networks.shared_layer()))
    cost = as_resource(coupling, CostModel("us", "us", 0, (LayerCost("twice", staircase(6, 6)),)))
    full = [m.size for m in coupling.masks]
    assert cost.usage(full) == 2 * staircase(6, 6)[6, 6]


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (LayerCost("a_cnov", per_out=1), "Cost model 'us': there is no layer 'a_cnov'. Did you mean 'a_conv'"),
        (
            LayerCost("a_conv", np.zeros((3, 7), int)),
            "The cost table of layer 'a_conv' has shape (3, 7), expected (4, 7): one more than its 3 inputs and 6 out",
        ),
    ],
)
def test_costs_that_do_not_fit_the_model_are_refused(cost, text):
    with pytest.raises(BudgetError) as caught:
        as_resource(couple(read(networks.chain())), CostModel("us", "us", 0, (cost,)))
    assert str(caught.value).startswith(text)


def test_a_cost_by_input_needs_one_input():
    coupling = couple(read(networks.residual()))
    assert as_resource(coupling, CostModel("us", "us", 0, (LayerCost("sum_a", per_out=2),))).usage([8] * 9) == 16
    with pytest.raises(BudgetError, match="'sum_a' depends on its input, but it has 2. State it by per_out."):
        as_resource(coupling, CostModel("us", "us", 0, (LayerCost("sum_a", per_in=2),)))


WHOLE = "Use a unit small enough for whole numbers, for example ns."


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: LayerCost("a", np.ones((2, 2))), "The cost table of layer 'a' must be int[in + 1, out + 1] >= 0, got"),
        (
            lambda: LayerCost("a", -np.ones((2, 2), int)),
            "The cost table of layer 'a' must be int[in + 1, out + 1] >= 0",
        ),
        (
            lambda: LayerCost("a", np.ones(2, int)),
            "The cost table of layer 'a' must be int[in + 1, out + 1] >= 0, got s",
        ),
        (lambda: LayerCost("a", per_in=0.5), f"per_in of layer 'a' must be a whole number >= 0, got 0.5. {WHOLE}"),
        (lambda: LayerCost("a", per_pair=-1), f"per_pair of layer 'a' must be a whole number >= 0, got -1. {WHOLE}"),
        (lambda: CostModel("x", "us", 1.5, ()), "The constant of cost model 'x' must be a whole number >= 0, got 1.5."),
        (
            lambda: CostModel("a=b", "us", 0, ()),
            "The name of a cost model may not be empty or hold any of ,=:[] but got",
        ),
        (
            lambda: CostModel("x", "us", 0, (LayerCost("a"), LayerCost("a"))),
            "Cost model 'x' has two costs for layer 'a'. Add them up.",
        ),
        (lambda: Meter(models=(3,)), "costs must be CostModel objects, got 3."),
        (lambda: Meter(models=(CostModel("x", "", 0, ()),) * 2), "Two cost models are called 'x'."),
        (lambda: Meter("int4"), "Unknown recipe 'int4'."),
    ],
)
def test_costs_that_make_no_sense_are_refused(make, text):
    with pytest.raises(BudgetError) as caught:
        make()
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("name", ["macs", "params", "weight_bytes", "activation_bytes"])
def test_a_budget_of_layers_counts_these_layers_only(name):
    model = networks.shake(networks.residual())
    coupling = couple(read(model))
    budget = Budget(layers={"a*": {name: 0.5}, "*_conv": {name: 0.5}})
    first, second = Meter().resources(coupling, budget)[-2:]
    assert (first.name, second.name) == (f"{name}[a*]", f"{name}[*_conv]")
    for seed in range(3):
        keep = random_keep(coupling, seed)
        shares = resources.by_layer(coupling, name, coupling.alive(keep))
        counts = counts_of(keep)
        assert first.usage(counts) == sum(v for layer, v in shares.items() if layer.startswith("a")) > 0
        assert second.usage(counts) == sum(v for layer, v in shares.items() if layer.endswith("_conv"))
        smaller = couple(read(rebuild(model, plan_from(coupling, keep))))
        counted = Meter().usage(smaller, budget)
        assert (counted[first.name], counted[second.name]) == (first.usage(counts), second.usage(counts))
        assert Meter().by_layer(coupling, budget, first.name, coupling.alive(keep)) == {
            layer: v for layer, v in shares.items() if layer.startswith("a")
        }


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ({"b_cnov": {"macs": 0.5}}, "Budget b_cnov:macs=0.5: 'b_cnov' matches no layer. Did you mean 'b_conv'"),
        ({"pool": {"macs": 0.5}}, "Budget pool:macs=0.5: the layers that match 'pool' have no macs."),
    ],
)
def test_a_budget_of_layers_that_count_nothing_is_refused(layers, text):
    with pytest.raises(BudgetError) as caught:
        Meter().resources(couple(read(networks.chain())), Budget(layers=layers))
    assert str(caught.value).startswith(text)


BLOCKS = [{"a_conv": [0, 1]}, {"a_conv": [2, 3]}, {"a_conv": [4, 5]}]


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_kept_together_the_narrowest_network_can_be_built(seed):
    """Sets that may go altogether leave no tensor without channels."""
    random = np.random.default_rng(seed)
    model = networks.shake(Generator(lambda n: int(random.integers(n)), **CONVOLUTIONAL).build(), seed)
    widths = {node.name: node.outputs[0].shape[-1] for node in couple(read(model)).first_calls() if node.weights}
    together = [
        {layer: sorted(random.permutation(width)[: random.integers(2, width + 1)].tolist())}
        for layer, width in widths.items()
        if width > 2 and random.random() < 0.7
    ]
    coupling = couple(read(model), together=together)
    masks = allowed_masks(coupling, Widths(min_keep=1))
    plan = plan_from(coupling, tuple(np.arange(m.size) < m.allowed[0] for m in masks))
    smaller = rebuild(model, plan)
    images = networks.images(model)
    for a, b in zip(networks.outputs(smaller, images), networks.outputs(masked(model, plan), images), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


TOGETHER = {
    "blocks": ("chain", BLOCKS),
    "one block": ("chain", BLOCKS[1:2]),
    "across layers": ("chain", [{"a_conv": [0, 5], "b_conv": [2], "hidden": [1, 6]}]),
    "layers": ("residual_stage", [["b1_conv", "c1_conv"]]),
    "groups": ("grouped", [{"b": [0, 1]}, {"a": [0, 1, 2]}]),
    "additions": ("residual", [{"a2_conv": [0, 1, 2, 3]}, {"short": [0, 11], "a1_conv": [3]}]),
}


@pytest.mark.parametrize("case", TOGETHER)
@pytest.mark.parametrize("seed", range(2))
def test_sets_that_are_kept_together_are_rebuilt_and_counted_right(case, seed):
    """The law holds for them, and what is promised is what the rebuilt model costs."""
    name, together = TOGETHER[case]
    model = networks.shake(networks.NETWORKS[name]())
    coupling = couple(read(model), together=together)
    keep = random_keep(coupling, seed)
    plan = plan_from(coupling, keep)
    smaller = rebuild(model, plan)
    images = networks.images(model)
    for a, b in zip(networks.outputs(smaller, images), networks.outputs(masked(model, plan), images), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    promised = {r.name: r.usage(counts_of(keep)) for r in resources.count_all(coupling)}
    assert promised == {r: v for r, v in resources.measure(smaller).items() if r in promised}
    for item in together:
        if isinstance(item, dict):
            assert len({p in plan[layer].out_index[0] for layer, positions in item.items() for p in positions}) == 1
        else:
            assert len({plan[layer].out_index for layer in item}) == 1
