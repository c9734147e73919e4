"""The elimination of a model's variables, laid out once: one bucket per variable, as a tree.

Bucket elimination (Dechter, 1999) takes the variables in order. The bucket of a variable holds every table over it that
is left: factors, and messages of earlier buckets. Their sum, minimized over the variable, is the message to the bucket
of the next variable in it. Two refinements keep the tables small:

* A block is not an axis. A table that counts only while a block is kept stays over its choices alone, with the block
  noted beside it, and is worth nothing otherwise. Where tables of different blocks meet, the blocks between them and
  their nearest common block become axes. So what is inside a block is eliminated as if it could not be removed.
* A variable that is a function of others (the width of a concat) is not minimized over but replaced: every table over
  it becomes one over its parts.

Axes are in the order of elimination, so the eliminated variable is the first axis of its bucket and a message's axes
are in the order of its receiver's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from onnx_mdp.solve.factors import Factor, Floats, Function, Ints, Model, Scope, TooDenseError
from onnx_mdp.solve.order import elimination_order

MOST_ENTRIES = 1 << 25  # of one table: 256 MiB
MOST_ENTRIES_IN_ALL = 1 << 28  # each pass over all tables then takes about a second
_MERGE = 1 << 16
_WHOLE = 1 << 20  # entries that are not worth more than one call
_SLAB = 1 << 16  # entries that fit a processor's cache

Where = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """A factor in a bucket: tables that broadcast against `table[where]`, the entries in which its blocks are kept."""

    where: Where
    cost: Floats | None
    spent: Floats | None
    hard: Floats | None

    @cached_property
    def gates(self) -> tuple[int, ...]:
        """The axes of its blocks, but for the first axis."""
        return _gates(self.where)

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """The axes, but for the first, that the tables are over; along the others they broadcast."""
        return tuple(axis for axis, size in enumerate(self._shape) if axis and size > 1)

    @cached_property
    def columns(self) -> tuple[Floats | None, ...]:
        """The cost, the spending and what is forbidden over the first axis and `axes` alone."""
        shape = [self._shape[axis] for axis in (0, *self.axes)]
        return tuple(None if values is None else values.reshape(shape) for values in (self.cost, self.spent, self.hard))

    @property
    def _shape(self) -> tuple[int, ...]:
        return next(values.shape for values in (self.cost, self.spent, self.hard) if values is not None)


@dataclass(frozen=True, eq=False)
class Child:
    """A message into a bucket.

    Where the axes of `where` are kept blocks, the entry at coordinates x takes the message's state
    `states[x[axes]]`; `shape` broadcasts that against `table[where]`. `plain`: states are in order, one each.
    """

    bucket: int
    where: Where
    axes: tuple[int, ...]
    states: Ints
    shape: tuple[int, ...]
    plain: bool

    @cached_property
    def gates(self) -> tuple[int, ...]:
        """The axes of its blocks, but for the first axis."""
        return _gates(self.where)

    def read(self, message: Floats, fixed: Sequence[int]) -> Floats:
        """What the message adds along the first axis at given states of the others."""
        place = tuple([slice(None) if axis == 0 else fixed[axis - 1] for axis in self.axes])
        return np.asarray(message[place] if self.plain else message.ravel()[self.states[place]])


def _gates(where: Where) -> tuple[int, ...]:
    return tuple(axis for axis, spot in enumerate(where) if axis and spot.start is not None)


@dataclass(eq=False)
class Bucket:
    """One variable, the tables over it, and the scope (itself first) that their sum is over."""

    variable: int
    scope: Scope
    shape: tuple[int, ...]
    gate: int | None
    parts: list[Part] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)

    @property
    def states(self) -> int:
        """Entries of the message."""
        return math.prod(self.shape[1:])

    @property
    def entries(self) -> int:
        """Entries of the table."""
        return math.prod(self.shape)

    @cached_property
    def alike(self) -> tuple[tuple[Child, ...], ...]:
        """The children by what their messages are over: a stream's bucket has one for each block on it."""
        groups: dict[tuple[object, ...], list[Child]] = {}
        for child in self.children:
            groups.setdefault((*child.axes, *(spot.start for spot in child.where)), []).append(child)
        return tuple(map(tuple, groups.values()))

    @cached_property
    def slabs(self) -> tuple[Bucket, ...]:
        """The bucket in pieces along its own variable, small ones where it is large; parts are views."""
        if self.entries <= _WHOLE:
            return (self,)
        rows = max(1, _SLAB // self.states)
        is_block = any(where[0].start for where in (*(p.where for p in self.parts), *(c.where for c in self.children)))
        if rows >= self.shape[0] or is_block:
            return (self,)
        return tuple(self._slab(first, first + rows) for first in range(0, self.shape[0], rows))

    def _slab(self, first: int, end: int) -> Bucket:
        def cut(values: Floats | None) -> Floats | None:
            return values if values is None or values.shape[0] == 1 else values[first:end]

        parts = [Part(p.where, cut(p.cost), cut(p.spent), cut(p.hard)) for p in self.parts]
        children = []
        for child in self.children:
            states = child.states[first:end]
            children.append(replace(child, states=states, shape=(len(states), *child.shape[1:]), plain=False))
        shape = (min(end, self.shape[0]) - first, *self.shape[1:])
        return Bucket(self.variable, self.scope, shape, self.gate, parts, children)


@dataclass(frozen=True, eq=False)
class Plan:
    """Buckets, each before the one its message goes to; the last is the root, over a variable of one state.

    `order` is the one of elimination.

    `replaced[i]` are the variables that were replaced just before bucket i was made, in the order in which they were.
    """

    model: Model
    order: tuple[int, ...]
    buckets: tuple[Bucket, ...]
    replaced: Mapping[int, tuple[int, ...]]

    @cached_property
    def entries(self) -> int:
        """Of all buckets together."""
        return sum(bucket.entries for bucket in self.buckets)

    @cached_property
    def uses(self) -> Counter[int]:
        """How many buckets are over each variable."""
        return Counter(v for bucket in self.buckets for v in bucket.scope)

    @cached_property
    def numbers(self) -> dict[int, int]:
        """The bucket of each variable that has one."""
        return {bucket.variable: i for i, bucket in enumerate(self.buckets)}

    def down_to(self, number: int) -> list[int]:
        """The buckets that a message from the root to one passes, both included."""
        path = [number]
        while path[-1] in self._parents:
            path.append(self._parents[path[-1]])
        return path[::-1]

    @cached_property
    def _parents(self) -> dict[int, int]:
        return {child.bucket: number for number, bucket in enumerate(self.buckets) for child in bucket.children}

    def entries_over(self, variable: int) -> int:
        """Of all buckets that are over a variable."""
        return sum(bucket.entries for bucket in self.buckets if variable in bucket.scope)


@dataclass(frozen=True, eq=False)
class _Item:
    """A table in the pool: a factor, or the message of a bucket."""

    scope: Scope
    gate: int | None
    factor: Factor | None = None
    bucket: int = -1
    states: Ints | None = None  # of the message, over the scope; None while they are in order


def make_plan(model: Model, like: Plan | None = None) -> Plan:
    """Lay out the elimination of a model.

    Args:
        model: what to lay out.
        like: the plan of the same model with more states, whose order is taken.

    Raises:
        TooDenseError: without `like`: a table, or all together, would be over the limits above.
    """
    return _Planner(model, like).plan()


class _Planner:
    def __init__(self, model: Model, like: Plan | None) -> None:
        self.model = model
        self.root = len(model.sizes)
        self.sizes = (*model.sizes, 1)
        self.order = like.order if like else self._order()
        self.rank = {v: i for i, v in enumerate((*self.order, self.root))}
        self.pool: list[_Item | None] = []
        self.holders: list[dict[int, None]] = [{} for _ in self.sizes]
        self.buckets: list[Bucket] = []
        self.replaced: dict[int, tuple[int, ...]] = {}
        self.entries = 0
        given = math.inf if like else sum(math.prod(self.sizes[v] for v in f.scope) for f in model.factors)
        self.limit = max(MOST_ENTRIES, 4 * given), max(MOST_ENTRIES_IN_ALL, 8 * given)
        self._turned: dict[tuple[object, ...], Floats] = {}

    def plan(self) -> Plan:
        for factor in self.model.factors:
            self._add(_Item(factor.scope, factor.gate, self._sorted(factor)))
        for v in self.order:
            items = self._take(v)
            if v in self.model.functions:
                self.replaced[len(self.buckets)] = (*self.replaced.get(len(self.buckets), ()), v)
                for item in items:
                    self._add(self._replaced(item, self.model.functions[v]))
            elif items:
                self._eliminate(v, items)
        self._eliminate(self.root, [item for item in self.pool if item])
        return Plan(self.model, self.order, tuple(self.buckets), self.replaced)

    def _order(self) -> tuple[int, ...]:
        model = self.model
        cliques = [(*f.scope, *self._path(f.gate)) for f in model.factors]
        functions = {target: function.parts for target, function in model.functions.items()}
        return tuple(elimination_order(model.sizes, cliques, model.paths, functions))

    def _path(self, gate: int | None) -> Scope:
        return () if gate is None else self.model.paths[gate]

    def _by_rank(self, variables: Iterable[int]) -> Scope:
        return tuple(sorted(set(variables), key=self.rank.__getitem__))

    def _sorted(self, factor: Factor) -> Factor:
        """The factor with its axes in the order of elimination. Factors that share a table share the turned one."""
        axes = sorted(range(len(factor.scope)), key=lambda axis: self.rank[factor.scope[axis]])

        def turn(table: Floats | None) -> Floats | None:
            if table is None or not axes:
                return table
            key = (table.ctypes.data, table.shape, table.strides, *axes)
            if key not in self._turned:
                self._turned[key] = np.ascontiguousarray(np.transpose(table, axes))
            return self._turned[key]

        scope = tuple(factor.scope[axis] for axis in axes)
        return Factor(scope, factor.gate, turn(factor.cost), turn(factor.spent), turn(factor.hard))

    def _add(self, item: _Item) -> None:
        if item.factor and item.scope != item.factor.scope:
            item = _Item(item.factor.scope, item.gate, item.factor)
        for v in (*item.scope, *self._path(item.gate)):
            self.holders[v][len(self.pool)] = None
        self.pool.append(item)

    def _take(self, v: int) -> list[_Item]:
        taken = []
        for number in self.holders[v]:
            if item := self.pool[number]:
                taken.append(item)
                self.pool[number] = None
        return taken

    def _replaced(self, item: _Item, function: Function) -> _Item:
        """The item with a function's target replaced by its parts."""
        scope = self._by_rank((*item.scope, *function.parts))
        scope = tuple(v for v in scope if v != function.target)
        self._count(scope)
        pick = self._pick(item.scope, scope, function)
        if item.factor:
            tables = (item.factor.cost, item.factor.spent, item.factor.hard)
            cost, spent, hard = (None if table is None else table[pick] for table in tables)
            return _Item(scope, item.gate, Factor(scope, item.gate, cost, spent, hard))
        states = item.states
        if states is None:
            shape = [self.sizes[v] for v in item.scope]
            states = np.arange(math.prod(shape)).reshape(shape)
        return _Item(scope, item.gate, bucket=item.bucket, states=states[pick])

    def _pick(self, before: Scope, after: Scope, function: Function) -> tuple[Ints, ...]:
        """Index arrays that read a table over `before` at every point of `after`; forbidden points read state 0."""

        def along(v: int) -> Ints:
            return np.arange(self.sizes[v]).reshape([-1 if u == v else 1 for u in after])

        parts = self._by_rank(function.parts)
        index = np.transpose(function.index, [function.parts.index(v) for v in parts])
        index = np.maximum(index, 0).reshape([self.sizes[v] if v in parts else 1 for v in after])
        return tuple(np.asarray(index if v == function.target else along(v)) for v in before)

    def _eliminate(self, v: int, items: Sequence[_Item]) -> None:
        gate = self._common_gate(v, items)
        outer = self._path(gate)
        explicit = [tuple(g for g in self._path(item.gate) if g not in outer) for item in items]
        scope = self._by_rank([v, *(u for item in items for u in item.scope), *(g for axes in explicit for g in axes)])
        self._count(scope)
        bucket = Bucket(v, scope, tuple(self.sizes[u] for u in scope), gate)
        for item, gates in zip(items, explicit, strict=True):
            where = tuple(slice(1, 2) if u in gates else slice(None) for u in scope)
            shape = tuple(self.sizes[u] if u in item.scope else 1 for u in scope)
            if item.factor:
                bucket.parts.append(_part(item.factor, where, shape))
            else:
                bucket.children.append(self._child(item, where, shape, scope))
        bucket.parts = _merged(bucket)
        if v != self.root:
            self._add(_Item(scope[1:], gate, bucket=len(self.buckets)))
        self.buckets.append(bucket)

    def _common_gate(self, v: int, items: Sequence[_Item]) -> int | None:
        """The innermost block around all items' blocks that is not v nor inside of it."""
        paths = [self._path(item.gate) for item in items]
        paths = [path[path.index(v) + 1 :] if v in path else path for path in paths]
        shared = [g for g in paths[0] if all(g in path for path in paths)] if paths else []
        return shared[0] if shared else None

    def _child(self, item: _Item, where: Where, shape: tuple[int, ...], scope: Scope) -> Child:
        axes = tuple(axis for axis, u in enumerate(scope) if u in item.scope)
        size = [self.sizes[scope[axis]] for axis in axes]
        states = np.arange(math.prod(size)).reshape(size) if item.states is None else item.states
        return Child(item.bucket, where, axes, states, shape, item.states is None)

    def _count(self, scope: Scope) -> None:
        entries = math.prod(self.sizes[u] for u in scope)
        self.entries += entries
        one, whole = self.limit
        if entries > one or self.entries > whole:
            raise TooDenseError(
                f"its elimination needs a table of {entries:.2g} entries and {self.entries:.2g} in all "
                f"(limits {one:.2g} and {whole:.2g})"
            )


def _part(factor: Factor, where: Where, shape: tuple[int, ...]) -> Part:
    def fit(table: Floats | None) -> Floats | None:
        return None if table is None else table.reshape(shape)

    return Part(where, fit(factor.cost), fit(factor.spent), fit(factor.hard))


def _size(part: Part) -> int:
    return max(0 if table is None else table.size for table in (part.cost, part.spent, part.hard))


def _merged(bucket: Bucket) -> list[Part]:
    """The parts as one, where the bucket's table is small; else the largest first."""
    if len(bucket.parts) < 2 or bucket.entries > _MERGE:
        return sorted(bucket.parts, key=_size, reverse=True)
    tables: list[Floats | None] = []
    for name in ("cost", "spent", "hard"):
        total: Floats | None = None
        for part in bucket.parts:
            table: Floats | None = getattr(part, name)
            if table is None:
                continue
            total = np.zeros(bucket.shape) if total is None else total
            total[part.where] += table
        tables.append(total)
    return [Part(tuple(slice(None) for _ in bucket.shape), *tables)]
