"""The bases that streams are brought into, from the second moments of what reads them over some inputs."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import numpy as np

from onnx_mdp.axes.terms import leaves
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.shapes import Array
from onnx_mdp.groups.couple import Coupling
from onnx_mdp.statistics.walk import Walk
from onnx_mdp.streams.basis import balanced, by_head, instances, most_wanted, principal
from onnx_mdp.streams.stream import Member, Stream

_BYTES = 128 << 20  # of activations of one batch that are looked at together
_KEEPS_SHIFT = ("Add", "Cast", "Div", "Identity", "Mul", "Reshape", "Where")  # of rows, on their way to a Softmax
Moments = Mapping[Member, Array]


def directions(
    coupling: Coupling, streams: Mapping[str, Stream], walk: Walk, marked: Container[str], *, refits: bool
) -> dict[str, Array]:
    """The rows of each stream's new basis, those that matter most first; (heads, units, units) where heads have each.

    Args:
        coupling: of the network that `walk` runs.
        streams: by any name.
        walk: over the inputs.
        marked: names of those of which a mean does not matter.
        refits: whether what reads a stream will be fitted anew after a cut.
    """
    moments = _moments(coupling, list(streams.values()), walk)
    found: dict[str, Array] = {}
    for name, stream in streams.items():
        bases = list(_bases(coupling, stream, moments, centered=name in marked, refits=refits))
        found[name] = bases[0] if stream.heads is None else np.stack(bases)
    return found


def _places(stream: Stream, coupling: Coupling) -> Iterator[Member]:
    """Where the vectors of a stream are looked at: what products read of it, and what is paired."""
    yield from stream.reads.values()
    for node in stream.pairs:
        for name in node.inputs:
            yield name, next(i for i, term in enumerate(coupling.axes[name]) if stream.factor in leaves(term))


def _moments(coupling: Coupling, streams: Sequence[Stream], walk: Walk) -> Moments:
    """The second moments of each stream where it is looked at; (heads or 1, units, units)."""
    places = {place: stream for stream in streams for place in _places(stream, coupling)}
    shifted = {node.inputs[1] for stream in streams for node in stream.pairs if _ends_in_softmax(coupling, node)}
    moments: dict[Member, Array] = {}
    for names in _parted(coupling.network, list(dict.fromkeys(tensor for tensor, _ in places))):
        for batch in walk.run(names):
            for place, stream in places.items():
                if place[0] in names:
                    values = np.asarray(batch[place[0]], np.float64 if stream.pairs else batch[place[0]].dtype)
                    if place[0] in shifted:
                        values = values - values.mean(axis=-1, keepdims=True)
                    rows = vectors(values, coupling, place, stream)
                    moments[place] = moments.get(place, 0.0) + np.asarray(rows.swapaxes(1, 2) @ rows, np.float64)
    return moments


def _ends_in_softmax(coupling: Coupling, node: Node) -> bool:
    """Whether a product's rows go to a Softmax, which what is the same for all keys does not change."""
    while True:
        last = len(coupling.axes[node.outputs[0]]) - 1
        readers = coupling.network.consumers.get(node.outputs[0], ())
        if len(readers) != 1:
            return False
        node = readers[0]
        if node.op == "Softmax":
            return node.attributes.get("axis", -1) in (-1, last)
        if node.op not in _KEEPS_SHIFT:
            return False


def vectors(values: Array, coupling: Coupling, place: Member, stream: Stream) -> Array:
    """The stream vectors in a tensor or weight, by rows; (heads or 1, rows, units)."""
    name, axis = place
    terms = coupling.axes[name]
    if stream.heads is None:
        found = np.moveaxis(values, axis, -1)[..., instances(terms[axis], stream.factor)]
        return found.reshape(1, -1, stream.width)
    other = next(i for i, term in enumerate(terms) if stream.heads in leaves(term))
    if other == axis:  # ..., heads, occurrences, units
        found = np.moveaxis(values, axis, -1)[..., by_head(terms[axis], stream.factor, stream.heads)]
        return np.moveaxis(found, -3, 0).reshape(stream.heads.size, -1, stream.width)
    moved = np.moveaxis(values, (other, axis), (-2, -1))  # ..., occurrences, heads, occurrences, units
    found = moved[..., instances(terms[other], stream.heads), :][..., instances(terms[axis], stream.factor)]
    return np.moveaxis(found, -3, 0).reshape(stream.heads.size, -1, stream.width)


def _bases(coupling: Coupling, stream: Stream, moments: Moments, *, centered: bool, refits: bool) -> Iterator[Array]:
    """The basis of each head, or the one there is."""
    if stream.inverse and stream.pairs:
        left, right = (np.sum([moments[p] for p in _side(stream, coupling, side)], axis=0) for side in (0, 1))
        yield from map(balanced, left, right)
        return
    places, outer = dict.fromkeys(_places(stream, coupling)), _outer(coupling, stream)
    for head in range(1 if stream.heads is None else stream.heads.size):
        found = {place: _scaled(moments[place][head]) for place in places}
        total = np.sum(list(found.values()), axis=0)
        if not stream.reads or not (refits or stream.linear):
            yield principal(total, centered=centered)
            continue
        parts = (outer[w][head] / max(float(np.sum(outer[w][head] * found[p])), 1e-30) for w, p in stream.reads.items())
        wanted = np.sum(list(parts), axis=0)  # each matrix in proportion to what it makes of the stream
        if stream.inverse and not refits:
            yield balanced(total, wanted)
        else:  # a rotation, which magnifies no rounding, does as well where what reads it is fitted anew
            yield most_wanted(total, wanted, centered=centered)


def _outer(coupling: Coupling, stream: Stream) -> dict[str, Array]:
    """The outer products of the matrices that read a stream; (heads or 1, units, units) each."""
    found: dict[str, Array] = {}
    for weight in stream.reads:
        axis = next(a for (name, a), before in stream.members.items() if name == weight and not before.writes)
        values = np.asarray(coupling.network.weights[weight], np.float64)
        rows = vectors(values, coupling, (weight, axis), stream)
        found[weight] = rows.swapaxes(1, 2) @ rows
    return found


def _side(stream: Stream, coupling: Coupling, side: int) -> Iterable[Member]:
    operands = {node.inputs[side] for node in stream.pairs}
    return dict.fromkeys(place for place in _places(stream, coupling) if place[0] in operands)


def _scaled(moment: Array) -> Array:
    return np.asarray(moment / max(float(np.trace(moment)), 1e-30))


def _parted(network: Network, names: Sequence[str]) -> Iterator[list[str]]:
    """Tensors to look at together."""
    part: list[str] = []
    size = 0
    for name in names:
        own = 4 * math.prod(network.shapes[name])
        if part and size + own > _BYTES:
            yield part
            part, size = [], 0
        part.append(name)
        size += own
    if part:
        yield part
