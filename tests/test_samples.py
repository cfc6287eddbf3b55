"""The user's examples in every form they may come in, and what is said of those that do not fit."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

from keras_qcqp.errors import DataError
from keras_qcqp.samples import Samples, collect

L = keras.layers
COUNT = 10
X = np.arange(COUNT * 3, dtype="float32").reshape(COUNT, 3)
Y = np.arange(COUNT)
OTHER = -np.arange(COUNT * 2, dtype="float32").reshape(COUNT, 2)


def single() -> keras.Model:
    x = keras.Input((3,), name="x")
    return keras.Model(x, L.Dense(2)(x), name="single")


def pair(nested: str = "list") -> keras.Model:
    """Two inputs; "b" comes first, and is wider than "a"."""
    b, a = keras.Input((3,), name="b"), keras.Input((2,), name="a")
    return keras.Model([b, a] if nested == "list" else {"b": b, "a": a}, L.Concatenate()([b, a]), name="pair")


class Batches(keras.utils.PyDataset):
    """Batches of 4, 4 and 2 of (x, y); endless ones go round."""

    def __init__(self, endless: bool = False) -> None:
        super().__init__()
        self._endless = endless

    @property
    def num_batches(self):
        return None if self._endless else 3

    def __getitem__(self, k):
        return X[k % 3 * 4 :][:4], Y[k % 3 * 4 :][:4]


def dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


LABELLED = {
    "pair of arrays": lambda: (X, Y),
    "weights of samples": lambda: (X, Y, np.ones(COUNT)),
    "tensors": lambda: (keras.ops.convert_to_tensor(X), keras.ops.convert_to_tensor(Y)),
    "dictionary": lambda: ({"x": X, "more": Y}, Y),
    "tf.data.Dataset": dataset,
    "keras.utils.PyDataset": Batches,
    "list of batches of one": lambda: [({"x": x[None]}, y[None]) for x, y in zip(X, Y, strict=True)],
    "generator": lambda: ((X[k : k + 3], Y[k : k + 3], np.ones(3)) for k in range(0, COUNT, 3)),
    "samples": lambda: Samples((X,), Y),
}


@pytest.mark.parametrize("form", LABELLED)
def test_labelled_examples_come_in_many_forms(form):
    found = collect(LABELLED[form](), single())
    np.testing.assert_array_equal(found.inputs[0], X)
    np.testing.assert_array_equal(found.labels, Y)
    assert len(found) == COUNT and found.inputs[0].dtype == "float32"


@pytest.mark.parametrize("form", [X, [X], (X,), {"x": X}, iter([X[:4], X[4:]]), [(X, None)], (X, None)])
def test_labels_may_be_absent(form):
    found = collect(form, single())
    np.testing.assert_array_equal(found.inputs[0], X)
    assert found.labels is None


@pytest.mark.parametrize("nested", ["list", "dict"])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_inputs_by_name_are_brought_into_the_order_of_the_models_own(nested, batched, labelled):
    data = {"a": OTHER, "b": X}
    data = (data, Y) if labelled else data
    model = pair(nested)
    found = collect([data] if batched else data, model)
    assert [x.shape[1:] for x in found.inputs] == [tuple(x.shape[1:]) for x in model.inputs]
    assert (found.labels is not None) == labelled


def test_several_inputs_as_a_list_are_in_the_models_order():
    for data in ([X, OTHER], ([X, OTHER], Y), ((X, OTHER), Y)):
        found = collect(data, pair())
        np.testing.assert_array_equal(found.inputs[0], X)
        np.testing.assert_array_equal(found.inputs[1], OTHER)


def test_labels_keep_their_structure_and_some_may_be_none():
    labels = {"left": Y, "right": [Y + 1, None]}
    batches = [({"x": X[:6]}, _cut(labels, 0, 6)), ({"x": X[6:]}, _cut(labels, 6, COUNT))]
    for data in ((X, labels), batches):
        found = collect(data, single(), 8)[:7]
        assert found.labels["right"][1] is None
        np.testing.assert_array_equal(found.labels["right"][0], found.labels["left"] + 1)
        assert len(found.labels["left"]) == len(found) == 7
    (first, some), (_, rest) = collect((X, labels), single()).batches(6)
    assert (len(first[0]), len(some["left"]), len(rest["left"])) == (6, 6, 4)


def _cut(labels, start, stop):
    return {"left": labels["left"][start:stop], "right": [labels["right"][0][start:stop], None]}


def test_of_arrays_a_seeded_choice_is_taken_and_of_batches_the_first():
    chosen = [collect((X, Y), single(), 4, seed).labels.tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] == sorted(set(chosen[0])) and len(chosen[0]) == 4
    assert collect((X, Y), single(), COUNT + 5).labels.tolist() == Y.tolist()
    for form in ("tf.data.Dataset", "keras.utils.PyDataset", "generator"):
        assert collect(LABELLED[form](), single(), 5, seed=1).labels.tolist() == [0, 1, 2, 3, 4]


def test_endless_batches_are_left_in_time():
    endless = (X[k : k + 1] for k in itertools.cycle(range(COUNT)))
    assert len(collect(endless, single(), 25)) == 25
    assert next(endless)[0, 0] == X[25 % COUNT, 0]  # not one batch more than needed was taken
    assert len(collect(Batches(endless=True), single(), 25)) == 25


def test_numbers_as_labels_in_a_list_are_labels():
    found = collect((X, Y.tolist()), single(), 4)
    assert found.labels.tolist() == (found.inputs[0][:, 0] / 3).tolist()


NAN = np.where(X == 4, np.nan, X)
REFUSED = {
    "no example": (np.zeros((0, 3)), "The data is empty: at least one example was expected."),
    "no batch": ([], "The data is empty: at least one batch of examples was expected."),
    "empty batch": ([X[:0]], "The data is empty: at least one example was expected."),
    "narrow": (OTHER, r"Input 'x' has shape \(None, 3\), the data has \(10, 2\)\."),
    "flat": (X[:, 0], r"Input 'x' has shape \(None, 3\), the data has \(10,\)\."),
    "two": ([X, OTHER], "Model 'single' has 1 inputs, the data has 2. Give inputs and labels as a tuple"),
    "nan": (NAN, "Input 'x' has NaN or infinite values among the examples; remove them."),
    "infinite": (X + np.inf, "Input 'x' has NaN or infinite"),
    "number": (3, "Examples of type int cannot be read. Give an array, "),
    "numbers": ([[1.0, 2.0, 3.0]], "Inputs and labels must be arrays with an axis of examples, got a number."),
    "lengths": ((X, Y[:4]), r"Inputs and labels must have the same number of examples, got \[4, 10\]\."),
    "names": ({"y": X, "z": X}, "The data lacks the inputs x; it has y, z."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_data_that_does_not_fit_is_refused(case):
    data, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        collect(data, single())


def test_other_mistakes():
    with pytest.raises(DataError, match="num_samples must be at least 1, got 0"):
        collect(X, single(), 0)
    with pytest.raises(DataError, match="Model 'pair' has 2 inputs, the data has 1."):
        collect((X, OTHER), pair())  # a pair is inputs and labels
    with pytest.raises(DataError, match="The data lacks the inputs b; it has a."):
        collect({"a": OTHER}, pair("dict"))
    with pytest.raises(DataError, match="differ in structure or shape"):
        collect([(X, Y), (X, None)], single())
    with pytest.raises(DataError, match="differ in structure or shape"):
        collect(iter([X, OTHER]), single())
