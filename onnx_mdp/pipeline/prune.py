"""`prune`: the whole pipeline, from a model and a budget to a smaller model that measures within it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import onnx

from onnx_mdp.config import (
    LatencyBudget,
    PruneOptions,
    parse_latency,
    parse_min_keep,
    parse_shapes,
    parse_share,
)
from onnx_mdp.engine.base import Engine
from onnx_mdp.engine.registry import open_engine
from onnx_mdp.errors import BudgetError, OptionError
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.load import Source, load
from onnx_mdp.graph.save import check_writable, save_model, write_text
from onnx_mdp.groups.find import Analysis
from onnx_mdp.importance.base import Scores
from onnx_mdp.importance.currency import calibrate, find_effort, split_inputs
from onnx_mdp.importance.registry import choose_scorer, make_scorer
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.inputs.labels import LabelsLike
from onnx_mdp.inputs.load import InputsLike, Reading
from onnx_mdp.latency.borrow import BorrowedMeter
from onnx_mdp.latency.fill import check_way
from onnx_mdp.latency.levels import Floor
from onnx_mdp.latency.lut import LatencyTable, default_path
from onnx_mdp.latency.measure import Meter
from onnx_mdp.pipeline.again import Again
from onnx_mdp.pipeline.constraints import Constraints, check_constraints, find_constraints, unreachable
from onnx_mdp.pipeline.forecast import Forecast, foreseen
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.loop import Loop
from onnx_mdp.pipeline.program import Program
from onnx_mdp.pipeline.reporting import Outcome, Search, make_report
from onnx_mdp.pipeline.stages import Clock, ModelLike, Prepared, analyze_or_refuse, check_output, first_feeds, prepare
from onnx_mdp.pipeline.stopwatch import Comparison, Stopwatch
from onnx_mdp.pipeline.tables import borrow_table, check_borrowing, check_table
from onnx_mdp.pipeline.tabulate import Tables, tabulate
from onnx_mdp.recover.mend import Mender
from onnx_mdp.report.facts import Report
from onnx_mdp.rewrite.plan import dense_plan, plan_edits, to_json, uniform_plan
from onnx_mdp.runtime.base import Feeds, Runtime, RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime, prover
from onnx_mdp.solve.solve import check_solver, solve
from onnx_mdp.verify.oracle import Proof, prove

_ROUGH = 0.2  # share of table entries that may miss the precision before the user is told


@dataclass(frozen=True, eq=False)
class PruneResult:
    """What `prune` returns: the model, the plan as plain data, and the report."""

    model: onnx.ModelProto
    plan: dict[str, Any]
    report: Report


def prune(
    model: ModelLike,
    options: PruneOptions | None = None,
    *,
    inputs: InputsLike | None = None,
    labels: LabelsLike | None = None,
    listener: Listener | None = None,
    **fields: Any,
) -> PruneResult:
    """Prune a model to a latency budget, or by a fixed ratio.

    Args:
        model: an .onnx file, or a model in memory.
        options: the options; or give their fields as keywords.
        inputs: calibration inputs, if not among the options: a mapping from input names to arrays, one array, or a
            function that yields feeds.
        labels: labels of the inputs, if not among the options: integers.
        listener: receives progress.
        fields: fields of `PruneOptions`.

    Raises:
        MdpError: anything the user can act on; see `onnx_mdp.errors`.
    """
    options = replace(options or PruneOptions(), **fields)
    return _Prune(options, listener or Listener(), labels).run(model, inputs if inputs is not None else options.inputs)


@dataclass(frozen=True, eq=False)
class _Case:
    """The model at hand: as given, analyzed and scored, on its runtime, with one input to time it on."""

    given: ModelLike
    source: Source
    prepared: Prepared
    analysis: Analysis
    inputs: Inputs | None
    scores: Scores
    runtime: Runtime
    feeds: Feeds
    constraints: Constraints
    again: Again | None


class _Prune:
    def __init__(self, options: PruneOptions, listener: Listener, labels: LabelsLike | None = None) -> None:
        self.options = options
        labels = labels if labels is not None else options.labels
        self.reading = Reading(options.preprocess, labels, options.samples, options.seed)
        self.listener = listener
        self.clock = Clock(listener)
        self.warnings: list[str] = []
        self.budget, self.ratio = _asked(options)
        units, share = parse_min_keep(options.min_keep)
        if options.multiple is not None and options.multiple < 1:
            raise OptionError(f"--multiple {options.multiple}: must be 1 or more")
        if options.threads < 1:
            raise OptionError(f"--threads {options.threads}: must be 1 or more")
        effort = find_effort(options.effort)
        self.effort = effort if self.ratio is None else find_effort("fast")  # a uniform cut weighs no damage
        check_solver(options.solver)
        check_constraints(options)
        check_way(options.fill)
        check_borrowing(options.lut_device, options.cluster, options.ratio)
        self.floor = Floor(units, share, options.multiple)
        self.precision = parse_share(options.precision, "--precision")
        self.spec = RuntimeSpec(options.runtime, options.threads, options.runtime_option)

    def run(self, model: ModelLike, inputs: InputsLike | None) -> PruneResult:
        case = self._case(model, inputs)
        if self.ratio is not None:
            outcome = self._uniform(case, self.ratio)
        else:
            outcome = self._budgeted(case, cast(LatencyBudget, self.budget))
        with self.clock.stage("verify"):
            proof = self._prove(case, outcome)
        limits = [limit.fact(case.analysis, outcome.plan) for limit in case.constraints.limits]
        report = make_report(case.source, case.analysis, outcome, proof, self.options, self.budget, self.device)
        seconds = {name: round(value, 3) for name, value in self.clock.seconds.items()}
        lossless = case.prepared.lossless()
        report = replace(report, seconds=seconds, warnings=self.warnings, limits=limits, lossless=lossless)
        result = PruneResult(outcome.model, to_json(case.analysis, outcome.plan), report)
        self._write(result, external=case.source.external)
        return result

    def _case(self, model: ModelLike, inputs: InputsLike | None) -> _Case:
        options = self.options
        choose_scorer(options.importance, has_inputs=inputs is not None)
        runtime = open_runtime(self.spec)
        with self.clock.stage("load"):
            source, proto = load(model)
            check_output(options.output, source, force=options.force)
            for path in (options.report, options.plan):
                if path:
                    check_writable(path)
        with self.clock.stage("analyze"):
            shapes = parse_shapes(options.shape)
            prepared = prepare(proto, shapes, inputs, self.reading, lossless=options.lossless)
            network, samples = prepared.network, prepared.inputs
            for text in samples.notes if samples else ():
                self._warn(text)
            analysis = analyze_or_refuse(network, options.lock, source.name)
            constraints = find_constraints(options, analysis, source)
        with self.clock.stage("score"):
            fit, held = split_inputs(samples, self.effort)
            scorer = make_scorer(options.importance, analysis, fit, prover(runtime), self.listener.step)
            scores = scorer.score(analysis)
            if held is not None:
                mender = Mender(analysis, fit, prover(runtime)) if fit else None
                step = self.listener.step
                scores = calibrate(analysis, scores, held, prover(runtime), self.effort, mender, step)
            elif samples is not None and self.effort.levels:
                self._warn(f"{samples.count} inputs are too few to measure damage with: give 3 batches or more")
        again = Again(held, prover(runtime), self.effort.rounds) if held is not None and self.effort.rounds else None
        feeds = first_feeds(network, samples, options.seed)
        return _Case(model, source, prepared, analysis, samples, scores, runtime, feeds, constraints, again)

    def _uniform(self, case: _Case, ratio: float) -> Outcome:
        """Cut every group to the same share; the two models are compared once, at the end."""
        with self.clock.stage("rewrite"):
            least = {group.name: self.floor.least(group) for group in case.analysis.groups}
            multiple = self.options.multiple or 1
            plan = uniform_plan(case.analysis, case.scores.order, ratio, least, multiple)
            model = rewrite(case.analysis.network.model, plan_edits(case.analysis, plan))
        with self.clock.stage("measure"), self._engine(case) as engine:
            stopwatch = self._stopwatch(case, engine)
            measured = stopwatch.compare(model)
        if stopwatch.note:
            self._warn(stopwatch.note)
        if measured.ratio > 1 and not self.options.force:
            raise BudgetError(
                f"--ratio {self.options.ratio}: the cut model is slower, {measured.pruned_ms:.3g} ms against "
                f"{measured.dense_ms:.3g} ms; add --multiple 16 for widths the device likes, use --latency, or "
                "--force to write it all the same"
            )
        return Outcome(plan, model, measured)

    def _budgeted(self, case: _Case, budget: LatencyBudget) -> Outcome:
        """Fill the latency table, then search the plan that meets the budget."""
        if self.options.lut_device is not None:
            return self._foreseen(case, budget, self.options.lut_device)
        with self._engine(case) as engine:
            check_table(self.options.lut, engine.fingerprint, self.listener)
            stopwatch = self._stopwatch(case, engine)
            with self.clock.stage("measure"):
                whole = rewrite(case.analysis.network.model, plan_edits(case.analysis, dense_plan(case.analysis)))
                dense = stopwatch.compare(whole)
            self.listener.note(f"dense: {dense.dense_ms:.3g} ms on {engine.fingerprint}")
            if stopwatch.note:
                self._warn(stopwatch.note)
            if dense.clock == "cpu":
                clock = case.runtime.busy_clock
                self._warn(f"the machine is busy: latencies are {clock}, which is what an idle machine would take")
            lowest = min(dense.dense_ms, dense.pruned_ms)
            if budget.spent(lowest, dense.dense_ms) <= 1 and case.constraints.allow_dense():
                return self._uncut(case, budget, whole, dense)
            del whole
            return self._searched(case, budget, stopwatch, dense, engine)

    def _searched(
        self, case: _Case, budget: LatencyBudget, stopwatch: Stopwatch, dense: Comparison, engine: Engine
    ) -> Outcome:
        options = self.options
        with closing(LatencyTable(options.lut or default_path(), engine.fingerprint)) as lut:
            meter = Meter(engine, lut, self.precision)
            with self.clock.stage("profile"):
                tables = self._tables(case, meter)
                self._warn_of_measuring(meter)
            program = self._program(case, tables)
            correction = tables.correction()
            loop = Loop(program, tables.fill, correction, stopwatch, budget, options.solver, self.listener)
            with self.clock.stage("search"):
                trial = loop.run(dense)
                if case.again:
                    loop, trial = case.again.run(loop, trial, dense)
        if loop.reason:
            self._warn(f"the result uses {100 * trial.spent:.1f}% of the budget: {loop.reason}")
        if trial.measured.precision > stopwatch.precision:
            self._warn(
                f"the machine is noisy: the result's latency is known to ±{100 * trial.measured.precision:.1f}% only"
            )
        model = rewrite(case.analysis.network.model, plan_edits(case.analysis, trial.plan))
        return Outcome(trial.plan, model, trial.measured, loop.reason, Search.of(loop, trial, meter))

    def _foreseen(self, case: _Case, budget: LatencyBudget, name: str) -> Outcome:
        """Search the plan that meets the budget on another device, by what its table predicts."""
        options = self.options
        with closing(borrow_table(options.lut, name)) as lut:
            meter = BorrowedMeter(lut, self.precision)
            with self.clock.stage("profile"):
                tables = self._tables(case, meter)
            meter.strict = False
            dense = foreseen(tables.fill.wholes[0].ms, 1.0, 0.0)
            self.device = meter.engine.fingerprint
            self.listener.note(f"dense: {dense.dense_ms:.3g} ms on {self.device}, by the table")
            if budget.spent(dense.dense_ms, dense.dense_ms) <= 1 and case.constraints.allow_dense():
                return self._uncut(case, budget, load(case.given)[1], dense)
            program = self._program(case, tables)
            stopwatch = self._stopwatch(case, meter.engine)
            loop = Forecast(program, tables.fill, tables.correction(), stopwatch, budget, options.solver, self.listener)
            with self.clock.stage("search"):
                trial = loop.run(dense)
                if case.again:
                    loop, trial = case.again.run(loop, trial, dense)
        model = rewrite(case.analysis.network.model, plan_edits(case.analysis, trial.plan))
        with self.clock.stage("measure"):
            self._warn_of_foreseeing(case, model, loop, meter)
        return Outcome(trial.plan, model, trial.measured, loop.reason, Search.of(loop, trial, meter))

    def _tables(self, case: _Case, meter: Meter) -> Tables:
        ties = case.constraints.ties
        return tabulate(case.analysis, meter, case.feeds, self.floor, self.options.fill, self._filled, ties)

    def _program(self, case: _Case, tables: Tables) -> Program:
        """The program, of which every limit can be met alone."""
        constraints = case.constraints
        program = Program(case.analysis, case.scores, tables.tables, tables.levels, tables.sums, constraints)
        for limit, budget in zip(constraints.limits, program.budgets, strict=True):
            least = solve(program.least(budget)).objective
            if least > budget.limit:
                raise unreachable(limit, least + limit.fixed)
        return program

    def _warn_of_foreseeing(self, case: _Case, model: onnx.ModelProto, loop: Loop, meter: BorrowedMeter) -> None:
        """Say what was not measured; compare the two models here, which is worth something but no promise."""
        if loop.reason:
            self._warn(f"the result does not use all of the budget: {loop.reason}")
        if meter.absent:
            self._warn(f"{len(meter.absent)} table entries that plans rested on are not in the table: interpolated")
        device = self.device
        with self._engine(case) as engine:
            here = self._stopwatch(case, engine).compare(model)
            place = str(engine.fingerprint)
        self.device = device
        self._warn(
            f"latencies are predictions by the table of {device}: confirm them there with onnx-mdp bench; "
            f"here, on {place}, {here.dense_ms:.3g} ms became {here.pruned_ms:.3g} ms ({100 * here.ratio:.1f}%)"
        )

    @contextmanager
    def _engine(self, case: _Case) -> Iterator[Engine]:
        engine = open_engine(self.spec, self.options.cluster, case.runtime.fingerprint)
        self.device = engine.fingerprint
        try:
            for text in engine.warnings:
                self._warn(text)
            yield engine
        finally:
            engine.close()

    def _stopwatch(self, case: _Case, engine: Engine) -> Stopwatch:
        return Stopwatch(engine, case.source.reference, case.feeds, self.precision)

    def _filled(self, done: int, steps: int) -> None:
        self.listener.step(done, steps, "table entries")

    def _warn_of_measuring(self, meter: Meter) -> None:
        for text, reason in meter.failed.items():
            self._warn(f"a region cannot be timed alone and counts nothing: {text.splitlines()[0][:60]}: {reason}")
        if meter.rough > _ROUGH * max(meter.measured, 1):
            self._warn(
                f"the machine is noisy: {meter.rough} of {meter.measured} latencies are not known to "
                f"±{100 * self.precision:g}%; use a quieter machine, or a coarser --precision"
            )

    def _uncut(self, case: _Case, budget: LatencyBudget, whole: onnx.ModelProto, dense: Comparison) -> Outcome:
        """The model as given if it meets the budget; else the rewritten one, which a runtime may fuse better."""
        plan, reason = dense_plan(case.analysis), f"the model meets --latency {budget.text} with nothing cut"
        self._warn(reason)
        if budget.spent(dense.dense_ms, dense.dense_ms) > 1:
            return Outcome(plan, whole, dense, reason)
        same = replace(dense, pruned_ms=dense.dense_ms, pruned_wall_ms=dense.dense_wall_ms)
        return Outcome(plan, load(case.given)[1], same, reason)

    def _prove(self, case: _Case, outcome: Outcome) -> Proof:
        given = [next(case.inputs.batches())] if case.inputs else []
        runtime = prover(case.runtime, double=onnx.TensorProto.DOUBLE in case.analysis.network.types.values())
        proof = prove(case.source, case.analysis, outcome.plan, outcome.model, runtime, given)
        if not proof.varies:
            self._warn("the outputs do not depend on the inputs any more: this cut is too deep to be of use")
        return proof

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.listener.warn(text)

    def _write(self, result: PruneResult, *, external: bool) -> None:
        options = self.options
        if options.output:
            save_model(result.model, options.output, external=external)
        if options.plan:
            write_text(options.plan, json.dumps(result.plan))
        if options.report:
            write_text(options.report, json.dumps(result.report.to_json(), indent=1))


def _asked(options: PruneOptions) -> tuple[LatencyBudget | None, float | None]:
    """The budget or the ratio, exactly one of which must be given."""
    if (options.latency is None) == (options.ratio is None):
        raise OptionError("give either --latency (such as 4ms or 70%) or --ratio (such as 50%)")
    if options.latency is not None:
        return parse_latency(options.latency), None
    return None, parse_share(options.ratio or "", "--ratio")
