"""Moves selections up: where a network keeps a few positions of an axis, what is above need not compute the others.

A Gather or Slice of constant positions moves before the operators that pass its axis (`onnx_mdp.lossless.places`), as
op(x)[i] = op(x[i]). It moves only where all readers of what is computed want the same positions: nothing is computed
twice. A classifier that reads one token of a transformer then computes its last MLP, and the queries of its last
attention, for that token alone. How far it moves is what saves the most by a coarse count of work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from onnx_mdp.graph.dims import Dims, follow_dims
from onnx_mdp.graph.macs import macs_of
from onnx_mdp.graph.network import Network, Node, read_network
from onnx_mdp.graph.select import Integer, Move, Selection, glued, hull, move_selections, read_selection
from onnx_mdp.graph.shapes import other_shapes
from onnx_mdp.lossless.places import Held, Passage, Place, passage
from onnx_mdp.rules import Refusal, View, line_of

_ELEMENT = 16  # multiply-accumulates that take as long as computing or copying one element otherwise
_NODE = 30_000  # likewise for starting a node
_LEAST = 0.001  # share of a network's work that a move must save: less is not worth another graph, nor measurable
_FREE = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")  # they copy nothing


@dataclass(frozen=True)
class Moved:
    """A selection that was moved: the name of its node, how many operators it is now before, and what that saves.

    The multiply-accumulates are counted at the network's input shapes.
    """

    name: str
    operators: int
    macs: int


def move_up(network: Network) -> tuple[Network, tuple[Moved, ...]]:
    """The network with its selections moved up, and what was moved; the model is rewritten in place.

    In rounds, as selections that meet at one tensor may go on from there together.
    """
    moved: list[Moved] = []
    while any(_starts(network)):
        probe = _probe(network)
        regions = list(_disjoint(probe))
        if not regions:
            break
        move_selections(probe, [region.move() for region in regions])
        moved += [Moved(r.selections[0].node.name, len(r.steps), r.macs(network)) for r in regions]
        network = read_network(network.model, network.inputs)
    return network, tuple(moved)


def _probe(network: Network) -> Network:
    """The network at another batch if that is symbolic: an axis of the batch and one of size one look alike at one."""
    others = other_shapes(network.model.graph, network.inputs)
    shapes = {name: (*others[name][:1], *shape[1:]) for name, shape in network.inputs.items()}
    return network if shapes == network.inputs else read_network(network.model, shapes)


def _starts(network: Network) -> Iterator[tuple[Selection, ...]]:
    """Selections that are all that reads a tensor, and do not pick all of it together."""
    for node in reversed(network.nodes):
        first = read_selection(network, node)
        if first is None or node.inputs[0] in network.outputs or node.inputs[0] not in network.producers:
            continue
        readers = [
            reader for reader in network.consumers[node.inputs[0]] if not _reads_others(network, reader, first.axis)
        ]
        if readers[-1] is not node:
            continue  # the last one speaks for all
        selections = [read_selection(network, reader) for reader in readers]
        along = tuple(s for s in selections if s is not None and s.axis == first.axis)
        size, pick = network.shapes[node.inputs[0]][first.axis], hull([s.pick for s in along])
        if len(along) == len(readers) and pick is not None and 0 < pick.count(size) < size:
            yield along


def _reads_others(network: Network, reader: Node, axis: int) -> bool:
    """Whether a node reads sizes of a tensor, and none but those of other axes are picked from them."""
    if reader.op != "Shape" or reader.attributes:
        return False
    for node in network.consumers.get(reader.outputs[0], ()):
        indices = (
            network.values.get(node.inputs[1]) if node.op == "Gather" and node.inputs[1] in network.weights else None
        )
        rank = len(network.shapes[reader.inputs[0]])
        if indices is None or axis in {int(i) % rank for i in indices.reshape(-1)}:
            return False
    return reader.outputs[0] not in network.outputs


def _disjoint(network: Network) -> Iterator[_Region]:
    """Regions worth moving a selection above; those that meet others wait for the next round."""
    dims, touched = follow_dims(network), set[int]()
    least = _LEAST * sum(_work(network, node) for node in network.nodes)
    for selections in _starts(network):
        region = _Region(network, dims, selections)
        region.grow(least)
        if region.steps and touched.isdisjoint(region.nodes()):
            touched |= region.nodes()
            yield region


def _work(network: Network, node: Node) -> float:
    """A coarse count of what a node takes, in multiply-accumulates."""
    copied = node.op not in _FREE and node.outputs[0] in network.shapes
    elements = math.prod(network.shapes[node.outputs[0]]) if copied else 0
    return _ELEMENT * elements + float(macs_of(node, network.shapes))


@dataclass(frozen=True)
class _Step:
    """A node that a selection moves above, and the integers that change with it."""

    node: Node
    passage: Passage
    integers: tuple[Integer, ...]


@dataclass
class _Region:
    """The nodes above some selections that need compute no more than what is selected."""

    network: Network
    dims: Mapping[str, Dims]
    selections: tuple[Selection, ...]
    steps: list[_Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start, axis = self.selections[0].node.inputs[0], self.selections[0].axis
        self.size = self.network.shapes[self.start][axis]
        self.pick = hull([selection.pick for selection in self.selections]) or self.selections[0].pick
        self.count = self.pick.count(self.size)
        self.wanted = {self.start: Place(axis)}
        self.reads = {(selection.node.index, 0) for selection in self.selections}

    def nodes(self) -> frozenset[int]:
        """Indices of the nodes that change."""
        return frozenset([s.node.index for s in self.selections] + [step.node.index for step in self.steps])

    def grow(self, least: float) -> None:
        """Take in node after node, from the last one on, then go back to where the most was saved, if at least that."""
        frontier, stuck = {self.start}, set[str]()
        saved, best = 0.0, (least, 0)
        dense = self._selecting(frontier)
        while open_ := [name for name in frontier - stuck if name in self.network.producers]:
            name = max(open_, key=lambda tensor: self.network.producers[tensor].index)
            step = self._step(name)
            if step is None:
                stuck.add(name)
                continue
            self._take(step)
            frontier.remove(name)
            frontier.update(step.node.inputs[position] for position in step.passage.inputs)
            saved += _work(self.network, step.node) * (1 - self.count / self.size)
            gain = saved + dense - self._selecting(frontier)
            best = max(best, (gain, len(self.steps)), key=lambda pair: pair[0])
        del self.steps[best[1] :]

    def _step(self, name: str) -> _Step | None:
        """The step above the node that computes a tensor; None where it must compute all of it."""
        node = self.network.producers[name]
        if name != node.outputs[0] or name in self.network.outputs or not self._all_wanted(name):
            return None
        if any(self.network.consumers.get(other) or other in self.network.outputs for other in node.outputs[1:]):
            return None
        line = line_of(View(node, self.network, self.dims))
        if isinstance(line, Refusal):
            return None
        found = passage(line, node, self.network.shapes, self.wanted[name], self.size)
        if found is None or any(self.wanted.get(node.inputs[i], place) != place for i, place in found.inputs.items()):
            return None
        integers = [self._integer(node, held) for held in found.held]
        known = tuple(integer for integer in integers if integer is not None)
        return _Step(node, found, known) if len(known) == len(integers) else None

    def _all_wanted(self, name: str) -> bool:
        """Whether nothing reads more of a tensor than the selected positions."""
        axis = self.wanted[name].axis
        for reader in self.network.consumers[name]:
            uses = [(reader.index, k) for k, given in enumerate(reader.inputs) if given == name]
            wanted = name not in reader.captured and self.reads.issuperset(uses)
            if not wanted and not _reads_others(self.network, reader, axis):
                return False
        return True

    def _integer(self, node: Node, held: Held) -> Integer | None:
        """The new value of an integer that counts the positions; None where it is computed."""
        name = node.inputs[held.position]
        literal = name in self.network.weights or glued(self.network, name, held.index) is not None
        return Integer(node.index, held.position, held.index, held.size * self.count) if literal else None

    def _take(self, step: _Step) -> None:
        self.steps.append(step)
        for position, place in step.passage.inputs.items():
            self.wanted[step.node.inputs[position]] = place
            self.reads.add((step.node.index, position))

    def _selecting(self, tensors: set[str]) -> float:
        """What it costs to pick the positions of tensors; weights are picked once, when a session is made."""
        return sum(self._picking(name) for name in tensors)

    def _picking(self, name: str) -> float:
        shape, place = self.network.shapes[name], self.wanted[name]
        if shape[place.axis] != self.size:
            return math.inf  # no axis of its own
        return _NODE + _ELEMENT * math.prod(shape) * self.count / self.size if name in self.network.varying else 0.0

    def macs(self, network: Network) -> int:
        """Multiply-accumulates that the move saves, at the shapes of a network."""
        macs = sum(macs_of(network.nodes[step.node.index], network.shapes) for step in self.steps)
        return int(macs * (self.size - self.count) // self.size)

    def move(self) -> Move:
        """The rewriting that moves the selections above the region."""
        made = {step.node.outputs[0] for step in self.steps}
        reads = [(s.node.index, k, s.node.inputs[k], p) for s in self.steps for k, p in s.passage.inputs.items()]
        outside = [read for read in reads if read[2] not in made]
        return Move(
            selections=self.selections,
            pick=self.pick,
            above=frozenset(step.node.index for step in self.steps),
            places={name: place.axis for _, _, name, place in outside},
            readers=frozenset((index, k) for index, k, _, _ in outside),
            integers=tuple(integer for step in self.steps for integer in step.integers),
        )
