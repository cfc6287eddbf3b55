"""Whole branches that go: which may, what is left in their place, and what a plan may not empty."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from generator import Generator
from networks import NETWORKS, conv_bn, images, outputs, shake
from selections import random_keep

import keras_qcqp
from keras_qcqp.branches.removable import emptied, removable_masks, spare_masks
from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.graph import read
from keras_qcqp.plan import Plan, plan_from

L = keras.layers


def blocks() -> keras.Model:
    """stem -+-> conv bn relu conv bn -+-> add relu -+-> 1x1 3x3 1x1 -+-> add -> [1x1 | 3x3 | pool] concat -> head
    +-------------------------+             +-----------------+"""
    image = keras.Input((8, 8, 3), name="image")
    x = conv_bn(image, 6, "stem")
    y = conv_bn(conv_bn(x, 5, "a1"), 6, "a2", activation="linear")
    x = L.ReLU(name="sum_a_act")(L.Add(name="sum_a")([x, y]))
    y = L.Conv2D(4, 1, activation="relu", name="b1")(x)
    y = L.Conv2D(4, 3, padding="same", activation="sigmoid", name="b2")(y)
    y = L.BatchNormalization(name="b3_bn")(L.Conv2D(6, 1, name="b3")(y))
    x = L.Add(name="sum_b")([x, y])
    branches = [L.Conv2D(5, 1, name="c1")(x), conv_bn(conv_bn(x, 3, "c2"), 4, "c3"), L.MaxPooling2D(3, 1, "same")(x)]
    x = L.GlobalAveragePooling2D(name="mean")(L.Concatenate(name="join")(branches))
    return keras.Model(image, L.Dense(3, name="head")(x), name="blocks")


def gated() -> keras.Model:
    """conv -+-> mean -> dense -> dense sigmoid -+-> multiply -> [+ 1x1 conv of a nested model] -> head"""
    image = keras.Input((8, 8, 3), name="image")
    x = conv_bn(image, 6, "stem")
    gate = L.Dense(3, activation="relu", name="reduce")(L.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x))
    x = L.Multiply(name="scale")([x, L.Dense(6, activation="sigmoid", name="excite")(gate)])
    inner = keras.Input((8, 8, 6), name="inner")
    y = L.Conv2D(6, 1, name="t2")(L.Conv2D(4, 1, name="t1")(inner))
    x = L.Add(name="sum")([x, keras.Model(inner, y, name="tower")(x)])
    return keras.Model(image, L.Dense(3, name="head")(L.Flatten(name="flat")(x)), name="gated")


def removable_names(coupling: Coupling) -> set[str]:
    return {coupling.masks[m].name for m in removable_masks(coupling)}


def plan_without(coupling: Coupling, names: set[str]) -> Plan:
    """Empties these masks and what hangs on them, and drops every third channel of the others."""
    keep = []
    for mask in coupling.masks:
        kept = np.ones(mask.size, bool) if mask.frozen else (np.arange(mask.size) % 3 != 1) & (not mask.dead)
        keep.append(kept & (mask.name not in names))
    removable = removable_masks(coupling)
    gone = emptied(coupling, keep, removable)
    return plan_from(coupling, tuple(k & (m not in gone) for m, k in enumerate(keep)))


def require_equal(model: keras.Model, plan: Plan) -> keras.Model:
    smaller, reference = keras_qcqp.rebuild(model, Plan.from_json(plan.to_json())), keras_qcqp.masked(model, plan)
    arrays = images(model)
    for got, wanted in zip(outputs(smaller, arrays), outputs(reference, arrays), strict=True):
        assert np.isfinite(wanted).all()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * max(1.0, np.abs(wanted).max()))
    return smaller


def layers(model: keras.Model) -> set[str]:
    return {layer.name for layer in model.layers}


def test_which_masks_may_go():
    assert removable_names(couple(read(blocks()))) == {"a1_conv", "b1", "b2", "c1", "c2_conv", "c3_conv"}
    assert removable_names(couple(read(gated()))) == {"reduce"}
    assert removable_names(couple(read(NETWORKS["chain"]()))) == set()
    assert removable_names(couple(read(NETWORKS["dense_block"]()))) >= {"x1", "x2"}
    union = removable_names(couple(read(NETWORKS["residual"]()), residual="union"))
    assert {"a1_conv", "a2_conv"} <= union


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        ({"a1_conv"}, {"a1_conv", "a1_bn", "a2_conv", "a2_bn", "sum_a"}),
        ({"b1"}, {"b1", "b2", "b3", "b3_bn", "sum_b"}),
        ({"b2"}, {"b1", "b2", "b3", "b3_bn", "sum_b"}),
        ({"c1", "c2_conv"}, {"c1", "c2_conv", "c3_conv", "c3_bn", "c3_act", "join"}),
        ({"a1_conv", "b1", "c1", "c3_conv"}, {"a1_conv", "b3", "c1", "c2_conv", "c3_conv"}),
    ],
)
def test_a_branch_goes_with_all_that_only_it_needs(names, absent):
    model = shake(blocks(), 2)
    smaller = require_equal(model, plan_without(couple(read(model)), names))
    assert absent.isdisjoint(layers(smaller))
    assert "stem_conv" in layers(smaller)


def test_a_gate_becomes_a_constant_factor(tmp_path):
    model = shake(gated(), 1)
    smaller = require_equal(model, plan_without(couple(read(model)), {"reduce"}))
    assert {"squeeze", "reduce", "excite"}.isdisjoint(layers(smaller)) and "tower" in layers(smaller)
    smaller.save(tmp_path / "smaller.keras")
    loaded, arrays = keras.models.load_model(tmp_path / "smaller.keras"), images(model)
    np.testing.assert_array_equal(outputs(loaded, arrays)[0], outputs(smaller, arrays)[0])


def test_union_residuals_lose_a_branch_without_a_trace():
    model = shake(NETWORKS["residual"](), 4)
    coupling = couple(read(model), residual="union")
    smaller = require_equal(model, plan_without(coupling, {"a2_conv"}))
    assert {"a1_conv", "a2_conv", "a2_bn", "sum_a"}.isdisjoint(layers(smaller))


def without_orphans(coupling: Coupling, keep: list[np.ndarray]) -> bool:
    """Drops what a sum has nothing to add for; False where that empties what must stay."""
    changed = True
    while changed:
        changed = False
        for need in coupling.needs:
            met = np.any([keep[mask][index] for mask, index in need.sources], axis=0)
            alone = need.index[keep[need.mask][need.index] & ~met]
            keep[need.mask][alone] = False
            changed |= len(alone) > 0
    may = removable_masks(coupling) | spare_masks(coupling)
    return all(k.any() or m in may or coupling.masks[m].dead for m, k in enumerate(keep))


def require_law_without_branches(model: keras.Model, residual: str, seed: int) -> bool:
    """Empties some of the masks that may go; False where the network has none, or cannot do without these."""
    coupling, random = couple(read(model), residual=residual), np.random.default_rng(seed)
    removable = removable_masks(coupling)
    keep = [k.copy() for k in random_keep(coupling, seed)]
    for mask in sorted(removable):
        keep[mask] &= random.random() < 0.4
    for _ in range(len(keep)):
        if not without_orphans(coupling, keep):
            return False
        for mask in emptied(coupling, keep, removable):
            keep[mask][:] = False
    if all(keep[mask].any() for mask in removable):
        return False
    require_equal(model, plan_from(coupling, tuple(keep)))
    return True


def drawn(seed: int) -> keras.Model:
    keras.backend.clear_session()
    random = np.random.default_rng(seed)
    return shake(Generator(lambda n: int(random.integers(n))).build(), seed)


@pytest.mark.parametrize("residual", ["tied", "union"])
def test_generated_networks_lose_branches(residual):
    done = [require_law_without_branches(drawn(seed), residual, seed) for seed in range(40, 64)]
    assert sum(done) >= 3, "some of these networks have branches that can go"


@pytest.mark.slow
@pytest.mark.parametrize("residual", ["tied", "union"])
@pytest.mark.parametrize("block", range(10))
def test_many_generated_networks_lose_branches(block, residual):
    for seed in range(1000 + 100 * block, 1100 + 100 * block):
        require_law_without_branches(drawn(seed), residual, seed)


@pytest.mark.parametrize("residual", ["tied", "union"])
def test_prune_takes_branches_out_when_min_keep_is_zero(residual):
    model = shake(blocks(), 3)
    result = keras_qcqp.prune(model, {"macs": 0.15}, widths={"min_keep": 0}, residual=residual)
    assert "taken out: " in result.report.solution
    assert keras_qcqp.measure(result.model)["macs"] <= 0.15 * keras_qcqp.measure(model)["macs"]
    assert len(result.model.layers) < len(model.layers)
    require_equal(model, result.plan)
    assert keras_qcqp.violations(result.problem, result.solution.keep) == []


def test_a_plan_may_not_empty_what_must_stay():
    model = shake(blocks())
    coupling = couple(read(model))
    keep = tuple(np.ones(m.size, bool) & (m.name != "stem_conv") for m in coupling.masks)
    with pytest.raises(keras_qcqp.PlanError, match="The plan keeps no channel of 'stem_conv', at least one must stay"):
        keras_qcqp.rebuild(model, plan_from(coupling, keep))
