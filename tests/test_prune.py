"""`keras_qcqp.prune` from the front door: budgets met exactly, state kept, bad models refused, golden reports."""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from networks import NETWORKS, shake

import keras_qcqp
from keras_qcqp import resources
from keras_qcqp.coupling import couple
from keras_qcqp.graph import read

L = keras.layers
GOLDEN = Path(__file__).parent / "golden"


def independent_macs(model: keras.Model) -> int:
    """Counts MACs from layer objects and symbolic shapes, without the package (plain convolutional networks only)."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, L.DepthwiseConv2D):
            total += int(np.prod(layer.kernel.shape[:2]) * np.prod(layer.output.shape[1:]))
        elif isinstance(layer, L.Conv2D):
            total += int(np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3]))
        elif isinstance(layer, L.Dense):
            total += int(np.prod(layer.kernel.shape))
    return total


@pytest.mark.parametrize("name", ["resnet20_cifar10", "mlperf_kws_dscnn", "densenet_fast_40_12_cifar10"])
def test_real_networks_meet_several_budgets_at_once(name, shared_file):
    model = keras.models.load_model(shared_file(f"models/{name}.keras"), compile=False)
    before = keras_qcqp.measure(model)
    assert before["macs"] == independent_macs(model)
    assert before["params"] == model.count_params()
    budget = {"macs": 0.6, "params": 0.7, "activation_bytes": 0.8}
    result = keras_qcqp.prune(model, budget)
    after = keras_qcqp.measure(result.model)
    assert after == dict(result.solution.usage)
    assert after["macs"] == independent_macs(result.model)
    assert after["params"] == result.model.count_params()
    assert after["weight_bytes"] == sum(w.nbytes for w in result.model.get_weights())
    assert all(after[k] <= share * before[k] for k, share in budget.items())
    tightest = max(after[k] / (share * before[k]) for k, share in budget.items())
    assert tightest > 0.99
    assert keras_qcqp.violations(result.problem, result.solution.keep) == []


def test_nothing_affordable_is_left_over():
    """Adding any single channel to any mask breaks a limit."""
    model = shake(NETWORKS["residual"]())
    result = keras_qcqp.prune(model, {"macs": 0.5, "params": 0.6})
    counts = [int(k.sum()) for k in result.solution.keep]
    for mask, spec in enumerate(result.problem.masks):
        larger = [k for k in spec.allowed if k > counts[mask]]
        if larger:
            grown = [*counts[:mask], larger[0], *counts[mask + 1 :]]
            used = {r.name: r.usage(grown) for r in result.problem.limited}
            assert any(used[name] > limit for name, limit in result.problem.limits.items()), spec.name


def test_same_seed_same_masks():
    model = shake(NETWORKS["inverted_residual"]())
    a, b = (keras_qcqp.prune(model, {"macs": 0.5}, seed=3) for _ in range(2))
    assert a.plan == b.plan
    assert a.solution.objective == b.solution.objective


def test_width_rules_hold_in_the_rebuilt_model():
    model = shake(NETWORKS["dense_block"]())
    result = keras_qcqp.prune(model, {"macs": 0.7}, widths={"min_keep": 2, "width_multiple": 2})
    for name in ("x0", "x1", "x2", "mix"):
        width = result.model.get_layer(name).filters
        assert width >= 2 and width % 2 == 0


def test_compile_state_trainable_flags_and_regularisers_are_kept():
    model = NETWORKS["residual"]()
    model.get_layer("a1_conv").trainable = False
    model.get_layer("a2_conv").kernel_regularizer = keras.regularizers.L2(1e-3)
    model.compile(
        keras.optimizers.SGD(0.07, momentum=0.9), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    smaller = keras_qcqp.prune(model, {"macs": 0.5}).model
    assert smaller.compiled and smaller.loss == "sparse_categorical_crossentropy"
    assert float(smaller.optimizer.learning_rate) == pytest.approx(0.07)
    assert smaller.optimizer is not model.optimizer
    assert smaller.get_layer("a1_conv").trainable is False and smaller.get_layer("a1_bn").trainable is True
    assert smaller.get_layer("a2_conv").kernel_regularizer.l2 == pytest.approx(1e-3)
    x, y = np.zeros((8, 8, 8, 3), "float32"), np.zeros(8)
    assert np.isfinite(smaller.fit(x, y, verbose=0).history["loss"][0])
    assert keras_qcqp.prune(NETWORKS["chain"](), {"macs": 0.5}).model.compiled is False


@keras.saving.register_keras_serializable("tests")
class Hits(keras.metrics.Metric):
    """A metric of the user's own, with a state."""

    def __init__(self, name="hits", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "zeros")

    def update_state(self, y, prediction, sample_weight=None):
        self.total.assign_add(1.0)

    def result(self):
        return self.total


