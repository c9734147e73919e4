"""The proof of one cut, and that it means something.

The package's own oracle compares all outputs. Two things it cannot see are added here:

* A comparison is vacuous if the outputs are empty, not finite, ignore the inputs, or do not feel the cut.
* Operators that select by comparing values (TopK, NonMaxSuppression, ...) turn rounding noise into other choices, and
  on random weights a detector may select nothing at all. For models with such operators everything that enters the
  part after the first selection is compared as well, and decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_mdp.errors import ProofError
from onnx_mdp.graph.edit import Edits, rewrite
from onnx_mdp.graph.expose import exposed
from onnx_mdp.graph.load import Source
from onnx_mdp.graph.network import Network
from onnx_mdp.graph.weights import FLOATS
from onnx_mdp.groups.find import Analysis
from onnx_mdp.rewrite.plan import Plan, masked_original, plan_edits
from onnx_mdp.runtime.base import Array, Feeds, Runtime
from onnx_mdp.verify.oracle import FP32_TOLERANCE, prove, relative_error

_SELECTING = {
    *("ArgMax", "ArgMin", "Compress", "Hardmax", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "TopK"),
    *("Unique",),
}
_FELT = 1e-4  # relative change of an output that counts as one: ten times what rounding may make
_SCALES = (1.0, 10.0, 1e3, 1e6, 1e9)  # of the inputs
_DIFFERS = "relative error"
OUTPUTS, BEFORE_SELECTION = "outputs", "before selection"

Results = list[list[Array]]


@dataclass(frozen=True)
class Proven:
    """A cut model with the error of its proof, what is allowed, and which tensors were compared."""

    model: onnx.ModelProto
    error: float
    tolerance: float
    compared: str


class VacuousError(ProofError):
    """The comparison could not have failed."""


def proven_cut(source: Source, analysis: Analysis, plan: Plan, runtime: Runtime, feeds: Sequence[Feeds]) -> Proven:
    """Make the cut and prove it on random inputs and on `feeds`, two sets or more.

    Raises:
        ProofError: it is not exact.
        VacuousError: the comparison could not have failed.
    """
    edits = plan_edits(analysis, plan)
    pruned = rewrite(analysis.network.model, edits)
    boundary = selection_boundary(analysis.network)
    compared = OUTPUTS
    try:
        proof = prove(source, analysis, plan, pruned, runtime, feeds)
        error, tolerance = proof.max_relative_error, proof.tolerance
    except ProofError as failure:
        if not boundary or _DIFFERS not in str(failure):
            raise
        error, tolerance, compared = 0.0, FP32_TOLERANCE, BEFORE_SELECTION
    observed = boundary or analysis.network.outputs
    dense = _run(runtime, analysis.network.model, observed, feeds)
    found = _run(runtime, pruned, _renamed(edits, observed), feeds)
    if boundary:
        reference = masked_original(analysis, plan)
        error = max(error, _error(_run(runtime, reference, observed, feeds), found, tolerance))
    _check_meaning(dense, found, cut=bool(edits.slices or edits.bypasses))
    return Proven(pruned, error, tolerance, compared)


def louder(feeds: Sequence[Feeds]) -> Iterator[Sequence[Feeds]]:
    """The input sets, each larger than the one before, and then the same scaled up more and more.

    Sets of noise of one size look alike to a network that averages over an image, and random weights can make a
    network nearly deaf.
    """
    for scale in _SCALES:
        yield [{name: _scaled(value, scale * (1 + i)) for name, value in one.items()} for i, one in enumerate(feeds)]


def _scaled(value: Array, scale: float) -> Array:
    return np.asarray(value * value.dtype.type(scale)) if value.dtype.kind == "f" else value


def selection_boundary(network: Network) -> tuple[str, ...]:
    """What enters the part of the network after its first selection, and outputs before it; empty where none selects.

    Only floating point tensors that are computed from data count.
    """
    after: set[str] = set()
    boundary: dict[str, None] = {}
    for node in network.nodes:
        reads = (*node.inputs, *node.captured)
        if node.op in _SELECTING or any(name in after for name in reads):
            after.update(node.outputs)
            boundary.update((name, None) for name in reads if name not in after and _computed(network, name))
    outputs = [name for name in network.outputs if name not in after]
    return tuple(dict.fromkeys([*boundary, *outputs])) if after else ()


def _computed(network: Network, name: str) -> bool:
    known = name in network.weights or name in network.values or name in network.inputs
    return bool(name) and not known and network.types.get(name) in FLOATS


def _renamed(edits: Edits, names: Sequence[str]) -> list[str]:
    """The tensors' names in the cut model, where the end of a removed block is its beginning."""
    return [edits.bypasses.get(name, name) for name in names]


def _run(runtime: Runtime, model: onnx.ModelProto, tensors: Sequence[str], feeds: Sequence[Feeds]) -> Results:
    session = runtime.open(exposed(model, dict.fromkeys(tensors)).SerializeToString())
    return [session.run(one, tensors) for one in feeds]


def _error(expected: Results, found: Results, tolerance: float) -> float:
    worst = max(relative_error(a, b) for a, b in _pairs(expected, found))
    if not worst <= tolerance:
        raise ProofError(f"a tensor before the selection differs from the masked original's: {worst:.1e}")
    return worst


def _pairs(left: Results, right: Results) -> Iterator[tuple[Array, Array]]:
    for a, b in zip(left, right, strict=True):
        yield from zip(a, b, strict=True)


def _differ(left: Sequence[Array], right: Sequence[Array]) -> bool:
    """Whether some tensor is really another one, not only rounded otherwise."""
    return any(relative_error(a, b) >= _FELT for a, b in zip(left, right, strict=True))


def _check_meaning(dense: Results, found: Results, *, cut: bool) -> None:
    """Every compared tensor must hold finite numbers; some must vary with the inputs and feel the cut."""
    every = [value for results in (*dense, *found) for value in results]
    if not all(value.size for value in every):
        raise VacuousError("a compared tensor is empty")
    if not all(np.isfinite(value).all() for value in every if value.dtype.kind == "f"):
        raise VacuousError("a compared tensor is not finite")
    if not _differ(found[0], found[1]):
        raise VacuousError("the outputs ignore the inputs")
    if cut and not any(_differ(a, b) for a, b in zip(dense, found, strict=True)):
        raise VacuousError("the outputs do not feel the cut")
