"""IPOPT as the command that Pyomo expects: reads an AMPL `.nl` file, writes a `.sol` file beside it.

`ipopt -v` prints a version; `ipopt problem.nl -AMPL` solves. Pyomo's own options, other than limits, are not read.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

_CODES = {"Solve_Succeeded": 0, "Solved_To_Acceptable_Level": 0, "Infeasible_Problem_Detected": 200}


def main(arguments: list[str]) -> int:
    """Solve the file named first; the exit status."""
    if "-v" in arguments or not arguments:
        print("Ipopt 3.14.0 (CasADi)")
        return 0
    source = Path(arguments[0])
    source = source if source.suffix == ".nl" else source.with_name(f"{source.name}.nl")
    casadi: Any = importlib.import_module("casadi")
    program = casadi.NlpBuilder()
    program.import_nl(str(source), {"verbose": False})
    columns, rows = casadi.vertcat(*program.x), casadi.vertcat(*program.g)
    silent = {"print_time": False, "ipopt.print_level": 0, "ipopt.sb": "yes", "error_on_fail": False}
    solver = casadi.nlpsol("solver", "ipopt", {"x": columns, "f": program.f, "g": rows}, silent)
    found = solver(
        x0=casadi.vertcat(*program.x_init),
        lbx=casadi.vertcat(*program.x_lb),
        ubx=casadi.vertcat(*program.x_ub),
        lbg=casadi.vertcat(*program.g_lb),
        ubg=casadi.vertcat(*program.g_ub),
    )
    status = solver.stats()["return_status"]
    _write(source.with_suffix(".sol"), status, _numbers(found["lam_g"]), _numbers(found["x"]))
    return 0


def _numbers(vector: Any) -> list[float]:
    return [float(number) for number in vector.full().ravel()]


def _write(target: Path, status: str, duals: list[float], primals: list[float]) -> None:
    """AMPL's solution format (Gay, Writing .nl Files, 2005): counts, duals, primals, a result code."""
    counts = [len(duals), len(duals), len(primals), len(primals)]
    lines = [f"Ipopt: {status}", "", "Options", "3", "1", "1", "0", *map(str, counts)]
    lines += [f"{-number:.17g}" for number in duals]
    lines += [f"{number:.17g}" for number in primals]
    lines.append(f"objno 0 {_CODES.get(status, 500)}")
    target.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
