"""`keras.ops` in Functional graphs: which are followed, that the law holds for them, and why others are not."""

from __future__ import annotations

import importlib
import pkgutil

import keras
import numpy as np
import pytest
from networks import images, outputs, shake
from selections import random_keep
from test_law import require_law

import keras_qcqp
from keras_qcqp.channels import Channels, Out, Spec
from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.graph import read
from keras_qcqp.plan import plan_from
from keras_qcqp.rules import RULES, is_operation, operations

L, ops = keras.layers, keras.ops
RANDOM = np.random.default_rng(0)
C = 6


def network(operation, shape: tuple[int, ...] = (4, 4, 3)) -> keras.Model:
    """image -> conv a (6) -> [x, conv b (6)] -> operation -> flatten -> dense; `operation(x, y)` may return several."""
    image = keras.Input(shape, batch_size=3, name="image")
    x = L.Conv2D(C, 3, padding="same", name="a")(image)
    y = L.Conv2D(C, 3, padding="same", activation="tanh", name="b")(image)
    results = keras.tree.flatten(operation(x, y))
    flat = [L.Flatten(name=f"flat_{k}")(L.Activation("linear", name=f"as_is_{k}")(r)) for k, r in enumerate(results)]
    return keras.Model(image, [L.Dense(2, name=f"head_{k}")(f) for k, f in enumerate(flat)], name="operated")


def free(coupling: Coupling) -> dict[str, int]:
    return {m.name: m.size for m in coupling.masks if not m.frozen}


def array(*shape: int) -> np.ndarray:
    return RANDOM.normal(1.0, 0.5, shape).astype("float32")


def every_other(x, y):
    return [x[..., ::2], y[..., 1::3], x[..., 4:1:-1], y[..., ::-2], x[:, 1, ::2], y[..., None, :4]]


def arithmetic(x, y):
    z = (x - array(C)) / array(C) + array(1, 1, 1, C) * array(4, 1)
    z = ops.maximum(z, ops.convert_to_tensor(array(4, C))) + ops.multiply(y, array(4, 4, C).astype("float64"))
    z = ops.where(ops.logical_and(z > y, z > 0), z * 0.5, array(C))
    return ops.select([z > 1, y > 0], [z, y * 2], 0.25)


def functions(x, y):
    z = ops.erf(ops.sinh(ops.clip(x, -1, 1))) + ops.log1p(ops.abs(y)) + ops.cbrt(x) + ops.exp2(ops.arctan(y))
    z = (
        ops.stop_gradient(ops.nn.hard_tanh(z))
        + ops.cast(ops.isfinite(x), "float32")
        + keras.activations.relu(x, 0.1, 3.0, 0.2)
    )
    return ops.arctan2(z, y) + ops.cast(ops.digitize(ops.nan_to_num(z), np.array([0.0, 0.5, 1.0])), "float32")


def side_by_side(x, y):
    parts = ops.split(ops.concatenate([x, y], axis=-1), [2, 5, 9], axis=-1)
    left, right = ops.split(x, 2, axis=1)
    first, *others = ops.unstack(y, axis=2)
    return [*parts, ops.stack([left, right], axis=2), ops.stack([first, others[1]], axis=-1), ops.append(x, y, axis=1)]


def halves(x, y):
    a, b = ops.split(ops.relu(x), 2, axis=-1)
    return ops.glu(y, axis=-1), ops.concatenate([b, a], axis=-1), ops.glu(x, axis=1), ops.hstack([x, y])


def moved(x, y):
    z = ops.swapaxes(ops.moveaxis(x, -1, 1), 2, 3)
    z = ops.squeeze(ops.expand_dims(ops.transpose(z, (0, 3, 2, 1)), (1, 3)), 1)
    rolled = ops.roll(ops.roll(x, 2, axis=-1), (-1, 1), axis=(3, 1))
    return z, ops.flip(y, axis=-1), ops.flip(y, axis=1), rolled, ops.rot90(x, axes=(1, 2)), ops.diagonal(y, 0, 1, 2)


def repeated(x, y):
    tall = ops.broadcast_to(ops.mean(y, axis=(1, 2), keepdims=True), (3, 2, 2, C))
    one = ops.broadcast_to(x[..., 2:3], (3, 4, 4, 5))
    return ops.tile(x, (1, 2, 1, 2)), ops.repeat(y, 2, axis=-1), ops.repeat(y, [1, 2, 0, 1], axis=1), tall, one


