"""The stages that every command shares which looks for plans: the model at hand, engine, tables, program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import onnx
from threadpoolctl import threadpool_limits

from onnx_mdp.config import SearchOptions
from onnx_mdp.engine.base import Engine
from onnx_mdp.engine.registry import open_engine
from onnx_mdp.errors import OptionError, ProofError
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.load import Source, load
from onnx_mdp.graph.network import Network
from onnx_mdp.groups.find import NORMALIZED, Analysis
from onnx_mdp.importance.base import Scores, settle_order
from onnx_mdp.importance.currency import calibrate, find_effort, split_inputs
from onnx_mdp.importance.registry import choose_scorer, make_scorer
from onnx_mdp.inputs.base import Inputs
from onnx_mdp.inputs.labels import LabelsLike
from onnx_mdp.inputs.load import InputsLike, Reading
from onnx_mdp.latency.borrow import BorrowedMeter
from onnx_mdp.latency.fill import check_way
from onnx_mdp.latency.levels import Floor, Grid
from onnx_mdp.latency.lut import LatencyTable, default_path
from onnx_mdp.latency.measure import Meter
from onnx_mdp.pipeline.constraints import Constraints, check_constraints, find_constraints, unreachable
from onnx_mdp.pipeline.listener import Listener
from onnx_mdp.pipeline.program import Program
from onnx_mdp.pipeline.stages import (
    NOTHING,
    Clock,
    ModelLike,
    Prepared,
    analyze_or_refuse,
    exact_runtime,
    first_feeds,
    prepare,
)
from onnx_mdp.pipeline.stopwatch import BRIEF, Comparison, Memory, Stopwatch
from onnx_mdp.pipeline.streams import are_opened, check_streams, open_streams
from onnx_mdp.pipeline.tables import borrow_table, check_borrowing, check_table
from onnx_mdp.pipeline.tabulate import Tables, tabulate
from onnx_mdp.quantities import parse_min_keep, parse_shapes, parse_share
from onnx_mdp.recover.mend import Mender
from onnx_mdp.report.facts import untimed
from onnx_mdp.rewrite.plan import Plan, dense_plan, plan_edits, to_json
from onnx_mdp.runtime.base import Feeds, Fingerprint, Runtime, RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime, prover
from onnx_mdp.solve.solve import check_solver, solve
from onnx_mdp.statistics.positions import Positions
from onnx_mdp.streams.turn import Bases, Turned
from onnx_mdp.verify.oracle import prove_same

_ROUGH = 0.2  # share of table entries that may miss the precision before the user is told


@dataclass(frozen=True, eq=False)
class Case:
    """The model at hand: as given and analyzed, on its runtime, with one input to time it on.

    Attributes:
        turned: the network with its normalized streams made cuttable, if it has any that were.
        fit: calibration inputs for whatever is fitted.
        held: those that nothing is fitted to, for measuring damage.
        positions: what the positions of its streams count, measured on the inputs to fit to.
        score: what units and blocks are worth; takes its time when first asked, as nothing may have to be cut at all.
    """

    given: ModelLike
    source: Source
    prepared: Prepared
    turned: Turned | None
    analysis: Analysis
    fit: Inputs | None
    held: Inputs | None
    positions: Positions | None
    score: Callable[[], Scores]
    runtime: Runtime
    feeds: Feeds
    constraints: Constraints

    @property
    def scores(self) -> Scores:
        """What units and blocks are worth."""
        return self.score()

    @cached_property
    def timed(self) -> Analysis:
        """The analysis over a network whose latency is that of a result; its numbers may be wrong."""
        return self.analysis if self.turned is None else self.turned.timed(self.analysis)

    def whole(self) -> onnx.ModelProto:
        """The model rewritten with nothing cut, to be timed."""
        return rewrite(self.timed.network.model, plan_edits(self.timed, dense_plan(self.timed)))

    def cut(self, plan: Plan) -> onnx.ModelProto:
        """The model cut to a plan; `finished` before anyone sees it."""
        if self.turned is not None:
            return self.turned.cut(self.analysis, plan)
        return rewrite(self.analysis.network.model, plan_edits(self.analysis, plan))

    def finished(self, plan: Plan, model: onnx.ModelProto) -> onnx.ModelProto:
        """A cut model with the operators that a result has."""
        return model if self.turned is None else self.turned.restored(self.analysis, plan, model)

    @property
    def ranked(self) -> list[str]:
        """The groups of streams that many layers share."""
        streams = self.turned.streams.values() if self.turned else ()
        shared = {stream.factor for stream in streams if not stream.within_heads}
        return [group.name for group in self.analysis.groups if group.factor in shared or group.kind == NORMALIZED]

    @property
    def bases(self) -> Bases:
        """The bases that rotated streams are in."""
        return self.turned.bases if self.turned else {}

    def plan_json(self, plan: Plan) -> dict[str, Any]:
        """The plan as plain data; `convolved` names the shortcuts that became convolutions before."""
        if self.turned is None:
            found = to_json(self.analysis, plan)
        else:
            found = to_json(self.analysis, plan, sorted(self.turned.streams), self.turned.units)
        convolved = list(self.prepared.rewrites.shortcuts or ())
        return {**found, **({"convolved": convolved} if convolved else {})}


class Planner:
    """From options and a model to its program, with the stages in between; every option is checked at once.

    Attributes:
        device: what latencies are of; known once an engine or another device's table is open.
        warnings: what the user was told so far.
    """

    device: Fingerprint

    def __init__(self, options: SearchOptions, listener: Listener, labels: LabelsLike | None = None) -> None:
        self.search = options
        self.listener = listener
        self.clock = Clock(listener)
        self.warnings: list[str] = []
        units, share = parse_min_keep(options.min_keep)
        if options.multiple is not None and options.multiple < 1:
            raise OptionError(f"--multiple {options.multiple}: must be 1 or more")
        if options.threads < 1:
            raise OptionError(f"--threads {options.threads}: must be 1 or more")
        check_solver(options.solver)
        check_constraints(options)
        check_way(options.fill)
        check_streams(options.streams)
        check_borrowing(options.lut_device, options.cluster)
        labels = labels if labels is not None else options.labels
        self.reading = Reading(options.preprocess, labels, options.samples, options.seed)
        self.effort = find_effort(options.effort)
        self.floor = Floor(units, share, options.multiple)
        self.precision = parse_share(options.precision, "--precision")
        self.spec = RuntimeSpec(options.runtime, options.threads, options.runtime_option)

    def case(self, model: ModelLike, inputs: InputsLike | None, check: Callable[[Source], None]) -> Case:
        """Load and analyze a model; `check` is given its source before the work starts."""
        options = self.search
        choose_scorer(options.importance, has_inputs=inputs is not None)
        runtime = open_runtime(self.spec)
        with self.clock.stage("load"):
            source, proto = load(model)
            check(source)
        with self.clock.stage("analyze"):
            shapes = parse_shapes(options.shape)
            prepared = prepare(proto, shapes, inputs, self.reading, lossless=options.lossless)
        if prepared.moved or prepared.convolved:
            prepared = self._fastest(prepared, model, source, runtime)
        with self.clock.stage("analyze"):
            network, samples = prepared.network, prepared.inputs
            for text in samples.notes if samples else ():
                self.warn(text)
            analysis = analyze_or_refuse(network, options.lock, source.name)
            constraints = find_constraints(options, analysis, source)
        fit, held = split_inputs(self.set_aside(source, samples, prover(runtime)), self.effort)
        turned = self._turned(network, fit, exact_runtime(network, runtime))
        if turned is not None:
            analysis = turned.analysis(options.lock)
            constraints = find_constraints(options, turned.timed(analysis), source)  # which has what a result has
        positions = Positions(analysis.coupling, fit, prover(runtime)) if fit else None
        score = cache(partial(self._scores, analysis, fit, held, positions, prover(runtime)))
        feeds = first_feeds(network, samples, options.seed)
        return Case(model, source, prepared, turned, analysis, fit, held, positions, score, runtime, feeds, constraints)

    def _fastest(self, prepared: Prepared, model: ModelLike, source: Source, runtime: Runtime) -> Prepared:
        """The lossless rewrites with which the model measures fastest, if faster than as it was given."""
        if self.search.lut_device is not None:
            return prepared
        forms, made = [prepared], prepared.rewrites
        if prepared.moved and prepared.convolved:
            alone = replace(made, shortcuts=()), replace(made, moves=False)
            forms += [prepared.again(load(model)[1], rewrites) for rewrites in alone]
        feeds = first_feeds(prepared.network, prepared.inputs, self.search.seed)
        with self.clock.stage("measure"), self.engine(runtime.fingerprint) as engine, self.meter(engine) as meter:
            stopwatch = self._stopwatch(source, feeds, engine, meter)
            ratios = [stopwatch.compare(form.network.model, BRIEF).ratio for form in forms]
        ratio, kept = min(zip(ratios, forms, strict=True), key=lambda pair: pair[0])
        if ratio >= 1:
            kept = prepared.again(load(model)[1], NOTHING)
        for what, before, after in (
            ("moved up", prepared.moved, kept.moved),
            ("convolved", prepared.convolved, kept.convolved),
        ):
            if before and not after:
                names = ", ".join(one.name for one in before)
                self.warn(f"{names}: not {what}, as the model measures {ratios[0]:.3g} times its latency with that")
        return kept

    def _turned(self, network: Network, inputs: Inputs | None, runtime: Runtime) -> Turned | None:
        """The network with its normalized streams made cuttable; None where that is not wanted or none can be."""
        if not are_opened(self.search.streams, has_inputs=inputs is not None):
            return None
        with self.clock.stage("rotate"), threadpool_limits(self.search.threads):
            refits = self.search.recover and inputs is not None
            given = [] if inputs is None else [inputs.first(inputs.batch)]  # what the result is proven on
            for rotates in (True, False):
                turned = open_streams(network, runtime, inputs, self.search.seed, refits=refits, rotates=rotates)
                if turned is None:
                    return None
                try:
                    prove_same(network, network.model, turned.coupling.network.model, runtime, given)
                except ProofError as error:  # what selects among nearly equal numbers magnifies rounding
                    self.warn(f"streams are not {'rotated' if turned.streams else 'cut'}: {error}")
                    if turned.streams:
                        continue
                    return None
                if turned.streams and inputs is None:
                    self.warn("streams are rotated to directions of noise: give --inputs")
                return turned
            return None

    def set_aside(self, source: Source, inputs: Inputs | None, runtime: Runtime) -> Inputs | None:
        """The inputs to plan with: all of them, unless a command keeps some to judge its result by."""
        return inputs

    def _scores(
        self,
        analysis: Analysis,
        fit: Inputs | None,
        held: Inputs | None,
        positions: Positions | None,
        runtime: Runtime,
    ) -> Scores:
        """What a scorer makes of the inputs to fit to, and the currency of those held out."""
        with self.clock.stage("score"), threadpool_limits(self.search.threads):
            scorer = make_scorer(self.search.importance, analysis, fit, runtime, self.listener.step, positions)
            scores = settle_order(analysis, scorer.score(analysis))
            if fit is None or not self.effort.levels:
                return scores
            if held is None:
                self.warn(f"{fit.count} inputs are too few to measure damage with: give 3 batches or more")
                return scores
            mend = Mender(analysis, fit, runtime, positions) if self.search.recover else None
            return calibrate(analysis, scores, held, runtime, self.effort, mend, self.listener.step)

    @contextmanager
    def engine(self, like: Fingerprint) -> Iterator[Engine]:
        """Where measurements run: on a cluster, preferably on devices like one."""
        engine = open_engine(self.spec, self.search.cluster, like)
        self.device = engine.fingerprint
        try:
            for text in engine.warnings:
                self.warn(text)
            yield engine
        finally:
            engine.close()

    def stopwatch(self, case: Case, engine: Engine, meter: Meter | None = None) -> Stopwatch:
        """Compares whole models with the one given; a meter keeps what is found."""
        return self._stopwatch(case.source, case.feeds, engine, meter)

    def _stopwatch(self, source: Source, feeds: Feeds, engine: Engine, meter: Meter | None) -> Stopwatch:
        memory = Memory(meter, source.structure, feeds) if meter else None
        return Stopwatch(engine, source.reference, feeds, self.precision, memory)

    def dense(self, case: Case, engine: Engine, stopwatch: Stopwatch, whole: onnx.ModelProto) -> Comparison:
        """The model as given against the same rewritten with nothing cut."""
        with self.clock.stage("measure"):
            dense = stopwatch.anew(whole)
        self.listener.note(f"dense: {dense.dense_ms:.3g} ms on {engine.fingerprint}")
        if stopwatch.note:
            self.warn(stopwatch.note)
        if dense.clock == "cpu":
            clock = case.runtime.busy_clock
            self.warn(f"the machine is busy: latencies are {clock}, which is what an idle machine would take")
        return dense

    @contextmanager
    def meter(self, engine: Engine) -> Iterator[Meter]:
        """Measures pieces, through the latency table of the engine's device."""
        check_table(self.search.lut, engine.fingerprint, self.listener)
        with closing(LatencyTable(self.search.lut or default_path(), engine.fingerprint)) as lut:
            yield Meter(engine, lut, self.precision)

    @contextmanager
    def borrowed(self, name: str) -> Iterator[BorrowedMeter]:
        """Reads the latency table of a device that is not here."""
        with closing(borrow_table(self.search.lut, name)) as lut:
            meter = BorrowedMeter(lut, self.precision)
            self.device = meter.engine.fingerprint
            yield meter

    def warn_of_rewriting(self, case: Case) -> None:
        """Say what shares are of, where the model as given cannot be measured."""
        if case.prepared.moved or case.prepared.convolved:
            self.warn("shares of latency are of the model as rewritten without loss: the table knows no other")

    def tables(self, case: Case, meter: Meter, grid: Grid | None = None) -> Tables:
        """The tables of the model, filled; what could not be measured well is a warning."""
        with self.clock.stage("profile"):
            ties = case.constraints.ties
            tables = tabulate(case.timed, meter, case.feeds, self.floor, self.search.fill, self._filled, ties, grid)
            if isinstance(meter, BorrowedMeter):
                meter.strict = False  # from here on, what is missing near the plans is interpolated
            self._warn_of_measuring(meter)
        return tables

    def program(self, case: Case, tables: Tables) -> Program:
        """The program, of which every limit can be met alone.

        Raises:
            BudgetError: one cannot.
        """
        constraints = case.constraints
        program = Program(case.timed, case.scores, tables.tables, tables.levels, tables.sums, constraints)
        for limit, budget in zip(constraints.limits, program.budgets, strict=True):
            least = solve(program.least(budget)).objective
            if least > budget.limit:
                raise unreachable(limit, least + limit.fixed)
        return program

    def warn(self, text: str) -> None:
        """Tell the user once, and keep it for the report."""
        if text in self.warnings:
            return
        self.warnings.append(text)
        self.listener.warn(text)

    def _filled(self, done: int, steps: int) -> None:
        self.listener.step(done, steps, "table entries")

    def _warn_of_measuring(self, meter: Meter) -> None:
        for text in untimed(meter.failed):
            self.warn(text)
        if meter.rough > _ROUGH * max(meter.measured, 1):
            self.warn(
                f"the machine is noisy: {meter.rough} of {meter.measured} latencies are not known to "
                f"±{100 * self.precision:g}%; use a quieter machine, or a coarser --precision"
            )
