"""What is recorded of every solve, as a table row and as JSON."""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from onnx_mdp.solve.linearize import columns_of
from onnx_mdp.solve.problem import Answer, Problem, Status, value
from onnx_mdp.solve.solve import Limits, solve, solve_many
from programs.mindtpy import Reference

_GAP = 1e-6
UNFINISHED = "not done"  # the verdict of a HiGHS that its time ran out on
_COLUMNS = ("program", "budget", "choices", "columns", "objective", "gap", "seconds", "CPU s", "HiGHS CPU s", "HiGHS")
_REFERENCE_COLUMNS = ("MindtPy s", "MindtPy loss", "MindtPy time / ours")
GROWTH_COLUMNS = ("program", "from", "to", "growth", "CPU s", "CPU s growth", "per growth")
FRONTIER_COLUMNS = ("program", "points", "proven", "seconds", "CPU s", "one by one s")


@dataclass(frozen=True)
class Record:
    """One program at one budget. `columns` is the size of its full linearization.

    Seconds are of the wall clock; CPU time is what they would be on an idle machine: all of it is one thread.
    """

    program: str
    share: float
    choices: int
    columns: int
    status: str
    solver: str
    objective: float
    bound: float
    gap: float
    seconds: float
    cpu_seconds: float
    highs_seconds: float | None = None
    highs_cpu_seconds: float | None = None
    highs_objective: float | None = None
    highs_bound: float | None = None
    highs_status: str = ""
    reference: Reference | None = None

    @staticmethod
    def of(name: str, problem: Problem, share: float, runs: int = 1) -> Record:
        """Solve a program with the default solver; times are medians of several runs."""
        timed = [_timed(problem) for _ in range(runs)]
        answer = timed[0][0]
        seconds, cpu = (statistics.median(times) for times in zip(*(times for _, times in timed), strict=True))
        return Record(
            name, share, len(problem.choices), columns_of(problem), answer.status, answer.solver, answer.objective,
            answer.bound, answer.gap, seconds, cpu,
        )  # fmt: skip

    def confirmed(self, problem: Problem, seconds: float) -> Record:
        """With what HiGHS says of the full linearization."""
        started = time.process_time()
        answer = solve(problem, "highs", Limits(seconds=seconds))
        return replace(
            self,
            highs_seconds=answer.seconds,
            highs_cpu_seconds=time.process_time() - started,
            highs_objective=answer.objective,
            highs_bound=answer.bound,
            highs_status=answer.status,
        )

    def beside(self, reference: Reference) -> Record:
        """With what the reference method found."""
        return replace(self, reference=reference)

    @property
    def verdict(self) -> str:
        """Whether HiGHS agrees: it must have no better plan, and no bound above ours."""
        if self.highs_seconds is None or self.highs_objective is None or self.highs_bound is None:
            return "-"
        slack = 2 * _GAP * max(abs(self.objective), 1e-9) if math.isfinite(self.objective) else 0.0
        if self.highs_status == Status.INFEASIBLE or not math.isfinite(self.objective):
            return "same" if self.highs_status == self.status else "CONTRADICTS"
        if self.highs_objective < self.objective - slack or self.highs_bound > self.objective + slack:
            return "CONTRADICTS"
        return "same" if self.highs_status == Status.OPTIMAL else UNFINISHED

    @property
    def is_proven(self) -> bool:
        """Whether the asked gap, or that there is no plan, is proven."""
        return self.status == Status.INFEASIBLE or (self.status == Status.OPTIMAL and self.gap <= _GAP)

    @staticmethod
    def columns_of(records: Sequence[Record]) -> tuple[str, ...]:
        """The table's columns."""
        return _COLUMNS + (_REFERENCE_COLUMNS if any(record.reference for record in records) else ())

    def row(self) -> tuple[str, ...]:
        """The record as a table row."""
        cells = (
            self.program,
            f"{self.share:g}",
            str(self.choices),
            f"{self.columns:,}",
            f"{self.objective:.6g}",
            f"{self.gap:.0e}",
            f"{self.seconds:.3f}",
            f"{self.cpu_seconds:.3f}",
            "-" if self.highs_cpu_seconds is None else f"{self.highs_cpu_seconds:.1f}",
            self.verdict,
        )
        if not self.reference:
            return (*cells, "-", "-", "-")
        loss = 100 * (self.reference.objective / self.objective - 1)
        ratio = self.reference.seconds / self.seconds
        found = f"{loss:.3f}%" if math.isfinite(loss) else "no plan"
        return (*cells, f"{self.reference.seconds:.1f}", found, f"{ratio:.0f}")

    def line(self) -> str:
        """The record as a line of text."""
        return "  ".join(self.row())

    def as_json(self) -> dict[str, Any]:
        """The record as plain data."""
        return {**asdict(self), "verdict": self.verdict}


