"""The exact search: partial plans as labels (cost, spent), pruned by bounds.

Going up the buckets, the plans of a subtree at each state of its message are a list of labels, of which only those stay
that no other beats in both cost and spending, and that a bound does not rule out: a label and the least that the rest
of the tree adds, at each of several multipliers, must stay below the best plan known; and within the limit at all.
(Dynamic programming with states fathomed by bounds: Morin and Marsten, 1976.)

A subtree that has a single plan for each state of its message needs no labels: what it costs and spends is added to the
entries that take its message.

A list that outgrows the allowed number of labels is cut to those of the lowest bounds. The least bound among all that
was cut then still bounds every plan, and a run that cut nothing below the best plan has proven it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_mdp.solve.factors import Floats, Ints
from onnx_mdp.solve.incumbent import OutOfTimeError
from onnx_mdp.solve.multiplier import Relaxation
from onnx_mdp.solve.remains import Mask, Remains, Sweep

_ROUNDING = 1e-12
_KEY_ROUNDING = 1e-7
_MOST_ROWS = 1 << 21  # that a join may make at once: about 200 MiB
_LEAST_SHARE = 1e-6


@dataclass(frozen=True, eq=False)
class Found:
    """The best plan a search came upon, if any is within the limit and better than what was known.

    `cut` is the least bound among labels that were cut for their number.
    """

    cut: float
    states: dict[int, int] | None = None
    cost: float = float("inf")
    spent: float = float("inf")


@dataclass(eq=False)
class _Labels:
    """Labels in growing order of `group` and, within it, of how far they are above the group's least."""

    entry: Ints
    cost: Floats
    spent: Floats
    steps: list[tuple[Ints, Ints]] = field(default_factory=list)  # per child: the label before, the child's label
    group: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    starts: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    keys: Floats = field(default_factory=lambda: np.zeros(0))

    def pick(self, which: Ints | Mask) -> _Labels:
        """Some of the labels, in the order asked; the steps are shared, so only the last step may be cut."""
        steps = list(self.steps)
        if steps:
            steps[-1] = (steps[-1][0][which], steps[-1][1][which])
        return _Labels(self.entry[which], self.cost[which], self.spent[which], steps)


@dataclass(frozen=True, eq=False)
class _Inlet:
    """A child that has labels: which state of its message each entry takes (-1 for none), and the least it adds."""

    place: int
    states: Ints
    least: Floats


@dataclass(frozen=True, eq=False)
class _Entries:
    """A bucket's entries, with what their subtrees without labels add; `outside` is the least that the rest adds.

    `state` is counted from the message's first one. `outside` and `least` of an inlet have one row per sweep.
    """

    first: int
    state: Ints
    states: int
    cost: Floats
    spent: Floats
    outside: Floats
    inlets: tuple[_Inlet, ...]


