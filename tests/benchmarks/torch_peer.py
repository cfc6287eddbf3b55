"""Torch-Pruning's selections on a shared ResNet: the part that runs without TensorFlow, in a process of its own.

    python -m tests.benchmarks.torch_peer weights.npz group_l1 0.7,0.5 selections.json

`peer_selection` writes the weights and reads the answer; it says what is in both. The protocol is that of the
library's own benchmark (global pruning, ratio 1, importance as it comes, small steps until the budget is met) with
steps of one channel, so that no budget is left unused. Gradients are taken in evaluation mode: once, of the whole
network, and cut along with the weights, or again before each step (`SteppedTaylor`). Needs torch and torch-pruning,
and nothing of this package.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

_EPSILON = 1e-5  # of the shared networks' batch norms
_BATCH = 64
_TOLERANCE = 1e-3
_HESSIAN_IMAGES = 512  # one backward pass for each


class ResNet(nn.Module):
    """The network of akamaster/pytorch_resnet_cifar10 with its shortcuts as 1x1 convolutions, layers named as in Keras.

    Args:
        weights: "layer/kernel" and so on, arranged as Keras has them.
    """

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        names = [key.removesuffix("/kernel") for key in weights if key.endswith("/kernel")]
        self.blocks = [name.removesuffix("_conv1") for name in names if name.endswith("_conv1")]
        for name in names:
            self.add_module(name, _mixing(name, weights))
            if f"{norm_of(name)}/gamma" in weights:
                self.add_module(norm_of(name), _norm(norm_of(name), weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._unit("conv1", x).relu()
        for block in self.blocks:
            branch = self._unit(f"{block}_conv2", self._unit(f"{block}_conv1", x).relu())
            shortcut = getattr(self, f"{block}_shortcut", None)
            x = (branch + (x if shortcut is None else shortcut(x))).relu()
        return self.logits(x.mean((2, 3)))

    def _unit(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, norm_of(name))(getattr(self, name)(x))

    @property
    def width(self) -> int:
        """Number of channels that can go one by one: second convolutions only add to those of others."""
        return sum(conv.out_channels for name, conv in self.convolutions.items() if not name.endswith("_conv2"))

    @property
    def convolutions(self) -> dict[str, nn.Conv2d]:
        """By name, all of them."""
        return {name: module for name, module in self.named_modules() if isinstance(module, nn.Conv2d)}


def norm_of(convolution: str) -> str:
    """Name of the batch norm that follows it."""
    return convolution.replace("conv", "bn")


def _mixing(name: str, weights: dict[str, np.ndarray]) -> nn.Module:
    kernel = torch.from_numpy(weights[f"{name}/kernel"])
    if kernel.ndim == 2:
        dense = nn.Linear(*kernel.shape)
        dense.weight.data, dense.bias.data = kernel.T.contiguous(), torch.from_numpy(weights[f"{name}/bias"])
        return dense
    area, _, reads, makes = kernel.shape
    stride = 2 if reads != makes and name != "conv1" else 1
    conv = nn.Conv2d(reads, makes, area, stride, area // 2, bias=False)
    conv.weight.data = kernel.permute(3, 2, 0, 1).contiguous()
    return conv


def _norm(name: str, weights: dict[str, np.ndarray]) -> nn.Module:
    gamma, beta, mean, variance = (
        torch.from_numpy(weights[f"{name}/{part}"]) for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    norm = nn.BatchNorm2d(len(gamma), _EPSILON)
    norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var = gamma, beta, mean, variance
    return norm


class SummedHessian(tp.importance.GroupHessianImportance):
    """As its documentation says; release 1.6.1 forgets all samples but the last (it looks parameters up by name)."""

    def accumulate_grad(self, model: nn.Module) -> None:
        for p in model.parameters():
            if p.grad is not None:
                self._accu_grad[p] = self._accu_grad.get(p, 0) + p.grad.data**2
                self._counter[p] = self._counter.get(p, 0) + 1


class SteppedTaylor(tp.importance.GroupTaylorImportance):
    """With gradients taken anew before each step, as in the library's tutorial: of one mini-batch, in turn."""


CRITERIA: dict[str, Callable[[], Any]] = {
    "group_l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "group_l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "group_taylor": tp.importance.GroupTaylorImportance,
    "stepped_taylor": SteppedTaylor,
    "group_hessian": SummedHessian,
    "bn_scale": tp.importance.BNScaleImportance,
    "lamp": tp.importance.LAMPImportance,
    "fpgm": tp.importance.FPGMImportance,
    "random": tp.importance.RandomImportance,
}