def test_losses_and_metrics_of_the_users_own_are_carried_over():
    """Functions are shared, what has a state starts afresh, in whatever structure they were given."""

    def my_loss(y, prediction):
        return keras.ops.mean(keras.ops.square(y - prediction))

    model, metric = NETWORKS["chain"](), Hits()
    metric.total.assign(5.0)
    model.compile(keras.optimizers.Adam(0.01), loss={"head": my_loss}, metrics={"head": [metric, "mae"]})
    smaller = keras_qcqp.prune(model, {"macs": 0.5}).model
    assert smaller.loss["head"] is my_loss
    x, y = np.zeros((4, 8, 8, 3), "float32"), np.zeros((4, 4), "float32")
    assert smaller.evaluate(x, y, verbose=0, return_dict=True)["hits"] == 1.0  # one batch; the old state stays behind
    assert float(metric.total) == 5.0
    model.compile("adam", loss=lambda y, prediction: keras.ops.mean(y - prediction))
    assert keras_qcqp.prune(model, {"macs": 0.5}).model.compiled


def test_what_cannot_be_carried_over_is_said_aloud():
    class Odd(keras.optimizers.SGD):
        def get_config(self):
            raise NotImplementedError("odd")

    model = NETWORKS["chain"]()
    model.compile(Odd(0.1), loss="mse")
    with pytest.warns(UserWarning, match="compile settings of 'chain' could not be carried over \\(odd\\)"):
        assert keras_qcqp.prune(model, {"macs": 0.5}).model.compiled is False

    class Trainer(keras.Model):
        def train_step(self, data):
            return {}

    x = keras.Input((4,), name="x")
    model = Trainer(x, L.Dense(2)(L.Dense(6)(x)), name="own")
    with pytest.warns(
        UserWarning, match="'own' has its own train_step \\(Trainer\\); the pruned model is a plain Keras"
    ):
        keras_qcqp.prune(model, {"params": 0.7})


def test_mixed_precision_policies_are_kept():
    policy = "mixed_float16"
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(8, 3, dtype=policy, name="a")(image)
    model = keras.Model(image, L.Conv2D(2, 1, dtype="float32", name="head")(x))
    smaller = keras_qcqp.prune(model, {"macs": 0.6}).model
    assert smaller.get_layer("a").dtype_policy.name == policy
    assert smaller.get_layer("a").kernel.dtype == "float32" and smaller.outputs[0].dtype == "float32"


def test_nested_and_custom_objects():
    """A nested block with a custom activation function survives, weights and nesting included."""

    def twice(x):
        return 2 * x

    inner = keras.Input((6, 6, 4), name="inner")
    block = keras.Model(inner, L.Activation(twice, name="own")(L.Conv2D(5, 1, name="c")(inner)), name="block")
    image = keras.Input((6, 6, 3), name="image")
    x = block(L.Conv2D(4, 3, padding="same", name="a")(image))
    model = keras.Model(image, L.Conv2D(2, 1, name="head")(x))
    result = keras_qcqp.prune(model, {"macs": 0.8})
    assert result.model.get_layer("block").get_layer("own").activation is twice
    assert [f.node for f in result.report.frozen] == ["block/own"]


