"""`prune`: the whole pipeline, from a model and a budget to a smaller model that measures within it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import onnx
from threadpoolctl import threadpool_limits

from onnx_mdp.config import PruneOptions
from onnx_mdp.errors import BudgetError, EvaluationError
from onnx_mdp.graph.load import Source, load
from onnx_mdp.graph.save import check_writable, save_model, write_text
from onnx_mdp.importance.currency import find_effort
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.inputs.labels import LabelsLike
from onnx_mdp.inputs.load import InputsLike
from onnx_mdp.latency.borrow import BorrowedMeter
from onnx_mdp.latency.correct import Correction
from onnx_mdp.latency.measure import Meter
from onnx_mdp.pipeline.again import Again, AnyLoop
from onnx_mdp.pipeline.approximation import approximation_fact
from onnx_mdp.pipeline.candidates import Candidates
from onnx_mdp.pipeline.case import Case, Planner
from onnx_mdp.pipeline.constraints import check_uniform
from onnx_mdp.pipeline.drop import DropSearch, Probe
from onnx_mdp.pipeline.forecast import Forecast
from onnx_mdp.pipeline.frontier import FrontierSearch
from onnx_mdp.pipeline.goal import asked_of
from onnx_mdp.pipeline.judge import Judge, choose_apart, choose_evaluation
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.loop import Loop, Trial
from onnx_mdp.pipeline.program import Program
from onnx_mdp.pipeline.reporting import Outcome, Search, make_report, recovery_fact
from onnx_mdp.pipeline.several import check_several, search_several
from onnx_mdp.pipeline.sides import parse_also
from onnx_mdp.pipeline.stages import ModelLike, check_output, exact_runtime
from onnx_mdp.pipeline.stopwatch import Comparison, Stopwatch, foreseen
from onnx_mdp.pipeline.streams import write_plans
from onnx_mdp.pipeline.tabulate import Tables
from onnx_mdp.quantities import Drop, LatencyBudget
from onnx_mdp.recover.recover import Recovery, recover
from onnx_mdp.recover.refit import touched_nodes
from onnx_mdp.report.facts import Report
from onnx_mdp.rewrite.plan import dense_plan, uniform_plan
from onnx_mdp.runtime.base import Runtime
from onnx_mdp.runtime.registry import prover
from onnx_mdp.streams.turn import Bases
from onnx_mdp.task.base import Evaluation
from onnx_mdp.task.function import ByFunction, EvalLike
from onnx_mdp.verify.oracle import Proof, prove, prove_same


@dataclass(frozen=True, eq=False)
class PruneResult:
    """What `prune` returns: the model, the plan as plain data, the report, and the bases of rotated streams."""

    model: onnx.ModelProto
    plan: dict[str, Any]
    report: Report
    bases: Bases = field(default_factory=dict)


def prune(
    model: ModelLike,
    options: PruneOptions | None = None,
    *,
    inputs: InputsLike | None = None,
    labels: LabelsLike | None = None,
    eval: EvalLike | None = None,  # noqa: A002
    listener: Listener | None = None,
    **fields: Any,
) -> PruneResult:
    """Prune a model to a latency budget, by a fixed ratio, or as far as a drop of accuracy admits.

    Args:
        model: an .onnx file, or a model in memory.
        options: the options; or give their fields as keywords.
        inputs: calibration inputs: a file, a mapping from input names to arrays, or one array.
        labels: labels of the inputs, if not among the options: integers.
        eval: called with the path of an .onnx file, returns how good the model is; or `module:function`.
        listener: receives progress.
        fields: fields of `PruneOptions`.

    Raises:
        MdpError: anything the user can act on; see `onnx_mdp.errors`.
    """
    options = replace(options or PruneOptions(), **fields)
    if isinstance(eval, str):
        options = replace(options, eval=eval)
    inputs = inputs if inputs is not None else options.inputs
    pruner = Pruner(options, listener or Listener(), labels, eval)
    return pruner.finish(pruner.start(model, inputs))


@dataclass(frozen=True, eq=False)
class _Ground:
    """What plans are searched on: the program with its tables, and what measures whole models."""

    meter: Meter
    tables: Tables
    program: Program
    correction: Correction
    stopwatch: Stopwatch
    dense: Comparison


class Pruner(Planner):
    """One run of `prune` in two halves, so that one case can be pruned to many budgets.

    What `start` makes depends on no budget: a pruner whose other options are the same may finish it.
    """

    judge: Judge | None = None

    def __init__(
        self,
        options: PruneOptions,
        listener: Listener,
        labels: LabelsLike | None = None,
        function: EvalLike | None = None,
    ) -> None:
        self.options = options
        self.budget, self.ratio, self.drop = asked_of(options)
        self.function = function if function is not None else options.eval
        if self.function is not None:
            ByFunction(self.function)  # checks its name
        super().__init__(options, listener, labels)
        if self.ratio is not None:
            self.effort = find_effort("fast")  # a uniform cut weighs no damage
        check_uniform(options)
        further = [parse_also(text, options) for text in options.also]
        planners = check_several(self, further, has_latency=self.budget is not None)
        self.further = list(zip(further, planners, strict=True))

    def start(self, model: ModelLike, inputs: InputsLike | None) -> Case:
        """The model loaded and analyzed."""
        return self.case(model, inputs, self._check)

    def finish(self, case: Case) -> PruneResult:
        """The model searched for, cut, proven, recovered and written."""
        if self.ratio is not None:
            outcome = self._uniform(case, self.ratio)
        elif self.drop is not None:
            outcome = self._dropped(case, cast(Judge, self.judge), self.drop)
        else:
            outcome = self._budgeted(case, cast(LatencyBudget, self.budget))
        with self.clock.stage("verify"):
            proof = self._prove(case, outcome)
        recovery = outcome.recovery or self._recover(case, outcome)
        self._warn_of_recovery(case, outcome, recovery)
        outcome = replace(outcome, model=self._finished(case, outcome, recovery))
        limits = [limit.fact(case.analysis, outcome.plan) for limit in case.constraints.limits]
        report = make_report(case.source, case.analysis, outcome, proof, self.options, self.budget, self.device)
        report = replace(report, accuracy=self._accuracy_fact(outcome), limits=limits)
        seconds = {name: round(value, 3) for name, value in self.clock.seconds.items()}
        report = replace(report, seconds=seconds, warnings=self.warnings)
        report = replace(report, lossless=case.prepared.lossless(), recovery=recovery_fact(recovery))
        found = approximation_fact(case, outcome.plan, outcome.model, recovery, self.options.seed)
        report = replace(report, approximation=found)
        result = PruneResult(outcome.model, case.plan_json(outcome.plan), report, case.bases)
        self._write(result, external=case.source.external)
        return result

    def _check(self, source: Source) -> None:
        options = self.options
        check_output(options.output, source, force=options.force)
        for path in (options.report, options.plan):
            if path:
                check_writable(path)

    def set_aside(self, source: Source, inputs: Inputs | None, runtime: Runtime) -> Inputs | None:
        """The inputs to plan with; how accurate the dense model is comes first, so that what cannot be is told soon."""
        if self.drop is not None:
            evaluation, rest = choose_apart(inputs, self.function, runtime, self.drop, self.options.seed)
            self.judge = self._judged(evaluation, source)
            self.drop.least(self.judge.dense)
            if coarse := self.judge.coarse(self.drop):
                self.warn(coarse)
            return rest
        if found := choose_evaluation(inputs, self.function, runtime, self.effort):
            try:
                self.judge = self._judged(found, source)
            except EvaluationError as error:
                if self.function is not None or self.reading.labels is not None:
                    raise
                self.warn(f"accuracy is not measured: {error}")  # nobody asked: the file of inputs has labels
        return inputs

    def _judged(self, evaluation: Evaluation, source: Source) -> Judge:
        with self.clock.stage("evaluate"):
            return Judge.of(evaluation, source.reference)

    def _uniform(self, case: Case, ratio: float) -> Outcome:
        """Cut every group to the same share; the two models are compared once, at the end."""
        order = case.scores.order
        with self.clock.stage("rewrite"):
            least = {group.name: self.floor.least(group) for group in case.analysis.groups}
            multiple = self.options.multiple or 1
            plan = uniform_plan(case.analysis, order, ratio, least, multiple)
            model = case.cut(plan)
        with self.clock.stage("measure"), self.engine(case.runtime.fingerprint) as engine:
            stopwatch = self.stopwatch(case, engine)
            measured = stopwatch.compare(case.finished(plan, model))
        if stopwatch.note:
            self.warn(stopwatch.note)
        if measured.ratio > 1 and not self.options.force:
            raise BudgetError(
                f"--ratio {self.options.ratio}: the cut model is slower, {measured.pruned_ms:.3g} ms against "
                f"{measured.dense_ms:.3g} ms; add --multiple 16 for widths the device likes, use --latency, or "
                "--force to write it all the same"
            )
        return Outcome(plan, model, measured)

    def _budgeted(self, case: Case, budget: LatencyBudget) -> Outcome:
        """Fill the latency table, then search the plan that meets the budget."""
        if self.further:
            return search_several(self, case, budget, self.further)
        if self.options.lut_device is not None:
            return self._foreseen(case, budget, self.options.lut_device)
        with self.engine(case.runtime.fingerprint) as engine, self.meter(engine) as meter:
            stopwatch = self.stopwatch(case, engine, meter)
            whole = case.whole()
            dense = self.dense(case, engine, stopwatch, whole)
            del whole
            lowest = min(dense.dense_ms, dense.pruned_ms)
            if budget.spent(lowest, dense.dense_ms) <= 1 and case.constraints.allow_dense():
                return self._uncut(case, budget, dense)
            outcome = self._planned(case, self._ground(case, meter, stopwatch, dense), budget)
        if outcome.reason:
            spent = budget.spent(outcome.measured.pruned_ms, outcome.measured.dense_ms)
            self.warn(f"the result uses {100 * spent:.1f}% of the budget: {outcome.reason}")
        self._warn_of_noise(outcome, stopwatch)
        return outcome

    def _ground(self, case: Case, meter: Meter, stopwatch: Stopwatch, dense: Comparison) -> _Ground:
        tables = self.tables(case, meter)
        return _Ground(meter, tables, self.program(case, tables), tables.correction(), stopwatch, dense)

    def _planned(self, case: Case, on: _Ground, budget: LatencyBudget, search: type[Loop] = Loop) -> Outcome:
        """The plan of least damage that measures within a budget."""
        solver = self.options.solver
        loop = search(on.program, on.tables.fill, on.correction, on.stopwatch, budget, solver, self.listener)
        with self.clock.stage("search"):
            loop, trial = self._again(case, loop, loop.run(on.dense), on.dense)
        if search is Loop and self.options.recover and case.held is not None:
            again = Again(case.analysis, case.held, prover(case.runtime), self.effort.rounds)
            return Candidates(
                streams=case.ranked,
                count=self.effort.candidates,
                seed=self.options.seed,
                around=again.scores if again.rounds else None,
                promise=partial(self._promise, on),
                search=partial(self._search, on),
                outcome=partial(self._outcome, case, on),
                recover=partial(self._recover, case),
            ).best(loop, trial)
        return self._outcome(case, on, loop, trial)

    def _search(self, on: _Ground, loop: Loop) -> Trial:
        with self.clock.stage("search"):
            return loop.run(on.dense)

    def _promise(self, on: _Ground, loop: Loop) -> Trial | None:
        with self.clock.stage("search"):
            return loop.promise(on.dense)

    def _outcome(self, case: Case, on: _Ground, loop: Loop, trial: Trial) -> Outcome:
        search = Search.of(loop, trial, on.meter)
        return Outcome(trial.plan, case.cut(trial.plan), trial.measured, loop.reason, search)

    def _warn_of_noise(self, outcome: Outcome, stopwatch: Stopwatch) -> None:
        precision = outcome.measured.precision
        if precision > stopwatch.precision:
            self.warn(f"the machine is noisy: the result's latency is known to ±{100 * precision:.1f}% only")

    def _dropped(self, case: Case, judge: Judge, drop: Drop) -> Outcome:
        """Fill the latency table, then search the fastest plan that is accurate enough after recovery."""
        with self.engine(case.runtime.fingerprint) as engine, self.meter(engine) as meter:
            stopwatch = self.stopwatch(case, engine, meter)
            dense = self.dense(case, engine, stopwatch, case.whole())
            on = self._ground(case, meter, stopwatch, dense)
            solver = self.options.solver
            fastest = FrontierSearch(on.program, on.tables.fill, on.correction, dense.ratio, solver).reach()
            search = DropSearch(self, case, judge, drop, dense, partial(self._recovered, case, on))
            outcome = search.run(fastest)
            self._warn_of_noise(outcome, stopwatch)
        return outcome

    def _recovered(self, case: Case, on: _Ground, budget: LatencyBudget) -> Outcome:
        """The plan of least damage that measures close to a budget, with what is recovered of it."""
        outcome = self._planned(case, on, budget, Probe)
        return replace(outcome, reason="", recovery=self._recover(case, outcome))

    def _accuracy_fact(self, outcome: Outcome) -> dict[str, Any]:
        """What became of the accuracy; empty where nothing tells."""
        if self.judge is None:
            return {}
        with self.clock.stage("evaluate"):
            found = outcome.accuracy if outcome.accuracy is not None else self.judge.accuracy(outcome.model)
        return self.judge.fact(found)

    def _foreseen(self, case: Case, budget: LatencyBudget, name: str) -> Outcome:
        """Search the plan that meets the budget on another device, by what its table predicts."""
        with self.borrowed(name) as meter:
            tables = self.tables(case, meter)
            dense = foreseen(tables.fill.wholes[0].ms, 1.0, 0.0)
            self.listener.note(f"dense: {dense.dense_ms:.3g} ms on {self.device}, by the table")
            self.warn_of_rewriting(case)
            if budget.spent(dense.dense_ms, dense.dense_ms) <= 1 and case.constraints.allow_dense():
                return self._uncut(case, budget, dense)
            program = self.program(case, tables)
            stopwatch = self.stopwatch(case, meter.engine)
            solver = self.options.solver
            loop = Forecast(program, tables.fill, tables.correction(), stopwatch, budget, solver, self.listener)
            with self.clock.stage("search"):
                loop, trial = self._again(case, loop, loop.run(dense), dense)
        model = case.cut(trial.plan)
        with self.clock.stage("measure"):
            self._warn_of_foreseeing(case, case.finished(trial.plan, model), loop, meter)
        return Outcome(trial.plan, model, trial.measured, loop.reason, Search.of(loop, trial, meter))

    def _again(self, case: Case, loop: AnyLoop, trial: Trial, dense: Comparison) -> tuple[AnyLoop, Trial]:
        """Search again around the plan found, where that is asked for and weights stay as they are."""
        if case.held is None or self.options.recover:
            return loop, trial
        return Again(case.analysis, case.held, prover(case.runtime), self.effort.rounds).run(loop, trial, dense)

    def _warn_of_foreseeing(self, case: Case, model: onnx.ModelProto, loop: Loop, meter: BorrowedMeter) -> None:
        """Say what was not measured; compare the two models here, which is worth something but no promise."""
        if loop.reason:
            self.warn(f"the result does not use all of the budget: {loop.reason}")
        if meter.absent:
            self.warn(f"{len(meter.absent)} table entries that plans rested on are not in the table: interpolated")
        device = self.device
        with self.engine(case.runtime.fingerprint) as engine:
            here = self.stopwatch(case, engine).compare(model)
            place = str(engine.fingerprint)
        self.device = device
        self.warn(
            f"latencies are predictions by the table of {device}: confirm them there with onnx-mdp bench; "
            f"here, on {place}, {here.dense_ms:.3g} ms became {here.pruned_ms:.3g} ms ({100 * here.ratio:.1f}%)"
        )

    def _uncut(self, case: Case, budget: LatencyBudget, dense: Comparison) -> Outcome:
        """The model as given if it meets the budget; else the rewritten one, which a runtime may fuse better."""
        plan, reason = dense_plan(case.analysis), f"the model meets --latency {budget.text} with nothing cut"
        self.warn(reason)
        if budget.spent(dense.dense_ms, dense.dense_ms) > 1:
            return Outcome(plan, case.cut(plan), dense, reason)
        return Outcome(plan, load(case.given)[1], dense.same(), reason)

    def _prove(self, case: Case, outcome: Outcome) -> Proof:
        given = [case.fit.first(case.fit.batch)] if case.fit else []
        runtime = exact_runtime(case.analysis.network, case.runtime)
        proof = prove(case.source, case.analysis, outcome.plan, outcome.model, runtime, given)
        if not proof.varies:
            self.warn("the outputs do not depend on the inputs any more: this cut is too deep to be of use")
        return proof

    def _finished(self, case: Case, outcome: Outcome, recovery: Recovery | None) -> onnx.ModelProto:
        """The model to write: with what was recovered, and with the operators that a result has."""
        model = recovery.model if recovery else outcome.model
        finished = case.finished(outcome.plan, model)
        if finished is not model:
            with self.clock.stage("verify"):
                given = [case.fit.first(case.fit.batch)] if case.fit else []
                network = case.analysis.network
                prove_same(network, model, finished, exact_runtime(network, case.runtime), given)
        return finished

    def _recover(self, case: Case, outcome: Outcome) -> Recovery | None:
        """The model with its weights fitted anew, if there are inputs to fit to and something was cut."""
        touched = touched_nodes(case.analysis, outcome.plan)
        if not self.options.recover or not touched or case.fit is None:
            return None
        with self.clock.stage("recover"), threadpool_limits(self.options.threads):
            runtime, step = prover(case.runtime), self.listener.step
            positions = case.positions if case.held is not None else None  # else a part of `fit` is held out first
            fit, held = case.fit, case.held
            return recover(case.analysis, outcome.plan, outcome.model, fit, held, runtime, step, positions)

    def _warn_of_recovery(self, case: Case, outcome: Outcome, found: Recovery | None) -> None:
        if found and not found.kept:
            self.warn("recovery did no good on held-out inputs: the weights stay as they were; give more --inputs")
        if self.options.recover and case.fit is None and touched_nodes(case.analysis, outcome.plan):
            self.warn("nothing was recovered: without --inputs the remaining weights cannot be fitted anew")

    def _write(self, result: PruneResult, *, external: bool) -> None:
        options = self.options
        if options.output:
            save_model(result.model, options.output, external=external)
        if options.plan:
            write_plans({options.plan: result.plan}, result.bases, options.plan.with_suffix(".streams.npz"))
        if options.report:
            write_text(options.report, json.dumps(result.report.to_json(), indent=1))
