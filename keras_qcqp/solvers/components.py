"""Channels that need one another: small trees of binary choices, solved exactly and all at once.

Needs tie the k-th channels of several masks into a component (a residual stage: channel k of every branch and of every
sum). Components that look alike are stacked, so that variable elimination (Bertele and Brioschi, 1972) runs over all of
them in one sequence of NumPy operations. Given the neighbours outside, this is the two-state dynamic program along the
additions of a stage, for any graph of needs whose induced width is small.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from keras_qcqp.problem import Need

FORBIDDEN = -1e30


@dataclasses.dataclass(frozen=True)
class _Clause:
    """Variables of a component: the first may be 1 only where one of the others is."""

    target: int
    sources: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Stack:
    """Components of one form.

    Attributes:
        channels: int[components, variables], numbers of channels (masks laid end to end).
        clauses: over the variables, the same in every component.
    """

    channels: np.ndarray
    clauses: tuple[_Clause, ...]


def stacks(needs: Sequence[Need], offsets: np.ndarray) -> list[Stack]:
    """Groups the components of all needs by their form; channel c of mask m has the number `offsets[m] + c`.

    Every channel of a mask that occurs in a need is in exactly one stack, be it alone.
    """
    rows: list[tuple[int, ...]] = []
    for need in needs:
        columns = [offsets[need.mask] + need.index, *(offsets[m] + index for m, index in need.sources)]
        rows += [tuple(int(v) for v in row) for row in zip(*columns, strict=True)]
    masks = {m for need in needs for m in (need.mask, *(source for source, _ in need.sources))}
    parent = {v: v for m in masks for v in range(int(offsets[m]), int(offsets[m + 1]))}

    def find(v: int) -> int:
        while parent[v] != v:
            parent[v] = parent[parent[v]]
            v = parent[v]
        return v

    for first, *others in rows:
        for other in others:
            a, b = find(first), find(other)
            parent[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = {}
    for v in sorted(parent):
        members.setdefault(find(v), []).append(v)
    clauses: dict[int, list[tuple[int, ...]]] = {}
    for row in rows:
        clauses.setdefault(find(row[0]), []).append(row)
    mask_of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    forms: dict[tuple, list[list[int]]] = {}
    for root, variables in members.items():
        local = {v: k for k, v in enumerate(variables)}
        form = tuple(sorted({tuple(local[v] for v in row) for row in clauses.get(root, [])}))
        forms.setdefault((tuple(mask_of[variables].tolist()), form), []).append(variables)
    return [Stack(np.array(found), tuple(_Clause(t, tuple(s)) for t, *s in form)) for (_, form), found in forms.items()]


class Move:
    """Exact maximisation over some variables of a stack, the rest of its variables staying as they are."""

    def __init__(self, stack: Stack, variables: Iterable[int]) -> None:
        self.stack = stack
        self.variables = tuple(variables)
        self.channels = stack.channels[:, self.variables]
        self._local = {v: k for k, v in enumerate(self.variables)}
        self._clauses = [c for c in stack.clauses if any(v in self._local for v in (c.target, *c.sources))]
        scopes = [
            tuple(sorted({self._local[v] for v in (c.target, *c.sources) if v in self._local})) for c in self._clauses
        ]
        self._order, self.width = _elimination_order(len(self.variables), scopes)
        self._plan = _Plan(self._order, scopes)
        self._constant: list[np.ndarray] | None = None

    def best(self, gain: np.ndarray, x: np.ndarray) -> np.ndarray:
        """bool[components, variables] of greatest total gain; `gain`, `x` float[channels] over all channels."""
        return self._plan.solve(gain[self.channels], self._factors(x))

    def margins(self, gain: np.ndarray, x: np.ndarray) -> np.ndarray:
        """float[components, variables]: best total with the variable 1 less the best with it 0."""
        return self._plan.margins(gain[self.channels], self._factors(x))

    def _scope(self, clause: _Clause) -> list[int]:
        """The clause's variables that move."""
        return sorted({self._local[v] for v in (clause.target, *clause.sources) if v in self._local})

    def _factors(self, x: np.ndarray) -> list[np.ndarray]:
        """0 where a clause holds and FORBIDDEN where not, with one axis of 2 for each variable that moves."""
        if len(self.variables) < self.stack.channels.shape[1]:
            return self._evaluated(x)
        if self._constant is None:
            self._constant = self._evaluated(x)  # nothing outside the move has a say
        return self._constant

    def _evaluated(self, x: np.ndarray) -> list[np.ndarray]:
        values = x[self.stack.channels] > 0.5
        found = []
        for clause in self._clauses:
            scope = self._scope(clause)
            shape = [-1] + [1] * len(scope)

            def literal(v: int, scope: list[int] = scope, shape: list[int] = shape) -> np.ndarray:
                if v in self._local:
                    axis = [1] * (len(scope) + 1)
                    axis[1 + scope.index(self._local[v])] = 2
                    return np.array([False, True]).reshape(axis)
                return values[:, v].reshape(shape)

            met = ~literal(clause.target)
            for source in clause.sources:
                met = met | literal(source)
            found.append(np.where(met, 0.0, FORBIDDEN))
        return found


