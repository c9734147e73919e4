"""The zero-mask oracle: the proof that a cut removed exactly what it says and broke nothing else.

Zero, in the original, every weight at the dropped indices. The cut model must equal that to floating point noise, on
random and on real inputs. It needs no data, no labels and no knowledge of operators, and it sees order errors that
shape inference cannot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from onnx_mdp.errors import ProofError, RuntimeBackendError
from onnx_mdp.graph.check import Signature, check, has_symbolic_batch, random_feeds, signature
from onnx_mdp.graph.external import Loadable, loadable
from onnx_mdp.graph.load import Source
from onnx_mdp.graph.network import Network
from onnx_mdp.groups.find import Analysis
from onnx_mdp.rewrite.plan import Plan, masked_original
from onnx_mdp.runtime.base import Array, Feeds, Runtime, Session

FP32_TOLERANCE = 1e-5
_TOLERANCES: dict[int, float] = {
    onnx.TensorProto.DOUBLE: 1e-12,
    onnx.TensorProto.FLOAT: FP32_TOLERANCE,
    onnx.TensorProto.FLOAT16: 1e-2,
    onnx.TensorProto.BFLOAT16: 5e-2,
}
# Sums in another order may round to the neighboring code, and a code has down to a few dozen steps.
_CODES_TOLERANCE = 0.1
_ROUNDS = ("DynamicQuantize", "QGemm", "QLinear", "QuantizeLinear")


@dataclass(frozen=True)
class Proof:
    """What was compared: the largest relative error over all outputs, the tolerance, and the number of input sets.

    `varies` tells whether the cut model's outputs depend on its inputs at all; if not, the comparison says little.
    """

    max_relative_error: float
    tolerance: float
    input_sets: int
    varies: bool


def prove(
    source: Source, analysis: Analysis, plan: Plan, pruned: onnx.ModelProto, runtime: Runtime, feeds: Sequence[Feeds]
) -> Proof:
    """Compare the pruned model with the masked original on random inputs and on `feeds`.

    Raises:
        ProofError: they differ, the pruned model is invalid, or its signature is not the original's.
    """
    check_structure(pruned, source.signature, "the pruned model")
    every = [*_random(source, analysis, pruned, runtime), *feeds]
    tolerance, plain = _tolerance(analysis.network), _rounds(analysis.network)
    original = _run(runtime.open(source.reference, optimize=not plain), every)
    same = _run(_open(runtime, analysis.network.model, plain), every)
    _compare(original, same, tolerance, "the model before anything is cut", "the original")
    reference = _run(_open(runtime, partial(masked_original, analysis, plan), plain), every)
    result = _run(_open(runtime, pruned, plain), every)
    error = _compare(reference, result, tolerance, "the pruned model", "the masked original")
    return Proof(error, tolerance, len(every), _varies(result))


def prove_same(
    network: Network, before: onnx.ModelProto, after: onnx.ModelProto, runtime: Runtime, feeds: Sequence[Feeds]
) -> float:
    """The largest relative error between two forms of one model, on random inputs and on `feeds`.

    Raises:
        ProofError: they differ, or the second is invalid or has another signature.
    """
    check_structure(after, signature(before), "the rewritten model")
    every = [*(random_feeds(after, network.inputs, seed) for seed in (1, 2)), *feeds]
    plain = _rounds(network)
    first, second = (_run(_open(runtime, model, plain), every) for model in (before, after))
    return _compare(first, second, _tolerance(network), "the rewritten model", "the one before")


def _rounds(network: Network) -> bool:
    """Whether the model rounds to integers; it is then run as written, since fused operators round elsewhere."""
    return any(node.op.startswith(_ROUNDS) for node in network.nodes)


def _tolerance(network: Network) -> float:
    """What rounding explains: by the coarsest numbers the model computes with."""
    kinds = {network.types.get(name, 0) for node in network.nodes for name in node.outputs}
    codes = _CODES_TOLERANCE if _rounds(network) else 0.0
    return max(codes, *(_TOLERANCES.get(kind, 0.0) for kind in kinds)) or FP32_TOLERANCE


def check_structure(model: onnx.ModelProto, given: tuple[Signature, Signature], what: str) -> None:
    """Check a model that was made of another, of which `given` is the signature; `what` is its name in messages.

    Raises:
        ProofError: it is invalid, or its signature is not the other's.
    """
    try:
        check(model)
    except ValueError as error:
        raise ProofError(f"{what} is not valid ONNX: {error}; please report this model") from error
    if signature(model) != given:
        raise ProofError(f"{what}'s inputs or outputs differ from the original's; please report this model")


def _random(source: Source, analysis: Analysis, model: onnx.ModelProto, runtime: Runtime) -> list[dict[str, Array]]:
    """Random input sets; one has another batch size if the model declares it free and the original runs with it."""
    shapes = analysis.network.inputs
    sets = [random_feeds(model, shapes, seed) for seed in (1, 2)]
    if has_symbolic_batch(model) and all(shape[0] == 1 for shape in shapes.values()):
        larger = random_feeds(model, {name: (3, *shape[1:]) for name, shape in shapes.items()}, 3)
        try:
            _run(runtime.open(source.reference), [larger])
            sets.append(larger)
        except RuntimeBackendError:
            pass  # the export fixed the batch in spite of what it declares
    return sets


def _open(runtime: Runtime, model: Loadable, plain: bool) -> Session:
    with loadable(model) as reference:
        return runtime.open(reference, optimize=not plain)


def _run(session: Session, sets: Iterable[Feeds]) -> list[list[Array]]:
    return [session.run(feeds) for feeds in sets]


def _compare(expected: list[list[Array]], found: list[list[Array]], tolerance: float, what: str, than: str) -> float:
    """The worst error. Errors are relative to an output's largest value over all input sets.

    One set may make an output of a few elements nearly cancel, and then all that is left of it is rounding.
    """
    worst = 0.0
    scales = [max(map(_largest, values)) for values in zip(*expected, strict=True)]
    for left, right in zip(expected, found, strict=True):
        for a, b, scale in zip(left, right, scales, strict=True):
            error = relative_error(a, b, scale)
            if not error <= tolerance:
                raise ProofError(
                    f"{what} differs from {than}: relative error {error:.1e} > {tolerance:g}; nothing is written"
                )
            worst = max(worst, error)
    return worst


def relative_error(expected: Array, found: Array, scale: float = 0.0) -> float:
    """Largest absolute difference over the largest absolute value expected, or over `scale` where that is larger.

    It is infinite where shapes, NaNs or infinities differ.
    """
    if expected.shape != found.shape:
        return float("inf")
    a, b = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / (max(scale, _largest(a)) or 1.0)


def _largest(values: Array) -> float:
    """The largest absolute value of the finite elements, zero where there is none."""
    numbers = np.asarray(values, np.float64)
    return float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0))


def _varies(results: list[list[Array]]) -> bool:
    first, second = results[0], results[1]
    return any(a.shape != b.shape or not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
