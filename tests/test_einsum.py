"""EinsumDense: channels follow the letters of its equation."""

from __future__ import annotations

import keras
import pytest
from networks import shake
from test_law import require_law
from test_rules import sizes

from keras_qcqp.coupling import RESIDUALS, couple
from keras_qcqp.graph import read
from keras_qcqp.resources import measure

L = keras.layers


def around(equation: str, output_shape, spots: tuple[int, ...], **options) -> keras.Model:
    """dense 6 -> einsum -> flatten -> dense"""
    tokens = keras.Input((*spots, 3), name="tokens")
    x = L.EinsumDense(equation, output_shape, name="einsum", **options)(L.Dense(6, name="in")(tokens))
    if None in x.shape[1:]:
        pool = L.GlobalMaxPooling1D("channels_first" if x.shape[2] is None else None, name="flat")
        return keras.Model(tokens, L.Dense(2, name="head")(pool(x)), name="probe")
    return keras.Model(tokens, L.Dense(2, name="head")(L.Flatten(name="flat")(x)), name="probe")


MIXED = {"in": 6, "einsum": 7}
PASSED = {"in": 6}


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize(
    ("equation", "output_shape", "spots", "options", "expected"),
    [
        ("abc,cd->abd", (4, 7), (4,), {"bias_axes": "d", "activation": "relu"}, MIXED),
        ("abc,cd->abd", (None, 7), (4,), {}, MIXED),
        ("abc,cde->abde", (4, 2, 7), (4,), {"bias_axes": "de"}, MIXED),
        ("abc,cde->adbe", (2, 4, 7), (4,), {"bias_axes": "be"}, MIXED),
        ("abdc,dec->abe", (4, 7), (4, 5), {"bias_axes": "e"}, MIXED),
        ("abc,cd->adb", (7, 4), (4,), {}, MIXED),
        ("abc,cd->adb", (7, 4), (4,), {"bias_axes": "db"}, MIXED),
        ("...x,xy->...y", 7, (4, 5), {"bias_axes": "y"}, MIXED),
        ("...bx,xy->...by", (5, 7), (4, 5), {"bias_axes": "by"}, MIXED),
        ("ac...,cb->ab...", 7, (4, 5), {"bias_axes": "b"}, PASSED),  # the channels are behind the ellipsis
        ("abc,bd->adc", (7, 6), (4,), {"bias_axes": "dc"}, PASSED),  # positions are mixed
        ("abc,c->abc", (4, 6), (4,), {"bias_axes": "c"}, PASSED),
        ("abc,cd->abcd", (4, 6, 2), (4,), {"bias_axes": "d"}, PASSED),
        ("abc,bd->ad", 7, (4,), {}, MIXED),  # channels are summed without a kernel
    ],
)
def test_law(equation, output_shape, spots, options, expected, residual):
    model = shake(around(equation, output_shape, spots, **options))
    coupling = couple(read(model))
    assert sizes(coupling) == expected
    assert coupling.frozen == ()
    for seed in range(2):
        require_law(model, seed, residual)


@pytest.mark.parametrize(
    ("equation", "output_shape", "options", "reason"),
    [
        ("abc,c->ab", 4, {}, "equation 'abc,c->ab' makes no new axis, so the output has no channels"),
        ("abc,cd->abd", (4, 7), {"activation": "softmax"}, "activation 'softmax' is not known to work channel by"),
        ("abc,bd->adc", (7, None), {}, "output_shape (7, None) leaves the number of channels open; write it down"),
        ("abc,cd->adb", (7, 4), {"bias_axes": "d"}, "with some widths Keras adds the bias along another axis of the"),
        ("abc,bd->adc", (5, 6), {"bias_axes": "d"}, "with some widths Keras adds the bias along another axis of the"),
    ],
)
def test_what_is_frozen_and_why(equation, output_shape, options, reason):
    model = shake(around(equation, output_shape, (4,), **options))
    frozen = couple(read(model)).frozen
    assert any(f.node == "einsum" and reason in f.reason for f in frozen), frozen
    require_law(model, 0)


def test_macs_by_hand():
    """Each output is a sum over c of 6, at 4 positions; heads of 2 x 7; in the other one over d and c of 5 x 6."""
    flat = lambda outputs: outputs * 2  # noqa: E731
    assert measure(around("abc,cde->abde", (4, 2, 7), (4,)))["macs"] == 4 * 3 * 6 + 4 * 6 * 2 * 7 + flat(4 * 2 * 7)
    assert measure(around("abdc,dec->abe", (4, 7), (4, 5)))["macs"] == 20 * 3 * 6 + 4 * 7 * 5 * 6 + flat(4 * 7)
    assert measure(around("...x,xy->...y", 7, (4, 5)))["macs"] == 20 * 3 * 6 + 20 * 6 * 7 + flat(20 * 7)
