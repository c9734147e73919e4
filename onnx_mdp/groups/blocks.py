"""Removable residual blocks: what computes f(x) for Add(x, f(x)) and nothing else.

Removing one replaces the sum by x. That is a cut like any other: f(x) is made zero by silencing the weights that
its last operators multiply with, so it can be proven the same way.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.select import read_selection
from onnx_mdp.groups.couple import Coupling
from onnx_mdp.rules.line import Line

# Every element goes to one place: x and what these make of it are the same numbers.
_LAYOUTS = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Block:
    """A removable residual block.

    Attributes:
        name: the name of the Add that closes it.
        entry: the tensor x.
        branch: the tensor f(x).
        output: the tensor x + f(x).
        nodes: indices of the nodes of f, without the Add.
        silenced: initializers whose zeroing makes f(x) zero.
    """

    name: str
    entry: str
    branch: str
    output: str
    nodes: frozenset[int]
    silenced: tuple[str, ...]


def find_blocks(coupling: Coupling) -> tuple[Block, ...]:
    """Every removable block, in graph order."""
    return tuple(block for node in coupling.network.nodes if node.op == "Add" for block in _close(coupling, node))


def parent_blocks(blocks: tuple[Block, ...]) -> dict[str, str | None]:
    """For each block the smallest other one that it lies inside of."""
    parents: dict[str, str | None] = {}
    for block in blocks:
        around = [other for other in blocks if block.nodes < other.nodes]
        parents[block.name] = min(around, key=lambda other: len(other.nodes)).name if around else None
    return parents


def innermost(blocks: tuple[Block, ...], node: int) -> str | None:
    """Name of the smallest block around a node, by the node's index."""
    around = [block for block in blocks if node in block.nodes]
    return min(around, key=lambda block: len(block.nodes)).name if around else None


def _close(coupling: Coupling, add: Node) -> Iterator[Block]:
    network, (a, b) = coupling.network, add.inputs
    output = add.outputs[0]
    for entry, branch in ((a, b), (b, a)):
        if entry in network.weights or branch in network.weights or entry == branch:
            continue
        if not network.shapes.get(entry) == network.shapes.get(branch) == network.shapes.get(output):
            continue
        nodes = _region(network, entry, branch, add)
        silenced = _silence(coupling, branch, nodes) if nodes else None
        if nodes and silenced:
            yield Block(add.name, entry, branch, output, nodes, tuple(dict.fromkeys(silenced)))
            return


def _region(network: Network, entry: str, branch: str, add: Node) -> frozenset[int] | None:
    """The nodes that nothing but `branch` needs, or None if they do not compute it from `entry`.

    What else they read (a mask, another branch's result) stays outside: it does not matter once they are gone. From
    the last node to the first, so that all readers of a node are settled before it; costs O(size of the region).

    They may read x in another layout: an optimizer that moves a Transpose through the first operators of f leaves
    the one behind x where it was. They may also read all of a tensor of which x is a selection: the last attention of
    a classifier answers for one token, and reads all.
    """
    inside, read = {add.index}, set[str]()
    pending, seen = _producers(network, {branch}), {add.index}
    while pending:
        node = network.nodes[-heapq.heappop(pending)]
        if node.index in seen:
            continue
        seen.add(node.index)
        if _needed_elsewhere(network, node, inside):
            continue
        inside.add(node.index)
        names = {*node.inputs, *node.captured} - {entry}
        read |= set() if node.op in ("Shape", "Size") else network.varying.intersection((*node.inputs, *node.captured))
        for index in _producers(network, names):
            heapq.heappush(pending, index)
    reached = {_laid_out(network, name) for name in read}
    source = _laid_out(network, entry)
    ends = {source, _laid_out(network, _selected_from(network, source))}
    return None if reached.isdisjoint(ends) else frozenset(inside - {add.index})


