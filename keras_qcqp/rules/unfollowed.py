"""`keras.ops` operations that no rule follows, each with the reason; their channels are kept whole, and said so."""

from __future__ import annotations

from collections.abc import Mapping

_FUNCTIONS = "it runs functions that cannot be looked into; write them out, or make them a layer with a rule"
_KERNEL = "its kernel or its statistics are arguments; use the layer of the same name"
_DATA = "which values it returns, or how many, depends on the data"
_MIXES = "every result depends on all channels"
_SAMPLES = "it mixes the samples of the batch"
_LOSS = "a loss compares all channels"
_NUMBERS = "it makes numbers of numbers; there are no channels to follow"
_SIZE = "it returns the size of its argument, which changes with the channels"
_ALGEBRA = "it solves equations between all channels"
_COLOURS = "it works on the three colours"
_PLACES = "it computes places, and reads channels there"

_KINDS: Mapping[str, str] = {
    "AssociativeScan Cond ForiLoop Function JVP Map Scan Switch VectorizedMap WhileLoop": _FUNCTIONS,
    "BatchNorm Conv ConvTranspose DepthwiseConv SeparableConv FakeQuantWithMinMaxVars": _KERNEL,
    "Bincount Histogram Nonzero SearchSorted Unique UnravelIndex": _DATA,
    "CDist Corrcoef Correlate Cross Kron MultiHot": _MIXES,
    "AllClose Diag Diagflat Meshgrid Outer Ravel Vander Vdot Vsplit Vstack": _SAMPLES,
    "SegmentMax SegmentMin SegmentProd SegmentReduction SegmentSum": _SAMPLES,
    "BinaryCrossentropy CategoricalCrossentropy CTCDecode CTCLoss InTopK PSNR SSIM": _LOSS,
    "SparseCategoricalCrossentropy": _LOSS,
    "Arange Full Geomspace Linspace Logspace": _NUMBERS,
    "Ndim Size": _SIZE,
    "Lstsq Solve SolveTriangular": _ALGEBRA,
    "HSVToRGB RGBToGrayscale RGBToHSV": _COLOURS,
    "MapCoordinates Scatter ScatterUpdate TakeAlongAxis": _PLACES,
    "ElasticTransform": "it draws random numbers whose shape may depend on the channels",
    "Fold Unfold": "it wants the channels first",
    "OneHot": "it reads values as numbers of classes",
    "ScaleAndTranslate": "its output shape is an argument that names the channels",
    "SobelEdges": "it makes two channels of each, along a new axis",
    "View": "it reads the bytes of several values as one",
}

FROZEN: Mapping[str, str] = {name: reason for names, reason in _KINDS.items() for name in names.split()}
"""Operation class name -> why it is not followed."""