def test_unknown_image_size_allows_params_but_not_macs():
    image = keras.Input((None, None, 3), name="image")
    model = keras.Model(image, L.Conv2D(2, 1, name="head")(L.Conv2D(8, 3, name="a")(image)))
    result = keras_qcqp.prune(model, {"params": 0.5})
    assert result.model.count_params() <= 0.5 * model.count_params()
    assert "activation_bytes" not in result.solution.usage
    with pytest.raises(keras_qcqp.BudgetError) as caught:
        keras_qcqp.prune(model, {"macs": 0.5})
    assert str(caught.value) == (
        "'macs' cannot be counted: the output of 'a' has unknown size (None, None, None, 8). Rebuild the model on a "
        "keras.Input with a full shape, or leave this budget out."
    )


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (3, "A Keras 3 model was expected, got builtins.int."),
        ("net.keras", "A Keras 3 model was expected, got builtins.str. Load the file first"),
        (
            keras.Sequential([L.Dense(3)], name="late"),
            "Sequential model 'late' is not built, so its shapes are unknown.",
        ),
        (Subclassed(name="mine"), "Model 'mine' is a subclassed model (Subclassed): its own call() cannot be read"),
    ],
)
def test_what_is_no_graph_is_refused(model, text):
    with pytest.raises(keras_qcqp.ModelError) as caught:
        keras_qcqp.prune(model, {"macs": 0.5})
    assert text in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_that_are_no_numbers_are_named(dtype):
    image = keras.Input((4, 4, 3))
    x = L.Conv2D(3, 1, dtype=dtype, name="broken")(L.Conv2D(5, 1, dtype=dtype)(image))
    model = keras.Model(image, L.Conv2D(2, 1, dtype=dtype)(x))
    kernel = model.get_layer("broken").kernel
    kernel.assign(keras.ops.full(kernel.shape, float("nan"), dtype=dtype))
    with pytest.raises(
        keras_qcqp.ModelError, match="Layer 'broken' has NaN or infinite weights; importance is undefined"
    ):
        keras_qcqp.prune(model, {"macs": 0.5})


def test_bad_configurations_are_named():
    class NoConfig(L.Layer):
        def __init__(self, array):
            super().__init__(name="odd")
            self.array = array

        def call(self, x):
            return x

    image = keras.Input((4,))
    model = keras.Model(image, L.Dense(2)(NoConfig(np.zeros(3))(L.Dense(5)(image))))
    with pytest.raises(keras_qcqp.ModelError, match="Layer 'odd' \\(NoConfig\\)"):
        keras_qcqp.prune(model, {"params": 0.7})


def test_infeasible_budgets_say_what_is_reachable():
    model = shake(NETWORKS["chain"]())
    with pytest.raises(keras_qcqp.InfeasibleError) as caught:
        keras_qcqp.prune(model, {"macs": 0.001, "params": 0.9}, widths={"min_keep": 1})
    coupling = couple(read(model))
    macs = resources.resource(coupling, "macs")
    least = macs.usage([m.size if m.frozen else 1 for m in coupling.masks])
    assert f"the smallest reachable value is {least:,} MAC" in str(caught.value)
    assert "held up by a_conv (at least " in str(caught.value)
    assert "Largest layers at their smallest, macs: a_conv " in str(caught.value)
    assert "params:" not in str(caught.value)


def test_importance_names_are_checked():
    with pytest.raises(keras_qcqp.QcqpError, match="Unknown importance 'magnitud'. Did you mean 'magnitude'?"):
        keras_qcqp.prune(NETWORKS["chain"](), {"macs": 0.5}, importance="magnitud")


@pytest.mark.parametrize("name", ["residual", "inverted_residual", "frozen_parts"])
def test_golden_reports(name):
    """The whole report, word for word; KERAS_QCQP_UPDATE_GOLDEN=1 writes it anew after a wanted change."""
    result = keras_qcqp.prune(shake(NETWORKS[name](), 7), {"macs": 0.8, "params": 0.9})
    assert result.solution.status == "OPTIMAL"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("KERAS_QCQP_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{result.report}\n")
    assert f"{result.report}\n" == path.read_text()