class Gradients:
    """The cross-entropy's, where a criterion wants them: at the start, or again before each step."""

    def __init__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.model, self.images, self.labels = model, images, labels

    def start(self, importance: Any) -> None:
        """Summed over mini-batches; squared for each image and averaged for the Hessian."""
        if isinstance(importance, tp.importance.GroupHessianImportance):
            for x, y in zip(self.images[:_HESSIAN_IMAGES].split(1), self.labels.split(1), strict=False):
                self.model.zero_grad()
                self._add(x, y)
                importance.accumulate_grad(self.model)
        elif isinstance(importance, tp.importance.GroupTaylorImportance):
            for x, y in zip(self.images.split(_BATCH), self.labels.split(_BATCH), strict=True):
                self._add(x, y)

    def step(self, importance: Any, number: int) -> None:
        """Before the pruner's step of this number."""
        if isinstance(importance, SteppedTaylor):
            self.model.zero_grad()
            first = number * _BATCH % len(self.images)
            self._add(self.images[first : first + _BATCH], self.labels[first : first + _BATCH])

    def _add(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        nn.functional.cross_entropy(self.model(images), labels).backward()


def macs_of(model: ResNet, image: torch.Tensor) -> int:
    """Multiply-accumulates of kernels, as this package counts; the library's own number has batch norms in it."""
    counted = tp.utils.count_ops_and_params(model, image, layer_wise=True)[2]
    kernels = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    return int(sum(counted[k] for k in kernels)) - sum(len(k.bias) for k in kernels if k.bias is not None)


def path(pruner: Any, convolutions: dict[str, nn.Conv2d], before: Callable[[int], None]) -> Iterator[dict]:
    """Prunes step by step; after each, which of its original channels every convolution still makes."""
    kept = {name: list(range(conv.out_channels)) for name, conv in convolutions.items()}
    names = {conv: name for name, conv in convolutions.items()}
    for number in range(pruner.iterative_steps):
        before(number)
        for group in pruner.step(interactive=True):
            for dep, index in group:
                if dep.handler == tp.prune_conv_out_channels:  # bound methods, another one at each look
                    name, gone = names[dep.target.module], set(index)
                    kept[name] = [c for place, c in enumerate(kept[name]) if place not in gone]
            group.prune()
        yield kept


def selections(task: dict[str, np.ndarray], criterion: str, fractions: list[float], max_ratio: float) -> list[dict]:
    """One selection for each fraction of MACs, largest first, all from one path."""
    model = ResNet({key: values for key, values in task.items() if "/" in key}).eval()
    images = torch.from_numpy(task["images"]).permute(0, 3, 1, 2).contiguous()
    said = {"criterion": criterion, "max_ratio": max_ratio, "torch_pruning": metadata.version("torch-pruning")}
    said["difference"] = _difference(model, images, task["outputs"])
    importance, image, began = CRITERIA[criterion](), images[:1], time.monotonic()
    gradients = Gradients(model, images, torch.from_numpy(task["labels"]))
    gradients.start(importance)
    pruner = tp.pruner.MagnitudePruner(
        model, image, importance, global_pruning=True, pruning_ratio=1.0, max_pruning_ratio=max_ratio,
        iterative_steps=model.width, ignored_layers=[model.logits],
    )  # fmt: skip
    before = said["macs_before"] = macs_of(model, image)
    todo, found = sorted(fractions, reverse=True), []
    for kept in path(pruner, model.convolutions, lambda number: gradients.step(importance, number)):
        macs = macs_of(model, image)
        while todo and macs <= todo[0] * before:
            with torch.no_grad():
                outputs = model(images[: len(task["outputs"])]).double().numpy().round(6).tolist()
            mine = {"fraction": todo.pop(0), "macs": macs, "seconds": time.monotonic() - began}
            found.append({**said, **mine, "kept": dict(kept), "outputs": outputs})
        if not todo:
            return found
    raise SystemExit(f"{criterion} ends at {macs_of(model, image):,} MACs, above {todo[0]:.0%} of {before:,}.")


def _difference(model: ResNet, images: torch.Tensor, outputs: np.ndarray) -> float:
    with torch.no_grad():
        difference = float(np.abs(model(images[: len(outputs)]).numpy() - outputs).max())
    if not difference <= _TOLERANCE:
        raise SystemExit(f"The network rebuilt in torch is another one: outputs differ by {difference:.2g}.")
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("criterion", choices=CRITERIA)
    parser.add_argument("fractions", type=lambda text: [float(part) for part in text.split(",")])
    parser.add_argument("output", type=Path)
    parser.add_argument("--max_ratio", type=float, default=1.0, help="share of a layer's channels that may go")
    parser.add_argument("--seed", type=int, default=0, help="of the criterion 'random'")
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    with np.load(asked.weights, allow_pickle=False) as task:
        found = selections(dict(task), asked.criterion, asked.fractions, asked.max_ratio)
    asked.output.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
