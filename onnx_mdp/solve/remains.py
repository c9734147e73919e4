"""What is left of the buckets' tables once bounds have ruled entries out: lists of entries, and sweeps over them.

A sweep is what `relax` does on whole tables: the least of cost + m * spent at one multiplier, a plan that attains it,
and, going down, what the rest of the tree adds to each state of each message. On the few entries that a good plan and a
good bound leave, it takes milliseconds whatever the number of levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnx_mdp.solve.buckets import Bucket, Plan
from onnx_mdp.solve.factors import Floats, Ints

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Inlet:
    """Which state of a child's message each entry takes; none where `opened` is false. None stands for all true."""

    bucket: int
    states: Ints
    opened: Mask | None

    def read(self, message: Floats) -> Floats:
        """What the message adds to each entry."""
        values = message[self.states]
        return values if self.opened is None else np.where(self.opened, values, 0.0)


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries of one bucket in growing order of the message's state.

    `variable` is the state of the bucket's own variable, `cost` and `spent` what the bucket's own parts add.
    """

    variable: Ints
    state: Ints
    cost: Floats
    spent: Floats
    inlets: tuple[Inlet, ...]
    heads: Ints

    def pick(self, which: Mask) -> Entries:
        """The entries where `which` is true."""
        inlets = tuple(
            Inlet(i.bucket, i.states[which], None if i.opened is None else i.opened[which]) for i in self.inlets
        )
        state = self.state[which]
        return Entries(self.variable[which], state, self.cost[which], self.spent[which], inlets, _heads(state))


@dataclass(eq=False)
class Sweep:
    """Messages at weights (`on_cost`, `on_spent`), the least weighted sum, and a plan that attains it.

    `whole` has the least weighted sum of the subtree per entry; after `down`, `outside` what the rest adds per state.
    """

    on_cost: float
    on_spent: float
    whole: list[Floats]
    up: list[Floats]
    least: float
    states: dict[int, int] = field(default_factory=dict)
    cost: float = float("inf")
    spent: float = float("inf")
    outside: list[Floats] = field(default_factory=list)

    def bound(self, limit: float) -> float:
        """No plan that spends at most `limit` costs less."""
        return self.least - self.on_spent * limit


@dataclass(frozen=True, eq=False)
class Remains:
    """The entries of all buckets of a plan."""

    plan: Plan
    entries: tuple[Entries, ...]

    def at(self, multiplier: float) -> Sweep:
        """One pass up at a multiplier (infinite: spending alone); the least is infinite where there is no plan."""
        on_cost, on_spent = (1.0, multiplier) if math.isfinite(multiplier) else (0.0, 1.0)
        whole: list[Floats] = []
        up: list[Floats] = []
        for bucket, entries in zip(self.plan.buckets, self.entries, strict=True):
            values = on_cost * entries.cost + on_spent * entries.spent
            for inlet in entries.inlets:
                values += inlet.read(up[inlet.bucket])
            message = np.full(bucket.states, np.inf)
            if len(values):
                message[entries.state[entries.heads]] = np.minimum.reduceat(values, entries.heads)
            whole.append(values)
            up.append(message)
        done = Sweep(on_cost, on_spent, whole, up, float(up[-1][0]))
        if np.isfinite(done.least):
            self._trace(done)
        return done

    def down(self, done: Sweep) -> None:
        """Complete a sweep with what lies outside of each bucket."""
        outside = [np.full(bucket.states, np.inf) for bucket in self.plan.buckets]
        outside[-1] = np.zeros(1)
        for number in reversed(range(len(self.entries))):
            entries = self.entries[number]
            whole = done.whole[number] + outside[number][entries.state]
            for inlet in entries.inlets:
                with np.errstate(invalid="ignore"):
                    rest = whole - done.up[inlet.bucket][inlet.states]
                rest[np.isnan(rest)] = np.inf
                if inlet.opened is None:
                    np.minimum.at(outside[inlet.bucket], inlet.states, rest)
                else:
                    np.minimum.at(outside[inlet.bucket], inlet.states[inlet.opened], rest[inlet.opened])
        done.outside = outside

    def through(self, done: Sweep, number: int) -> Floats:
        """The least weighted sum through each entry of a bucket, by a sweep over these entries or more."""
        entries = self.entries[number]
        values = done.on_cost * entries.cost + done.on_spent * entries.spent + done.outside[number][entries.state]
        for inlet in entries.inlets:
            values += inlet.read(done.up[inlet.bucket])
        return values

    def fewer(self, sweeps: Sequence[Sweep], thresholds: Sequence[float]) -> Remains:
        """The entries through which every sweep's least stays within its threshold."""
        left = []
        for number, entries in enumerate(self.entries):
            keep = np.ones(len(entries.state), bool)
            for done, threshold in zip(sweeps, thresholds, strict=True):
                keep &= self.through(done, number) <= threshold
            left.append(entries if keep.all() else entries.pick(keep))
        return replace(self, entries=tuple(left))

    def only(self, number: int, state: int) -> Remains:
        """With the variable of a bucket at one state."""
        entries = list(self.entries)
        entries[number] = entries[number].pick(entries[number].variable == state)
        return replace(self, entries=tuple(entries))

    def _trace(self, done: Sweep) -> None:
        todo, cost, spent = [(len(self.entries) - 1, 0)], 0.0, 0.0
        while todo:
            number, state = todo.pop()
            entries = self.entries[number]
            first, last = np.searchsorted(entries.state, (state, state + 1))
            entry = int(first + done.whole[number][first:last].argmin())
            done.states[self.plan.buckets[number].variable] = int(entries.variable[entry])
            cost += float(entries.cost[entry])
            spent += float(entries.spent[entry])
            todo += [
                (inlet.bucket, int(inlet.states[entry]))
                for inlet in entries.inlets
                if inlet.opened is None or inlet.opened[entry]
            ]
        done.cost, done.spent = cost, spent


