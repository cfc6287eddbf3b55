"""A fitted latency model as a value: what each geometry costs at every width, and what the whole network costs."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tflite_tools.errors import ProfileError
from tflite_tools.files import write_text
from tflite_tools.latency.forms import Form, Quality, Samples, mean_error
from tflite_tools.latency.geometry import Use, Widths

FORMAT = "tflite_tools.latency/1"


@dataclass(frozen=True)
class Row:
    """One geometry, fitted.

    Attributes:
        key: what its operators have in common, in words.
        spans: smallest and largest input and output width that was measured, None where it has none.
        chosen: the form that predicts; `forms` holds all that were fitted.
        errors: form -> mean |error| in per cent on held-out widths.
        quality: of the chosen form on held-out widths; on all, where none were held out.
        scale: factor that brings pieces to what they cost within a network.
        samples: float[samples, 4]: input width, output width (0: none), milliseconds, 1 where held out.
    """

    kind: str
    key: str
    spans: tuple[tuple[int, int] | None, tuple[int, int] | None]
    multiple: int
    chosen: str
    forms: Mapping[str, Form]
    errors: Mapping[str, float]
    quality: Quality
    samples: np.ndarray
    scale: float = 1.0

    def at(self, widths: Widths, form: str | None = None) -> float:
        """Milliseconds at these widths, by the chosen form or another one."""
        given, made = (width or 0 for width in widths)
        return self.scale * float(self.forms[form or self.chosen].at(given, made))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": self.kind,
            "key": self.key,
            "spans": [None if span is None else list(span) for span in self.spans],
            "multiple": self.multiple,
            "chosen": self.chosen,
            "forms": {name: form.to_dict() for name, form in self.forms.items()},
            "held_out_error_percent": dict(self.errors),
            "quality": dataclasses.asdict(self.quality),
            "scale": self.scale,
            "samples": self.samples.tolist(),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Row:
        """The inverse of `to_dict`."""
        spans = tuple(None if span is None else (int(span[0]), int(span[1])) for span in stored["spans"])
        return cls(
            stored["kind"],
            stored["key"],
            (spans[0], spans[1]),
            int(stored["multiple"]),
            stored["chosen"],
            {name: Form.from_dict(form) for name, form in stored["forms"].items()},
            {name: float(error) for name, error in stored["held_out_error_percent"].items()},
            Quality(**stored["quality"]),
            np.asarray(stored["samples"], np.float64).reshape(-1, 4),
            float(stored["scale"]),
        )


@dataclass(frozen=True)
class LatencyModel:
    """What a network costs on a device, at every width of its layers.

    The cost is `constant_ms + sum over operators of max(row cost - overhead_ms, 0)`; it is exact, up to noise,
    for the network as it is.

    Attributes:
        recipe: "int8" or "float32": the number format of the activations.
        fingerprint: of the file that was fitted.
        ops: the operators of the network in order.
        rows: the distinct geometries among them.
        measured_ms: of the network as it is.
        whole: quality over held-out whole networks of random widths, by form ("chosen" and the single ones).
        wholes: float[networks, 2]: predicted and measured milliseconds of these networks.
        seconds: how long the fit took.
    """

    name: str
    device: str
    num_threads: int
    deterministic: bool
    recipe: str
    fingerprint: str
    environment: Mapping[str, str]
    settings: Mapping[str, Any]
    ops: tuple[Use, ...]
    rows: tuple[Row, ...]
    measured_ms: float
    constant_ms: float = 0.0
    overhead_ms: float = 0.0
    whole: Mapping[str, Quality] = field(default_factory=dict)
    wholes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    seconds: float = 0.0

    def predict(self, widths: Sequence[Widths] | None = None) -> float:
        """Milliseconds of the network with its operators at these widths, in order; as it is for None."""
        given = [op.widths for op in self.ops] if widths is None else widths
        if len(given) != len(self.ops):
            raise ProfileError(f"Widths of {len(given)} operators were given; the network has {len(self.ops)}.")
        each = sum(max(self.rows[op.row].at(w) - self.overhead_ms, 0.0) for op, w in zip(self.ops, given, strict=True))
        return self.constant_ms + each

    def to_json(self) -> str:
        """The inverse of `from_json`; floats keep every digit."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain |= {
            "environment": dict(self.environment),
            "settings": dict(self.settings),
            "ops": [[op.kind, op.row, *op.widths, op.positions] for op in self.ops],
            "rows": [row.to_dict() for row in self.rows],
            "whole": {name: dataclasses.asdict(found) for name, found in self.whole.items()},
            "wholes": self.wholes.tolist(),
        }
        return json.dumps({"format": FORMAT, "unit": "ms", **plain}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> LatencyModel:
        """Reads what `to_json` wrote.

        Raises:
            ProfileError: no JSON, another format, or missing fields.
        """
        try:
            stored = json.loads(text)
            found = stored.pop("format", None)
        except (ValueError, AttributeError) as error:
            raise ProfileError(f"The latency file is no JSON: {error}. Fit again.") from error
        if found != FORMAT:
            raise ProfileError(f"The latency file has format {found!r}, expected '{FORMAT}'. Fit again.")
        stored.pop("unit", None)
        try:
            stored["ops"] = tuple(Use(kind, int(row), (a, b), int(n)) for kind, row, a, b, n in stored["ops"])
            stored["rows"] = tuple(Row.from_dict(row) for row in stored["rows"])
            stored["whole"] = {name: Quality(**q) for name, q in stored["whole"].items()}
            stored["wholes"] = np.asarray(stored["wholes"], np.float64).reshape(-1, 2)
            return cls(**stored)
        except (KeyError, TypeError, ValueError) as error:
            raise ProfileError(f"The latency file is damaged: {error!r}. Fit again.") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the file whole or not at all.

        Raises:
            OutputFileError: the place is not writable.
        """
        return write_text(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyModel:
        """Reads a file.

        Raises:
            ProfileError: it is missing or no latency file.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ProfileError(f"Cannot read '{path}': {error.strerror}. Give a file of tflite_fit_latency.") from error

    def __str__(self) -> str:
        from tflite_tools.latency.text import render

        return render(self)


def fitted_row(kind: str, key: str, spans: Any, multiple: int, forms: Mapping[str, Form], fit: RowFit) -> Row:
    """A row from what was fitted and what was held out."""
    from tflite_tools.latency.forms import choose, quality

    judged = fit.held_out if len(fit.held_out) else fit.train
    chosen = choose(forms, judged)
    errors = {name: 100 * mean_error(form, judged) for name, form in forms.items()}
    predicted = forms[chosen].at(judged[:, 0].astype(int), judged[:, 1].astype(int))
    samples = np.concatenate(
        [np.c_[fit.train, np.zeros(len(fit.train))], np.c_[fit.held_out, np.ones(len(fit.held_out))]]
    )
    return Row(kind, key, spans, multiple, chosen, forms, errors, quality(predicted, judged[:, 2]), samples)


@dataclass(frozen=True)
class RowFit:
    """Samples of one geometry: those that may be fitted, and those that judge."""

    train: Samples
    held_out: Samples
