"""SCIP, an equal of HiGHS. The only home of `pyscipopt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyscipopt

from onnx_mdp.errors import SolverError
from onnx_mdp.solve.linearize import Mip
from onnx_mdp.solve.problem import Status
from onnx_mdp.solve.solvers.base import Limits, MipResult


class ScipSolver:
    """SCIP through PySCIPOpt; open source, without limits on size."""

    name: ClassVar[str] = "scip"
    statuses: ClassVar[Mapping[str, Status]] = {
        "optimal": Status.OPTIMAL,
        "gaplimit": Status.OPTIMAL,
        "infeasible": Status.INFEASIBLE,
        "inforunbd": Status.INFEASIBLE,
        "timelimit": Status.FEASIBLE,
        "memlimit": Status.FEASIBLE,
        "userinterrupt": Status.FEASIBLE,
    }

    def admits(self, mip: Mip) -> bool:
        """Always: SCIP has no licence that limits sizes."""
        return True

    def solve(self, mip: Mip, limits: Limits) -> MipResult:
        """Solve on one thread."""
        model: Any = pyscipopt.Model()
        model.hideOutput()
        model.setParam("limits/time", limits.seconds)
        model.setParam("limits/gap", limits.gap)
        model.setParam("numerics/feastol", 1e-9)
        # SCIP 10.0.0 cuts the optimum off with these in presolve (tests/conformance: a block worth removing).
        model.setParam("misc/allowweakdualreds", False)
        x = _fill(model, mip)
        model.optimize()
        status = self.statuses.get(model.getStatus(), Status.UNKNOWN)
        if status is Status.UNKNOWN:
            raise SolverError(f"SCIP stopped with {model.getStatus()}; use --solver highs")
        if status is Status.INFEASIBLE:
            return MipResult(status, None, float("inf"))
        if model.getNSols() == 0:
            return MipResult(Status.UNKNOWN, None, _bound(model))
        solution = model.getBestSol()
        return MipResult(status, np.array([solution[variable] for variable in x]), _bound(model))


def _fill(model: Any, mip: Mip) -> list[Any]:
    columns = zip(mip.cost, mip.column_lower, mip.column_upper, mip.integer, strict=True)
    x = [model.addVar(lb=low, ub=high, obj=cost, vtype="I" if integer else "C") for cost, low, high, integer in columns]
    model.addObjoffset(mip.offset)
    for row, (low, high) in enumerate(zip(mip.row_lower, mip.row_upper, strict=True)):
        span = slice(mip.start[row], mip.start[row + 1])
        entries = zip(mip.values[span], mip.columns[span], strict=True)
        line = pyscipopt.quicksum(float(value) * x[column] for value, column in entries)
        model.addCons(line == high if low == high else line <= high)
    return x


def _bound(model: Any) -> float:
    bound = float(model.getDualbound())
    return bound if abs(bound) < model.infinity() else float(np.sign(bound)) * float("inf")
