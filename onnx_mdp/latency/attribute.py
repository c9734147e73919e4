"""Gives the kernels of a profiled run to the regions they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx_mdp.graph.network import Network
from onnx_mdp.latency.regions import Region
from onnx_mdp.runtime.base import Kernel


class Attribution:
    """Knows the region of every name in a network.

    A kernel belongs to the region that computes its output; failing that, to the one whose weight it reads. What a
    runtime inserted, such as a change of layout, has neither name: it goes with the kernel that reads its output, else
    with the one that computes its input.
    """

    def __init__(self, network: Network, regions: Sequence[Region]) -> None:
        self._owner: dict[str, int] = {}
        self._reader: dict[str, int] = {}
        for index, region in enumerate(regions):
            for node in region.nodes:
                self._owner.setdefault(node.name, index)
                self._owner |= {name: index for name in node.outputs if name}
                self._reader |= {name: index for name in node.inputs if name in network.weights}
        self._count = len(regions)

    def times(self, kernels: Sequence[Kernel]) -> tuple[list[float], float]:
        """Milliseconds of every region, and of the kernels that belong to none."""
        places = [self._named(kernel) for kernel in kernels]
        made = {name: i for i, kernel in enumerate(kernels) for name in kernel.outputs if name}
        read = {name: i for i, kernel in reversed(list(enumerate(kernels))) for name in kernel.inputs if name}
        for order in (reversed(range(len(kernels))), range(len(kernels))):
            for i in order:
                if places[i] is None:
                    near = [read.get(n) for n in kernels[i].outputs] + [made.get(n) for n in kernels[i].inputs]
                    places[i] = next((places[j] for j in near if j is not None and places[j] is not None), None)
        found, lost = [0.0] * self._count, 0.0
        for place, kernel in zip(places, kernels, strict=True):
            if place is None:
                lost += kernel.ms
            else:
                found[place] += kernel.ms
        return found, lost

    def _named(self, kernel: Kernel) -> int | None:
        known: Sequence[tuple[Mapping[str, int], tuple[str, ...]]] = (
            (self._owner, kernel.outputs),
            (self._reader, kernel.inputs),
        )
        return next((places[name] for places, names in known for name in names if name in places), None)
