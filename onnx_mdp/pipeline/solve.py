"""Solves a program given as a file: the solver's stage on its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnx_mdp.errors import OptionError
from onnx_mdp.graph.save import check_writable, write_text
from onnx_mdp.program_config import SolveOptions
from onnx_mdp.solve.problem_file import read_problem
from onnx_mdp.solve.solve import Limits, check_solver, solve


def solve_file(path: Path, options: SolveOptions) -> tuple[dict[str, Any], str]:
    """The answer to the program in a file, also written to `options.output` if given, and a notice if any.

    Raises:
        OptionError: there is no such solver, or the time limit is not positive.
        ProblemError: the program is malformed; the message names the field and the place.
        OutputError: the answer cannot be written; it is found out before solving.
        SolverError: the solver is missing, not licensed, or failed.
    """
    check_solver(options.solver)
    if not options.time_limit > 0:
        raise OptionError(f"--time-limit {options.time_limit:g}: must be more than zero seconds")
    if options.output:
        check_writable(options.output)
    file = read_problem(path)
    found = solve(file.problem, options.solver, Limits(seconds=options.time_limit))
    answer = file.answer(found)
    if options.output:
        write_text(options.output, json.dumps(answer, indent=1) + "\n")
    return answer, found.notice
