"""Draws valid graphs at random from the catalogue of layers: images, sequences, volumes and vectors, and ways between.

Every step takes a tensor and returns one; `STEPS` says which steps a tensor of each rank may take. Whatever they lead
to, the law must hold: what the package cannot follow it has to freeze.
"""

from __future__ import annotations

from collections.abc import Callable

import keras

L, ops = keras.layers, keras.ops


class Generator:
    """Draws one graph: `choose(n)` returns an integer in 0..n-1 and is the only source of choice."""

    def __init__(self, choose: Callable[[int], int], starts=None, steps=None, norms=None) -> None:
        self._choose, self._count = choose, 0
        self._starts, self._steps, self.norms = starts or STARTS, steps or STEPS, norms or NORMS
        self.inputs: list[keras.KerasTensor] = []

    def build(self) -> keras.Model:
        """A model of three to seven steps, with one or two outputs."""
        x = self._begin(self.input(self.pick(self._starts)))
        for _ in range(2 + self._choose(5)):
            x = self.pick(self._steps[len(x.shape)])(self, x)
        heads = [self._head(x)]
        if self._choose(3) == 0 and len(x.shape) > 2:
            heads.append(L.Dense(2, name=self.name("map"))(x))
        outputs = {"label": heads[0], "map": heads[-1]} if len(heads) > 1 and self._choose(2) else heads
        return keras.Model(self.inputs, outputs, name="generated")

    def pick(self, options):
        return options[self._choose(len(options))]

    def flip(self) -> bool:
        return bool(self._choose(2))

    def name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"

    def width(self) -> int:
        return 2 + self._choose(6)

    def input(self, shape: tuple[int, ...]):
        self.inputs.append(keras.Input(shape, name=f"input_{len(self.inputs)}"))
        return self.inputs[-1]

    def conv(self, x, filters: int | None = None, **how):
        """A convolution of the tensor's rank that keeps its size."""
        layer = {3: L.Conv1D, 4: L.Conv2D, 5: L.Conv3D}.get(len(x.shape))
        name = self.name("conv")
        if layer is None:
            return L.Dense(filters or self.width(), name=name)(x)
        kernel = self.pick([1, 3]) if len(x.shape) < 5 else 2
        return layer(filters or self.width(), kernel, padding="same", name=name, **how)(x)

    def _begin(self, x):
        return self.conv(x, self.pick([4, 6, 8]), activation="relu") if len(x.shape) > 2 else self.conv(x, 8)

    def _head(self, x):
        if len(x.shape) > 2:
            pool = {3: L.GlobalAveragePooling1D, 4: L.GlobalMaxPooling2D, 5: L.GlobalAveragePooling3D}[len(x.shape)]
            x = L.Flatten(name=self.name("flat"))(x) if self.flip() else pool(name=self.name("mean"))(x)
        return L.Dense(3, name="head")(L.Dense(self.width(), activation="relu", name="hidden")(x))


def conv(g, x):
    activation = g.pick(["relu", "sigmoid", "linear", "tanh", "softmax"])
    how = {"activation": activation, "use_bias": g.flip()}
    if len(x.shape) in (3, 4) and min(x.shape[1:-1]) >= 4 and g._choose(4) == 0:
        how["strides"] = 2
    return g.conv(x, **how)


def norm(g, x):
    return L.ReLU(name=g.name("relu"))(g.pick(g.norms)(name=g.name("norm"))(x))


def group_norm(g, x):
    groups = g.pick([n for n in range(1, x.shape[-1] + 1) if x.shape[-1] % n == 0])
    return L.GroupNormalization(groups, name=g.name("group_norm"))(x)


def unit_norm(g, x):
    return L.UnitNormalization(name=g.name("unit_norm"))(x)


def prelu(g, x):
    shared = list(range(1, len(x.shape) - 1)) if g.flip() and len(x.shape) > 2 else None
    return L.PReLU(shared_axes=shared, name=g.name("prelu"))(x)


def noise(g, x):
    return g.pick([L.Dropout(0.3, name=g.name("drop")), L.GaussianNoise(0.1, name=g.name("noise"))])(x)