def shapes(x, y):
    a = ops.rearrange(x, "b h w c -> b (h w) c")
    b = ops.rearrange(y, "b (h i) w c -> b h w (i c)", i=2)
    c = ops.rearrange(ops.relu(y), "b h w (g c) -> b g (h w) c", g=2)
    d = ops.rearrange(ops.relu(x), "b h w (g c) -> b c g (h w)", c=3)
    return a, b, c, d, ops.nn.space_to_depth(x, 2), ops.reshape(y, (-1, 16 * C))


def deep_to_wide(x, y):
    return ops.nn.depth_to_space(ops.concatenate([x, y], -1), 2)


def picked(x, y):
    gate = ops.sigmoid(x[..., 3])
    z = y * ops.expand_dims(gate, -1)
    return z, ops.take(x, 4, axis=-1), ops.take(y, [5, 0], axis=-1), ops.slice(x, (0, 1, 0, 1), (3, 2, 4, 4))


def filled(x, y):
    z = ops.slice_update(ops.ones_like(x), (0, 1, 1, 0), ops.sin(y)[:, :2, :2])
    return z + ops.full_like(x, 3.0), ops.zeros_like(y) + y


def around(x, y):
    z = ops.std(x, axis=1) + ops.var(x, axis=2) + ops.prod(y, axis=1) + ops.logsumexp(y, axis=2) + ops.ptp(x, axis=1)
    z = z + ops.median(x, axis=1) + ops.quantile(y, 0.3, axis=2) + ops.average(x, axis=1, weights=array(4))
    z = z + ops.norm(x, axis=1) + ops.cast(ops.argmax(y, axis=1) + ops.count_nonzero(x, axis=2), "float32")
    z = ops.cumsum(ops.sort(z, axis=1), axis=1) + ops.softmax(z, axis=1)
    mean, variance = ops.nn.moments(x, axes=[1, 2])
    values, _ = ops.top_k(ops.transpose(y, (0, 3, 1, 2)), 2)
    return z, ops.diff(mean[:, None] + y[:, 0], axis=1), variance, values


def over_channels(x, y):
    kept = ops.sum(x, axis=-1), ops.mean(y, axis=-1, keepdims=True), ops.max(x, axis=(1, 3)), ops.min(y, axis=-1)
    norms = ops.norm(x, axis=-1), ops.norm(y, ord=1, axis=-1, keepdims=True), ops.norm(x, ord=np.inf, axis=-1)
    flags = ops.any(x > 1, axis=-1), ops.count_nonzero(ops.relu(y), axis=-1)
    return [*kept, *norms, *(ops.cast(f, "float32") for f in flags), ops.nansum(x, axis=3), ops.amax(y, axis=(1, 2, 3))]


def normalized(x, y):
    return (
        ops.normalize(x, axis=-1),
        ops.nn.normalize(y, axis=(1, 3)),
        ops.nn.normalize(y, order=3),
        ops.log_softmax(x, axis=1),
    )


def pictured(x, y):
    z = ops.max_pool(ops.image.resize(x, (6, 6)), 2) + ops.average_pool(ops.image.pad_images(y, 1, 1, 1, 1), 2)
    return z, ops.image.extract_patches(y, (2, 2)), ops.image.crop_images(x, 1, 1, 1, 1)


def products(x, y):
    a, b = ops.reshape(x, (-1, 16, C)), ops.reshape(y, (-1, 16, C))
    scores = ops.softmax(ops.matmul(a, ops.transpose(b, (0, 2, 1))) / 2.0, axis=-1)
    gram = ops.einsum("bnc,bmc->bnm", a, b)
    onto = (
        ops.matmul(a, array(C, 3)),
        ops.einsum("...c,dc->...d", y, array(2, C)),
        ops.dot(b, array(C)),
        a @ array(C, 2),
    )
    return [
        ops.matmul(scores, a),
        ops.einsum("bnm,bmc->bcn", gram, b),
        *onto,
        ops.tensordot(y, array(4, C, 2), [[2, 3], [0, 1]]),
    ]


def wide_products(x, y):
    """Along axes that survive in both operands, one of the two is kept whole."""
    a, b = ops.reshape(x, (-1, 16, C)), ops.reshape(y, (-1, 16, C))
    return ops.einsum("bnc,bnd->bcd", a, b), ops.matmul(ops.transpose(a, (0, 2, 1)), array(16, 3))


