"""One small network for each built-in layer class: a producer of channels, the layer, a reader.

What the layer does to channels is then computed (`tests/catalogue.py`), not claimed. The layer is named "probe". A
probe that needs a package which is not installed raises ImportError.
"""

from __future__ import annotations

import atexit
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

L = keras.layers
Build = Callable[[], keras.Model]

IMAGE, SIGNAL, VOLUME, VECTOR = (8, 8, 3), (12, 3), (4, 4, 4, 2), (5,)
FILM = {1: (3, 8, 2), 2: (3, 6, 6, 2), 3: (3, 4, 4, 4, 2)}  # frames of 1, 2 or 3 dimensions
FIRST = {"data_format": "channels_first"}


@dataclasses.dataclass(frozen=True)
class Probe:
    """A network with a layer called "probe", and the call it stands for where that is not the usual one."""

    build: Build
    how: str = ""


def between(make: Callable[..., L.Layer], shape: tuple[int, ...] = IMAGE, how: str = "", **options: Any) -> Probe:
    """dense 6 -> the layer -> dense 5 -> flatten -> dense 2"""

    def build() -> keras.Model:
        given = keras.Input(shape, name="given")
        x = L.Dense(6, name="before")(given)
        return _read(given, make(name="probe", **options)(x))

    return Probe(build, how)


def join(make: Callable[..., L.Layer], count: int = 2, shape: tuple[int, ...] = IMAGE, how: str = "", **options: Any):
    """dense 6 (several) -> the layer, called with a list -> dense 5 -> flatten -> dense 2"""

    def build() -> keras.Model:
        given = keras.Input(shape, name="given")
        branches = [L.Dense(6, name=f"before_{k}")(given) for k in range(count)]
        return _read(given, make(name="probe", **options)(branches))

    return Probe(build, how)


def apart(make: Callable[..., L.Layer], count: int, shape: tuple[int, ...] = SIGNAL, **options: Any) -> Probe:
    """As `join`, but called with several arguments."""

    def build() -> keras.Model:
        given = keras.Input(shape, name="given")
        branches = [L.Dense(6, name=f"before_{k}")(given) for k in range(count)]
        return _read(given, make(name="probe", **options)(*branches))

    return Probe(build)


def first(make: Callable[..., L.Layer], shape: tuple[int, ...], dtype: str = "int32", **options: Any) -> Probe:
    """the layer -> dense 5 -> flatten -> dense 2"""

    def build() -> keras.Model:
        given = keras.Input(shape, name="given", dtype=dtype)
        return _read(given, make(name="probe", **options)(given))

    return Probe(build)


def _read(given: Any, x: Any) -> keras.Model:
    if not x.dtype.startswith(("float", "bfloat")):
        x = keras.ops.cast(x, "float32")
    x = L.Dense(5, name="after")(x)
    x = L.Flatten(name="flat")(x) if len(x.shape) > 2 else x
    return keras.Model(given, L.Dense(2, name="head")(x), name="probe_net")


def _crossed() -> keras.Model:
    a, b = keras.Input((1,), name="a", dtype="int32"), keras.Input((1,), name="b", dtype="int32")
    return _read([a, b], L.HashedCrossing(4, output_mode="one_hot", name="probe")((a, b)))


def _rgb(make: Callable[..., L.Layer], **options: Any) -> Probe:
    """Layers that need three channels: dense 3 -> the layer -> dense 5 ..."""

    def build() -> keras.Model:
        given = keras.Input(IMAGE, name="given")
        return _read(given, make(name="probe", **options)(L.Dense(3, name="before")(given)))

    return Probe(build)


def _tfsm() -> keras.Model:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # it is read again when the network is rebuilt
    keras.Sequential([keras.Input((6,)), L.Dense(3)]).export(folder, verbose=False)
    layer = L.TFSMLayer(folder, call_endpoint="serve", name="probe")
    given = keras.Input(VECTOR, name="given")
    return _read(given, layer(L.Dense(6, name="before")(given)))


def _needs(package: str) -> Probe:
    """A layer that holds code of a package that the tests do not install."""

    def build() -> keras.Model:
        raise ImportError(package)

    return Probe(build)


def _pipeline(name: str) -> L.Layer:
    layer = L.Pipeline([L.RandomFlip(), L.RandomZoom(0.1)])
    layer.name = name
    return layer


def _adapted_lookup(make: Callable[..., L.Layer], dtype: str, words: Sequence[Any], **options: Any) -> Probe:
    def build() -> keras.Model:
        layer = make(name="probe", **options)
        layer.adapt(np.array(words))
        given = keras.Input((1,), name="given", dtype=dtype)
        return _read(given, layer(given))

    return Probe(build)


def _family(form: str, make: Callable[[int], Probe]) -> dict[str, list[Probe]]:
    return {form.format(n): [make(n)] for n in (1, 2, 3)}


SPACE = {1: SIGNAL, 2: IMAGE, 3: VOLUME}


