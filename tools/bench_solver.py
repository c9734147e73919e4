"""How long the proven optimum takes, on generated programs with the structure of known architectures.

    python tools/bench_solver.py                                      # everything, without a second opinion
    python tools/bench_solver.py resnet:54 deit:12 --levels 8 16      # some families and sizes
    python tools/bench_solver.py resnet:54 resnet:405 --runs 5        # how the time grows with the size
    python tools/bench_solver.py --confirm 120 --json solver.json     # compared with HiGHS's full linearization
    python tools/bench_solver.py resnet:54 --levels 8 --reference     # beside Pyomo MindtPy (OA, GLPK, IPOPT)

Sizes are convolutions (resnet), transformer layers (deit: one table over stream, heads and both head widths a layer),
dense layers (densenet: every concat a sum of widths) and resolutions (unet: skips that nest). Every program is solved
at several shares of its dense latency by the default solver, on one core; then a 12-point frontier of each from one
preparation. Where a family has several sizes, a table shows how the time grows with the size, and the ratio of the two
growths: at most 1 where it is linear. Exit status 1 and a list
where one is not proven to a gap of 1e-6, or HiGHS contradicts it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from programs import mindtpy
from programs.instances import FAMILIES, at_share, limits_between, make
from programs.record import FRONTIER_COLUMNS, GROWTH_COLUMNS, UNFINISHED, Frontier, Growth, Record, violations
from rich.console import Console

from onnx_mdp.report.text import table
from onnx_mdp.solve.problem import Problem

_SIZES = [f"resnet:{convs}" for convs in (54, 102, 201, 405)] + [f"deit:{layers}" for layers in (12, 24, 48)]
_SIZES += ["densenet:58", "densenet:116", "unet:5", "unet:7"]
_POINTS, _FROM, _TO = 12, 0.9, 0.3


def main(arguments: Sequence[str] | None = None) -> int:
    """Solve the programs and print what was found; the exit status."""
    options = _options(arguments)
    if options.reference and (missing := mindtpy.missing()):
        print(f"--reference: {missing}", file=sys.stderr)
        return 2
    records, frontiers = list[Record](), list[Frontier]()
    for name, problem in _programs(options):
        for record in _at_shares(name, problem, options):
            records.append(record)
            print(record.line(), file=sys.stderr, flush=True)
        frontiers.append(Frontier.of(name, problem, limits_between(problem, _POINTS, _TO, _FROM)))
    broken = violations(records, frontiers)
    _print(records, frontiers, broken)
    if options.json:
        rows: dict[str, Sequence[Record | Growth | Frontier]]
        rows = {"programs": records, "growth": Growth.of(records), "frontiers": frontiers}
        written = {name: [row.as_json() for row in listed] for name, listed in rows.items()}
        options.json.write_text(json.dumps(written, indent=1))
    return 1 if broken else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", type=_program, help=f"family:size, of {', '.join(FAMILIES)}; all")
    parser.add_argument("--levels", type=int, nargs="+", default=[8, 16, 32, 64], help="of a choice (8 16 32 64)")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.85, 0.5, 0.3, 0.15], help="of the dense latency")
    parser.add_argument("--noise", type=float, default=0.01, help="lognormal noise of every table entry (0.01)")
    parser.add_argument("--runs", type=int, default=1, help="solves of a program, of whose times the median counts (1)")
    parser.add_argument("--confirm", type=float, default=0.0, help="seconds to give HiGHS's full linearization (0)")
    parser.add_argument("--entries", type=int, default=200_000_000, help="table entries beyond which to skip (2e8)")
    parser.add_argument("--columns", type=int, default=400_000, help="columns beyond which HiGHS is not tried (400000)")
    parser.add_argument("--patience", type=int, default=4, help="budgets a program that HiGHS may leave unfinished (4)")
    parser.add_argument("--reference", action="store_true", help="solve with Pyomo MindtPy as well")
    parser.add_argument("--json", type=Path, help="where to write everything that was recorded")
    options = parser.parse_args(arguments)
    options.programs = options.programs or [_program(text) for text in _SIZES]
    return options


def _program(text: str) -> tuple[str, int]:
    family, _, size = text.partition(":")
    if family not in FAMILIES or not size.isdigit():
        raise argparse.ArgumentTypeError(f"{text}: write family:size, such as resnet:54, of {', '.join(FAMILIES)}")
    return family, int(size)


def _programs(options: argparse.Namespace) -> Iterator[tuple[str, Problem]]:
    for family, size in options.programs:
        for levels in options.levels:
            name, problem = f"{family} {size} L{levels}", make(family, size, levels, options.noise)
            entries = sum(term.table.size for budget in problem.budgets for term in budget.terms)
            if entries <= options.entries:
                yield name, problem
            else:
                print(f"{name}: skipped, its tables have {entries:,} entries (--entries)", file=sys.stderr)


def _at_shares(name: str, problem: Problem, options: argparse.Namespace) -> Iterator[Record]:
    unfinished = 0
    for share in options.shares:
        limited = at_share(problem, share)
        record = Record.of(name, limited, share, options.runs)
        if options.confirm and record.columns <= options.columns and unfinished < options.patience:
            record = record.confirmed(limited, options.confirm)
            unfinished += record.verdict == UNFINISHED
        yield record.beside(mindtpy.solve(limited)) if options.reference else record


def _print(records: Sequence[Record], frontiers: Iterable[Frontier], broken: Iterable[str]) -> None:
    console: Any = Console(width=160)
    columns, rows = Record.columns_of(records), [record.row() for record in records]
    console.print(table("", columns, [row[: len(columns)] for row in rows], numbers=len(columns) - 2))
    if growth := Growth.of(records):
        console.print(table("growth", GROWTH_COLUMNS, [row.row() for row in growth], numbers=6))
    console.print(table("frontiers", FRONTIER_COLUMNS, [frontier.row() for frontier in frontiers], numbers=5))
    for line in broken:
        console.print(line, highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
