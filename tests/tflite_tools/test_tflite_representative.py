"""Representative data: order by name, even spacing, and every refusal by its value."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_tools.errors import RepresentativeDataError, RepresentativeDataWarning
from tflite_tools.representative import InputSpec, load_arrays, representative_dataset

IMAGE = [InputSpec("image", (2, 3), "float32")]
PAIR = [InputSpec("a", (4,), "float32"), InputSpec("b", (6,), "float32")]


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


def refusal(data, inputs=IMAGE) -> str:
    with pytest.raises(RepresentativeDataError) as caught:
        representative_dataset(data, inputs)
    return str(caught.value)


def test_one_array_becomes_single_samples_with_a_batch_axis():
    data = np.arange(60 * 6).reshape(60, 2, 3)
    samples = list(representative_dataset(data, IMAGE)())
    assert len(samples) == 60
    assert samples[7].keys() == {"image"}
    assert samples[7]["image"].dtype == np.float32
    np.testing.assert_array_equal(samples[7]["image"], data[7:8])


def test_each_call_starts_a_new_pass():
    dataset = representative_dataset(zeros(60, 2, 3), IMAGE)
    assert len(list(dataset())) == len(list(dataset())) == 60


@pytest.mark.parametrize("make", [tuple, list])
def test_a_sequence_follows_the_order_of_the_inputs(make):
    first, second = np.full((60, 4), 1.0), np.full((60, 6), 2.0)
    sample = next(representative_dataset(make([first, second]), PAIR)())
    assert {name: float(value.max()) for name, value in sample.items()} == {"a": 1.0, "b": 2.0}


def test_a_dictionary_goes_by_name_in_any_order():
    sample = next(representative_dataset({"b": np.full((60, 6), 2.0), "a": np.full((60, 4), 1.0)}, PAIR)())
    assert sample["a"].max() == 1.0
    assert sample["b"].shape == (1, 6)


@given(count=st.integers(51, 2000), limit=st.integers(2, 300))
def test_samples_are_evenly_spaced_and_reach_both_ends(count, limit):
    data = np.arange(count, dtype="float32")[:, None]
    spec = [InputSpec("x", (1,), "float32")]
    used = [int(sample["x"][0, 0]) for sample in representative_dataset(data, spec, limit)()]
    assert len(used) == len(set(used)) == min(count, limit)
    assert (used[0], used[-1]) == (0, count - 1)
    steps = np.diff(used)
    assert steps.max() - steps.min() <= 1


def test_bytes_are_taken_as_they_are():
    sample = next(representative_dataset(np.full((50, 2, 3), 255, "uint8"), IMAGE)())
    assert sample["image"].dtype == np.float32
    assert sample["image"].max() == 255.0


def test_integer_inputs_keep_integers():
    spec = [InputSpec("tokens", (5,), "int32")]
    sample = next(representative_dataset(np.full((50, 5), 6, "int64"), spec)())
    assert sample["tokens"].dtype == np.int32
    message = refusal(np.full((50, 5), 6.5), spec)
    assert message.startswith("Representative data for 'tokens' has dtype float64; the input is int32.")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zeros(60, 3, 2), "for 'image' has shape [60, 3, 2]; expected [samples, 2, 3]."),
        (
            zeros(2, 3),
            "for 'image' has shape [2, 3]; expected [samples, 2, 3]. Add the samples axis: data[None].",
        ),
        (zeros(0, 2, 3), "has 0 samples. Give at least 50, better 100."),
        (zeros(60, 2, 3, dtype="U1"), "for 'image' has dtype <U1; the input is float32."),
        (zeros(60, 2, 3, dtype="complex64"), "for 'image' has dtype complex64; the input is float32."),
        (
            [zeros(2, 3)] * 9,
            "is a list of 9 for 1 input(s) 'image'. Give one array per input, with the samples",
        ),
        ("x.npy", "holds a str; NumPy arrays are expected. Use numpy.stack(samples)."),
        ({"imgae": zeros(60, 2, 3)}, "names 'imgae', which is no input. Did you mean 'image'? Known: image."),
    ],
)
def test_refusals_name_what_came_and_what_was_expected(data, message):
    assert message in refusal(data)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_outside_float32_are_found_with_their_sample(bad):
    data = np.zeros((700, 2, 3))
    data[513, 1, 2] = bad
    assert "for 'image' holds NaN or infinity, first in sample 513." in refusal(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            zeros(60, 4),
            "is a single ndarray, but the model has 2 inputs. Give a dictionary with one array for each of",
        ),
        ({"a": zeros(60, 4)}, "lacks input 'b'. Give one array for each of 'a', 'b'."),
        ([zeros(60, 4), zeros(61, 6)], "differs in its number of samples: 'a' 60, 'b' 61."),
        ([zeros(60, 6), zeros(60, 4)], "for 'a' has shape [60, 6]; expected [samples, 4]."),
    ],
)
def test_several_inputs_are_checked_together(data, message):
    assert message in refusal(data, PAIR)


def test_few_samples_are_warned_about():
    with pytest.warns(RepresentativeDataWarning, match="has only 49 samples; below 50"):
        representative_dataset(zeros(49, 2, 3), IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        representative_dataset(zeros(50, 2, 3), IMAGE)


def test_files_hold_one_array_or_several(tmp_path):
    np.save(tmp_path / "one.npy", zeros(5, 2))
    np.savez(tmp_path / "one.npz", anything=zeros(5, 2))
    np.savez(tmp_path / "two.npz", a=zeros(5, 4), b=zeros(5, 6))
    assert load_arrays(tmp_path / "one.npy").shape == load_arrays(tmp_path / "one.npz").shape == (5, 2)
    assert {name: value.shape for name, value in load_arrays(tmp_path / "two.npz").items()} == {
        "a": (5, 4),
        "b": (5, 6),
    }


def test_bad_files_are_named(tmp_path):
    with pytest.raises(RepresentativeDataError, match="none.npy' does not exist"):
        load_arrays(tmp_path / "none.npy")
    np.savez(tmp_path / "whole.npz", a=zeros(50, 4), b=zeros(50, 4))
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes((tmp_path / "whole.npz").read_bytes()[:200])
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    for path in (damaged, tmp_path / "objects.npy"):
        with pytest.raises(RepresentativeDataError, match="cannot be read as .npy or .npz of plain numbers"):
            load_arrays(path)
