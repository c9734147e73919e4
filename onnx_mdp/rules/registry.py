"""Which rule an operator has, and the view of a node that rules are written against.

A rule is a function from a `View` to a line of text (`onnx_mdp.rules.line`), or to a `Refusal`. It is registered
for (domain, operator, first opset); the newest one not newer than the model's opset applies. An operator without
a rule is refused: all of its axes freeze and are named, never guessed.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from onnx_mdp.graph.dims import Dims
from onnx_mdp.graph.network import Network, Node
from onnx_mdp.graph.shapes import Shape
from onnx_mdp.rules.line import Line, parse


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing on this node may be cut."""

    reason: str


@dataclass(frozen=True, slots=True)
class View:
    """What a rule may look at: one node, its shapes and the integers that are known before the model runs."""

    node: Node
    network: Network
    dims: Mapping[str, Dims]

    @property
    def opset(self) -> int:
        """Version of the node's domain."""
        return self.network.opsets.get(self.node.domain, 1)

    def has(self, i: int) -> bool:
        """Whether input `i` is present."""
        return i < len(self.node.inputs) and bool(self.node.inputs[i])

    def shape(self, i: int) -> Shape:
        """Shape of input `i`."""
        return self.network.shapes[self.node.inputs[i]]

    def rank(self, i: int) -> int:
        """Rank of input `i`."""
        return len(self.shape(i))

    def out_shape(self, i: int = 0) -> Shape:
        """Shape of output `i`."""
        return self.network.shapes[self.node.outputs[i]]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or the operator's default."""
        return self.node.attributes.get(name, default)

    def ints(self, i: int) -> tuple[int, ...] | None:
        """The values of an integer input, None where they depend on data."""
        dims = self.dims.get(self.node.inputs[i]) if self.has(i) else None
        return None if dims is None else tuple(dim.value for dim in dims.ravel())

    def ints_or_attr(self, i: int, name: str) -> tuple[int, ...] | None:
        """A list that newer opsets pass as input `i` and older ones as an attribute; None where absent or unknown."""
        if self.has(i):
            return self.ints(i)
        value = self.attr(name)
        return None if value is None else tuple(int(v) for v in value)

    def number(self, i: int, name: str, default: float) -> float | None:
        """A scalar passed as input `i` or as an attribute; None where it is computed."""
        if not self.has(i):
            return float(self.attr(name, default))
        tensor = self.node.inputs[i]
        value = self.network.values.get(tensor)
        return float(value.reshape(-1)[0]) if value is not None and value.size else None

    def axis(self, value: int, rank: int | None = None) -> int:
        """A possibly negative axis of input 0, counted from the front."""
        return value % (self.rank(0) if rank is None else rank)


def spell(rank: int, skip: str = "") -> list[str]:
    """Distinct letters for `rank` axes, from a on, without those in `skip`."""
    return [c for c in string.ascii_lowercase if c not in skip][:rank]


def operand(name: str, axes: Sequence[str]) -> str:
    """`name[axes]`."""
    return f"{name}[{','.join(axes)}]"


Function = Callable[[View], str | Refusal]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True, slots=True)
class Rule:
    """A registered rule: `why` explains its frozen axes, `zero` is the zero clause its lines end with."""

    function: Function
    since: int
    why: str
    zero: str


_RULES: dict[tuple[str, str], list[Rule]] = {}


def rule(*ops: str, why: str = "", zero: str = "", domain: str = "ai.onnx", since: int = 1) -> Callable[[F], F]:
    """Register a rule for operators of a domain, from opset `since` on."""

    def register(function: F) -> F:
        for op in ops:
            rules = _RULES.setdefault((domain, op), [])
            if any(other.since == since for other in rules):
                raise ValueError(f"two rules for {domain}.{op} since opset {since}")
            rules.append(Rule(function, since, why, zero))
            rules.sort(key=lambda entry: entry.since)
        return function

    return register


def registered() -> Iterator[tuple[str, str, int]]:
    """Every (domain, operator, first opset) that has a rule."""
    return ((domain, op, entry.since) for (domain, op), entries in sorted(_RULES.items()) for entry in entries)


def find_rule(view: View) -> Rule | None:
    """The rule of a node's operator at its opset."""
    candidates = [r for r in _RULES.get((view.node.domain, view.node.op), []) if r.since <= view.opset]
    return candidates[-1] if candidates else None


def text_of(view: View) -> str | Refusal:
    """The rule's line for this node as text, or why there is none."""
    found = find_rule(view)
    if found is None:
        return Refusal(f"operator {view.node.op} has no rule")
    if view.node.captured:
        return Refusal("its subgraph reads the tensor")
    unknown = [n for n in (*view.node.inputs, *view.node.outputs) if n and n not in view.network.shapes]
    if unknown:
        return Refusal(f"a shape is known only when it runs: that of {unknown[0]}")
    text = found.function(view)
    return text if isinstance(text, Refusal) or not found.zero else f"{text}; zero {found.zero}"


def line_of(view: View) -> Line | Refusal:
    """The rule's parsed line for this node, or why there is none."""
    text = text_of(view)
    return text if isinstance(text, Refusal) else parse(text)
