"""Fisher scores and recovery of one small network, in a process of its own: `python tests/importance_run.py FOLDER`.

Reads FOLDER/net.keras and FOLDER/data.npz, leaves FOLDER/BACKEND.npz: scores, and outputs of the recovered network.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

import keras_qcqp
from keras_qcqp.coupling import couple
from keras_qcqp.graph import read
from keras_qcqp.importance import criterion
from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.importance.score import Score
from keras_qcqp.keras_graph import weight_values
from keras_qcqp.samples import collect


def evidence_of(model: keras.Model, data=None, **options) -> Evidence:
    samples = None if data is None else collect(data, model)
    return Evidence(couple(read(model)), weight_values(model), model, samples, **options)


def name_of(score: Score) -> str:
    """Of the layer and the tensors that the score follows; unique for layers of one kernel."""
    return f"{score.node.layer} {' '.join(axis.side for axis in score.axes)}"


def main(folder: Path) -> None:
    model, data = keras.models.load_model(folder / "net.keras"), np.load(folder / "data.npz")
    x, y = data["x"], data["y"]
    found = {name_of(s): s.values for s in criterion("fisher")(evidence_of(model, (x, y)))}
    pruned = keras_qcqp.prune(model, {"macs": 0.6}, recovery=())
    steps = ("least_squares",)
    won = keras_qcqp.recover(model, pruned.model, pruned.plan, x, steps=steps)
    found["plan"] = np.array(pruned.plan.to_json())
    found |= {"before": pruned.model.predict(x, verbose=0), "after": won.model.predict(x, verbose=0)}
    np.savez(folder / keras.backend.backend(), original=model.predict(x, verbose=0), **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
