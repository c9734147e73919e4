"""Removable residual blocks: what computes f(x) for Add(x, f(x)) and nothing else.

Removing one replaces the sum by x. That is a cut like any other: f(x) is made zero by silencing the weights that
its last operators multiply with, so it can be proven the same way.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from onnx_mdp.graph.network import Network, Node
from onnx_mdp.groups.couple import Coupling


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
    return frozenset(inside - {add.index}) if entry in read else None


def _producers(network: Network, names: Iterable[str]) -> list[int]:
    """The negated indices of the nodes that compute some tensors."""
    return [-network.producers[name].index for name in names if name in network.producers]


def _needed_elsewhere(network: Network, node: Node, inside: set[int]) -> bool:
    readers = (reader.index for name in node.outputs for reader in network.consumers.get(name, ()))
    return not inside.issuperset(readers) or any(name in network.outputs for name in node.outputs)


def _silence(coupling: Coupling, tensor: str, inside: frozenset[int]) -> list[str] | None:
    """Initializers of the block whose zeroing makes the tensor zero; None where no set of them does."""
    network = coupling.network
    if network.is_float_weight(tensor):
        return [tensor] if _owned(network, tensor, inside) else None
    producer = network.producers.get(tensor)
    line = coupling.lines.get(producer.index) if producer and producer.index in inside else None
    if producer is None or line is None or line.zero is None:
        return None
    inputs = {op.name: name for op, name in zip(line.inputs, producer.inputs, strict=False) if name}
    found: list[str] = []
    for clause in line.zero:
        names = [inputs.get(name.removesuffix("?")) for name in clause]
        choices: list[list[str] | None] = [[] if name is None else _silence(coupling, name, inside) for name in names]
        usable = [choice for choice in choices if choice is not None]
        if not usable:
            return None
        found += sorted(usable, key=len)[0]
    return found


def _owned(network: Network, name: str, inside: frozenset[int]) -> bool:
    """Whether an initializer is a weight of the block alone: no scalar of a formula, and read nowhere else."""
    weight = math.prod(network.shapes[name]) > 1
    return weight and all(reader.index in inside for reader in network.consumers[name])
