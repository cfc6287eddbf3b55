"""Attention: heads and the dimensions inside them go exactly, wherever they may."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from networks import images, outputs, shake
from test_law import require_law
from test_rules import sizes

import keras_qcqp
from keras_qcqp.coupling import RESIDUALS, couple
from keras_qcqp.errors import BudgetError
from keras_qcqp.graph import read
from keras_qcqp.plan import plan_from
from keras_qcqp.resources import measure, resource

L = keras.layers


def headed(inputs, x) -> keras.Model:
    """... -> mean over positions -> dense"""
    return keras.Model(inputs, L.Dense(3, name="head")(L.GlobalAveragePooling1D(name="mean")(x)), name="probe")


def mha(**options) -> keras.layers.Layer:
    return L.MultiHeadAttention(4, 6, name="mha", **options)


def gqa(query_heads: int, shared_heads: int, **options) -> keras.layers.Layer:
    return L.GroupQueryAttention(6, query_heads, shared_heads, name="gqa", **options)


def pre_norm(attention, **call) -> keras.Model:
    """dense -> [rms norm, attention] added -> [rms norm, dense gelu, dense] added -> rms norm -> mean -> dense"""
    tokens = keras.Input((6, 3), name="tokens")
    x = L.Dense(8, name="embed")(tokens)
    y = L.RMSNormalization(name="norm_a", epsilon=0.1)(x)
    x = L.Add(name="sum_a")([x, attention(y, y, **call)])
    y = L.Dense(10, "gelu", name="up")(L.RMSNormalization(name="norm_b")(x))
    x = L.Add(name="sum_b")([x, L.Dense(8, name="down")(y)])
    return headed(tokens, L.RMSNormalization(name="norm_c")(x))


def post_norm(attention, **call) -> keras.Model:
    """dense -> attention added -> layer norm -> [dense gelu, dense] added -> layer norm -> mean -> dense"""
    tokens = keras.Input((9, 3), name="tokens")
    x = L.Dense(8, name="embed")(tokens)
    x = L.LayerNormalization(name="norm_a")(L.Add(name="sum_a")([x, attention(x, x, **call)]))
    y = L.Dense(8, name="down")(L.Dense(10, "gelu", name="up")(x))
    return headed(tokens, L.LayerNormalization(name="norm_b")(L.Add(name="sum_b")([x, y])))


def on_input(attention, length: int = 6, **call) -> keras.Model:
    """The attention's output is added to the network's input."""
    tokens = keras.Input((length, 8), name="tokens")
    return headed(tokens, L.Add(name="sum")([tokens, attention(tokens, tokens, **call)]))


def two_sided() -> tuple[list, list]:
    """Queries of one input, values and keys of another; all of different widths."""
    a, b = keras.Input((6, 3), name="a"), keras.Input((5, 4), name="b")
    return [a, b], [L.Dense(8, name="q")(a), L.Dense(6, name="v")(b), L.Dense(7, name="k")(b)]


def crossed() -> keras.Model:
    inputs, (q, v, k) = two_sided()
    layer = L.MultiHeadAttention(4, 3, value_dim=5, output_shape=6, use_gate=True, name="mha")
    return headed(inputs, layer(value=v, query=q, key=k))


def shared() -> keras.Model:
    inputs, (q, v, _) = two_sided()
    layer = L.MultiHeadAttention(4, 3, output_shape=8, name="mha")
    return headed(inputs, layer(layer(q, v), v))


def of_rank_four() -> keras.Model:
    image = keras.Input((3, 4, 3), name="image")
    x = L.Dense(8, name="embed")(image)
    layer = L.MultiHeadAttention(
        4, 3, value_dim=5, attention_axes=2, use_bias=False, output_shape=(2, 6), dropout=0.1, name="mha"
    )
    return keras.Model(image, L.Dense(2, name="head")(layer(x, x)), name="probe")


def with_scores() -> keras.Model:
    """The scores of each head are read by the head."""
    tokens = keras.Input((6, 3), name="tokens")
    x = L.Dense(8, name="embed")(tokens)
    y, scores = mha()(x, x, return_attention_scores=True, use_causal_mask=True)
    read_by = L.Dense(3, name="of_scores")(L.Flatten(name="flat")(scores))
    return keras.Model(tokens, [L.Dense(3, name="head")(y), read_by], name="probe")


def with_mask(shape: tuple[int, ...]) -> keras.Model:
    """About half of the mask is zero."""
    tokens, mask = keras.Input((6, 3), name="tokens"), keras.Input(shape, name="mask")
    x = L.Dense(8, name="embed")(tokens)
    return headed([tokens, mask], mha()(x, x, attention_mask=L.ReLU(name="positive")(mask)))


def plain(layer, three: bool) -> keras.Model:
    a, b = keras.Input((6, 3), name="a"), keras.Input((5, 4), name="b")
    given = [L.Dense(8, name="q")(a), L.Dense(8, name="v")(b)]
    return headed([a, b], layer([*given, L.Dense(8, name="k")(b)] if three else given))


FREE_STREAM = {"embed": 8, "up": 10}
NETWORKS = {
    "width free": (lambda: pre_norm(mha()), {**FREE_STREAM, "mha/heads": 4}),
    "width frozen by a layer norm": (
        lambda: post_norm(mha(value_dim=5)),
        {"mha/heads": 4, "mha/key_dim": 6, "mha/value_dim": 5, "up": 10},
    ),
    "width frozen by an input": (lambda: on_input(mha()), {"mha/heads": 4, "mha/key_dim": 6, "mha/value_dim": 6}),
    "gate": (lambda: post_norm(mha(use_gate=True)), {"mha/heads": 4, "mha/key_dim": 6, "mha/value_dim": 6, "up": 10}),
    "crossed": (crossed, {"q": 8, "v": 6, "k": 7, "mha/heads": 4, "mha": 6}),
    "shared": (shared, {"q": 8, "v": 6, "mha/heads": 4}),
    "rank four": (of_rank_four, {"embed": 8, "mha/heads": 4, "mha": 6}),
    "scores": (with_scores, {"embed": 8, "mha": 4, "mha/2": 8}),  # channels of the scores are heads
    "mask": (lambda: with_mask((6, 6)), {"embed": 8, "mha/heads": 4, "mha": 8}),
    "mask of all heads": (lambda: with_mask((1, 6, 6)), {"embed": 8, "mha/heads": 4, "mha": 8}),
    "constant mask": (
        lambda: on_input(mha(), attention_mask=np.tril(np.ones((1, 6, 6), bool))),
        {"mha/heads": 4, "mha/key_dim": 6, "mha/value_dim": 6},
    ),
    "causal window": (
        lambda: post_norm(mha(sliding_window=2), use_causal_mask=True),
        {"mha/heads": 4, "mha/key_dim": 6, "mha/value_dim": 6, "up": 10},
    ),
    "shared heads": (lambda: pre_norm(gqa(4, 2, use_gate=True)), {**FREE_STREAM, "gqa/key_value_heads": 2}),
    "shared heads of a frozen width": (
        lambda: post_norm(gqa(6, 3)),
        {"gqa/key_value_heads": 3, "gqa/head_dim": 6, "up": 10},
    ),
    "one shared head": (lambda: pre_norm(gqa(4, 1, use_bias=False)), {**FREE_STREAM, "gqa/query_heads": 4}),
    "more sharing than shared": (
        lambda: post_norm(gqa(8, 2, sliding_window=3)),
        {"gqa/query_heads": 4, "gqa/head_dim": 6, "up": 10},
    ),
    "dot": (lambda: plain(L.Attention(use_scale=True), False), {"q": 8}),
    "dot with keys": (lambda: plain(L.Attention(), True), {"q": 8, "v": 8}),
    "concat": (lambda: plain(L.Attention(use_scale=True, score_mode="concat"), True), {"q": 8, "v": 8}),
    "additive": (lambda: plain(L.AdditiveAttention(), False), {"q": 8}),
    "additive with keys": (lambda: plain(L.AdditiveAttention(use_scale=False), True), {"q": 8, "v": 8}),
}


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("name", NETWORKS)
def test_law(name, residual):
    build, expected = NETWORKS[name]
    model = shake(build())
    if residual == "tied":
        assert sizes(couple(read(model))) == expected
    for seed in range(2):
        require_law(model, seed, residual)


@pytest.mark.parametrize("name", ["width free", "width frozen by a layer norm", "crossed", "more sharing than shared"])
def test_what_is_rebuilt_loads_anywhere(name, tmp_path):
    smaller = require_law(shake(NETWORKS[name][0]()), 3)
    smaller.save(tmp_path / "smaller.keras")
    arrays = images(smaller)
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    np.testing.assert_array_equal(outputs(loaded, arrays)[0], outputs(smaller, arrays)[0])


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (
            lambda: pre_norm(mha()),
            {
                ("mha", "its value_dim would be a third free width in one product"),
                ("mha", "its key_dim would be a third free width in one product"),
            },
        ),
        (lambda: on_input(mha()), {("mha", "its channels are joined element by element with an input or output")}),
        (
            lambda: on_input(mha(), length=3),
            {
                ("mha", "key_dim of 1 would have Keras add biases along positions, which are no more than heads"),
                ("mha", "value_dim of 1 would have Keras add biases along positions, which are no more than heads"),
            },
        ),
        (lambda: with_mask((4, 6, 6)), {("mha", "attention_mask has values of its own for each head; give it one")}),
        (
            lambda: headed(
                (x := keras.Input((6, 8))),
                L.Attention(name="attention")([L.Permute((2, 1))(L.Conv1D(6, 3, name="c")(x))] * 2),
            ),
            {("attention", "Attention works along the last axis, the channels lie along axis 1")},
        ),
        (
            lambda: headed(
                (x := keras.Input((6, 8))), mha(output_shape=3)(y := L.Permute((2, 1))(L.Conv1D(6, 3, name="c")(x)), y)
            ),
            {("mha", "MultiHeadAttention mixes along axis 2, the channels lie along axis 1")},
        ),
    ],
)
def test_what_is_frozen_and_why(build, told):
    model = shake(build())
    found = {(f.node, f.reason) for f in couple(read(model)).frozen}
    for node, reason in told:
        assert any(f[0] == node and f[1].startswith(reason) for f in found), found
    require_law(model, 0)


def test_scores_divided_by_fewer_dimensions_need_larger_queries():
    """The law fails for query weights that are only taken; rebuilt ones are sqrt(2 / 6) times those."""
    model = shake(on_input(mha()))
    coupling = couple(read(model))
    keep = tuple(
        np.arange(m.size) % 3 == 1 if m.name == "mha/key_dim" else np.ones(m.size, bool) for m in coupling.masks
    )
    plan = plan_from(coupling, keep)
    smaller, arrays = keras_qcqp.rebuild(model, plan), images(model)
    layer, old = smaller.get_layer("mha"), model.get_layer("mha")
    taken = np.asarray(old.query_dense.kernel)[:, :, [1, 4]]
    np.testing.assert_allclose(np.asarray(layer.query_dense.kernel), taken * np.sqrt(2 / 6), rtol=1e-6)
    wanted = outputs(keras_qcqp.masked(model, plan), arrays)[0]
    np.testing.assert_allclose(outputs(smaller, arrays)[0], wanted, atol=1e-5)
    layer.query_dense.kernel.assign(taken)
    layer.query_dense.bias.assign(np.asarray(old.query_dense.bias)[:, [1, 4]])
    assert np.abs(outputs(smaller, arrays)[0] - wanted).max() > 1e-3


def test_macs_by_hand():
    """6 queries of width 8, 5 keys of 7 and values of 6; 4 heads of 3 and 5 dimensions; 6 outputs; a gate."""
    dense = 6 * 3 * 8 + 5 * 4 * (6 + 7) + 6 * 3
    projections = 6 * 8 * 4 * 3 + 5 * 7 * 4 * 3 + 5 * 6 * 4 * 5 + 6 * 8 * 4 * 5 + 6 * 4 * 5 * 6
    assert measure(crossed())["macs"] == dense + projections + 6 * 5 * 4 * (3 + 5)
    rows = 3 * 4 * 4  # each of 3 x 4 positions attends to the 4 of its row
    projections = 12 * 4 * (8 * (3 + 3 + 5) + 5 * 2 * 6)
    assert measure(of_rank_four())["macs"] == 12 * 3 * 8 + projections + rows * 4 * (3 + 5) + 12 * 2 * 6 * 2


def test_lengths_that_are_free_leave_macs_uncounted():
    tokens = keras.Input((None, 8), name="tokens")
    model = shake(keras.Model(tokens, mha()(tokens, tokens)))
    coupling = couple(read(model))
    assert sizes(coupling) == {"mha/heads": 4, "mha/key_dim": 6, "mha/value_dim": 6}
    with pytest.raises(BudgetError, match="'macs' cannot be counted"):
        resource(coupling, "macs")


def test_what_the_deployed_file_holds_is_not_guessed():
    with pytest.raises(BudgetError) as caught:
        resource(couple(read(crossed())), "peak_bytes")
    assert str(caught.value) == (
        "'peak_bytes' cannot be counted: 'mha' (MultiHeadAttention) holds scores for all pairs of positions, and how "
        "the converter writes them is not known. Leave this budget out."
    )


def vision_transformer() -> keras.Model:
    """Patches of an image -> two blocks with layer norms before -> mean -> dense"""
    image = keras.Input((16, 16, 3), name="image")
    x = L.Reshape((16, 12), name="tokens")(L.Conv2D(12, 4, 4, name="patches")(image))
    for block in "ab":
        y = L.LayerNormalization(name=f"{block}_norm_1")(x)
        x = L.Add(name=f"{block}_sum_1")([x, L.MultiHeadAttention(4, 3, name=f"{block}_mha")(y, y)])
        y = L.Dense(24, "gelu", name=f"{block}_up")(L.LayerNormalization(name=f"{block}_norm_2")(x))
        x = L.Add(name=f"{block}_sum_2")([x, L.Dense(12, name=f"{block}_down")(y)])
    return headed(image, L.LayerNormalization(name="norm")(x))


def test_a_vision_transformer_is_pruned_to_half():
    model = shake(vision_transformer())
    result = keras_qcqp.prune(model, {"macs": 0.5})
    assert measure(result.model)["macs"] <= measure(model)["macs"] / 2
    rows = {row.layer: row.channels for row in result.report.layers}
    assert rows["a_mha/heads"][0] == 4 and rows["a_mha/key_dim"][0] == 3 and rows["b_mha/value_dim"][0] == 3
    assert "a_mha/heads" in str(result.report)
    layer = result.model.get_layer("a_mha")
    kept = [rows[f"a_mha/{name}"][1] for name in ("heads", "key_dim", "value_dim")]
    assert [layer.num_heads, layer.key_dim, layer.value_dim] == kept
    arrays = images(model)
    got, wanted = (outputs(m, arrays)[0] for m in (result.model, keras_qcqp.masked(model, result.plan)))
    np.testing.assert_allclose(got, wanted, atol=2e-5)
