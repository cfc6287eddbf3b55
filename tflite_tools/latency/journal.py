"""Measurements that survive an interruption: a file that is replaced whole after every batch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tflite_tools.errors import ProfileError
from tflite_tools.files import check_writable, write_text

_FORMAT = "tflite_tools.latency_samples/1"


class Journal:
    """Costs by model name, one for each pass; kept in a file if there is a path.

    Raises:
        ProfileError: the file belongs to another fit, or is no journal.
        OutputFileError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: Mapping[str, Any]) -> None:
        self._path, self._identity = path, json.loads(json.dumps(identity))
        self._costs: dict[str, list[float]] = {}
        if path is not None:
            check_writable(path)
            if Path(path).exists():
                self._costs = self._read(Path(path))

    @property
    def costs(self) -> dict[str, float]:
        """The least of each model's measurements."""
        return {name: min(values) for name, values in self._costs.items()}

    def missing(self, names: Mapping[str, Any], number: int) -> list[str]:
        """Those that were measured less than `number + 1` times."""
        return [name for name in names if len(self._costs.get(name, ())) <= number]

    def add(self, costs: Mapping[str, float]) -> None:
        """Keeps the measurements of one batch."""
        for name, value in costs.items():
            self._costs.setdefault(name, []).append(value)
        if self._path is not None:
            write_text(self._path, json.dumps({"format": _FORMAT, "of": self._identity, "costs": self._costs}))

    def _read(self, path: Path) -> dict[str, list[float]]:
        advice = "Give another file, or delete this one."
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            known = stored["format"] == _FORMAT
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProfileError(f"'{path}' holds no measurements that could be resumed: {error!r}. {advice}") from error
        if not known:
            raise ProfileError(f"'{path}' holds no measurements that could be resumed. {advice}")
        if stored["of"] != self._identity:
            other = [key for key in self._identity if stored["of"].get(key) != self._identity[key]]
            raise ProfileError(f"'{path}' belongs to another fit: its {', '.join(other)} differs. {advice}")
        return {name: [float(v) for v in values] for name, values in stored["costs"].items()}
