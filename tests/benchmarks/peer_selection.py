"""What Torch-Pruning would keep of a shared Keras ResNet, as masks of ours, so that both are rebuilt by the same code.

    KERAS_QCQP_TORCH_PYTHON=/venv/bin/python python -m tests.benchmarks.peer_selection --criteria=group_l1 --output=DIR

Writes `DIR/<model>_<criterion>_<per cent>.json` for each. A selection is a JSON object: `model`, `criterion`,
`fraction` asked for, `macs` and `macs_before` (kernels only, as this package counts), `kept` (name of a convolution ->
its original output channels that stay, ascending), `outputs` (logits of the network that the library pruned, for the
first images of `calibration()`), `difference` (of the two unpruned networks' logits), `seconds`, `max_ratio`,
`torch_pruning` (version).
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags

from keras_qcqp import keras_graph
from keras_qcqp.channels import Out
from keras_qcqp.coupling import Coupling
from keras_qcqp.problem import Keep
from tests.benchmarks.shared_data import CIFAR_MEAN, CIFAR_STD, DATA, load_tiles, model_path

PYTHON = "KERAS_QCQP_TORCH_PYTHON"
ROOT = Path(__file__).resolve().parents[2]
CHECKED = 64
"""Images on which the two networks are compared."""


@functools.cache
def calibration(count: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    """The first training images of CIFAR-10 as the shared ResNets want them, and their labels."""
    images, labels = load_tiles(DATA / "cifar10/train_1.npz")
    return (images[:count].astype(np.float32) / 255 - CIFAR_MEAN) / CIFAR_STD, labels[:count].astype(np.int64)


def export(model: keras.Model, path: Path) -> None:
    """All that the other process is told: "layer/weight" -> values, images, labels, and the logits of the first."""
    values = {
        f"{layer}/{name}": v for layer, named in keras_graph.weight_values(model).items() for name, v in named.items()
    }
    images, labels = calibration()
    outputs = model.predict(images[:CHECKED], verbose=0)
    np.savez(path, images=images, labels=labels, outputs=outputs, **values)


def require_peer(python: str) -> None:
    """Raises SystemExit, saying what to install where, unless this Python has both libraries."""
    try:
        asked = subprocess.run([python, "-c", "import torch, torch_pruning"], capture_output=True, text=True)
        said = asked.stderr if asked.returncode else None
    except OSError as error:
        said = str(error)
    if said is not None:
        reason = (said.strip().splitlines() or ["no reason given"])[-1]
        raise SystemExit(
            f"{python} cannot run Torch-Pruning ({reason}). Install the extra 'peers' (pip install "
            f"'keras-qcqp[peers]'), or name in {PYTHON} the Python of another environment that has torch and "
            "torch-pruning."
        )


def peer_python() -> str:
    """The Python that runs torch, from the environment."""
    return os.environ.get(PYTHON, sys.executable)


def peer_selections(
    path: Path,
    criterion: str,
    fractions: Sequence[float],
    python: str | None = None,
    seed: int = 0,
    max_ratio: float = 1.0,
) -> list[dict[str, Any]]:
    """What the library keeps of the model in a file at each share of its MACs, largest first.

    Args:
        criterion: a key of `torch_peer.CRITERIA`.
        max_ratio: share of a layer's channels that may go; 1, the library's default, spares a single channel.

    Raises:
        SystemExit: this Python has no torch, or the other process failed.
    """
    python = python or peer_python()
    require_peer(python)
    with tempfile.TemporaryDirectory() as folder:
        task, told = Path(folder, "weights.npz"), Path(folder, "selections.json")
        export(keras.models.load_model(path, compile=False), task)
        command = [python, "-m", "tests.benchmarks.torch_peer", task, criterion, ",".join(map(str, fractions)), told]
        command += [f"--seed={seed}", f"--max_ratio={max_ratio}"]
        process = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
        if process.returncode:
            raise SystemExit(f"Torch-Pruning failed on '{path}':\n{process.stderr.strip()}")
        return [{"model": path.stem, **selection} for selection in json.loads(told.read_text())]


def peer_selection(path: Path, criterion: str, fraction: float, python: str | None = None) -> dict[str, Any]:
    """`peer_selections` for one share."""
    return peer_selections(path, criterion, [fraction], python)[0]


def peer_keep(coupling: Coupling, kept: Mapping[str, Sequence[int]]) -> Keep:
    """Masks in which the convolutions make these channels, and everything that `kept` does not speak of stays.

    Raises:
        ValueError: coupled layers that were to keep different channels.
    """
    alive = np.ones(len(coupling.mask_of), bool)
    for node in coupling.first_calls():
        if node.layer in kept:
            ids = coupling.ids(node, Out())
            alive[np.delete(ids, kept[node.layer])] = False
    for node in coupling.first_calls():
        if node.layer in kept and not alive[coupling.ids(node, Out())[list(kept[node.layer])]].all():
            raise ValueError(f"'{node.layer}' was to keep channels that a layer coupled with it lost.")
    masks = [np.zeros(mask.size, bool) for mask in coupling.masks]
    for mask, position, stays in zip(coupling.mask_of, coupling.position, alive, strict=True):
        masks[mask][position] = stays
    return tuple(masks)


def _main(argv: list[str]) -> None:
    del argv
    fractions = [float(f) for f in _FRACTIONS.value]
    folder = Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _MODELS.value:
        for criterion in _CRITERIA.value:
            for found in peer_selections(model_path(name), criterion, fractions, max_ratio=_MAX_RATIO.value):
                target = folder / f"{name}_{criterion}_{round(100 * found['fraction'])}.json"
                target.write_text(json.dumps(found))
                print(
                    target, f"{found['macs'] / found['macs_before']:.2%} of MACs, {found['seconds']:.0f} s", flush=True
                )


if __name__ == "__main__":
    _MODELS = flags.DEFINE_list("models", ["resnet20_cifar10", "resnet56_cifar10"], "Shared ResNets to select from.")
    _CRITERIA = flags.DEFINE_list("criteria", ["group_l1", "group_l2", "group_taylor"], "Criteria of the library.")
    _FRACTIONS = flags.DEFINE_list("fractions", ["0.7", "0.6", "0.5", "0.4"], "MACs to keep.")
    _MAX_RATIO = flags.DEFINE_float("max_ratio", 1.0, "Share of a layer's channels that may go.")
    _OUTPUT = flags.DEFINE_string("output", "peers", "Folder for the JSON files.")
    app.run(_main)
