"""What one step of an iterative pruning starts from, kept so that a killed run goes on from the very same numbers."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_qcqp.errors import FileError, TrainingError
from keras_qcqp.files import replacing, write_text
from keras_qcqp.finetuning import checkpoint
from keras_qcqp.plan import Plan
from keras_qcqp.pruning import PruneResult
from keras_qcqp.rebuilder import rebuild

_STEP, _WEIGHTS = "step.json", "start.npz"


def begin(
    model: keras.Model,
    limits: Mapping[str, Any],
    prune_now: Callable[[], PruneResult],
    folder: Path | None,
    resume: bool,
    tell: Callable[[str], None],
) -> tuple[Plan, keras.Model]:
    """The plan of a step and the model to train: of the folder, since a search that ends by the clock may end elsewhere
    and sums of floats depend on threads; else by pruning now, and kept there.

    Raises:
        FileError: the folder's files are damaged.
        TrainingError: they belong to another run.
    """
    if folder is not None and resume and (folder / _STEP).is_file():
        found = _read(model, limits, folder)
        tell("pruned before")
        return found
    result = prune_now()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / _WEIGHTS) as temporary, temporary.open("wb") as stream:
            np.savez(stream, *checkpoint.values_of(result.model.weights))
        told = {"limits": dict(limits), "weights": checkpoint.digest(model), "plan": json.loads(result.plan.to_json())}
        write_text(folder / _STEP, json.dumps(told))  # the last: without it the step has not begun
    return result.plan, result.model


def _read(model: keras.Model, limits: Mapping[str, Any], folder: Path) -> tuple[Plan, keras.Model]:
    path = folder / _STEP
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        found, plan = (told["limits"], told["weights"]), Plan.from_json(json.dumps(told["plan"]))
        with np.load(folder / _WEIGHTS, allow_pickle=False) as pack:
            values = tuple(pack[f"arr_{k}"] for k in range(len(pack.files)))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"'{path}' is no step of a pruning, or damaged ({error}). Delete '{folder}'.") from error
    if found != (dict(limits), checkpoint.digest(model)):
        raise TrainingError(
            f"'{path}' belongs to another run: it was asked for {found[0]}, now {dict(limits)} is asked"
            f"{'' if found[1] == checkpoint.digest(model) else ', of a model with other weights'}. Give another "
            "checkpoint_dir, or resume=False to begin anew."
        )
    smaller = rebuild(model, plan)
    checkpoint.assign(smaller.weights, values)
    return plan, smaller