def residual(g, x):
    y = g.conv(norm(g, g.conv(x)), x.shape[-1])
    merge = g.pick([L.Add, L.Subtract, L.Average, L.Maximum, L.Minimum, L.Multiply])
    return merge(name=g.name("merge"))([x, y])


def branches(g, x):
    made = [x] + [g.conv(norm(g, x) if g.flip() else x, x.shape[-1]) for _ in "ab"]
    total = L.Add(name=g.name("sum"))(made[g._choose(2) :])
    return L.Average(name=g.name("average"))([total, g.pick(made)]) if g.flip() else total


def concat(g, x):
    parts = [x, g.conv(x), x][: 2 + g._choose(2)]
    return L.Concatenate(name=g.name("concat"))(parts) if g.flip() else ops.concatenate(parts, axis=-1)


def shared(g, x):
    layer = type(g.conv(x)._keras_history.operation)
    how = {} if layer is L.Dense else {"kernel_size": 1}
    key = "units" if layer is L.Dense else "filters"
    twice = layer(**{key: x.shape[-1]}, **how, activation="relu", name=g.name("shared"))
    return twice(twice(x)) if g.flip() else L.Add(name=g.name("sum"))([twice(x), x])


def nested(g, x):
    inner = keras.Input(x.shape[1:], name=g.name("inner"))
    y = norm(g, g.conv(inner, g.pick([x.shape[-1], g.width()])))
    block = keras.Model(inner, y, name=g.name("block"))
    if g.flip() and block.output_shape == block.input_shape:
        return L.Add(name=g.name("sum"))([block(x), block(block(x))])
    return block(x)


def nested_sequential(g, x):
    layers = [L.Dense(g.width(), name=g.name("inner")), L.LayerNormalization(name=g.name("norm")), L.ReLU()]
    layers = [layers[0], g.pick([layers[1], L.RMSNormalization(name=g.name("norm"))]), layers[2]]
    return keras.Sequential(layers, name=g.name("sequential"))(x)


def second_input(g, x):
    return L.Add(name=g.name("sum"))([x, g.conv(g.input(x.shape[1:]), x.shape[-1])])


def operators(g, x):
    forms = [
        lambda: (x - 0.1) / 2.0,
        lambda: ops.maximum(x, g.conv(x, x.shape[-1])),
        lambda: ops.where(x > 0.0, x, 0.1 * x),
        lambda: x * x - ops.abs(x),
        lambda: ops.clip(ops.exp(ops.clip(x, -3.0, 3.0)), 0.0, 5.0),
        lambda: -x + ops.sum(x, axis=1, keepdims=True) if len(x.shape) > 2 else 2.0 - x,
    ]
    return g.pick(forms)()


def scaled(g, x):
    return ops.silu(x) * 0.5 + g.conv(x, x.shape[-1])