def signals(x, y):
    real, imaginary = ops.rfft(ops.transpose(x, (0, 3, 1, 2)))
    return real, imaginary, ops.linalg.inv(ops.transpose(y, (0, 3, 1, 2)) + 9 * np.eye(4, dtype="float32"))


@pytest.mark.parametrize(
    "operation",
    [
        every_other,
        arithmetic,
        functions,
        side_by_side,
        halves,
        moved,
        repeated,
        shapes,
        deep_to_wide,
        picked,
        filled,
        around,
        over_channels,
        normalized,
        pictured,
        products,
        signals,
    ],
    ids=lambda operation: operation.__name__,
)
def test_operations_that_are_followed(operation):
    model = shake(network(operation))
    coupling = couple(read(model), strict=operation is not picked)
    held = [coupling.is_frozen[coupling.specs[name].outputs[0].ids].sum() for name in "ab"]
    assert held == ([2, 0] if operation is picked else [0, 0])
    for seed in range(2):
        require_law(model, seed)


def reasons(operation) -> str:
    return " | ".join(f.reason for f in couple(read(network(operation))).frozen)


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda x, y: ops.var(x, axis=-1) + ops.mean(y, axis=-1), "Var over channels: zeros would change it"),
        (lambda x, y: ops.prod(x, axis=-1), "Prod over channels: one channel of zeros decides it"),
        (lambda x, y: ops.all(x > 0, axis=-1), "All over channels: one channel of zeros decides it"),
        (lambda x, y: ops.logsumexp(x, axis=-1), "Logsumexp over channels: a channel of zeros counts as one"),
        (lambda x, y: ops.norm(x, ord=-np.inf, axis=-1), "norm of order -inf over channels is zero where one of them"),
        (lambda x, y: ops.mean(x) + ops.mean(y, axis=(1, 2, 3)), "Mean goes over the batch too; name the other axes"),
        (lambda x, y: ops.argmax(x, axis=-1), "Argmax over channels: the result is the number of a channel"),
        (lambda x, y: ops.sort(x, axis=-1), "Sort over channels: their order depends on all"),
        (lambda x, y: ops.cumsum(x, axis=3), "Cumsum over channels: every result depends on the channels before it"),
        (lambda x, y: ops.log_softmax(x), "softmax over channels: removing one changes all others"),
        (lambda x, y: ops.top_k(x, 2)[0], "TopK over channels: which of them it returns depends on all"),
        (lambda x, y: ops.unstack(x, axis=-1)[0], "ops.unstack makes a tensor of each channel"),
        (lambda x, y: ops.array_split(x, 4, axis=-1)[0], "ops.array_split along the channels makes equal parts"),
        (
            lambda x, y: ops.take_along_axis(x, ops.argsort(y, axis=1), axis=1),
            "TakeAlongAxis of keras.ops is not",
        ),
        (
            lambda x, y: ops.image.rgb_to_grayscale(x[..., :3]),
            "RGBToGrayscale of keras.ops is not followed: it works on the",
        ),
        (lambda x, y: ops.repeat(x, [1, 2, 1, 1, 1, 3], axis=-1), "ops.repeat with another number for each channel"),
        (lambda x, y: ops.einsum("bhwc,bhwd->bcd", x, y), "would carry channels along axes 1 and 2; one is followed"),
        (
            lambda x, y: ops.matmul(x[..., :4], y),
            "Matmul multiplies these channels with",
        ),
        (
            lambda x, y: ops.vectorized_map(lambda t: t * 2, x),
            "VectorizedMap of keras.ops is not followed: it runs functions",
        ),
        (lambda x, y: x[..., 2], "x[2] picks this one of the channels"),
        (lambda x, y: ops.clip(x, array(C), 5.0), "does not tell its arguments"),
    ],
)
def test_operations_that_freeze(operation, reason):
    assert reason in reasons(operation)


