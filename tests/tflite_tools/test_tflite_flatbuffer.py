"""Facts of genuine files, and damage reported as such."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tflite_tools.errors import TfliteFileError
from tflite_tools.flatbuffer import read_facts


@pytest.mark.parametrize(
    ("name", "size", "weights", "num_ops"),
    [
        ("tiny_f32", 110_980, 100_128, 19),
        ("tiny_float16", 66_876, 50_135, 47),
        ("tiny_dynamic", 47_792, 34_080, 19),
        ("tiny_int8", 48_864, 26_400, 19),
        ("tiny_int16x8", 54_704, 28_104, 19),
        ("conv3x3_in32_out17_int8", 6_584, 5_076, 1),
    ],
)
def test_sizes_of_genuine_files(fixture_model, name, size, weights, num_ops):
    facts = read_facts(fixture_model(name))
    assert (facts.size_bytes, facts.weight_bytes, len(facts.operators)) == (size, weights, num_ops)


def test_operators_of_the_tiny_network(fixture_model):
    facts = read_facts(str(fixture_model("tiny_int8")))
    assert facts.op_counts == {
        "CONV_2D": 9,
        "DEPTHWISE_CONV_2D": 4,
        "ADD": 1,
        "CONCATENATION": 1,
        "MAX_POOL_2D": 1,
        "MEAN": 1,
        "FULLY_CONNECTED": 1,
        "SOFTMAX": 1,
    }
    versions = {op.name: op.version for op in facts.operators}
    assert versions["CONV_2D"] == 3
    assert versions["FULLY_CONNECTED"] == 4


def test_quantized_ends(fixture_model):
    facts = read_facts(fixture_model("tiny_int8").read_bytes())
    (image,), (output,) = facts.inputs, facts.outputs
    assert (image.name, image.shape, image.dtype, image.zero_point) == ("image", (1, 64, 64, 3), "int8", -43)
    assert image.scale == pytest.approx(0.012345296330749989)
    assert (output.name, output.shape, output.scale, output.zero_point) == (
        "output_0",
        (1, 10),
        0.00390625,
        -128,
    )


def test_float_ends_have_no_scale(fixture_model):
    (image,) = read_facts(fixture_model("tiny_f32")).inputs
    assert (image.dtype, image.scale, image.zero_point) == ("float32", None, None)


def test_inputs_follow_the_signature_not_the_tensors(fixture_model):
    facts = read_facts(fixture_model("two_inputs_f32"))
    assert [tensor.name for tensor in facts.inputs] == ["a", "b"]
    assert [tensor.name for tensor in facts.outputs] == ["output_0", "output_1"]


@pytest.mark.parametrize(
    ("name", "num_float", "int8"),
    [
        ("tiny_f32", 19, False),
        ("tiny_dynamic", 19, False),
        ("tiny_int8", 0, True),
        ("tiny_int16x8", 0, False),
    ],
)
def test_float_operators_are_told_by_their_activations(fixture_model, name, num_float, int8):
    facts = read_facts(fixture_model(name))
    assert len(facts.float_ops) == num_float
    assert facts.has_int8_activations is int8


def test_unused_operator_codes_are_not_counted(fixture_model):
    assert "QUANTIZE" not in read_facts(fixture_model("qat_int8")).op_counts


def test_custom_operators_go_by_their_own_name(shared_file):
    facts = read_facts(shared_file("edge_fixtures/coral/synthetic_edgetpu.tflite"))
    assert facts.op_counts["edgetpu-custom-op"] == 1


@pytest.mark.parametrize("data", [b"", b"abc", b"\x1c\0\0\0TFL2" + bytes(40)])
def test_other_content_is_no_model(data):
    with pytest.raises(TfliteFileError) as caught:
        read_facts(data)
    start = f"Model of {len(data)} bytes is no TFLite model: bytes 4 to 8 are {data[4:8]!r}, expected b'TFL3'."
    assert str(caught.value).startswith(start)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(TfliteFileError, match="Cannot read '.*none.tflite': No such file or directory"):
        read_facts(tmp_path / "none.tflite")
    with pytest.raises(TfliteFileError, match="A TFLite model is a path or bytes, got int."):
        read_facts(5)


def test_a_file_cut_off_is_named(fixture_model, tmp_path):
    path = tmp_path / "cut.tflite"
    path.write_bytes(fixture_model("tiny_int8").read_bytes()[:3000])
    with pytest.raises(TfliteFileError, match=r"cut.tflite' is damaged or cut off \(3,000 bytes\)"):
        read_facts(path)


@pytest.fixture(scope="module")
def small_file(fixture_model):
    return fixture_model("two_inputs_f32").read_bytes()


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_every_cut_is_noticed(small_file, data):
    length = data.draw(st.integers(0, len(small_file) - 1))
    with pytest.raises(TfliteFileError):
        read_facts(small_file[:length])


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_damage_raises_nothing_but_our_error(small_file, data):
    damaged = bytearray(small_file)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(8, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(TfliteFileError):
        read_facts(bytes(damaged))


@pytest.mark.parametrize(
    ("name", "peak", "arena"),
    [("tiny_int8", 49_152, 49_152), ("tiny_f32", 196_608, 196_608), ("conv3x3_in32_out17_int8", 12_544, 12_544)],
)
def test_memory_of_genuine_files(fixture_model, name, peak, arena):
    """The arena of the first two is what TensorFlow Lite Micro allocates."""
    facts = read_facts(fixture_model(name))
    assert (facts.peak_bytes, facts.arena_bytes) == (peak, arena)
