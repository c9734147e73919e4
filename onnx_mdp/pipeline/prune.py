"""`prune`: the whole pipeline, from a model and a budget to a smaller model that measures within it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnx_mdp.config import (
    LatencyBudget,
    PruneOptions,
    parse_latency,
    parse_min_keep,
    parse_shapes,
    parse_share,
)
from onnx_mdp.errors import BudgetError, OptionError
from onnx_mdp.graph.check import parameter_count, random_feeds
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.load import load
from onnx_mdp.graph.save import check_writable, save_model, write_text
from onnx_mdp.importance.base import Scores
from onnx_mdp.importance.registry import choose_scorer, make_scorer
from onnx_mdp.latency.levels import Floor, group_levels, sum_levels
from onnx_mdp.latency.lut import LatencyTable, default_path
from onnx_mdp.latency.measure import Meter
from onnx_mdp.latency.probe import find_grid
from onnx_mdp.latency.regions import find_regions
from onnx_mdp.latency.tables import RegionTable, make_tables
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.loop import Loop, Trial
from onnx_mdp.pipeline.program import Program
from onnx_mdp.pipeline.stages import Clock, InputsLike, ModelLike, analyze_or_refuse, check_output, network_of, read
from onnx_mdp.pipeline.stopwatch import Comparison, Stopwatch
from onnx_mdp.report.facts import LatencyFacts, Report, SolveFacts, block_facts, group_facts, locked_facts
from onnx_mdp.rewrite.plan import Plan, dense_plan, plan_edits, to_json, uniform_plan
from onnx_mdp.runtime.base import Feeds
from onnx_mdp.runtime.registry import open_runtime
from onnx_mdp.solve.solve import check_solver
from onnx_mdp.verify.oracle import Proof, prove

_SECONDS = 2.0


@dataclass(frozen=True, eq=False)
class PruneResult:
    """What `prune` returns: the model, the plan as plain data, and the report."""

    model: onnx.ModelProto
    plan: dict[str, Any]
    report: Report


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What a way of choosing a plan hands back."""

    plan: Plan
    model: onnx.ModelProto
    comparison: Comparison
    trial: Trial | None = None
    loop: Loop | None = None
    reason: str = ""


def prune(
    model: ModelLike,
    options: PruneOptions | None = None,
    *,
    inputs: InputsLike | None = None,
    listener: Listener | None = None,
    **fields: Any,
) -> PruneResult:
    """Prune a model to a latency budget, or by a fixed ratio.

    Args:
        model: an .onnx file, or a model in memory.
        options: the options; or give their fields as keywords.
        inputs: calibration inputs: a file, a mapping from input names to arrays, or one array.
        listener: receives progress.
        fields: fields of `PruneOptions`.

    Raises:
        MdpError: anything the user can act on; see `onnx_mdp.errors`.
    """
    options = replace(options or PruneOptions(), **fields)
    return _Prune(options, listener or Listener()).run(model, inputs if inputs is not None else options.inputs)