def test_every_operation_of_keras_is_followed_or_frozen_with_a_reason():
    """A new release of Keras that brings another operation fails here; it needs a rule, or a reason."""
    found: dict[str, type] = {}
    package = importlib.import_module("keras.src.ops")
    names = [m.name for m in pkgutil.walk_packages(package.__path__, "keras.src.ops.") if not m.name.endswith("_test")]
    for name in [*names, "keras.src.activations.activations", "keras.src.quantizers.quantizers"]:
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and is_operation(value) and value is not keras.Operation:
                found[value.__name__] = value
    assert len(found) > 300
    assert not set(operations.RULES) & set(operations.FROZEN)
    missing = sorted(set(found) - set(operations.RULES) - set(operations.FROZEN))
    assert missing == [], "add a rule, or a reason to rules/unfollowed.py"
    assert all(operations.FROZEN.values())


def cbam() -> keras.Model:
    """conv -> x * channel gate (mean, max) -> x * spatial gate (mean and max over channels -> conv) -> conv -> dense"""
    image = keras.Input((6, 6, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image)
    squeeze, excite = L.Dense(3, activation="relu", name="squeeze"), L.Dense(8, name="excite")
    gates = [excite(squeeze(pool(x, axis=(1, 2)))) for pool in (ops.mean, ops.max)]
    x = x * ops.sigmoid(gates[0] + gates[1])[:, None, None, :]
    planes = ops.concatenate([ops.mean(x, axis=-1, keepdims=True), ops.max(x, axis=-1, keepdims=True)], axis=-1)
    x = L.Multiply(name="attend")([L.Conv2D(1, 3, padding="same", activation="sigmoid", name="gate")(planes), x])
    x = L.GlobalAveragePooling2D(name="pool")(L.Conv2D(5, 3, name="last")(x))
    return keras.Model(image, L.Dense(2, name="head")(x), name="cbam")


def shuffled() -> keras.Model:
    """ShuffleNet: conv -> split -> [as it is, 1x1 conv] -> concatenate -> channel shuffle -> conv -> dense"""
    image = keras.Input((6, 6, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image)
    left, right = ops.split(x, 2, axis=-1)
    right = L.BatchNormalization(name="bn")(L.Conv2D(4, 1, name="branch")(right))
    x = ops.reshape(ops.concatenate([left, right], axis=-1), (-1, 6, 6, 2, 4))
    x = ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, 6, 6, 8))
    x = L.Conv2D(5, 3, name="last")(x)
    return keras.Model(image, L.Dense(2, name="head")(L.Flatten(name="flat")(x)), name="shuffled")


def attending() -> keras.Model:
    """Attention by hand: 3 heads of width 4; and Keras' own on the same queries, keys and values."""
    tokens = x = keras.Input((5, 7), name="tokens")
    q, k, v = (L.Dense(12, name=name)(x) for name in "qkv")
    heads = [ops.transpose(ops.reshape(t, (-1, 5, 3, 4)), (0, 2, 1, 3)) for t in (q, k, v)]
    scores = ops.softmax(ops.matmul(heads[0] * 4**-0.5, ops.swapaxes(heads[1], -1, -2)) + array(5, 5), axis=-1)
    x = ops.reshape(ops.transpose(ops.matmul(scores, heads[2]), (0, 2, 1, 3)), (-1, 5, 12))
    x = L.Add(name="sum")([L.Dense(6, name="out")(x), L.Dense(6, name="skip")(tokens)])
    r, s, t = (ops.reshape(L.Dense(8, name=name)(x), (-1, 5, 2, 4)) for name in "rst")
    x = ops.reshape(ops.dot_product_attention(r, s, t), (-1, 40))
    return keras.Model(tokens, L.Dense(2, name="head")(x), name="attending")


@pytest.mark.parametrize("residual", ["tied", "union"])
@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (cbam, [1, 3, 5, 8]),  # the gate, the squeeze, the last convolution, the stem
        (shuffled, [4, 4, 5]),  # the branch goes with the half of the stem that it is shuffled with
        (attending, [4, 4, 4, 6]),  # widths of queries and keys, of values, of the three of Keras' attention, the sum
    ],
)
def test_blocks_written_with_operations(build, expected, residual, tmp_path):
    """The law, the counts, and a file that loads without this package."""
    model = shake(build())
    coupling = couple(read(model), strict=True, residual=residual)
    if residual == "tied":
        assert sorted(free(coupling).values()) == expected
    for seed in range(2):
        smaller = require_law(model, seed, residual)
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    arrays = images(model)
    np.testing.assert_array_equal(outputs(loaded, arrays)[0], outputs(smaller, arrays)[0])


