"""Removable residual blocks: regions f between a tensor x and Add(x, f(x)) that nothing else enters or leaves.

Removing one replaces the sum by x. That is a cut like any other: f(x) is made zero by silencing the weights that
its last operators multiply with, so it can be proven the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    """The nodes that compute `branch` from `entry` alone, or None if anything else enters or leaves."""
    first = network.producers[entry].index if entry in network.producers else -1
    nodes: dict[int, Node] = {}
    pending = [branch]
    while pending:
        name = pending.pop()
        if name == entry or name in network.weights or not name:
            continue
        producer = network.producers.get(name)
        if producer is None or producer.index <= first:
            return None
        if producer.index not in nodes:
            nodes[producer.index] = producer
            pending += [*producer.inputs, *producer.captured]
    inside = {*nodes, add.index}
    leaves_region = any(
        name in network.outputs or any(reader.index not in inside for reader in network.consumers.get(name, ()))
        for node in nodes.values()
        for name in node.outputs
    )
    return None if leaves_region or not nodes else frozenset(nodes)


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
    """Whether an initializer is a weight of the block alone: no scalar, no divisor, and read nowhere else."""
    weight = math.prod(network.shapes[name]) > 1 and name not in network.divisors
    return weight and all(reader.index in inside for reader in network.consumers[name])