def slices(g, x):
    half = max(1, x.shape[-1] // 2)
    forms = [
        lambda: x[..., :half],
        lambda: x[..., 1:],
        lambda: ops.concatenate([x[..., half:], x[..., :half]], axis=-1),
        lambda: ops.take(x, [0, x.shape[-1] - 1, 0], axis=-1),
        lambda: ops.flip(x, axis=-1),
        lambda: ops.concatenate(ops.split(x, [half], axis=-1)[::-1], axis=-1),
        lambda: ops.stack([x, g.conv(x, x.shape[-1])], axis=-1)[..., 0],
        lambda: ops.repeat(x, 2, axis=-1),
        lambda: ops.roll(x, 1, axis=-1),
    ]
    return g.pick(forms)() if x.shape[-1] > 1 else x


def over_channels(g, x):
    """A gate made of what all channels have in common, as in CBAM."""
    reduce = g.pick([ops.mean, ops.max, ops.sum, ops.min, ops.var])
    return x * ops.sigmoid(reduce(x, axis=-1, keepdims=True))


def excite(g, x):
    pool = {3: L.GlobalAveragePooling1D, 4: L.GlobalAveragePooling2D, 5: L.GlobalAveragePooling3D}[len(x.shape)]
    gate = pool(keepdims=True, name=g.name("squeeze"))(x)
    gate = L.Dense(x.shape[-1], activation="sigmoid", name=g.name("excite"))(
        L.Dense(g.width(), name=g.name("reduce"))(gate)
    )
    return L.Multiply(name=g.name("scale"))([x, gate])


def shuffle(g, x):
    """Channel shuffle by two reshapes around a transposition, of layers or of operations."""
    if x.shape[-1] % 2 or len(x.shape) != 4:
        return x
    height, width, half = x.shape[1], x.shape[2], x.shape[-1] // 2
    if g.flip():
        y = ops.transpose(ops.reshape(x, (-1, height, width, 2, half)), (0, 1, 2, 4, 3))
        return ops.reshape(y, (-1, height, width, 2 * half))
    y = L.Reshape((height, width, 2, half), name=g.name("split"))(x)
    y = L.Permute((1, 2, 4, 3), name=g.name("swap"))(y)
    return L.Reshape((height, width, 2 * half), name=g.name("join"))(y)


def option_a(g, x):
    """The shortcut has fewer channels: zeros are put around them, as a layer, an operation or a concatenation."""
    before, after = g._choose(3), 1 + g._choose(3)
    y = g.conv(x, before + x.shape[-1] + after)
    around = [(0, 0)] * (len(x.shape) - 1)
    forms = [
        lambda: ops.pad(x, (*around, (before, after))),
        lambda: ops.concatenate(
            [ops.zeros_like(y)[..., :before], x, ops.zeros_like(y)[..., -after:]][not before :], axis=-1
        ),
    ]
    if len(x.shape) == 4:
        padding = ((0, 0), (before, after))
        forms.append(lambda: L.ZeroPadding2D(padding, data_format="channels_first", name=g.name("pad"))(x))
    return L.Add(name=g.name("sum"))([g.pick(forms)(), y])


def depthwise(g, x):
    layer = {3: L.DepthwiseConv1D, 4: L.DepthwiseConv2D}[len(x.shape)]
    return layer(3, padding="same", depth_multiplier=1 + g._choose(2), name=g.name("dw"))(x)


def separable(g, x):
    layer = {3: L.SeparableConv1D, 4: L.SeparableConv2D}[len(x.shape)]
    return layer(g.width(), 3, padding="same", depth_multiplier=1 + g._choose(2), name=g.name("separable"))(x)


def grouped(g, x):
    groups = g.pick([n for n in range(1, x.shape[-1] + 1) if x.shape[-1] % n == 0])
    layer = {3: L.Conv1D, 4: L.Conv2D}[len(x.shape)]
    return layer(groups * (1 + g._choose(2)), 3, padding="same", groups=groups, name=g.name("grouped"))(x)


def transposed(g, x):
    layer = {3: L.Conv1DTranspose, 4: L.Conv2DTranspose}[len(x.shape)]
    return layer(g.width(), 2, padding="same", name=g.name("transposed"))(x)


def pool(g, x):
    if min(x.shape[1:-1]) < 4:
        return {3: L.UpSampling1D, 4: L.UpSampling2D, 5: L.UpSampling3D}[len(x.shape)](2, name=g.name("up"))(x)
    kinds = {
        3: [L.MaxPooling1D, L.AveragePooling1D, L.Cropping1D],
        4: [L.MaxPooling2D, L.AveragePooling2D, L.Cropping2D, L.ZeroPadding2D],
        5: [L.MaxPooling3D, L.AveragePooling3D],
    }[len(x.shape)]
    kind, size = g.pick(kinds), 1 + g._choose(2)
    cropped = kind in (L.Cropping1D, L.Cropping2D)
    return kind(1 if cropped else size, name=g.name("pool"))(x)  # two at each side may be all there is


def to_sequence(g, x):
    """The rows of an image one after the other, or their pixels."""
    height, width, channels = x.shape[1:]
    if g.flip() and height * width <= 16:
        return ops.reshape(x, (-1, height * width, channels))
    return L.GlobalAveragePooling1D(name=g.name("rows"))(x) if len(x.shape) == 3 else ops.mean(x, axis=1)


def distributed(g, x):
    inner = g.pick([L.Dense(g.width()), L.Conv1D(g.width(), 3, padding="same"), L.BatchNormalization()])
    return L.TimeDistributed(inner, name=g.name("distributed"))(x)


def recurrent(g, x):
    layer = g.pick([L.LSTM, L.GRU, L.SimpleRNN])(g.width(), return_sequences=g.flip(), name=g.name("recurrent"))
    return layer(x)


def bidirectional(g, x):
    layer = g.pick([L.LSTM, L.GRU])(g.width(), return_sequences=True)
    mode = g.pick(["concat", "sum", "mul", "ave"])
    return L.Bidirectional(layer, merge_mode=mode, name=g.name("bidirectional"))(x)


def attention(g, x):
    y = L.MultiHeadAttention(1 + g._choose(3), 1 + g._choose(3), name=g.name("attention"))(x, x)
    return L.Add(name=g.name("sum"))([x, y]) if g.flip() else y


def attention_by_hand(g, x):
    """Heads by reshape and transposition, scores by matmul."""
    length, heads, size = x.shape[1], 2, 1 + g._choose(3)
    split = lambda y: ops.transpose(ops.reshape(y, (-1, length, heads, size)), (0, 2, 1, 3))  # noqa: E731
    q, k, v = (split(L.Dense(heads * size, name=g.name(part))(x)) for part in ("q", "k", "v"))
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / size**0.5)
    y = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, length, heads * size))
    return L.Dense(x.shape[-1], name=g.name("out"))(y)