def _timed(problem: Problem) -> tuple[Answer, tuple[float, float]]:
    """An answer, its seconds and its CPU seconds."""
    started = time.process_time()
    answer = solve(problem)
    return answer, (answer.seconds, time.process_time() - started)


@dataclass(frozen=True)
class Growth:
    """What a family's programs of the same levels take at all shares together, at the smallest and a larger size."""

    program: str
    sizes: tuple[int, int]
    cpu_seconds: tuple[float, float]

    @staticmethod
    def of(records: Iterable[Record]) -> list[Growth]:
        """One of each family, number of levels and size but the smallest."""
        taken: dict[str, defaultdict[int, float]] = {}
        for record in records:
            family, size, levels = record.program.split()
            taken.setdefault(f"{family} {levels}", defaultdict(float))[int(size)] += record.cpu_seconds
        return [
            Growth(name, (min(sizes), size), (sizes[min(sizes)], sizes[size]))
            for name, sizes in taken.items()
            for size in sorted(sizes)[1:]
        ]

    @property
    def size_ratio(self) -> float:
        """How many times as large."""
        return self.sizes[1] / self.sizes[0]

    @property
    def time_ratio(self) -> float:
        """How many times as long; at most `size_ratio` where the growth is at most linear."""
        return self.cpu_seconds[1] / self.cpu_seconds[0]

    def row(self) -> tuple[str, ...]:
        """The growth as a table row."""
        numbers = (self.size_ratio, self.cpu_seconds[1], self.time_ratio, self.time_ratio / self.size_ratio)
        return self.program, *map(str, self.sizes), *(f"{number:.2f}" for number in numbers)

    def as_json(self) -> dict[str, Any]:
        """The growth as plain data."""
        return {**asdict(self), "size_ratio": self.size_ratio, "time_ratio": self.time_ratio}


@dataclass(frozen=True)
class Frontier:
    """Many limits of one program from one preparation. `proven` counts those proven optimal or to have no plan."""

    program: str
    points: int
    proven: int
    seconds: float
    cpu_seconds: float
    one_by_one: float
    falls: bool

    @staticmethod
    def of(name: str, problem: Problem, limits: Sequence[float]) -> Frontier:
        """Solve a program at limits in falling order, at once and one by one."""
        started, cpu = time.perf_counter(), time.process_time()
        answers = solve_many(problem, limits)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        proven = [a for a in answers if a.status is Status.INFEASIBLE or a.gap <= _GAP]
        damages = [answer.objective for answer in answers]
        (budget,) = problem.budgets
        alone = [solve(replace(problem, budgets=(replace(budget, limit=limit),))) for limit in limits]
        same = all(_agree(one.objective, answer.objective) for one, answer in zip(alone, answers, strict=True))
        within = all(
            value(budget.terms, a.levels, a.kept) <= limit * (1 + 1e-6)
            for a, limit in zip(answers, limits, strict=True)
            if a.has_plan
        )
        falls = same and within and damages == sorted(damages)
        return Frontier(name, len(limits), len(proven), seconds, cpu, sum(one.seconds for one in alone), falls)

    def row(self) -> tuple[str, ...]:
        """The frontier as a table row."""
        times = (self.seconds, self.cpu_seconds, self.one_by_one)
        return self.program, str(self.points), str(self.proven), *(f"{seconds:.3f}" for seconds in times)

    def as_json(self) -> dict[str, Any]:
        """The frontier as plain data."""
        return asdict(self)


def violations(records: Iterable[Record], frontiers: Iterable[Frontier]) -> list[str]:
    """What broke a promise."""
    broken = []
    for record in records:
        place = f"{record.program} at {record.share:g}"
        if not record.is_proven:
            broken.append(f"{place}: not proven, {record.status} with a gap of {record.gap:.1e}")
        if record.verdict == "CONTRADICTS":
            broken.append(
                f"{place}: HiGHS says {record.highs_status} {record.highs_objective} (bound {record.highs_bound}), "
                f"{record.solver} says {record.status} {record.objective}"
            )
    for frontier in frontiers:
        if frontier.proven < frontier.points:
            broken.append(f"{frontier.program}: {frontier.points - frontier.proven} points of the frontier not proven")
        if not frontier.falls:
            broken.append(f"{frontier.program}: the frontier differs from its points solved one by one, or rises")
    return broken


def _agree(first: float, second: float) -> bool:
    return first == second or abs(first - second) <= 2 * _GAP * max(abs(first), 1e-9)
