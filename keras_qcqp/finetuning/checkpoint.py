"""One file per run, replaced as a whole at the end of each epoch: everything that the next epoch depends on.

`keras.callbacks.BackupAndRestore` is not used: it overwrites the weights in place, then writes the epoch to a second
file (a kill in between leaves weights of one epoch with the number of another, or half a file), does not keep the
history or the best weights, deletes all when done, and takes any run for the one that was interrupted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_qcqp.errors import FileError, TrainingError
from keras_qcqp.files import replacing

FORMAT = "keras_qcqp.finetuning"
Values = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class State:
    """Where a run stands after some epochs.

    Attributes:
        history: name -> one number for each finished epoch.
        variables: of the student, seeds of dropout included.
        optimizer: its variables: steps, momenta, the scale of the loss.
        best_epoch: counted from 1.
        best: the student's variables after it.
        companion: arrays of a callback that takes part in the run, by name.
    """

    history: Mapping[str, Sequence[float]]
    variables: Values
    optimizer: Values
    best_epoch: int
    best: Values
    companion: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def num_epochs(self) -> int:
        """How many are finished."""
        return len(self.history["loss"])


def values_of(variables: Iterable[Any]) -> Values:
    """As arrays of NumPy's own dtypes; float32 holds every bfloat16."""
    found = (np.array(keras.ops.convert_to_numpy(v)) for v in variables)
    return tuple(v.astype("float32") if v.dtype.kind == "V" or v.dtype.name == "bfloat16" else v for v in found)


def digest(model: keras.Model | None) -> str | None:
    """A short fingerprint of all weights."""
    return None if model is None else digest_of(values_of(model.weights))


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """A short fingerprint of shapes and contents."""
    found = hashlib.sha256()
    for values in arrays:
        found.update(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes())
    return found.hexdigest()[:16]


def save(path: Path, state: State, run: Mapping[str, Any]) -> None:
    """Replaces the file by one of `state`; `run` says which run it belongs to."""
    told = {
        "format": FORMAT,
        "version": 1,
        "run": run,
        "history": {k: list(v) for k, v in state.history.items()},
        "best_epoch": state.best_epoch,
    }
    parts = {"variables": state.variables, "optimizer": state.optimizer, "best": state.best}
    arrays: dict[str, Any] = {f"{part}_{k}": v for part, values in parts.items() for k, v in enumerate(values)}
    arrays |= {f"companion_{name}": values for name, values in state.companion.items()}
    arrays["told"] = np.array(json.dumps(told))
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def load(path: Path, run: Mapping[str, Any]) -> State | None:
    """Where this run stopped; None if it never finished an epoch.

    Raises:
        FileError: the file is damaged.
        TrainingError: it belongs to another run; says what differs.
    """
    for left in path.parent.glob(f".{path.stem}-*{path.suffix}"):
        left.unlink(missing_ok=True)  # by a process that was killed while it wrote
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as pack:
            told = json.loads(str(pack["told"]))
            parts: dict[str, Any] = {part: _numbered(pack, part) for part in ("variables", "optimizer", "best")}
            named = [name for name in pack.files if name.startswith("companion_")]
            parts["companion"] = {name.removeprefix("companion_"): pack[name] for name in named}
        state = State(told["history"], best_epoch=told["best_epoch"], **parts)
        wrote = dict(told["run"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"'{path}' is no checkpoint of a fine-tuning, or damaged ({error}). Delete it.") from error
    now = json.loads(json.dumps(run))
    different = [f"{k} was {_short(wrote.get(k))}, is {_short(now.get(k))}" for k in now if wrote.get(k) != now.get(k)]
    if different:
        raise TrainingError(
            f"The checkpoint '{path}' belongs to another run: {'; '.join(different)}. Give another checkpoint_dir, or "
            "resume=False to begin anew."
        )
    return state


def _numbered(pack: Any, part: str) -> Values:
    return tuple(pack[f"{part}_{k}"] for k in range(sum(name.startswith(f"{part}_") for name in pack.files)))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def assign(variables: Iterable[Any], values: Values) -> None:
    """Sets variables that were read by `values_of`."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
