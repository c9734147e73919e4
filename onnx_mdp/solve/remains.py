"""What is left of the buckets' tables once bounds have ruled entries out: one list of entries, and sweeps over it.

A sweep is what `relax` does on whole tables: the least of cost + m * spent at one multiplier, a plan that attains it,
and, going down, what the rest of the tree adds to each state of each message. The entries of all buckets lie in one
array, by the height of their bucket in the tree: a sweep takes a few calls a height, and a network's blocks are many
but lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.solve.buckets import Bucket, Child, Plan
from onnx_mdp.solve.factors import Floats, Ints

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Layout:
    """The buckets of a plan in places: sorted by height, so that messages come from lower heights alone.

    The states of all messages are numbered through: those of the bucket at place i begin at `first_state[i]`. Inlets
    are the messages into buckets, by the place that takes them; `givers` are the places that they come from.
    """

    plan: Plan
    order: tuple[int, ...]
    inlets: tuple[Child, ...]
    givers: Ints
    first_state: Ints
    first_inlet: Ints
    heights: Ints  # the first place of each height, and the end

    @staticmethod
    def of(plan: Plan) -> Layout:
        """The layout of a plan."""
        height: list[int] = []
        for bucket in plan.buckets:
            height.append(1 + max((height[child.bucket] for child in bucket.children), default=-1))
        order = sorted(range(len(height)), key=height.__getitem__)
        buckets = [plan.buckets[number] for number in order]
        inlets = tuple(child for bucket in buckets for child in bucket.children)
        place = {number: place for place, number in enumerate(order)}
        return Layout(
            plan,
            tuple(order),
            inlets,
            np.array([place[child.bucket] for child in inlets], np.int64),
            _ends([bucket.states for bucket in buckets]),
            _ends([len(bucket.children) for bucket in buckets]),
            np.searchsorted([height[number] for number in order], np.arange(height[-1] + 2)),
        )

    @cached_property
    def places(self) -> dict[int, int]:
        """The place of the bucket of each variable."""
        return {self.plan.buckets[number].variable: place for place, number in enumerate(self.order)}

    @cached_property
    def variables(self) -> Ints:
        """The variable of the bucket at each place."""
        return np.array([self.plan.buckets[number].variable for number in self.order])


@dataclass(eq=False)
class Sweep:
    """Messages at weights (`on_cost`, `on_spent`), the least weighted sum, and a plan that attains it.

    `values` has the least weighted sum of the subtree per entry, `up` the messages by state. After `down`, `outside`
    has what the rest adds per state, and `through` the least weighted sum of all plans through each entry.
    """

    on_cost: float
    on_spent: float
    values: Floats
    up: Floats
    least: float
    states: dict[int, int] = field(default_factory=dict)
    cost: float = float("inf")
    spent: float = float("inf")
    outside: Floats | None = None
    through: Floats = field(default_factory=lambda: np.zeros(0))

    def bound(self, limit: float) -> float:
        """No plan that spends at most `limit` costs less."""
        return self.least - self.on_spent * limit


@dataclass(frozen=True, eq=False)
class _Height:
    """The entries, the heads and the pairs of the buckets of one height."""

    entries: slice
    heads: slice
    pairs: slice


@dataclass(frozen=True, eq=False)
class Remains:
    """The entries of all buckets of a plan, by place and then by the message's state.

    `variable` is the state of the bucket's own variable, `state` that of its message, `cost` and `spent` what the
    bucket's own parts add. A pair says that the entry `reader` takes the state `read` of another bucket's message;
    there is none where a block is removed. Pairs lie by inlet. States that no entry has are not numbered: those of the
    bucket at place i begin at `first_state[i]`.
    """

    layout: Layout
    first_state: Ints
    variable: Ints
    state: Ints
    cost: Floats
    spent: Floats
    first_entry: Ints  # of each place, and the end
    reader: Ints
    read: Ints
    first_pair: Ints  # of each inlet, and the end

    @property
    def plan(self) -> Plan:
        """The plan that the buckets are of."""
        return self.layout.plan

    @cached_property
    def heads(self) -> Ints:
        """Where each run of entries of one state begins."""
        return np.flatnonzero(np.diff(self.state, prepend=-1))

    def at_place(self, place: int) -> slice:
        """The entries of the bucket at a place."""
        return slice(int(self.first_entry[place]), int(self.first_entry[place + 1]))

    @cached_property
    def _heights(self) -> list[_Height]:
        entries = self.first_entry[self.layout.heights]
        heads = np.searchsorted(self.heads, entries)
        pairs = self.first_pair[self.layout.first_inlet[self.layout.heights]]
        slices = [map(slice, ends[:-1].tolist(), ends[1:].tolist()) for ends in (entries, heads, pairs)]
        return [_Height(*three) for three in zip(*slices, strict=True)]

    def at(self, multiplier: float) -> Sweep:
        """One pass up at a multiplier (infinite: spending alone); the least is infinite where there is no plan."""
        done = self.up(*((1.0, multiplier) if math.isfinite(multiplier) else (0.0, 1.0)))
        if np.isfinite(done.least):
            self._trace(done)
        return done

    def up(self, on_cost: float, on_spent: float) -> Sweep:
        """The messages at weights, without a plan."""
        values = on_cost * self.cost + on_spent * self.spent
        up = np.full(int(self.first_state[-1]), np.inf)
        for height in self._heights:
            first, heads = height.entries.start, self.heads[height.heads]
            here = values[height.entries]
            if height.pairs.stop > height.pairs.start:
                messages = up[self.read[height.pairs]]
                here += np.bincount(self.reader[height.pairs] - first, messages, minlength=len(here))
            if len(heads):
                up[self.state[heads]] = np.minimum.reduceat(here, heads - first)
        return Sweep(on_cost, on_spent, values, up, float(up[-1]))

    def down(self, done: Sweep) -> None:
        """Complete a sweep with what lies outside of each bucket."""
        outside = np.full(len(done.up), np.inf)
        outside[-1] = 0.0
        through = np.empty_like(done.values)
        for height in reversed(self._heights):
            through[height.entries] = done.values[height.entries] + outside[self.state[height.entries]]
            read = self.read[height.pairs]
            with np.errstate(invalid="ignore"):
                rest = through[self.reader[height.pairs]] - done.up[read]
            rest[np.isnan(rest)] = np.inf
            np.minimum.at(outside, read, rest)
        done.outside, done.through = outside, through

    def within(self, sweeps: Sequence[Sweep], thresholds: Sequence[float]) -> Mask:
        """The entries through which the least of each of these complete sweeps stays within its threshold."""
        fits = [done.through <= threshold for done, threshold in zip(sweeps, thresholds, strict=True)]
        return np.asarray(np.logical_and.reduce(fits))

    def pick(self, which: Mask) -> Remains:
        """The entries where `which` is true."""
        ends, taken = _ends(which), which[self.reader]
        return replace(
            self,
            variable=self.variable[which],
            state=self.state[which],
            cost=self.cost[which],
            spent=self.spent[which],
            first_entry=ends[self.first_entry],
            reader=ends[self.reader[taken]],
            read=self.read[taken],
            first_pair=_ends(taken)[self.first_pair],
        )

    def only(self, place: int, state: int) -> Remains:
        """With the variable of the bucket at a place at one state."""
        which = np.ones(len(self.state), bool)
        which[self.at_place(place)] = self.variable[self.at_place(place)] == state
        return self.pick(which)

    def _trace(self, done: Sweep) -> None:
        wanted = np.zeros(len(done.up), bool)
        wanted[-1] = True
        is_taken = np.zeros(len(self.state), bool)
        for height in reversed(self._heights):
            state = self.state[height.entries]
            least = np.flatnonzero(wanted[state] & (done.values[height.entries] == done.up[state]))
            first = least[np.diff(state[least], prepend=-1) > 0]  # of equal ones
            is_taken[height.entries.start + first] = True
            wanted[self.read[height.pairs][is_taken[self.reader[height.pairs]]]] = True
        taken = np.flatnonzero(is_taken)
        places = np.searchsorted(self.first_entry, taken, side="right") - 1
        variables = self.layout.variables[places]
        done.states = dict(zip(variables.tolist(), self.variable[taken].tolist(), strict=True))
        done.cost, done.spent = float(self.cost[taken].sum()), float(self.spent[taken].sum())


def remains(plan: Plan, alive: Sequence[Mask]) -> Remains:
    """The entries of each bucket where `alive` is true."""
    layout = Layout.of(plan)
    gathered = [_Gathered(plan.buckets[number], alive[number]) for number in layout.order]
    first_entry = _ends([len(one.state) for one in gathered])
    pairs = [pair for one, first in zip(gathered, first_entry, strict=False) for pair in one.pairs(first)]
    first_pair = _ends([len(reader) for reader, _ in pairs])
    none = np.zeros(0, np.int64)
    read = np.concatenate([none, *(read for _, read in pairs)])
    read += np.repeat(layout.first_state[layout.givers], np.diff(first_pair))
    state = np.concatenate([one.state for one in gathered])
    state += np.repeat(layout.first_state[:-1], np.diff(first_entry))
    numbered = np.union1d(state, layout.first_state[-1:] - 1)  # the root's in any case
    taken = np.searchsorted(numbered, read)
    left = Remains(
        layout,
        np.searchsorted(numbered, layout.first_state),
        np.concatenate([one.at[0] for one in gathered]),
        np.searchsorted(numbered, state),
        np.concatenate([one.cost for one in gathered]),
        np.concatenate([one.spent for one in gathered]),
        first_entry,
        np.concatenate([none, *(reader for reader, _ in pairs)]),
        taken,
        first_pair,
    )
    has_plan = np.ones(len(state), bool)
    has_plan[left.reader[numbered[taken] != read]] = False
    return left if has_plan.all() else left.pick(has_plan)


class _Gathered:
    """The entries of one bucket where `alive` is true, in growing order of the message's state."""

    def __init__(self, bucket: Bucket, alive: Mask) -> None:
        self.bucket = bucket
        variable, state = np.divmod(np.flatnonzero(alive), bucket.states)
        order = np.argsort(state, kind="stable")
        variable, self.state = variable[order], state[order]
        self.at = (variable, *np.unravel_index(self.state, bucket.shape[1:])) if bucket.shape[1:] else (variable,)
        self.cost, self.spent = np.zeros(len(variable)), np.zeros(len(variable))
        for part in bucket.parts:
            opened = self._open(part.where)
            for total, values in ((self.cost, part.cost), (self.spent, part.spent)):
                if values is not None:
                    spots = (at if length > 1 else 0 for at, length in zip(self.at, values.shape, strict=True))
                    found = values[tuple(spots)]
                    total += found if opened is None else np.where(opened, found, 0.0)

    def pairs(self, first: np.int64) -> list[tuple[Ints, Ints]]:
        """For each child the entries, counted from `first`, that read its message, and the states that they read."""
        every = np.arange(first, first + len(self.state))
        found = []
        for child in self.bucket.children:
            states = child.states[tuple(self.at[axis] for axis in child.axes)] + np.zeros_like(every)
            opened = self._open(child.where)
            found.append((every, states) if opened is None else (every[opened], states[opened]))
        return found

    def _open(self, where: tuple[slice, ...]) -> Mask | None:
        """Where the blocks that a table lies in are kept; None for everywhere."""
        gates = [axis for axis, spot in enumerate(where) if spot.start is not None]
        return np.logical_and.reduce([self.at[axis] == 1 for axis in gates]) if gates else None


def _ends(counts: Sequence[int] | Ints | Mask) -> Ints:
    """Where each of several runs begins, and where the last one ends."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)))
