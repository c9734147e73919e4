"""What each operator computes in PyTorch, and what its function may look at.

A function takes a `Call` and the node's inputs, None for an absent one, and returns the output or a tuple of them. It
is registered for (domain, operator, first opset), as a rule is; the newest one not newer than the model's opset
applies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from onnx_mdp.graph.network import Node

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True, eq=False)
class Call:
    """One run of a node; `run` computes a subgraph of it, by the name of its attribute, from the inputs given."""

    node: Node
    opset: int
    training: bool
    run: Callable[..., tuple[torch.Tensor, ...]]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or the operator's default."""
        return self.node.attributes.get(name, default)

    def ints(self, given: Any, name: str, default: Any = None) -> Any:
        """A list that newer opsets pass as an input and older ones as an attribute."""
        return self.attr(name, default) if given is None else given

    @property
    def outputs(self) -> int:
        """How many outputs are asked for, up to the last."""
        return max((i + 1 for i, name in enumerate(self.node.outputs) if name), default=0)


@dataclass(frozen=True, eq=False)
class Operator:
    """A registered function.

    Attributes:
        since: the first opset it is right for.
        host: inputs it takes as numbers and lists of Python, such as shapes.
        fixed: further inputs that are not for training, such as the scales of codes.
        weights: inputs that are for training however small they are.
        statistics: inputs that hold running statistics; the node trains only if nothing else reads them.
        still: whether no gradient passes, through any input.
    """

    function: Function
    since: int
    host: frozenset[int]
    fixed: frozenset[int]
    weights: frozenset[int]
    statistics: frozenset[int]
    still: bool

    def trains(self, position: int) -> bool:
        """Whether a weight may be trained through an input."""
        return not self.still and position not in self.host | self.fixed | self.statistics


_OPERATORS: dict[tuple[str, str], list[Operator]] = {}


def operator(
    *ops: str,
    host: tuple[int, ...] = (),
    fixed: tuple[int, ...] = (),
    weights: tuple[int, ...] = (),
    statistics: tuple[int, ...] = (),
    still: bool = False,
    domain: str = "ai.onnx",
    since: int = 1,
) -> Callable[[F], F]:
    """Register a function for operators of a domain, from opset `since` on."""
    sets = frozenset(host), frozenset(fixed), frozenset(weights), frozenset(statistics)

    def register(function: F) -> F:
        for op in ops:
            entries = _OPERATORS.setdefault((domain, op), [])
            if any(other.since == since for other in entries):
                raise ValueError(f"two functions for {domain}.{op} since opset {since}")
            entries.append(Operator(function, since, *sets, still))
            entries.sort(key=lambda entry: entry.since)
        return function

    return register


def registered() -> Iterator[tuple[str, str, int]]:
    """Every (domain, operator, first opset) that has a function."""
    return ((domain, op, entry.since) for (domain, op), entries in sorted(_OPERATORS.items()) for entry in entries)


def find_operator(domain: str, op: str, opset: int) -> Operator | None:
    """The function of an operator at an opset."""
    candidates = [entry for entry in _OPERATORS.get((domain, op), []) if entry.since <= opset]
    return candidates[-1] if candidates else None