class Labels:
    """Searches the plans through what is left.

    Args:
        left: the entries to search.
        sweeps: complete sweeps at the multipliers to bound with; the first is the best one.
        limit: what a plan may spend, tolerance included.
    """

    def __init__(self, left: Remains, sweeps: Sequence[Sweep], limit: float) -> None:
        self.left = left
        self.sweeps = sweeps
        self.limit = limit
        self.on_cost = np.array([sweep.on_cost for sweep in sweeps])[:, None]
        self.on_spent = np.array([sweep.on_spent for sweep in sweeps])[:, None]
        self.cut = self.window = float("inf")
        self.most = 0
        self.thresholds = np.zeros((len(sweeps), 1))
        self.is_closed = _closed(left)
        self.entries = self._open_entries()

    def _open_entries(self) -> dict[int, _Entries]:
        """The entries of the buckets that need labels, by place."""
        left, layout = self.left, self.left.layout
        closed = np.repeat(self.is_closed[layout.givers], np.diff(left.first_pair))
        reader, read = left.reader[closed], left.read[closed]
        cost, spent = (
            own + np.bincount(reader, left.up(*weights).up[read], minlength=len(own))
            for own, weights in ((left.cost, (1.0, 0.0)), (left.spent, (0.0, 1.0)))
        )
        return {place: self._entries(place, cost, spent) for place in np.flatnonzero(~self.is_closed).tolist()}

    def _entries(self, place: int, cost: Floats, spent: Floats) -> _Entries:
        left, layout = self.left, self.left.layout
        here = left.at_place(place)
        inlets = [
            self._inlet(inlet, here)
            for inlet in range(layout.first_inlet[place], layout.first_inlet[place + 1])
            if not self.is_closed[layout.givers[inlet]]
        ]
        first, end = left.first_state[place : place + 2].tolist()
        state = left.state[here]
        outside = np.stack([sweep.outside[state] for sweep in self.sweeps if sweep.outside is not None])
        for inlet in inlets:
            outside += inlet.least
        return _Entries(here.start, state - first, end - first, cost[here], spent[here], outside, tuple(inlets))

    def _inlet(self, inlet: int, here: slice) -> _Inlet:
        left, place = self.left, int(self.left.layout.givers[inlet])
        pairs = slice(int(left.first_pair[inlet]), int(left.first_pair[inlet + 1]))
        reader, read = left.reader[pairs] - here.start, left.read[pairs]
        states = np.full(here.stop - here.start, -1)
        states[reader] = read - left.first_state[place]
        least = np.zeros((len(self.sweeps), len(states)))
        least[:, reader] = [sweep.up[read] for sweep in self.sweeps]
        return _Inlet(place, states, least)

    def run(self, upper: float, most: int, deadline: float) -> Found:
        """The best plan of cost below `upper`, keeping at most `most` labels of a bucket.

        Raises:
            OutOfTimeError: the deadline (of `time.perf_counter`) passed.
        """
        self.cut, self.most = float("inf"), most
        self.thresholds = np.array([[threshold(sweep, upper, self.limit)] for sweep in self.sweeps])
        self.window = max(float(self.thresholds[0, 0]) - self.sweeps[0].least, 1e-300)
        labels: dict[int, _Labels] = {}
        for place, entries in self.entries.items():
            if time.perf_counter() > deadline:
                raise OutOfTimeError
            labels[place] = self._grow(place, entries, labels)
        root = next(reversed(labels.values()))
        within = np.flatnonzero(root.spent <= self.limit)
        if not len(within):
            return Found(self.cut)
        done = self._picked(labels, int(within[root.cost[within].argmin()])).at(0.0)
        return Found(self.cut, done.states, done.cost, done.spent)

    def _grow(self, place: int, entries: _Entries, below: dict[int, _Labels]) -> _Labels:
        """The labels of a bucket's message."""
        outside = entries.outside
        possible = np.flatnonzero(np.isfinite(entries.cost))  # not where a subtree without labels has no plan
        labels = _Labels(possible, entries.cost[possible], entries.spent[possible])
        labels = self._fitting(labels, outside)
        for i, inlet in enumerate(entries.inlets):
            labels = self._joined(labels, inlet, below[inlet.place], outside)
            outside = outside - inlet.least
            labels = self._fitting(labels, outside)
            if i < len(entries.inlets) - 1 and len(labels.cost) > 1:
                labels = self._fewest(labels, outside, labels.entry)
        return self._message(place, entries, labels, outside)

    def _fitting(self, labels: _Labels, outside: Floats) -> _Labels:
        """The labels that some better plan within the limit may hold."""
        fits: Mask = np.all(self._values(labels, outside) < self.thresholds, axis=0)
        return labels if fits.all() else labels.pick(fits)

    def _bounds(self, labels: _Labels, outside: Floats) -> Floats:
        """What plans within the limit cost at least that hold a label."""
        priced = self._values(labels, outside) - self.on_spent * self.limit
        return np.asarray(np.where(self.on_cost > 0, priced, -np.inf).max(axis=0))

    def _values(self, labels: _Labels, outside: Floats) -> Floats:
        return np.asarray(self.on_cost * labels.cost + self.on_spent * labels.spent + outside[:, labels.entry])

    def _joined(self, labels: _Labels, inlet: _Inlet, message: _Labels, outside: Floats) -> _Labels:
        """Every label with every label of a child that the best multiplier's bound leaves."""
        states = inlet.states[labels.entry]
        opened = states >= 0
        first = message.starts[states]
        best = self.on_cost[0, 0] * labels.cost + self.on_spent[0, 0] * labels.spent + outside[0, labels.entry]
        counts = np.where(opened, self._counts(message, states, first, best), 1)
        rows = np.repeat(np.arange(len(counts)), counts)
        picks = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + first[rows]
        cost, spent, take = labels.cost[rows], labels.spent[rows], opened[rows]
        picks[~take] = -1
        cost[take] += message.cost[picks[take]]
        spent[take] += message.spent[picks[take]]
        return _Labels(labels.entry[rows], cost, spent, [*labels.steps, (rows, picks)])

    def _counts(self, message: _Labels, states: Ints, first: Ints, best: Floats) -> Ints:
        """How many of a child's labels the best multiplier's bound leaves each label; fewer where they are too many.

        What is left out then has at least the bound at which it was left out.
        """
        share = 1.0
        while True:
            top = self.sweeps[0].least + share * self.window
            slack = np.clip((top - best) / self.window, 0.0, 1.0) * 0.5
            counts = np.searchsorted(message.keys, states + slack + _KEY_ROUNDING, side="right") - first
            if counts.sum() <= _MOST_ROWS or share < _LEAST_SHARE:
                return counts
            share /= 2
            self.cut = min(self.cut, self.sweeps[0].least + share * self.window - self._priced_limit())

    def _priced_limit(self) -> float:
        return self.sweeps[0].on_spent * self.limit

    def _fewest(self, labels: _Labels, outside: Floats, group: Ints) -> _Labels:
        """The labels that none of their group beats, and of those the most promising."""
        kept = undominated(group, labels.spent, labels.cost)
        if len(kept) > self.most:
            bounds = self._bounds(labels, outside)[kept]
            by_bound = np.argpartition(bounds, self.most)
            self.cut = min(self.cut, float(bounds[by_bound[self.most :]].min()))
            kept = np.sort(kept[by_bound[: self.most]])
        return labels.pick(kept)

    def _message(self, place: int, entries: _Entries, labels: _Labels, outside: Floats) -> _Labels:
        """Labels by state of the message, ready to be joined to what receives it."""
        best, first = self.sweeps[0], self.left.first_state[place]
        if not labels.steps:  # a selection needs a step to be written in
            every = np.arange(len(labels.entry))
            labels.steps.append((every, every))
        if len(labels.cost) > 1:
            labels = self._fewest(labels, outside, entries.state[labels.entry])
        group = entries.state[labels.entry]
        above = best.on_cost * labels.cost + best.on_spent * labels.spent - best.up[first + group]
        keys = group + np.clip(above / self.window, 0.0, 1.0) * 0.5
        order = np.argsort(keys, kind="stable")
        labels = labels.pick(order)
        labels.group, labels.keys = group[order], keys[order]
        labels.starts = np.searchsorted(labels.group, np.arange(entries.states))
        return labels

    def _picked(self, labels: dict[int, _Labels], winner: int) -> Remains:
        """The entries of the plan behind a label of the root, where there are labels."""
        which = np.repeat(self.is_closed, np.diff(self.left.first_entry))
        todo = [(len(self.is_closed) - 1, winner)]
        while todo:
            place, label = todo.pop()
            entries, here = self.entries[place], labels[place]
            which[entries.first + here.entry[label]] = True
            for i in reversed(range(len(here.steps))):
                before, picks = here.steps[i]
                if i < len(entries.inlets) and picks[label] >= 0:
                    todo.append((entries.inlets[i].place, int(picks[label])))
                label = int(before[label])
        return self.left.pick(which)


