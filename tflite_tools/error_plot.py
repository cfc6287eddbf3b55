"""Draws the noise of a quantized network over its operators."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from tflite_tools.errors import VerificationError
from tflite_tools.files import write_bytes

if TYPE_CHECKING:
    from tflite_tools.verification import Verification

_NAMED = 5


def save(made: Verification, path: str | os.PathLike[str]) -> None:
    """Writes an SVG: the noise so far as a line, the noise each operator adds as bars, the worst of them by name.

    Raises:
        VerificationError: there is nothing to draw, or Matplotlib is missing.
        OutputFileError: the place is not writable.
    """
    if not made.tensors:
        raise VerificationError("There are no tensors to draw: the file is not quantized, or none were compared.")
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VerificationError("Drawing needs Matplotlib: pip install 'keras-qcqp[plot]' (or matplotlib).") from error
    with matplotlib.rc_context({"svg.hashsalt": "tflite_tools"}):  # the same file again for the same numbers
        figure = Figure(figsize=(max(7, 0.16 * len(made.tensors)), 4.5), layout="constrained")
        _draw(figure.add_subplot(), made)
        stream = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    write_bytes(path, stream.getvalue())


def _draw(axes: Any, made: Verification) -> None:
    worst = made.worst(_NAMED)
    places = range(len(made.tensors))
    noise = [-t.added_db for t in made.tensors]
    floor = min(-80.0, *(value for value in noise if value > -200)) if any(v > -200 for v in noise) else -80.0
    colours = ["tab:red" if t in worst else "tab:blue" for t in made.tensors]
    heights = [max(value, floor) - floor for value in noise]
    axes.bar(places, heights, bottom=floor, color=colours, label="added by the operator")
    axes.plot(places, [max(-t.snr_db, floor) for t in made.tensors], "k.-", linewidth=1, label="noise so far")
    axes.set_ylabel("noise / signal, dB")
    axes.set_xticks([k for k in places if made.tensors[k] in worst])
    axes.set_xticklabels([t.layer for t in made.tensors if t in worst], rotation=30, ha="right")
    axes.legend(loc="lower right")
    axes.set_title(f"{len(made.tensors)} operators; the {len(worst)} that add most noise are named")
