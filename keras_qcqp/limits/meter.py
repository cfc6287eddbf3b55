"""Everything that a network is measured by: built-in resources, those of some layers only, and the user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from keras_qcqp import resources
from keras_qcqp.coupling import Coupling
from keras_qcqp.errors import BudgetError
from keras_qcqp.limits import costs, latency
from keras_qcqp.limits.budget import Budget, Limit
from keras_qcqp.limits.costs import CostModel
from keras_qcqp.limits.patterns import matching
from keras_qcqp.problem import Resource
from keras_qcqp.terms import Term


@dataclasses.dataclass(frozen=True)
class Meter:
    """How costs are read.

    Attributes:
        recipe: number format of the deployed file, "float32" or "int8", for `peak_bytes` and `tflite_bytes`.
        models: the user's own.

    Raises:
        BudgetError: an unknown recipe, or two cost models of one name.
    """

    recipe: str = "float32"
    models: tuple[CostModel, ...] = ()

    def __post_init__(self) -> None:
        resources.require_recipe(self.recipe)
        object.__setattr__(self, "models", tuple(costs.named(self.models).values()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the user's own costs."""
        return tuple(model.name for model in self.models)

    def resources(self, coupling: Coupling, budget: Budget) -> tuple[Resource, ...]:
        """All that is reported, and all that `budget` limits.

        Raises:
            BudgetError: a budget asks for what cannot be counted, or for layers that do not exist.
        """
        counted = [self._in_words(r) for r in resources.count_all(coupling, self.recipe)]
        counted += [latency.as_resource(coupling, limit) for limit in budget.latencies]
        known = {r.name for r in counted}
        for limit in budget.asked():
            if limit.pattern is None and limit.name not in self.names and limit.resource not in known:
                resources.resource(coupling, limit.resource, self.recipe)  # raises, naming the layer
        own = tuple(costs.as_resource(coupling, model) for model in self.models)
        return (*counted, *own, *(self._scoped(coupling, limit) for limit in _scopes(budget)))

    def _in_words(self, resource: Resource) -> Resource:
        """What depends on the number format says so, unless it is the usual one."""
        if self.recipe == "float32" or resource.name not in ("peak_bytes", "tflite_bytes"):
            return resource
        return dataclasses.replace(resource, unit=f"{resource.unit} {self.recipe}")

    def _scoped(self, coupling: Coupling, limit: Limit) -> Resource:
        unit = resources.COUNTERS[limit.resource][0]
        found = resources.polynomial(coupling, limit.key, unit, self._terms(coupling, limit))
        if found.usage([m.size for m in coupling.masks]) == 0:
            raise BudgetError(f"Budget {limit}: the layers that match '{limit.pattern}' have no {limit.resource}.")
        return found

    def _terms(self, coupling: Coupling, limit: Limit) -> Iterator[Term]:
        layers = list(dict.fromkeys(node.layer for node in coupling.graph.nodes))
        inside = set(matching(limit.pattern or "*", layers, f"Budget {limit}"))
        return (t for t in resources.COUNTERS[limit.resource][1](coupling, self.recipe) if t.node.layer in inside)

    def usage(self, coupling: Coupling, budget: Budget, timed: bool = True) -> dict[str, int]:
        """Resource name -> what a network costs as it stands; counted term by term, not over masks.

        Args:
            timed: latencies too.
        """
        full = np.ones(len(coupling.mask_of), bool)
        found = {r.name: r.usage([m.size for m in coupling.masks]) for r in resources.count_all(coupling, self.recipe)}
        found |= {m.name: m.constant + sum(costs.by_layer(coupling, m, full).values()) for m in self.models}
        for device in budget.latencies if timed else ():
            found[device.key] = device.load().constant + sum(latency.by_layer(coupling, device, full).values())
        return found | {x.key: sum(t.value(full) for t in self._terms(coupling, x)) for x in _scopes(budget)}

    def by_layer(self, coupling: Coupling, budget: Budget, key: str, alive: np.ndarray) -> dict[str, int]:
        """Layer path -> its share of one resource when the channels in bool[channels] `alive` are kept."""
        for model in self.models:
            if model.name == key:
                return costs.by_layer(coupling, model, alive)
        for device in budget.latencies:
            if device.key == key:
                return latency.by_layer(coupling, device, alive)
        for limit in _scopes(budget):
            if limit.key == key:
                shares: dict[str, int] = {}
                for term in self._terms(coupling, limit):
                    shares[term.node.layer] = shares.get(term.node.layer, 0) + term.value(alive)
                return shares
        return resources.by_layer(coupling, key, alive, self.recipe)


def _scopes(budget: Budget) -> list[Limit]:
    """One limit for each resource over some layers."""
    scoped = (limit for limit in budget.asked() if isinstance(limit, Limit) and limit.pattern is not None)
    return list({limit.key: limit for limit in scoped}.values())