def _closed(left: Remains) -> Mask:
    """The places of the buckets, but the root, whose subtree has a single plan for each state of the message."""
    layout = left.layout
    closed: Mask = np.diff(np.searchsorted(left.heads, left.first_entry)) == np.diff(left.first_entry)
    owners = np.repeat(np.arange(len(closed)), np.diff(layout.first_inlet))
    taken = np.diff(left.first_pair) > 0
    for owner, giver in zip(owners[taken].tolist(), layout.givers[taken].tolist(), strict=True):
        if not closed[giver]:
            closed[owner] = False
    closed[-1] = False
    return closed


def threshold(sweep: Relaxation, upper: float, limit: float) -> float:
    """What a sweep's weighted sum must stay below for a plan to be within the limit and cheaper than `upper`."""
    if not sweep.on_cost:
        return float(np.nextafter(limit, np.inf))
    scale = abs(upper) + sweep.on_spent * abs(limit) + abs(sweep.least)
    return upper + sweep.on_spent * limit - _ROUNDING * scale


def undominated(group: Ints, first: Floats, second: Floats) -> Ints:
    """Indices, in the order of groups, of pairs that no other pair of their group is at most as large as in both."""
    order = np.lexsort((second, first, group))
    rank = np.empty(len(order), np.int64)
    rank[np.argsort(second[order], kind="stable")] = np.arange(len(order))
    change = np.concatenate(([0], np.cumsum(np.diff(group[order]) != 0))) if len(order) else rank
    falling = rank - change * len(order)  # every group starts below all groups before it
    least = np.minimum.accumulate(falling)
    kept = np.ones(len(order), bool)
    kept[1:] = falling[1:] < least[:-1]
    return order[kept]
