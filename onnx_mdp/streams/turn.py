"""Makes streams that normalizations read cuttable, and brings what is cut back to the operators it had.

They are rotated to the directions that matter most; of those that cannot be rotated units are selected.

Principal directions of normalized activations as the basis of a residual stream, so that slices of it can be deleted:
SliceGPT (ICLR 2024), section 3. Where layers are fitted anew after the cut, directions are ordered by what least
squares makes of them instead (reduced rank regression). Here normalizations that subtract a mean keep their operators:
of a stream cut to k units one, the last, is always zero, and a fixed reflection takes such vectors to those of zero
mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from onnx_mdp.axes.terms import Factor, Term, leaves
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.network import Network, read_network, read_node
from onnx_mdp.graph.precompute import drop_dead
from onnx_mdp.graph.shapes import Array
from onnx_mdp.graph.weights import array, put, with_weights
from onnx_mdp.groups.couple import Coupling, couple
from onnx_mdp.groups.find import Analysis, analyze
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.rewrite.plan import Plan, factors, plan_edits
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.statistics.walk import Walk
from onnx_mdp.streams.basis import along, along_heads, by_head, reflection
from onnx_mdp.streams.bridge import bridge, unbridge
from onnx_mdp.streams.directions import directions
from onnx_mdp.streams.find import find_streams
from onnx_mdp.streams.fold import MEAN_FREE, PROJECTED, fold, own_operands
from onnx_mdp.streams.select import selectable, shown
from onnx_mdp.streams.spell import Selected, gather, is_spelled, spell, units_of
from onnx_mdp.streams.stream import CENTERING, Fixed, Member, Stream

Bases = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Turned:
    """A network whose streams can be cut: by their principal directions, strongest first, or unit by unit.

    Attributes:
        coupling: of the network that computes.
        streams: its streams that are rotated, by the name of their first weight.
        marks: results of normalizations that subtract a mean in a result, and need not in `network`.
        bases: by stream, the rows that its units are in the basis it had: what a plan file has to hold.
        fixed: the normalized streams that were not rotated.
        selected: the normalizations that are spelled out, so that units of what they read can go, by their results.
        bridged: outputs that show units of these, which have a matrix of their own.
    """

    coupling: Coupling
    streams: Mapping[str, Stream]
    marks: frozenset[str]
    bases: Bases
    fixed: tuple[Fixed, ...] = ()
    selected: Selected = field(default_factory=dict)
    bridged: frozenset[str] = frozenset()

    @property
    def units(self) -> Mapping[str, str]:
        """The weights that mark the units of normalizations that are spelled out, by these' results."""
        return {result: units_of(result) for result in self.selected}

    @property
    def members(self) -> frozenset[Member]:
        """The (initializer, axis) pairs that carry streams."""
        return frozenset(member for stream in self.streams.values() for member in stream.members)

    @property
    def empty(self) -> frozenset[Member]:
        """The (initializer, axis) pairs whose last unit has to stay: it is the mean, or nothing where none matters."""
        return frozenset(
            m for stream in self.streams.values() if _is_marked(stream, self.marks) for m in stream.members
        )

    def analysis(self, locks: Iterable[str] = ()) -> Analysis:
        """What can be pruned in the network."""
        marks = {(units, 0) for units in self.units.values()}
        return analyze(self.coupling.network, locks, self.coupling, self.empty, self.members, marks)

    def timed(self, analysis: Analysis) -> Analysis:
        """The analysis over a network with the operators of a result: its numbers are wrong, its latency right."""
        network = analysis.network
        model = with_weights(network.model, network.model.graph.initializer)
        gather(model, self.selected)
        for node in _marked(model, self.marks):
            node.op_type = CENTERING
        for node in model.graph.node:
            if node.output[0].endswith(PROJECTED):
                node.op_type = "Identity"
                del node.input[1:]
        nodes = tuple(read_node(i, node) for i, node in enumerate(model.graph.node))
        return replace(
            analysis, coupling=replace(analysis.coupling, network=replace(network, model=model, nodes=nodes))
        )

    def cut(self, analysis: Analysis, plan: Plan) -> onnx.ModelProto:
        """The network cut to a plan, to be proven and recovered."""
        model = rewrite(analysis.network.model, plan_edits(analysis, plan))
        unbridge(model, self.bridged)
        return model

    def restored(self, analysis: Analysis, plan: Plan, model: onnx.ModelProto) -> onnx.ModelProto:
        """A cut model with the normalizations that the original has; it computes the same.

        A model that has them already is returned as it is.
        """
        if not is_spelled(model, self.selected) and not any(True for _ in _marked(model, self.marks)):
            return model
        widths = {factor: len(kept) for factor, kept in factors(analysis, plan).items()}
        copy = with_weights(model, model.graph.initializer)
        gather(copy, self.selected)
        unbridge(copy, self.bridged)
        tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
        for stream in self.streams.values():
            if _is_marked(stream, self.marks):
                _apply(tensors, stream, self.coupling.axes, reflection(widths.get(stream.factor, stream.width)), widths)
        projected = {node.output[0]: node.input[0] for node in copy.graph.node if node.output[0].endswith(PROJECTED)}
        for node in _marked(copy, self.marks):
            node.op_type = CENTERING
            node.input[0] = projected.get(node.input[0], node.input[0])
        drop_dead(copy.graph)
        return copy