def _layer(name: str, n: int | None = None) -> Callable[..., L.Layer]:
    full = name if n is None else name.format(n)
    return lambda *args, **options: getattr(L, full)(*args, **options)


def _space(form: str, **options: Any) -> dict[str, list[Probe]]:
    """A family in 1, 2 and 3 dimensions."""
    return _family(form, lambda n: between(_layer(form, n), SPACE[n], **options))


def _plain(names: str, shape: tuple[int, ...] = IMAGE, **options: Any) -> dict[str, list[Probe]]:
    return {name: [between(_layer(name), shape, **options)] for name in names.split()}


def _conv(name: str, n: int, **options: Any) -> Probe:
    return between(_layer(name, n), SPACE[n], kernel_size=3, padding="same", **options)


def _wrapped(name: str, shape: tuple[int, ...], inner: Callable[[], L.Layer], how: str = "") -> list[Probe]:
    return [between(lambda **o: getattr(L, name)(inner(), **o), shape, how)]


def _recurrent(inner: Callable[[], Any]) -> list[Probe]:
    return [between(lambda **o: L.RNN(inner(), **o), SIGNAL, return_sequences=True)]


PROBES: Mapping[str, list[Probe]] = {
    # what has channels of its own
    **_family("Conv{}D", lambda n: _conv("Conv{}D", n, filters=4)),
    **_family("Conv{}DTranspose", lambda n: _conv("Conv{}DTranspose", n, filters=4, strides=2)),
    **{f"SeparableConv{n}D": [_conv("SeparableConv{}D", n, filters=4, depth_multiplier=2)] for n in (1, 2)},
    **{f"DepthwiseConv{n}D": [_conv("DepthwiseConv{}D", n, depth_multiplier=2)] for n in (1, 2)},
    **_plain("Dense", VECTOR, units=4),
    "EinsumDense": [
        between(_layer("EinsumDense"), SIGNAL, equation="abc,cd->abd", output_shape=(12, 4), bias_axes="d")
    ],
    "Embedding": [first(_layer("Embedding"), (6,), input_dim=9, output_dim=4)],
    "ReversibleEmbedding": [first(_layer("ReversibleEmbedding"), (6,), input_dim=9, output_dim=4)],
    **_plain("LSTM GRU SimpleRNN", SIGNAL, units=4, return_sequences=True),
    **_family("ConvLSTM{}D", lambda n: between(_layer("ConvLSTM{}D", n), FILM[n], filters=3, kernel_size=2)),
    "RNN": _recurrent(lambda: L.LSTMCell(4, name="inner")),
    "LSTMCell": _recurrent(lambda: L.LSTMCell(4, name="inner")),
    "GRUCell": _recurrent(lambda: L.GRUCell(4, name="inner")),
    "SimpleRNNCell": _recurrent(lambda: L.SimpleRNNCell(4, name="inner")),
    "StackedRNNCells": _recurrent(
        lambda: L.StackedRNNCells([L.GRUCell(4, name="low"), L.LSTMCell(3, name="high")], name="inner")
    ),
    "Bidirectional": _wrapped("Bidirectional", SIGNAL, lambda: L.GRU(4, return_sequences=True, name="inner")),
    "TimeDistributed": _wrapped("TimeDistributed", FILM[2], lambda: L.Conv2D(4, 3, name="inner")),
    "SpectralNormalization": _wrapped("SpectralNormalization", IMAGE, lambda: L.Conv2D(4, 3, name="inner")),
    "MultiHeadAttention": [apart(_layer("MultiHeadAttention"), 2, num_heads=3, key_dim=2)],
    "GroupQueryAttention": [
        apart(_layer("GroupQueryAttention"), 2, head_dim=2, num_query_heads=4, num_key_value_heads=2)
    ],
    "Attention": [join(_layer("Attention"), 2, SIGNAL)],
    "AdditiveAttention": [join(_layer("AdditiveAttention"), 2, SIGNAL)],
    # what passes channels through
    **_plain("BatchNormalization LayerNormalization UnitNormalization ReLU LeakyReLU ELU PReLU Identity"),
    **_plain("ActivityRegularization RMSNormalization"),
    "GroupNormalization": [between(_layer("GroupNormalization"), groups=3)],
    "Normalization": [between(_layer("Normalization"))],
    "Softmax": [between(_layer("Softmax"), how="axis=-1"), between(_layer("Softmax"), how="axis=1", axis=1)],
    "Activation": [
        between(_layer("Activation"), activation="tanh", how="element by element"),
        between(_layer("Activation"), activation="softmax", how="softmax"),
    ],
    "Rescaling": [between(_layer("Rescaling"), scale=0.5)],
    **_plain("Dropout AlphaDropout GaussianDropout", rate=0.3),
    **_plain("GaussianNoise", stddev=0.3),
    **_space("SpatialDropout{}D", rate=0.3),
    "Masking": [between(_layer("Masking"), SIGNAL)],
    **_space("MaxPooling{}D"),
    **_space("AveragePooling{}D", pool_size=2),
    **_space("GlobalMaxPooling{}D"),
    **_space("GlobalAveragePooling{}D"),
    **_space("AdaptiveMaxPooling{}D", output_size=2),
    **_space("AdaptiveAveragePooling{}D", output_size=2),
    **_space("UpSampling{}D", size=2),
    **_space("Cropping{}D", cropping=1),
    **_space("ZeroPadding{}D", padding=1),
    "Flatten": [between(_layer("Flatten"))],
    "Reshape": [
        between(_layer("Reshape"), target_shape=(64, 6)),
        between(_layer("Reshape"), VECTOR, "splits channels", target_shape=(3, 2)),
    ],
    "Permute": [between(_layer("Permute"), dims=(2, 1, 3))],
    "RepeatVector": [between(_layer("RepeatVector"), VECTOR, n=3)],
    # what joins
    **{name: [join(_layer(name))] for name in "Add Subtract Average Multiply Maximum Minimum Concatenate".split()},
    "Dot": [
        join(_layer("Dot"), shape=SIGNAL, how="over channels", axes=2, normalize=True),
        join(_layer("Dot"), shape=SIGNAL, how="over positions", axes=1),
    ],
    # images
    **_plain("CenterCrop Resizing", height=5, width=5),
    **_plain("RandomCrop", height=8, width=8),  # Keras 3.15 does not crop after training
    **_plain("RandomFlip ContrastLimitedAdaptiveHistogramEqualization"),
    **_plain("RandomTranslation", height_factor=0.2, width_factor=0.2),
    **_plain("RandomRotation RandomBrightness RandomContrast RandomPerspective", factor=0.2),
    **_plain("RandomShear", x_factor=(0.0, 0.2), y_factor=(0.0, 0.2)),  # a number alone does not survive get_config()
    **_plain("RandomZoom", height_factor=0.2),
    **_plain("RandomErasing RandomGaussianBlur RandomElasticTransform CutMix MixUp AutoContrast Equalization"),
    **_plain("RandomPosterization", factor=4),
    **_plain("RandomInvert RandomSharpness", factor=0.3),
    **_plain("Solarization"),
    "MaxNumBoundingBoxes": [between(_layer("MaxNumBoundingBoxes"), max_number=3)],
    **{name: [_rgb(_layer(name))] for name in "AugMix RandAugment RandomGrayscale".split()},
    **{name: [_rgb(_layer(name), factor=0.2)] for name in "RandomHue RandomSaturation".split()},
    "RandomColorDegeneration": [_rgb(_layer("RandomColorDegeneration"), factor=0.2)],
    "RandomColorJitter": [_rgb(_layer("RandomColorJitter"), brightness_factor=0.2, hue_factor=0.2)],
    "Pipeline": [between(_pipeline)],
    # the edge of a network
    "InputLayer": [Probe(lambda: _read(x := keras.Input((4,), name="probe"), x))],
    "CategoryEncoding": [first(_layer("CategoryEncoding"), (1,), num_tokens=4)],
    "Discretization": [
        between(_layer("Discretization"), VECTOR, "to numbers", bin_boundaries=[-1.0, 0.0, 1.0]),
        first(_layer("Discretization"), (1,), "float32", bin_boundaries=[-1.0, 0.0, 1.0], output_mode="one_hot"),
    ],
    "Hashing": [first(_layer("Hashing"), (1,), num_bins=4, output_mode="one_hot")],
    "HashedCrossing": [Probe(_crossed)],
    "IntegerLookup": [_adapted_lookup(_layer("IntegerLookup"), "int32", [1, 2, 5], output_mode="one_hot")],
    "StringLookup": [_adapted_lookup(_layer("StringLookup"), "string", ["a", "b"], output_mode="one_hot")],
    "TextVectorization": [_adapted_lookup(_layer("TextVectorization"), "string", ["a b", "c"], output_mode="tf_idf")],
    "MelSpectrogram": [
        first(_layer("MelSpectrogram"), (400,), "float32", num_mel_bins=5, fft_length=64, sequence_stride=32)
    ],
    "STFTSpectrogram": [
        between(_layer("STFTSpectrogram"), (40, 2), frame_length=8, how="frequencies side by side"),
        between(_layer("STFTSpectrogram"), (40, 2), frame_length=8, how="expand_dims", expand_dims=True),
    ],
    # code that cannot be looked into
    "Lambda": [between(lambda **o: L.Lambda(lambda x: x * 2, **o))],
    "TFSMLayer": [Probe(_tfsm)],
    "JaxLayer": [_needs("jax")],
    "FlaxLayer": [_needs("flax")],
    "TorchModuleWrapper": [_needs("torch")],
}

NO_PROBE: Mapping[str, str] = {
    "Layer": "base of all layers; a subclass of yours needs a rule",
    "Wrapper": "base of wrappers; a subclass of yours needs a rule",
}
"""Classes that are never called themselves."""
