"""Runs a network many times on the same inputs, each time with other values of some weights.

What comes before the first changed weight is the same every time, so it is computed once: the network is cut into
stretches, the tensors that are live where one begins are kept for all inputs, and a trial runs from there on.

Every trial has a session of its own, with its weights as constants. A session that takes them as inputs could serve all
trials of a stretch, but saves 7 % of a ResNet-56's time and nothing of a MobileNetV2's: what runtimes do ahead with
constant weights, packing and laying them out, is worth about what opening a session costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_mdp.graph.external import loadable
from onnx_mdp.graph.macs import node_macs
from onnx_mdp.graph.network import Network
from onnx_mdp.graph.span import Positions, span
from onnx_mdp.inputs.base import Array, Inputs
from onnx_mdp.runtime.base import Feeds, Runtime, Session

Changes = Mapping[str, Array]
Outputs = Sequence[Array]
Judge = Callable[[Iterator[Outputs]], float]

_HELD_BYTES = 256 << 20  # of live tensors, for all inputs
_STRETCHES = 16  # what a trial runs too much of is at most the work between two of them


@dataclass(frozen=True)
class Trial:
    """Something to try: `weights` are initializers none of which is read before any that `changes` will name."""

    name: str
    weights: tuple[str, ...]
    changes: Callable[[], Changes]


@dataclass(eq=False)
class Replay:
    """A network with its inputs; `changed` are weights that differ from the network's in all runs."""

    network: Network
    inputs: Inputs
    runtime: Runtime
    changed: Changes = field(default_factory=dict)
    held_bytes: int = _HELD_BYTES

    def __post_init__(self) -> None:
        self._positions = Positions(self.network)
        self._feeds = list(self._batches())

    def outputs(self, changes: Changes | None = None) -> Iterator[Outputs]:
        """The network's outputs, run by run."""
        return self._runs(_Held(0, self._feeds), changes or {})

    def judged(self, trials: Sequence[Trial], judge: Judge, progress: Callable[[int, int], None]) -> dict[str, float]:
        """What `judge` makes of the outputs of every trial, by its name."""
        found: dict[str, float] = {}
        held = _Held(0, self._feeds)
        for start, members in self._stretches(trials):
            held = self._advanced(held, start)
            for trial in members:
                changes = trial.changes()
                if self._positions.first_reader(changes) < start:
                    raise ValueError(f"{trial.name} changes weights that are read before {trial.weights}")
                found[trial.name] = judge(self._runs(held, changes))
                progress(len(found), len(trials))
        return found

    @property
    def runs(self) -> int:
        """Number of runs: none if the inputs do not fill a batch."""
        return len(self._feeds)

    def _batches(self) -> Iterator[Feeds]:
        """Runs of the batch that the network was read at: its shapes then hold for every tensor."""
        batch = next(iter(self.network.inputs.values()))[0]
        parts = list(self.inputs.batches())
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in self.network.inputs if parts}
        for start in range(0, min(map(len, arrays.values()), default=0) - batch + 1, batch):
            yield {name: array[start : start + batch] for name, array in arrays.items()}

    def _stretches(self, trials: Sequence[Trial]) -> list[tuple[int, list[Trial]]]:
        """Trials by the position that they are run from, in graph order."""
        macs = node_macs(self.network)
        least = sum(macs.values()) / _STRETCHES
        stretches: list[tuple[int, list[Trial]]] = [(0, [])]
        for trial in sorted(trials, key=lambda trial: self._positions.first_reader(trial.weights)):
            start, members = stretches[-1]
            first = self._start(self._positions.first_reader(trial.weights), start)
            if sum(macs.get(i, 0) for i in range(start, first)) >= least:
                members = []
                stretches.append((first, members))
            members.append(trial)
        return stretches

    def _start(self, first: int, lowest: int) -> int:
        """The last position up to `first` at which the live tensors of all inputs fit into memory."""
        most = self.held_bytes / max(len(self._feeds), 1)
        positions = range(min(first, self._positions.end - 1), lowest, -1)
        return next((p for p in positions if self._positions.live_bytes(p) <= most), lowest)

    def _runs(self, held: _Held, changes: Changes) -> Iterator[Outputs]:
        return held.through(self._piece(held.position, self._positions.end, self.network.outputs, changes))

    def _advanced(self, held: _Held, position: int) -> _Held:
        """The tensors that are live at a later position, of the network without any trial's changes."""
        if position == held.position:
            return held
        live = self._positions.live(position)
        piece = self._piece(held.position, position, live, {})
        return _Held(position, [dict(zip(live, outputs, strict=True)) for outputs in held.through(piece)])

    def _piece(self, start: int, stop: int, outputs: Sequence[str], changes: Changes) -> _Piece:
        """Nodes of the network, loaded."""
        producers = self.network.producers
        computed = [name for name in outputs if name in producers and producers[name].index >= start]
        model = span(self.network, start, stop, computed, {**self.changed, **changes})
        inputs = tuple(value.name for value in model.graph.input)
        with loadable(model) as reference:
            session = self.runtime.open(reference) if computed else None
        return _Piece(session, inputs, tuple(computed), tuple(outputs))


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some nodes, loaded in a runtime; of the outputs, those that were computed before are passed through."""

    session: Session | None
    inputs: tuple[str, ...]
    computed: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, feeds: Feeds) -> Outputs:
        """The outputs, given the tensors that are live where the nodes begin."""
        found = dict(feeds)
        if self.session:
            taken = {name: feeds[name] for name in self.inputs}
            found |= zip(self.computed, self.session.run(taken, self.computed), strict=True)
        return [found[name] for name in self.outputs]


@dataclass(frozen=True, eq=False)
class _Held:
    """The tensors that are live at a position, for each run."""

    position: int
    feeds: Sequence[Feeds]

    def through(self, piece: _Piece) -> Iterator[Outputs]:
        """What a piece makes of them, run by run."""
        return (piece.run(feeds) for feeds in self.feeds)