def remains(plan: Plan, alive: Sequence[Mask]) -> Remains:
    """The entries of each bucket where `alive` is true."""
    return Remains(plan, tuple(_entries(bucket, mask) for bucket, mask in zip(plan.buckets, alive, strict=True)))


def _entries(bucket: Bucket, alive: Mask) -> Entries:
    at = np.nonzero(alive)
    state = np.ravel_multi_index(at[1:], bucket.shape[1:]) if len(at) > 1 else np.zeros(len(at[0]), np.int64)
    order = np.argsort(state, kind="stable")
    at, state = tuple(axis[order] for axis in at), state[order]
    cost, spent = np.zeros(len(state)), np.zeros(len(state))
    for part in bucket.parts:
        opened = _open(part.where, at)
        for total, values in ((cost, part.cost), (spent, part.spent)):
            if values is not None:
                found = values[tuple(np.minimum(axis, size - 1) for axis, size in zip(at, values.shape, strict=True))]
                total += found if opened is None else np.where(opened, found, 0.0)
    inlets = []
    for child in bucket.children:
        states = child.states[tuple(at[axis] for axis in child.axes)] + np.zeros_like(state)
        inlets.append(Inlet(child.bucket, states, _open(child.where, at)))
    return Entries(at[0], state, cost, spent, tuple(inlets), _heads(state))


def _heads(state: Ints) -> Ints:
    """Where each run of equal states begins."""
    return np.flatnonzero(np.diff(state, prepend=-1))


def _open(where: tuple[slice, ...], at: tuple[Ints, ...]) -> Mask | None:
    """Where the blocks that a table lies in are kept; None for everywhere."""
    gates = [axis for axis, spot in enumerate(where) if spot.start is not None]
    return np.logical_and.reduce([at[axis] == 1 for axis in gates]) if gates else None
