"""A picture of where the time goes, operator by operator, drawn with Matplotlib (`pip install 'keras-qcqp[plot]'`)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from tflite_tools.errors import ProfileError
from tflite_tools.profiles import Profile

_SMALLEST_SHARE = 0.005  # operators below share one grey bar, or names would cover each other
_INCHES_WIDE, _INCHES_PER_BAR = 9.0, 0.22


def plot_ops(profiles: Sequence[Profile]) -> bytes:
    """An SVG with one panel for each profile, bars in the order of execution, one scale of milliseconds for all.

    Raises:
        ProfileError: Matplotlib is missing, or a profile has no operators.
    """
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ProfileError("Drawing needs Matplotlib: pip install 'keras-qcqp[plot]' (or matplotlib).") from error
    for profile in profiles:
        if not profile.ops:
            raise ProfileError(f"Profile '{profile.name}' has no times of operators. Measure with per_op.")
    kinds = dict.fromkeys(op.kind for profile in profiles for op in profile.ops)
    colours = {kind: f"C{number % 10}" for number, kind in enumerate(kinds)}
    panels = [_bars(profile, colours) for profile in profiles]
    heights = [len(bars) for bars in panels]
    figure = Figure(figsize=(_INCHES_WIDE, _INCHES_PER_BAR * sum(heights) + 0.9 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, profile, bars in zip(axes, profiles, panels, strict=True):
        labels, times, fills = zip(*bars, strict=True)
        axis.barh(range(len(bars)), times, color=fills)
        axis.set_yticks(range(len(bars)), labels, fontsize=7)
        axis.invert_yaxis()
        axis.set_title(f"{profile.name}: {profile.latency_ms:.4g} ms on {profile.device}", fontsize=9, loc="left")
    axes[-1].set_xlabel("ms")
    stream = io.BytesIO()
    # Without date and random identifiers, the same profiles give the same file.
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "tflite_tools"}):
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return stream.getvalue()


def _bars(profile: Profile, colours: Mapping[str, str]) -> list[tuple[str, float, str]]:
    """(label, ms, colour)."""
    total = sum(op.ms for op in profile.ops)
    shown = [op for op in profile.ops if op.ms >= _SMALLEST_SHARE * total]
    bars = [(_escaped(op.kind), op.ms, colours[op.kind]) for op in shown]
    rest = total - sum(op.ms for op in shown)
    count = len(profile.ops) - len(shown)
    return [*bars, (f"{count} others", rest, "0.7")] if count else bars


def _escaped(text: str) -> str:
    """A dollar sign would start mathematics."""
    return text.replace("$", r"\$")
