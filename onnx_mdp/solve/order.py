"""The order in which variables are eliminated: least fill first.

Eliminating a variable joins all its neighbors; the min-fill heuristic (Rose, 1970; Bodlaender and Koster, Treewidth
computations I, 2010) takes the variable whose neighbors need the fewest new edges, and gives narrow tree
decompositions on graphs that are nearly trees. Ties go to the smaller table, and to choices before blocks.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

_EXACT_DEGREE = 24  # beyond it all pairs count as missing: such a hub is not next anyway, and counting is quadratic


def elimination_order(
    sizes: Sequence[int],
    cliques: Iterable[Iterable[int]],
    gates: Iterable[int],
    functions: Mapping[int, tuple[int, ...]],
) -> list[int]:
    """All variables, each once.

    Args:
        sizes: states of each variable.
        cliques: sets of variables that some table is over.
        gates: variables that are blocks.
        functions: variables that are functions of others; they come before those.
    """
    return _Graph(sizes, cliques, gates, functions).order()


class _Graph:
    def __init__(
        self,
        sizes: Sequence[int],
        cliques: Iterable[Iterable[int]],
        gates: Iterable[int],
        functions: Mapping[int, tuple[int, ...]],
    ) -> None:
        self.weights = [math.log(size) for size in sizes]
        self.neighbors: list[set[int]] = [set() for _ in sizes]
        self.gates = set(gates)
        self.functions = functions
        self.waiting = [0] * len(sizes)  # functions of the variable that are not eliminated yet
        for clique in {frozenset(clique) for clique in cliques}:
            self._join(clique)
        for target, parts in functions.items():
            self._join({target, *parts})
            for part in parts:
                self.waiting[part] += 1

    def order(self) -> list[int]:
        heap = [(self._key(v), v) for v in range(len(self.weights)) if not self.waiting[v]]
        heapq.heapify(heap)
        order: list[int] = []
        done = [False] * len(self.weights)
        while heap:
            key, v = heapq.heappop(heap)
            if done[v]:
                continue
            if key != (now := self._key(v)):  # an edge between its neighbors has come since
                heapq.heappush(heap, (now, v))
                continue
            done[v] = True
            order.append(v)
            for u in self._eliminate(v):
                if not self.waiting[u]:
                    heapq.heappush(heap, (self._key(u), u))
        return order

    def _eliminate(self, v: int) -> set[int]:
        around = self.neighbors[v]
        for u in around:
            self.neighbors[u].discard(v)
        self._join(around)
        for part in self.functions.get(v, ()):
            self.waiting[part] -= 1
        return around

    def _join(self, clique: Iterable[int]) -> None:
        members = set(clique)
        for v in members:
            self.neighbors[v] |= members
            self.neighbors[v].discard(v)

    def _key(self, v: int) -> tuple[int, float, bool]:
        around = self.neighbors[v]
        pairs = len(around) * (len(around) - 1) // 2
        if len(around) <= _EXACT_DEGREE:
            pairs -= sum(b in self.neighbors[a] for a, b in itertools.combinations(around, 2))
        return pairs, sum(self.weights[u] for u in around), v in self.gates
