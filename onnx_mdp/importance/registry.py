"""Which scorers there are; a new one is a file here and a row in this table."""

from __future__ import annotations

from collections.abc import Callable

from onnx_mdp.errors import OptionError
from onnx_mdp.groups.find import Analysis
from onnx_mdp.importance.activation import ActivationScorer
from onnx_mdp.importance.base import Scorer
from onnx_mdp.importance.magnitude import MagnitudeScorer
from onnx_mdp.importance.reconstruction import ReconstructionScorer
from onnx_mdp.importance.statistics import collect_moments
from onnx_mdp.importance.taylor import TaylorScorer, check_torch
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.statistics.positions import Positions

_NAMES: dict[str, type[Scorer]] = {
    "magnitude": MagnitudeScorer,
    "activation": ActivationScorer,
    "taylor": TaylorScorer,
    "reconstruction": ReconstructionScorer,
}


def scorer_names() -> tuple[str, ...]:
    """What `--importance` takes."""
    return (*_NAMES, "auto")


def choose_scorer(name: str, *, has_inputs: bool) -> str:
    """The scorer to use; `auto` is the best that the inputs admit.

    Raises:
        OptionError: there is no such scorer, it needs inputs and there are none, or PyTorch, which is not installed.
    """
    if name not in scorer_names():
        raise OptionError(f"--importance {name}: choose from {', '.join(scorer_names())}")
    if name == "auto":
        return "reconstruction" if has_inputs else "magnitude"
    if _NAMES[name].needs_inputs and not has_inputs:
        raise OptionError(f"--importance {name} needs calibration inputs: add --inputs FILE.npz, or use magnitude")
    if name == "taylor":
        check_torch()
    return name


def make_scorer(
    name: str,
    analysis: Analysis,
    inputs: Inputs | None,
    runtime: Runtime,
    progress: Callable[[int, int], None],
    positions: Positions | None = None,
) -> Scorer:
    """The scorer of that name (see `choose_scorer`), with the statistics it needs.

    `positions` are what it measures itself where they are not given.
    """
    name = choose_scorer(name, has_inputs=inputs is not None)
    if inputs is None or name == "magnitude":
        return MagnitudeScorer(analysis)
    moments = collect_moments(analysis, inputs, runtime, progress)
    if name == "activation":
        return ActivationScorer(analysis, moments)
    if name == "taylor":
        return TaylorScorer(analysis, moments, inputs, progress)
    return ReconstructionScorer(analysis, moments, inputs, runtime, positions)
