"""A region's latency as a table over the widths it depends on: measured on a coarse grid, refined where it matters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx_mdp.axes.terms import Factor, Sum, Term, leaves, size
from onnx_mdp.graph.dims import AxisSize, Dim, Dims, Literal, follow_dims
from onnx_mdp.graph.extract import Piece, describe, extract
from onnx_mdp.groups.couple import Coupling, Resize
from onnx_mdp.groups.cut import Values, resized
from onnx_mdp.groups.find import Analysis
from onnx_mdp.latency.interpolate import Table, complete
from onnx_mdp.latency.levels import sum_parts
from onnx_mdp.latency.measure import Build, Meter
from onnx_mdp.latency.regions import Region

Widths = Mapping[Factor, int]


class PieceMaker:
    """Makes the timing model of any region at any widths."""

    def __init__(self, analysis: Analysis) -> None:
        self._coupling: Coupling = analysis.coupling
        self.network = analysis.network
        self._dims: Mapping[str, Dims] = follow_dims(self.network)
        codes = self._coupling.codes
        self._codes = {*codes, *(code.zero for code in codes.values())}
        self._resizes: dict[str | int, list[Resize]] = {}
        for resize in self._coupling.resizes:
            owner = resize.slot.initializer if isinstance(resize.slot, Literal) else resize.slot.node
            self._resizes.setdefault(owner, []).append(resize)

    def piece(self, region: Region, widths: Widths) -> Piece:
        """The region with concrete shapes."""
        names = {name for node in region.nodes for name in (*node.inputs, *node.outputs, *node.captured) if name}
        made = {name for node in region.nodes for name in node.outputs}
        lists = [name for name in names - made if self._is_shape_list(name)]
        sources = {
            dim.origin.initializer for n in lists for dim in self._dims[n].ravel() if isinstance(dim.origin, Literal)
        }
        owners: list[str | int] = [*sources, *(node.index for node in region.nodes)]
        concerned = [resize for owner in owners for resize in self._resizes.get(owner, ())]
        values, attributes = resized(self.network, concerned, widths)
        return Piece(
            nodes=region.nodes,
            inputs=tuple(name for name in region.inputs if name not in lists),
            outputs=region.outputs,
            shapes={name: self._shape(name, widths) for name in names if name in self.network.shapes},
            integers={
                name: tuple(self._value(dim, values, widths) for dim in self._dims[name].ravel()) for name in lists
            },
            attributes=attributes,
        )

    def describe(self, region: Region, widths: Widths) -> str:
        """The canonical text of the region at these widths: its key in the latency table."""
        return describe(self.network, self.piece(region, widths))

    def build(self, region: Region, widths: Widths) -> Build:
        """A function that makes the model to time and its inputs."""
        return lambda: extract(self.network, self.piece(region, widths))

    def _shape(self, name: str, widths: Widths) -> tuple[int, ...]:
        terms = self._coupling.axes.get(name)
        return tuple(size(term, widths) for term in terms) if terms else self.network.shapes[name]

    def _is_shape_list(self, name: str) -> bool:
        shaped = name in self._dims and len(self.network.shapes.get(name, (0, 0))) <= 1
        return shaped and name not in self._codes

    def _value(self, dim: Dim, values: Values, widths: Widths) -> int:
        if isinstance(dim.origin, AxisSize):
            return self._shape(dim.origin.tensor, widths)[dim.origin.axis]
        if isinstance(dim.origin, Literal):
            return values.get(dim.origin.initializer, {}).get(dim.origin.index, dim.value)
        return dim.value


@dataclass(eq=False)
class RegionTable:
    """The latency of one region over the levels of its variables.

    `levels` holds the widths of each variable, ascending. `known` maps level indices to milliseconds as measured,
    `factor` is what these are worth within a whole model.
    """

    region: Region
    maker: PieceMaker
    levels: tuple[tuple[int, ...], ...]
    options: Mapping[Factor, tuple[int, ...]]

    def __post_init__(self) -> None:
        self.known: dict[tuple[int, ...], float] = {}
        self.factor = 1.0
        self._texts: dict[tuple[int, ...], str] = {}

    def coarse(self) -> list[tuple[int, ...]]:
        """The level indices measured first: both ends of every variable and some between."""
        most = {0: 0, 1: 6, 2: 5, 3: 3}.get(len(self.levels), 2)
        picks = [sorted({round(i * (len(ws) - 1) / (most - 1)) for i in range(most)}) for ws in self.levels]
        return list(itertools.product(*picks))

    def text(self, index: tuple[int, ...]) -> str:
        """The canonical text of an entry."""
        if index not in self._texts:
            self._texts[index] = self.maker.describe(self.region, self.widths(index))
        return self._texts[index]

    def build(self, index: tuple[int, ...]) -> Build:
        """The timing model of an entry."""
        return self.maker.build(self.region, self.widths(index))

    def read(self, meter: Meter, indices: Sequence[tuple[int, ...]]) -> None:
        """Take the entries that are measured."""
        for index in indices:
            ms = meter.latency(self.text(index))
            if ms is not None:
                self.known[index] = ms

    def table(self) -> Table:
        """Milliseconds for every combination of levels; a region that cannot be timed counts nothing."""
        return self.factor * complete(self.levels, self.known)

    def index(self, widths: Widths) -> tuple[int, ...]:
        """The entry nearest to the widths of the groups."""
        chosen = [(size(term, widths), axis) for term, axis in zip(self.region.variables, self.levels, strict=True)]
        return tuple(min(range(len(axis)), key=lambda i: abs(axis[i] - width)) for width, axis in chosen)

    def widths(self, index: tuple[int, ...]) -> dict[Factor, int]:
        """Widths of every factor at an entry; a sum's are spread over its parts, from the last part down."""
        chosen: dict[Term, int] = {
            term: ws[i] for term, ws, i in zip(self.region.variables, self.levels, index, strict=True)
        }
        widths = {term: width for term, width in chosen.items() if isinstance(term, Factor)}
        for term, width in chosen.items():
            if isinstance(term, Sum):
                self._spread(term, width, widths)
        return widths

    def _spread(self, term: Sum, width: int, widths: dict[Factor, int]) -> None:
        _, counts = sum_parts(term, self.options)
        excess = size(term, widths) - width
        for leaf in reversed(list(counts)):
            if leaf in widths:
                continue
            lowest = min(self.options[leaf])
            cut = min(max(excess, 0) // counts[leaf], leaf.size - lowest)
            widths[leaf] = leaf.size - cut
            excess -= cut * counts[leaf]


def make_tables(
    analysis: Analysis,
    regions: Sequence[Region],
    levels: Mapping[Factor, tuple[int, ...]],
    sums: Mapping[Term, tuple[int, ...]],
) -> list[RegionTable]:
    """A table, still empty, for every region."""
    maker = PieceMaker(analysis)

    def widths(term: Term) -> tuple[int, ...]:
        return sums[term] if isinstance(term, Sum) else levels[next(leaves(term))]

    return [RegionTable(r, maker, tuple(widths(term) for term in r.variables), levels) for r in regions]