class _Prune:
    def __init__(self, options: PruneOptions, listener: Listener) -> None:
        self.options = options
        self.listener = listener
        self.clock = Clock(listener)
        self.budget, self.ratio = _asked(options)
        units, share = parse_min_keep(options.min_keep)
        if options.multiple is not None and options.multiple < 1:
            raise OptionError(f"--multiple {options.multiple}: must be 1 or more")
        if options.threads < 1:
            raise OptionError(f"--threads {options.threads}: must be 1 or more")
        check_solver(options.solver)
        self.floor = Floor(units, share, options.multiple)
        self.warnings: list[str] = []

    def run(self, model: ModelLike, inputs: InputsLike | None) -> PruneResult:
        options, clock = self.options, self.clock
        choose_scorer(options.importance, has_inputs=inputs is not None)
        self.runtime = open_runtime(options.runtime, options.threads)
        with clock.stage("load"):
            self.source, normal = read(model)
            check_output(options.output, self.source, force=options.force)
            for path in (options.report, options.plan):
                if path:
                    check_writable(path)
        with clock.stage("analyze"):
            network, self.inputs = network_of(normal, parse_shapes(options.shape), inputs)
            self.analysis = analyze_or_refuse(network, options.lock, self.source.name)
        self.feeds = self._feeds()
        with clock.stage("score"):
            self.scores = self._score()
        outcome = self._uniform(self.ratio) if self.ratio else self._budgeted(model)
        with clock.stage("verify"):
            proof = self._prove(outcome)
        result = PruneResult(outcome.model, to_json(self.analysis, outcome.plan), self._report(outcome, proof))
        self._write(result)
        return result

    def _feeds(self) -> Feeds:
        """One input of the size that is timed: the first calibration sample, or noise."""
        network = self.analysis.network
        if self.inputs is None:
            return random_feeds(network.model, network.inputs, self.options.seed)
        return {name: self.inputs.arrays[name][: shape[0]] for name, shape in network.inputs.items()}

    def _score(self) -> Scores:
        scorer = make_scorer(self.options.importance, self.analysis, self.inputs, self.runtime, self.listener.step)
        return scorer.score(self.analysis)

    def _uniform(self, ratio: float) -> _Outcome:
        """Cut every group to the same share; the two models are compared once, at the end."""
        with self.clock.stage("rewrite"):
            least = {group.name: self.floor.least(group) for group in self.analysis.groups}
            multiple = self.options.multiple or 1
            plan = uniform_plan(self.analysis, self.scores.order, ratio, least, multiple)
            model = rewrite(self.analysis.network.model, plan_edits(self.analysis, plan))
        with self.clock.stage("measure"):
            stopwatch = Stopwatch(self.runtime, self.source.reference, self.feeds)
            comparison = stopwatch.compare(model.SerializeToString(), _SECONDS)
        if comparison.ratio > 1 and not self.options.force:
            raise BudgetError(
                f"--ratio {self.options.ratio}: the cut model is slower, {comparison.pruned_ms:.3g} ms against "
                f"{comparison.dense_ms:.3g} ms; add --multiple 16 for widths the device likes, use --latency, or "
                "--force to write it all the same"
            )
        return _Outcome(plan, model, comparison)

    def _budgeted(self, model: ModelLike) -> _Outcome:
        """Fill the latency table, then search the plan that meets the budget."""
        assert self.budget is not None
        with self.clock.stage("measure"):
            stopwatch = Stopwatch(self.runtime, self.source.reference, self.feeds)
            whole = rewrite(self.analysis.network.model, plan_edits(self.analysis, dense_plan(self.analysis)))
            dense = stopwatch.compare(whole.SerializeToString(), _SECONDS)
        self.listener.note(f"dense: {dense.dense_ms:.3g} ms on {self.runtime.fingerprint}")
        if dense.clock == "cpu":
            self._warn("the machine is busy: latencies are CPU time, which is what an idle machine would take")
        if self.budget.spent(min(dense.dense_ms, dense.pruned_ms), dense.dense_ms) <= 1:
            return self._uncut(model, whole, dense)
        lut = self.options.lut or default_path()
        self.table = LatencyTable(lut, self.runtime.fingerprint)
        self.meter = Meter(self.runtime, self.table)
        with self.clock.stage("profile"):
            program = self._program()
        loop = Loop(program, self.meter, stopwatch, self.budget, self.options.solver, self.listener)
        with self.clock.stage("search"):
            trial = loop.run(dense)
        if loop.reason:
            self._warn(f"the result uses {100 * trial.spent:.1f}% of the budget: {loop.reason}")
        return _Outcome(trial.plan, trial.model, trial.measured, trial, loop, loop.reason)

    def _uncut(self, model: ModelLike, whole: onnx.ModelProto, dense: Comparison) -> _Outcome:
        """The model as given if it meets the budget; else the rewritten one, which a runtime may fuse better."""
        assert self.budget is not None
        plan, reason = dense_plan(self.analysis), f"the model meets --latency {self.budget.text} with nothing cut"
        self._warn(reason)
        if self.budget.spent(dense.dense_ms, dense.dense_ms) > 1:
            return _Outcome(plan, whole, dense, reason=reason)
        same = replace(dense, pruned_ms=dense.dense_ms, pruned_wall_ms=dense.dense_wall_ms)
        return _Outcome(plan, load(model)[1], same, reason=reason)

    def _program(self) -> Program:
        grid = find_grid(self.meter)
        regions = find_regions(self.analysis)
        levels = group_levels(self.analysis, grid, self.floor)
        sums = sum_levels(regions, levels, grid)
        tables = make_tables(self.analysis, regions, levels, sums)
        self._fill(tables)
        return Program(self.analysis, self.scores, tables, levels, sums)

    def _fill(self, tables: list[RegionTable]) -> None:
        requests = {table.text(index): table.build(index) for table in tables for index in table.coarse()}
        done = 0

        def progress(count: int) -> None:
            nonlocal done
            done += count
            self.listener.step(done, len(requests), "table entries")

        self.meter.fill(requests, progress)
        for table in tables:
            table.read(self.meter, table.coarse())
        for text, reason in self.meter.failed.items():
            self._warn(f"a region cannot be timed alone and counts nothing: {text.splitlines()[0][:60]}: {reason}")

    def _prove(self, outcome: _Outcome) -> Proof:
        proof = prove(self.source, self.analysis, outcome.plan, outcome.model, self.runtime, self._real_feeds())
        if not proof.varies:
            self._warn("the outputs do not depend on the inputs any more: this cut is too deep to be of use")
        return proof

    def _real_feeds(self) -> list[Feeds]:
        return [self.feeds] if self.inputs is not None else []

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.listener.warn(text)

    def _report(self, outcome: _Outcome, proof: Proof) -> Report:
        source, trial, loop = self.source, outcome.trial, outcome.loop
        measured = outcome.comparison
        budget_ms = self.budget.in_ms(measured.dense_ms) if self.budget else None
        latency = LatencyFacts(
            dense_ms=measured.dense_ms,
            pruned_ms=measured.pruned_ms,
            ratio=measured.ratio,
            predicted_ms=trial.predicted_ms if trial else None,
            budget_ms=budget_ms,
            rounds=len(loop.trials) if loop else 0,
            clock=measured.clock,
            dense_wall_ms=measured.dense_wall_ms,
            pruned_wall_ms=measured.pruned_wall_ms,
        )
        answer = trial.answer if trial else None
        return Report(
            model=source.name,
            budget=self.options.latency or f"ratio {self.options.ratio}",
            reason=outcome.reason,
            device=str(self.runtime.fingerprint),
            latency=latency,
            parameters={"dense": source.parameters, "pruned": parameter_count(outcome.model)},
            bytes={"dense": source.size, "pruned": outcome.model.ByteSize()},
            solve=SolveFacts(
                answer.status, answer.objective, answer.bound, answer.gap, loop.solve_seconds, answer.solver
            )
            if answer and loop
            else None,
            proof=asdict(proof),
            groups=group_facts(self.analysis, outcome.plan),
            blocks=block_facts(self.analysis, outcome.plan),
            locked=locked_facts(self.analysis),
            lut={"file": str(self.table.path), "measured": self.meter.measured} if loop else {},
            seconds={name: round(seconds, 3) for name, seconds in self.clock.seconds.items()},
            options={name: _plain(value) for name, value in asdict(self.options).items()},
            warnings=self.warnings,
        )

    def _write(self, result: PruneResult) -> None:
        if self.options.output:
            save_model(result.model, self.options.output, external=self.source.external)
        if self.options.plan:
            write_text(self.options.plan, json.dumps(result.plan))
        if self.options.report:
            write_text(self.options.report, json.dumps(result.report.to_json(), indent=1))


def _asked(options: PruneOptions) -> tuple[LatencyBudget | None, float | None]:
    """The budget or the ratio, exactly one of which must be given."""
    if (options.latency is None) == (options.ratio is None):
        raise OptionError("give either --latency (such as 4ms or 70%) or --ratio (such as 50%)")
    if options.latency is not None:
        return parse_latency(options.latency), None
    return None, parse_share(options.ratio or "", "--ratio")


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