def _laid_out(network: Network, name: str) -> str:
    """The tensor that has the same elements, before they were laid out anew."""
    while (node := network.producers.get(name)) is not None and node.op in _LAYOUTS:
        name = node.inputs[0]
    return name


def _selected_from(network: Network, name: str) -> str:
    """The tensor that one consists of selected positions of; else itself."""
    node = network.producers.get(name)
    return node.inputs[0] if node is not None and read_selection(network, node) else name


def _producers(network: Network, names: Iterable[str]) -> list[int]:
    """The negated indices of the nodes that compute some tensors."""
    return [-network.producers[name].index for name in names if name in network.producers]


def _needed_elsewhere(network: Network, node: Node, inside: set[int]) -> bool:
    readers = (reader.index for name in node.outputs for reader in network.consumers.get(name, ()))
    return not inside.issuperset(readers) or any(name in network.outputs for name in node.outputs)


def _silence(coupling: Coupling, tensor: str, inside: frozenset[int]) -> list[str] | None:
    """Initializers of the block whose zeroing makes the tensor zero; None where no set of them does.

    Node by node in graph order, as the ways back through nested blocks are exponentially many.
    """
    silent: dict[str, list[str]] = {}
    for index in sorted(inside):
        node = coupling.network.nodes[index]
        found = _silence_node(coupling, node, inside, silent)
        if found is not None:
            silent.update(dict.fromkeys(node.outputs, found))
    result = silent.get(tensor)
    return result if result is not None and _stays_defined(coupling, inside, result) else None


def _silence_node(
    coupling: Coupling, node: Node, inside: frozenset[int], silent: Mapping[str, list[str]]
) -> list[str] | None:
    """Initializers whose zeroing makes the node's outputs zero, given those for the tensors before it."""
    network, line = coupling.network, coupling.lines.get(node.index)
    if line is None or line.zero is None:
        return None
    inputs = _inputs(line, node)
    found: list[str] = []
    for clause in line.zero:
        usable: list[list[str]] = []
        for name in [inputs.get(name.removesuffix("?")) for name in clause]:
            if name is None:
                usable.append([])
            elif name in silent:
                usable.append(silent[name])
            elif coupling.is_weight(name) and _owned(network, name, inside):
                usable.append([name])
        if not usable:
            return None
        shortest: list[str] = min(usable, key=len)
        found += shortest
    return found


def _stays_defined(coupling: Coupling, inside: frozenset[int], silenced: Iterable[str]) -> bool:
    """Whether nothing in the block is divided by zero once the weights are zero."""
    zero: set[str | None] = {None, *silenced}
    for index in sorted(inside):
        node, line = coupling.network.nodes[index], coupling.lines.get(index)
        if line is None:
            continue
        inputs = _inputs(line, node)
        if any(inputs[name] in zero for name in line.nonzero if name in inputs):
            return False
        if line.zero is not None and all(
            any(inputs.get(name.removesuffix("?")) in zero for name in clause) for clause in line.zero
        ):
            zero.update(filter(None, node.outputs))
    return True


def _inputs(line: Line, node: Node) -> dict[str, str]:
    """The tensors of the rule's operands, without those that are absent."""
    return {op.name: name for op, name in zip(line.inputs, node.inputs, strict=False) if name}


def _owned(network: Network, name: str, inside: frozenset[int]) -> bool:
    """Whether an initializer is a weight of the block alone: no scalar of a formula, nor read elsewhere."""
    weight = math.prod(network.shapes[name]) > 1
    names = network.stored_as.get(name, (name,))
    return weight and all(reader.index in inside for n in names for reader in network.consumers.get(n, ()))


def gone_with(blocks: tuple[Block, ...], removed: Collection[str]) -> frozenset[str]:
    """The removed blocks and all blocks inside them."""
    parents = parent_blocks(blocks)

    def is_gone(name: str | None) -> bool:
        return name is not None and (name in removed or is_gone(parents[name]))

    return frozenset(name for name in parents if is_gone(name))