def turn(
    network: Network,
    runtime: Runtime,
    inputs: Inputs | Bases,
    *,
    refits: bool = True,
    rotates: bool = True,
    selects: Collection[str] | None = None,
) -> Turned:
    """The network with its normalized streams made cuttable.

    Every stream that allows it is rotated to the directions that matter most over some inputs; the normalizations over
    others are spelled out where nothing else is in the way.

    Args:
        network: in normal form; its model is left as it is.
        runtime: what it runs on.
        inputs: to take the directions from; or the bases of a turned network, to turn this one likewise.
        refits: whether what reads a stream will be fitted anew after a cut: then the first directions are those that
            least squares makes the most of, else those of most energy.
        rotates: whether to rotate streams.
        selects: results of the normalizations that may be spelled out; by default all.
    """
    before, streams, fixed = _found(network, rotates=rotates)
    marks = frozenset(node.outputs[0] for stream in streams for node in stream.norms if node.op == CENTERING)
    results = _results(before, streams)
    model = fold(before, streams) if streams else with_weights(network.model, network.model.graph.initializer)
    results = results if selects is None else results.intersection(selects)
    bridged = frozenset(shown(before, results))
    bridge(model, before.network, bridged)
    selected = spell(model, before.network, results)
    if not (streams or selected):
        return Turned(before, {}, marks, {}, fixed)
    del before  # or both would be in memory
    coupling = couple(read_network(model, network.inputs))
    marks = frozenset(_renamed(coupling.network, marks))
    turned = Turned(coupling, {}, marks, {}, fixed, selected, bridged)
    return _rotated(turned, runtime, inputs, refits=refits) if streams else turned


def _results(coupling: Coupling, streams: Sequence[Stream]) -> set[str]:
    """The results of what can be spelled out over axes that are not rotated."""
    cuts, rotated = selectable(coupling), {stream.factor for stream in streams}
    taken = {node for factor in rotated for node in cuts.get(factor, ())}
    return {node.outputs[0] for norms in cuts.values() for node in norms if node not in taken}


def _found(network: Network, *, rotates: bool) -> tuple[Coupling, Sequence[Stream], tuple[Fixed, ...]]:
    """The streams that can be rotated, the normalized ones that cannot, and the coupling of a network that they are in.

    It is that of the network itself where there is nothing to rotate.
    """
    if not rotates:
        return couple(network), (), ()
    model = with_weights(network.model, network.model.graph.initializer)
    own_operands(model)
    before = couple(read_network(model, network.inputs))
    found, fixed = find_streams(before)
    return before if found else couple(network), found, fixed


def _rotated(turned: Turned, runtime: Runtime, inputs: Inputs | Bases, *, refits: bool) -> Turned:
    """The network, whose weights are changed in place, in new bases."""
    coupling, marks = turned.coupling, turned.marks
    spelled = {leaf for name in turned.units.values() for leaf in leaves(coupling.axes[name][0])}
    streams = dict(_named(find_streams(coupling, spelled)[0]))
    if isinstance(inputs, Mapping):
        bases: Bases = inputs
    else:
        marked = {name for name, stream in streams.items() if _is_marked(stream, marks)}
        walk = Walk(coupling.network.model, inputs, runtime, 0)
        bases = directions(coupling, streams, walk, marked, refits=refits)
    tensors = {tensor.name: tensor for tensor in coupling.network.model.graph.initializer}
    for name, stream in streams.items():
        _apply(tensors, stream, coupling.axes, bases[name], {})
    return replace(turned, streams=streams, bases={name: bases[name] for name in streams})


def _named(streams: Iterable[Stream]) -> Iterator[tuple[str, Stream]]:
    """Streams by the name of their first weight, with a number where several begin with one."""
    seen: Counter[str] = Counter()
    for stream in streams:
        name = next(iter(stream.members))[0]
        yield (f"{name}/{seen[name]}" if seen[name] else name), stream
        seen[name] += 1


def _renamed(network: Network, marks: Iterable[str]) -> Iterator[str]:
    """The results of normalizations by the names that a fold gave them."""
    for name in marks:
        names = (name, f"{name}/unshifted", f"{name}/stream")
        yield next(n for n in names if n in network.producers and network.producers[n].op == MEAN_FREE)


def _marked(model: onnx.ModelProto, marks: frozenset[str]) -> Iterator[onnx.NodeProto]:
    return (n for n in model.graph.node if n.op_type == MEAN_FREE and not marks.isdisjoint(n.output))


def _is_marked(stream: Stream, marks: frozenset[str]) -> bool:
    return any(not marks.isdisjoint(node.outputs) for node in stream.norms)


def _apply(
    tensors: Mapping[str, onnx.TensorProto],
    stream: Stream,
    axes: Mapping[str, Sequence[Term]],
    matrix: Array,
    widths: Mapping[Factor, int],
) -> None:
    """Change the basis of all of a stream's weights that are there."""
    for name, axis in stream.members:
        if name in tensors:
            before = array(tensors[name])
            if stream.linear:
                units = by_head(axes[name][axis], stream.factor, stream.heads)
                inverse = stream.inverse.get((name, axis), np.empty(0))
                after = along_heads(before, axis, units, matrix.reshape(len(units), *matrix.shape[-2:]), inverse)
            else:
                after = along(before, axis, axes[name][axis], stream.factor, matrix, widths)
            put(tensors[name], np.asarray(after, before.dtype), name)