def _elimination_order(num: int, scopes: Sequence[tuple[int, ...]]) -> tuple[list[int], int]:
    """Min-degree order and the largest number of variables in one table."""
    around: list[set[int]] = [set() for _ in range(num)]
    for scope in scopes:
        for v in scope:
            around[v] |= set(scope) - {v}
    left, order, width = set(range(num)), [], 0
    while left:
        v = min(left, key=lambda u: (len(around[u]), u))
        width = max(width, len(around[v]) + 1)
        for u in around[v]:
            around[u] = (around[u] | around[v]) - {u, v}
        left.remove(v)
        order.append(v)
    return order, width


class _Plan:
    """A fixed elimination order with its scopes; values come with each call."""

    def __init__(self, order: Sequence[int], scopes: Sequence[tuple[int, ...]]) -> None:
        self._buckets: list[tuple[int, tuple[int, ...], list[int]]] = []
        place = {v: k for k, v in enumerate(order)}
        self._num_factors = len(scopes)
        pending: list[tuple[tuple[int, ...], int]] = [(scope, k) for k, scope in enumerate(scopes)]
        self._scopes: list[tuple[int, ...]] = list(scopes)
        for number, v in enumerate(order):
            taken = [k for scope, k in pending if v in scope]
            pending = [(scope, k) for scope, k in pending if v not in scope]
            rest = tuple(sorted({u for k in taken for u in self._scopes[k]} - {v}))
            message = self._num_factors + number
            self._scopes.append(rest)
            pending.append((rest, message))
            self._buckets.append((v, rest, taken))
        self._parent = [min((place[u] for u in rest), default=-1) for _, rest, _ in self._buckets]

    def _spread(self, table: np.ndarray, scope: tuple[int, ...], wanted: tuple[int, ...]) -> np.ndarray:
        """A factor with axes of size 1 for the wanted variables that it does not have."""
        return table.reshape(table.shape[0], *(2 if u in scope else 1 for u in wanted))

    def _up(self, gain: np.ndarray, factors: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Joint tables of the buckets (axes: rest ascending, variable last), and all factors with the messages."""
        values, joint = list(factors), []
        for v, rest, taken in self._buckets:
            wanted = tuple(sorted((*rest, v)))
            axis = 1 + wanted.index(v)
            shape = [1] * (len(wanted) + 1)
            shape[0], shape[axis] = len(gain), 2
            total = np.zeros(shape)
            total[(slice(None), *(slice(None) if a == axis else 0 for a in range(1, len(shape))))][:, 1] = gain[:, v]
            for k in taken:
                total = total + self._spread(values[k], self._scopes[k], wanted)
            joint.append(total)
            off, on = ((slice(None),) * axis + (k,) for k in (0, 1))
            values.append(np.maximum(total[off], total[on]))  # far faster than a reduction over two
        return joint, values

    def solve(self, gain: np.ndarray, factors: list[np.ndarray]) -> np.ndarray:
        joint, _ = self._up(gain, factors)
        x = np.zeros(gain.shape, np.int64)
        every = np.arange(len(gain))
        for (v, rest, _), total in zip(reversed(self._buckets), reversed(joint), strict=True):
            wanted = tuple(sorted((*rest, v)))
            axis = 1 + wanted.index(v)
            index = tuple(x[:, u] for u in rest)
            flat = np.moveaxis(total, axis, -1)
            flat = np.broadcast_to(flat, (len(gain), *flat.shape[1:]))
            chosen = flat[(every, *index)]
            x[:, v] = chosen[:, 1] > chosen[:, 0]
        return x > 0

    def margins(self, gain: np.ndarray, factors: list[np.ndarray]) -> np.ndarray:
        joint, values = self._up(gain, factors)
        found = np.zeros(gain.shape)
        outer: list[np.ndarray | None] = [None] * len(self._buckets)  # what the rest of the tree says of each bucket
        for number in reversed(range(len(self._buckets))):
            v, rest, _ = self._buckets[number]
            wanted = tuple(sorted((*rest, v)))
            axis = 1 + wanted.index(v)
            total = joint[number]
            above = outer[number]
            if above is not None:
                total = total + self._spread(above, rest, wanted)
            others = tuple(a for a in range(1, total.ndim) if a != axis)
            best = total.max(axis=others) if others else total
            found[:, v] = best[:, 1] - best[:, 0]
            for child, parent in enumerate(self._parent):
                if parent == number:
                    outer[child] = self._to_child(number, child, gain, values, above)
        return found

    def _to_child(
        self, number: int, child: int, gain: np.ndarray, values: list[np.ndarray], above: np.ndarray | None
    ) -> np.ndarray:
        """The bucket's table without what the child told it, over the child's scope."""
        v, rest, taken = self._buckets[number]
        wanted = tuple(sorted((*rest, v)))
        shape = [1] * (len(wanted) + 1)
        shape[0], shape[1 + wanted.index(v)] = len(gain), 2
        total = np.stack([np.zeros(len(gain)), gain[:, v]], axis=1).reshape(shape)
        for k in taken:
            if k != self._num_factors + child:
                total = total + self._spread(values[k], self._scopes[k], wanted)
        if above is not None:
            total = total + self._spread(above, rest, wanted)
        scope = self._buckets[child][1]
        total = np.broadcast_to(total, (len(gain), *(2,) * len(wanted)))
        gone = tuple(1 + k for k, u in enumerate(wanted) if u not in scope)
        return total.max(axis=gone) if gone else total