@pytest.mark.parametrize("build", [cbam, attending])
def test_pruning_meets_budgets_of_bytes_where_outputs_are_corrected(build):
    """What is promised of bytes that move is then a bound, since corrections are known after the selection only."""
    model = shake(build())
    result = keras_qcqp.prune(model, {"activation_bytes": 0.8, "peak_bytes": 0.9, "tflite_bytes": 0.95}, time_limit_s=5)
    counted = keras_qcqp.measure(result.model)
    for row in result.report.budgets:
        assert row.after == counted[row.resource] <= result.solution.usage[row.resource]
    assert {r.resource: r.before for r in result.report.budgets}["params"] == model.count_params()


def test_attention_counts_its_products():
    """Queries with keys, and that with values: 2 * 5 * 5 * 3 heads * 4, and the same of 2 heads."""
    model = attending()
    dense = sum(layer.kernel.shape[0] * layer.kernel.shape[1] for layer in model.layers if isinstance(layer, L.Dense))
    head = model.get_layer("head").kernel.shape[0] * 2
    assert keras_qcqp.measure(model)["macs"] == 5 * (dense - head) + head + 2 * 25 * 12 + 2 * 25 * 8


@pytest.mark.parametrize("operation", [arithmetic, over_channels, every_other, products])
def test_constants_and_corrections_survive_a_file(operation, tmp_path):
    model = shake(network(operation))
    coupling = couple(read(model))
    smaller = keras_qcqp.rebuild(model, plan_from(coupling, random_keep(coupling, 1)))
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    arrays = images(model)
    for got, wanted in zip(outputs(loaded, arrays), outputs(smaller, arrays), strict=True):
        np.testing.assert_array_equal(got, wanted)
    again = couple(read(loaded))  # and what was pruned once can be pruned again
    assert again.frozen == ()
    require_law(loaded, 5)


@keras.saving.register_keras_serializable("tests")
class Widen(keras.Operation):
    """An operation of the user's: a tensor beside itself, cut to a width that it is told."""

    def __init__(self, width: int, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.width = width

    def call(self, x):
        return ops.concatenate([x, x], axis=-1)[..., : self.width]

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], self.width), dtype=x.dtype)


def test_an_operation_of_the_users_own(tmp_path):
    build = lambda: shake(network(lambda x, y: (Widen(2 * C, name="widen")(x), y)))  # noqa: E731
    assert [f.reason for f in couple(read(build())).frozen] == [
        "no rule for operation class Widen; add one with keras_qcqp.register_rule(Widen, rule)"
    ]

    def rule(call: keras_qcqp.Call) -> Spec:
        (x,) = call.inputs
        return Spec((Channels(np.tile(x.ids, 2), x.axis),), config={"width": Out()})

    keras_qcqp.register_rule(Widen, rule)
    try:
        model = build()
        assert couple(read(model), strict=True).frozen == ()
        smaller = require_law(model, 1)
        assert smaller.get_layer("a").filters < C
    finally:
        del RULES[Widen]


def test_zeros_pass_through_operations():
    """Channels of padding stay known as zeros behind operations that map zero to zero, so they need no convolution."""
    image = keras.Input((6, 6, 3), name="image")
    x = L.Conv2D(4, 3, padding="same", name="a")(image)
    wide = ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, 4)))
    wide = ops.flip(ops.arctan(ops.concatenate(ops.split(wide, 2, axis=1), axis=1)), axis=2)
    total = wide + L.Conv2D(8, 3, padding="same", name="b")(image)
    model = shake(keras.Model(image, L.Dense(2, name="head")(L.GlobalAveragePooling2D(name="pool")(total)), name="z"))
    coupling = couple(read(model), residual="union")
    assert sum(m.size for m in coupling.masks if m.dead) == 4
    require_law(model, 0, "union")


def test_an_empty_part_of_a_split_stays_empty():
    """Sizes that add up to all channels, taken for places, leave a last part without any."""
    image = keras.Input((6, 6, 3), name="image")
    left, right, _ = keras.ops.split(L.Conv2D(8, 3, padding="same", name="a")(image), [3, 8], axis=-1)
    joined = keras.ops.concatenate([L.Conv2D(4, 1, name="b")(left), right], axis=-1)
    model = keras.Model(image, L.Dense(2, name="head")(L.Flatten(name="flat")(joined)))
    assert couple(read(model), strict=True).frozen == ()
    for residual in ("tied", "union"):
        require_law(shake(model), 1, residual)
