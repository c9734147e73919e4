"""Random programs too large to enumerate: streams with blocks on them, nested blocks, concats, cycles, joint tables."""

from __future__ import annotations

import itertools

import numpy as np

from onnx_mdp.solve.problem import Budget, Choice, Gate, Link, Problem, Term


class Draw:
    """Collects a program from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.choices: list[Choice] = []
        self.gates: list[Gate] = []
        self.links: list[Link] = []
        self.damage: list[Term] = []
        self.latency: list[Term] = []

    def choice(self, gate: str | None) -> str:
        levels = int(self.rng.integers(2, 6))
        name = f"c{len(self.choices)}"
        self.choices.append(Choice(name, tuple(range(1, levels + 1))))
        self.damage.append(Term((name,), np.sort(self.rng.uniform(0, 1, levels))[::-1], gate))
        return name

    def gate(self) -> str | None:
        if self.rng.random() < 0.4:
            return None
        name, inside = f"g{len(self.gates)}", self.some_gate()
        self.gates.append(Gate(name, inside))
        self.damage += [Term((), np.array(1.5)), Term((), np.array(-self.rng.uniform(0.2, 1.5)), name)]
        return name

    def some_gate(self) -> str | None:
        return self.gates[self.rng.integers(len(self.gates))].name if self.gates and self.rng.random() < 0.5 else None

    def table(self, names: tuple[str, ...], gate: str | None) -> None:
        sizes = [len(choice.widths) for name in names for choice in self.choices if choice.name == name]
        table = self.rng.uniform(0.5, 1.5, sizes)
        for axis, size in enumerate(sizes):
            table = table * np.arange(1, size + 1).reshape([-1 if i == axis else 1 for i in range(len(sizes))]) / size
        self.latency.append(Term(names, table, gate))

    def total(self, parts: list[str]) -> str:
        sums = {0}
        for part in parts:
            widths = next(choice.widths for choice in self.choices if choice.name == part)
            sums = {total + width for total in sums for width in widths}
        kept = sorted(total for total in sums if self.rng.random() < 0.8) or sorted(sums)
        name = f"sum{len(self.links)}"
        self.choices.append(Choice(name, tuple(kept)))
        self.links.append(Link(name, tuple((part, 1) for part in parts)))
        return name


def random_program(seed: int, blocks: int = 6) -> Problem:
    """About three choices a block, with a budget that binds."""
    draw = Draw(seed)
    streams = [draw.choice(None)]
    for _ in range(blocks):
        gate = draw.gate()
        inner = [draw.choice(gate) for _ in range(draw.rng.integers(1, 4))]
        stream = streams[draw.rng.integers(len(streams))]
        kind = draw.rng.random()
        if kind < 0.3:
            draw.table((stream, *inner), gate)
        else:
            path = (stream, *inner, stream if kind < 0.8 else streams[-1])
            for names in itertools.pairwise(path):
                draw.table(tuple(dict.fromkeys(names)), gate if draw.rng.random() < 0.9 else draw.some_gate())
        if gate is None and draw.rng.random() < 0.5:
            streams.append(inner[-1])
        if gate is None and len(streams) > 1 and draw.rng.random() < 0.4:
            both = draw.total([streams[-2], streams[-1]])
            draw.table((both, draw.choice(None)), draw.some_gate())
    return at_limit(draw, float(draw.rng.uniform(0.15, 0.8)))


def at_limit(draw: Draw, share: float) -> Problem:
    most = sum(float(term.table.max()) for term in draw.latency)
    budget = Budget("latency", tuple(draw.latency), share * most)
    return Problem(tuple(draw.choices), tuple(draw.gates), tuple(draw.links), tuple(draw.damage), (budget,))
