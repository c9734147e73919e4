"""Further latency budgets: other runtimes, threads or input sizes at which one plan is to be fast enough as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnx_mdp.config import PruneOptions
from onnx_mdp.engine.base import Engine
from onnx_mdp.errors import OptionError
from onnx_mdp.graph.check import random_feeds
from onnx_mdp.graph.load import load
from onnx_mdp.groups.find import Analysis
from onnx_mdp.groups.tie import find_ties
from onnx_mdp.latency.correct import Correction, Prediction, Sums
from onnx_mdp.latency.fill import Fill
from onnx_mdp.latency.measure import Meter
from onnx_mdp.pipeline.case import Case, Planner
from onnx_mdp.pipeline.constraints import Constraints
from onnx_mdp.pipeline.program import Program
from onnx_mdp.pipeline.stages import analyze_or_refuse, prepare
from onnx_mdp.pipeline.stopwatch import Comparison, Stopwatch
from onnx_mdp.pipeline.streams import turned_again
from onnx_mdp.quantities import LatencyBudget, parse_latency, parse_shapes
from onnx_mdp.runtime.registry import open_runtime, prover

_EXAMPLE = "write --also 'runtime=openvino latency=3ms' or --also 'shape=input:8x3x224x224 latency=60%'"
_KEYS = ("latency", "runtime", "threads", "shape", "runtime-option")


@dataclass(frozen=True)
class Also:
    """A further budget: what the user wrote, the latency, and the options of a run there."""

    option: str
    budget: LatencyBudget
    options: PruneOptions


@dataclass(frozen=True, eq=False)
class Place:
    """Where a latency is measured: the model at its input sizes, on an engine, against the dense model there."""

    option: str
    budget: LatencyBudget
    case: Case
    engine: Engine
    meter: Meter
    stopwatch: Stopwatch
    dense: Comparison


@dataclass(eq=False)
class Side:
    """One latency budget of several: its place, its program, and what is known of whole models there."""

    place: Place
    program: Program
    fill: Fill
    correction: Correction

    def predicted(self, sums: Sums) -> Prediction:
        """The predicted share of the given model's latency; the correction speaks of the rewritten one's."""
        found, scale = self.correction.predict(sums), self.place.dense.ratio
        return Prediction(found.share * scale, found.deviation * scale)

    def spent(self, share: float) -> float:
        """The part of the budget that a share of the dense model's latency uses."""
        return self.place.budget.spent(share * self.place.dense.dense_ms, self.place.dense.dense_ms)

    def refine(self, answers: Sequence[Any]) -> bool:
        """Measure the entries that plans rest on and that are not known; whether that changed the tables."""
        entries = dict.fromkeys(entry for answer in answers for entry in self.program.entries(answer))
        unknown = [(table, index) for table, index in entries if index not in table.known]
        if not unknown or not self.fill.refine(unknown):
            return False
        self.program.refresh()
        return True


def parse_also(text: str, options: PruneOptions) -> Also:
    """A further budget from `runtime=openvino latency=3ms`; what is not named is as in the other options.

    Raises:
        OptionError: it is malformed, has no latency, or names nothing that would be different there.
    """
    found: dict[str, list[str]] = {}
    for part in text.split():
        key, equals, value = part.partition("=")
        if key not in _KEYS or not equals or not value:
            raise OptionError(f"--also {text!r}: {part!r} is none of {', '.join(f'{k}=' for k in _KEYS)}; {_EXAMPLE}")
        found.setdefault(key, []).append(value)
    for key in ("latency", "runtime", "threads"):
        if len(found.get(key, ())) > 1:
            raise OptionError(f"--also {text!r}: {key}= is given {len(found[key])} times; give it once")
    if "latency" not in found or len(found) == 1:
        what = "no latency= to meet" if "latency" not in found else "nothing that is different from --latency"
        raise OptionError(f"--also {text!r}: has {what}; {_EXAMPLE}")
    return Also(f"--also {text!r}", parse_latency(found["latency"][0], "--also latency="), _there(text, options, found))


def _there(text: str, options: PruneOptions, found: dict[str, list[str]]) -> PruneOptions:
    threads = found.get("threads", [str(options.threads)])[0]
    if not threads.isdigit() or threads == "0":
        raise OptionError(f"--also {text!r}: threads={threads} must be 1 or more")
    parse_shapes(tuple(found.get("shape", ())))
    given = () if "runtime" in found else options.runtime_option
    return replace(
        options,
        runtime=found.get("runtime", [options.runtime])[0],
        threads=int(threads),
        shape=tuple(found.get("shape", ())),
        runtime_option=(*given, *found.get("runtime-option", ())),
    )


def case_there(also: Also, planner: Planner, case: Case) -> Case:
    """The model at the input sizes and on the runtime of a further budget.

    Raises:
        OptionError: at these sizes it has other groups or blocks, so that no plan is one for both.
    """
    runtime = open_runtime(planner.spec)
    if not also.options.shape:
        return replace(case, runtime=runtime)
    shapes = {**case.analysis.network.inputs, **parse_shapes(also.options.shape)}
    network = prepare(load(case.given)[1], shapes, lossless=case.prepared.rewrites).network
    before = case.turned
    turned = turned_again(network, prover(runtime), before.bases, before.selected) if before else None
    locks = also.options.lock
    analysis = turned.analysis(locks) if turned else analyze_or_refuse(network, locks, case.source.name)
    if _anatomy(analysis) != _anatomy(case.analysis):
        raise OptionError(f"{also.option}: at this shape the model has other groups or blocks; prune it for each shape")
    feeds = random_feeds(network.model, network.inputs, also.options.seed)
    constraints = Constraints(find_ties(analysis, also.options.tie))
    return replace(case, turned=turned, analysis=analysis, runtime=runtime, feeds=feeds, constraints=constraints)


def _anatomy(analysis: Analysis) -> tuple[dict[str, int], list[str]]:
    return {group.name: group.units for group in analysis.groups}, [block.name for block in analysis.blocks]
