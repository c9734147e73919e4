"""Gives every use of what is stored once for unrelated layers a copy of its own, so that each is cut on its own.

* A vector or an integer list: exporters merge equal biases, and one shared shape list would tie every layer that
  reads it.
* A small table, for every elementwise operator that reads it: optimizers merge the position tables of all layers.
  Where it is moved before (an Unsqueeze that several layers read), so is the move.
* The epsilon that is added to a mean, for every such sum: a cut changes that of the layers it narrows.
* A shape list that is glued together from sizes, for every Reshape or Expand that reads it.

The weights that other operators read, of two and more dimensions, are only shared when a layer really is applied
twice: they stay one, and their uses are tied.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from itertools import count

import onnx

from onnx_mdp.graph.fold import names_read_inside

COPY_MARK = "::use"
_INTEGERS = {onnx.TensorProto.INT64, onnx.TensorProto.INT32}
_ELEMENTWISE = {"Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum", "Where"}
_MOVES = {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
_TABLE = 2**18  # elements: the most that is copied for every layer; masks and weights of great models are larger


def unshare(graph: onnx.GraphProto) -> None:
    """Copy what unrelated layers share, in place."""
    added = _copy_moves(graph)
    _copy_shape_lists(graph)
    _copy_shared(graph, added)


def tables(graph: onnx.GraphProto) -> set[str]:
    """The initializers that every layer gets a copy of: those that only elementwise operators read, moved or not."""
    applied = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if node.op_type in _MOVES and applied.isdisjoint(node.output):
            applied.update(node.input[1:])
        elif node.op_type not in _ELEMENTWISE:
            applied.update(node.input)
        applied |= names_read_inside(node)
    return {t.name for t in graph.initializer if t.name not in applied and math.prod(t.dims) <= _TABLE}


def original_name(name: str) -> str:
    """The input model's name of an initializer that may be a copy made here."""
    return name.split(COPY_MARK, 1)[0]


def is_copy(name: str) -> bool:
    """Whether the initializer is a copy made here."""
    return COPY_MARK in name


def _copy_moves(graph: onnx.GraphProto) -> set[str]:
    """Give every elementwise operator that reads a moved table moves of its own.

    Returns the outputs of moves that nothing but one elementwise operator needs. From the last move to the first, as
    the copy of one is a reader of those before it.
    """
    moves = _moves_of_tables(graph)
    taken = {name for node in graph.node for name in node.output} | {t.name for t in graph.initializer}
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in moves:
                readers[name].append((node, i))
    added: set[str] = set()
    copies: dict[str, list[onnx.NodeProto]] = {}
    for name, move in reversed(moves.items()):
        places = [(n, i) for n, i in readers[name] if n.op_type in _ELEMENTWISE or n.output[0] in added]
        if len(places) == len(readers[name]):
            added.add(name)
            places = places[1:]
        copies[name] = [_read_copy(move, place, number, taken) for number, place in enumerate(places, 1)]
        added.update(copy.output[0] for copy in copies[name])
        readers[move.input[0]] += [(copy, 0) for copy in copies[name]]
    _replace_nodes(graph, (n for node in graph.node for n in (node, *copies.get(node.output[0], ()))))
    return added


def _moves_of_tables(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The nodes that move a table which may be copied, or what was moved from one, by their outputs."""
    tables = {tensor.name for tensor in graph.initializer if 1 < math.prod(tensor.dims) <= _TABLE}
    needed = {value.name for value in graph.output}.union(*map(names_read_inside, graph.node))
    moves: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        moved = node.op_type in _MOVES and (node.input[0] in tables or node.input[0] in moves)
        if moved and node.output[0] not in needed:
            moves[node.output[0]] = node
    return moves


def _read_copy(move: onnx.NodeProto, place: tuple[onnx.NodeProto, int], number: int, taken: set[str]) -> onnx.NodeProto:
    """A copy of a move, read by a node's input in its stead."""
    copy = onnx.NodeProto.FromString(move.SerializeToString())
    reader, i = place
    copy.output[0] = reader.input[i] = _free_name(f"{move.output[0]}{COPY_MARK}", number, taken)
    copy.name = f"{move.name or move.output[0]}{COPY_MARK}{number}"
    taken.add(copy.output[0])
    return copy


def _replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    if len(copies) > len(graph.node):
        del graph.node[:]
        graph.node.extend(copies)


def _copy_shape_lists(graph: onnx.GraphProto) -> None:
    """Give every Reshape and Expand a shape list of its own where several read one that is glued together."""
    lists = {node.output[0]: node for node in graph.node if node.op_type == "Concat"}
    uses = Counter(name for node in graph.node for name in node.input if name in lists)
    seen: Counter[str] = Counter()
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        glue = lists.get(node.input[1]) if node.op_type in ("Reshape", "Expand") and len(node.input) > 1 else None
        if glue is not None and uses[glue.output[0]] > 1:
            name = glue.output[0]
            if seen[name]:
                copy = onnx.NodeProto.FromString(glue.SerializeToString())
                copy.output[0] = node.input[1] = f"{name}{COPY_MARK}{seen[name]}"
                copy.name = f"{glue.name or name}{COPY_MARK}{seen[name]}"
                nodes.append(copy)
            seen[name] += 1
        nodes.append(node)
    _replace_nodes(graph, nodes)


def _copy_shared(graph: onnx.GraphProto, added: Collection[str]) -> None:
    """Give the uses of an initializer copies; `added` are the outputs of moves to elementwise operators."""
    uses = Counter(name for node in graph.node for name in node.input)
    outputs = {value.name for value in graph.output}
    shared = {t.name: t for t in graph.initializer if uses[t.name] > 1 and t.name not in outputs}
    means = {node.output[0] for node in graph.node if node.op_type == "ReduceMean"}
    places = [
        (n, i)
        for n in graph.node
        for i, t in enumerate(n.input)
        if t in shared and (_copied(shared[t], n, added) or _is_epsilon(shared[t], n, means))
    ]
    taken = {t.name for t in graph.initializer}  # a pruned model may hold copies already
    kept = uses - Counter(node.input[i] for node, i in places)  # uses that are tied, to the original
    seen = Counter(dict.fromkeys(kept, 1))
    copies = []
    for node, i in places:
        name = node.input[i]
        if seen[name]:
            copy = onnx.TensorProto.FromString(shared[name].SerializeToString())
            copy.name = node.input[i] = _free_name(f"{name}{COPY_MARK}", seen[name], taken)
            taken.add(copy.name)
            copies.append(copy)
        seen[name] += 1
    graph.initializer.extend(copies)


def _copied(tensor: onnx.TensorProto, node: onnx.NodeProto, added: Collection[str]) -> bool:
    """Whether a node gets a copy of its own."""
    if len(tensor.dims) == 1:
        return tensor.data_type in _INTEGERS or tensor.dims[0] > 1
    elementwise = node.op_type in _ELEMENTWISE or node.output[0] in added
    return elementwise and 1 < math.prod(tensor.dims) <= _TABLE


def _is_epsilon(tensor: onnx.TensorProto, node: onnx.NodeProto, means: Collection[str]) -> bool:
    """Whether a number is added to a mean."""
    number = math.prod(tensor.dims) == 1 and tensor.data_type not in _INTEGERS
    return number and node.op_type == "Add" and any(name in means for name in node.input)


def _free_name(stem: str, number: int, taken: Collection[str]) -> str:
    """The stem with the first number from `number` on that gives a name not taken."""
    return next(name for i in count(number) if (name := f"{stem}{i}") not in taken)