def dot_attention(g, x):
    return L.Attention(use_scale=g.flip(), name=g.name("dot_attention"))([g.conv(x, 4), g.conv(x, 4)])


def einsum(g, x):
    return L.EinsumDense("abc,cd->abd", (x.shape[1], g.width()), bias_axes="d", name=g.name("einsum"))(x)


def mix_positions(g, x):
    """A Dense along the sequence, between two transpositions."""
    y = L.Dense(x.shape[1], name=g.name("tokens"))(L.Permute((2, 1), name=g.name("turn"))(x))
    return L.Permute((2, 1), name=g.name("back"))(y)


def similarity(g, x):
    """A vector from the dot product of two."""
    y = L.Dot(axes=-1, normalize=g.flip(), name=g.name("dot"))(
        [L.Dense(4, name=g.name("left"))(x), L.Dense(4, name=g.name("right"))(x)]
    )
    return L.Concatenate(name=g.name("concat"))([x, y])


def to_vector(g, x):
    return L.Flatten(name=g.name("flat"))(x)


def unfold(g, x):
    """A vector as a sequence."""
    return L.Reshape((4, 3), name=g.name("unfold"))(L.Dense(12, name=g.name("wide"))(x))


def repeated(g, x):
    return L.RepeatVector(3, name=g.name("repeat"))(x)


_ANY = [
    conv,
    norm,
    unit_norm,
    prelu,
    noise,
    residual,
    branches,
    concat,
    shared,
    nested,
    nested_sequential,
    second_input,
]
_ANY += [operators, slices, option_a]
_SPATIAL = [excite, over_channels, group_norm, pool, to_vector]
_LINES = [depthwise, separable, grouped, transposed]
_SEQUENCE = [recurrent, bidirectional, attention, attention_by_hand, dot_attention, einsum, mix_positions]
STEPS = {
    2: [*_ANY, similarity, unfold, repeated],
    3: [*_ANY, *_SPATIAL, *_LINES, *_SEQUENCE, *_SEQUENCE],
    4: [*_ANY, *_SPATIAL, *_LINES, *_LINES, shuffle, to_sequence, distributed],
    5: [*_ANY, *_SPATIAL],
}
"""Rank of a tensor -> the steps it may take."""

NORMS = [L.BatchNormalization, L.BatchNormalization, L.RMSNormalization, L.LayerNormalization]
STARTS = [(8, 8, 3), (8, 8, 2), (8, 8, 4), (7, 3), (4, 4, 4, 2), (6,)]
"""Shapes of first inputs."""

_CONVOLUTIONAL = [conv, residual, branches, concat, shared, nested, scaled, excite, pool, option_a]
CONVOLUTIONAL = {
    "starts": [(8, 8, 3), (8, 8, 1)],
    "steps": {4: [*_CONVOLUTIONAL, depthwise, separable, prelu]},
    "norms": [L.BatchNormalization],
}
"""Images and convolutions only, all of which the deployed file is foretold for operator by operator."""
