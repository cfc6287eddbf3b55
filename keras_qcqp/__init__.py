"""Prunes trained Keras CNNs to hard budgets: `keras_qcqp.prune(model, {"macs": 0.5})`.

Names are loaded when first used: importing the package imports neither a deep-learning framework nor a solver.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_qcqp.channels import Axis as Axis
    from keras_qcqp.channels import Call as Call
    from keras_qcqp.channels import Channels as Channels
    from keras_qcqp.channels import Frozen as Frozen
    from keras_qcqp.channels import In as In
    from keras_qcqp.channels import Out as Out
    from keras_qcqp.channels import Spec as Spec
    from keras_qcqp.coupling import Coupling as Coupling
    from keras_qcqp.coupling import couple as couple
    from keras_qcqp.drawing import Drawing as Drawing
    from keras_qcqp.drawing import plot as plot
    from keras_qcqp.errors import BudgetError as BudgetError
    from keras_qcqp.errors import DataError as DataError
    from keras_qcqp.errors import FileError as FileError
    from keras_qcqp.errors import FrozenLayerError as FrozenLayerError
    from keras_qcqp.errors import InfeasibleError as InfeasibleError
    from keras_qcqp.errors import ModelError as ModelError
    from keras_qcqp.errors import PlanError as PlanError
    from keras_qcqp.errors import ProblemError as ProblemError
    from keras_qcqp.errors import QcqpError as QcqpError
    from keras_qcqp.errors import TrainingError as TrainingError
    from keras_qcqp.finetuning.iterative import prune_and_finetune as prune_and_finetune
    from keras_qcqp.finetuning.tune import FinetuneResult as FinetuneResult
    from keras_qcqp.finetuning.tune import finetune as finetune
    from keras_qcqp.graph import Graph as Graph
    from keras_qcqp.graph import read as read
    from keras_qcqp.legacy import from_tf_keras as from_tf_keras
    from keras_qcqp.limits.budget import Budget as Budget
    from keras_qcqp.limits.costs import CostModel as CostModel
    from keras_qcqp.limits.costs import LayerCost as LayerCost
    from keras_qcqp.limits.latency_limit import LatencyLimit as LatencyLimit
    from keras_qcqp.limits.widths import Widths as Widths
    from keras_qcqp.plan import LayerPlan as LayerPlan
    from keras_qcqp.plan import Plan as Plan
    from keras_qcqp.problem import Mask as Mask
    from keras_qcqp.problem import Need as Need
    from keras_qcqp.problem import Pair as Pair
    from keras_qcqp.problem import Problem as Problem
    from keras_qcqp.problem import Resource as Resource
    from keras_qcqp.problem import Solution as Solution
    from keras_qcqp.problem import Step as Step
    from keras_qcqp.problem import evaluate as evaluate
    from keras_qcqp.problem import violations as violations
    from keras_qcqp.pruning import PruneResult as PruneResult
    from keras_qcqp.pruning import prune as prune
    from keras_qcqp.rebuilder import masked as masked
    from keras_qcqp.rebuilder import rebuild as rebuild
    from keras_qcqp.recovery import Recovered as Recovered
    from keras_qcqp.recovery import recover as recover
    from keras_qcqp.report import Report as Report
    from keras_qcqp.resources import measure as measure
    from keras_qcqp.rules import register_rule as register_rule
    from keras_qcqp.solvers import solve as solve
    from keras_qcqp.solvers import solve_path as solve_path
    from keras_qcqp.tapering.taper import TaperResult as TaperResult
    from keras_qcqp.tapering.taper import taper as taper

__version__ = "0.1.0"

_HOMES = {
    "limits.budget": ["Budget"],
    "channels": ["Axis", "Call", "Channels", "Frozen", "In", "Out", "Spec"],
    "limits.costs": ["CostModel", "LayerCost"],
    "coupling": ["Coupling", "couple"],
    "drawing": ["Drawing", "plot"],
    "errors": """BudgetError DataError FileError FrozenLayerError InfeasibleError ModelError PlanError ProblemError
        QcqpError TrainingError""".split(),
    "finetuning.iterative": ["prune_and_finetune"],
    "finetuning.tune": ["FinetuneResult", "finetune"],
    "graph": ["Graph", "read"],
    "legacy": ["from_tf_keras"],
    "plan": ["LayerPlan", "Plan"],
    "problem": ["Mask", "Need", "Pair", "Problem", "Resource", "Solution", "Step", "evaluate", "violations"],
    "pruning": ["PruneResult", "prune"],
    "rebuilder": ["masked", "rebuild"],
    "recovery": ["Recovered", "recover"],
    "report": ["Report"],
    "resources": ["measure"],
    "rules": ["register_rule"],
    "solvers": ["solve", "solve_path"],
    "limits.latency_limit": ["LatencyLimit"],
    "limits.widths": ["Widths"],
    "tapering.taper": ["TaperResult", "taper"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'keras_qcqp' has no attribute '{name}'")
    return getattr(importlib.import_module(f"keras_qcqp.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
