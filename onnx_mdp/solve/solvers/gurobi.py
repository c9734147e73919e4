"""Gurobi, an equal of HiGHS. The only home of `gurobipy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import gurobipy as gp
import numpy as np

from onnx_mdp.errors import SolverError, SolverLicenseError
from onnx_mdp.solve.linearize import Mip
from onnx_mdp.solve.problem import Status
from onnx_mdp.solve.solvers.base import Limits, MipResult

_TOO_LARGE = 10010
_PIP_LIMIT = 2000  # variables, and linear constraints, under the licence that comes with the package


class GurobiSolver:
    """Gurobi through gurobipy; the licence that comes with the package stops at 2,000 variables or rows."""

    name: ClassVar[str] = "gurobi"
    statuses: ClassVar[Mapping[str, Status]] = {
        "OPTIMAL": Status.OPTIMAL,
        "INFEASIBLE": Status.INFEASIBLE,
        "INF_OR_UNBD": Status.INFEASIBLE,
        "TIME_LIMIT": Status.FEASIBLE,
        "INTERRUPTED": Status.FEASIBLE,
        "SUBOPTIMAL": Status.FEASIBLE,
    }

    def admits(self, mip: Mip) -> bool:
        """Whether the problem is small enough for any licence, or the installed one takes a larger one."""
        if len(mip.cost) <= _PIP_LIMIT and len(mip.row_lower) <= _PIP_LIMIT:
            return self._trial(1)
        return self._trial(_PIP_LIMIT + 1)

    def _trial(self, size: int) -> bool:
        try:
            with _environment() as environment, gp.Model(env=environment) as model:
                model.addMVar(size)
                model.optimize()
        except gp.GurobiError:
            return False
        return True

    def solve(self, mip: Mip, limits: Limits) -> MipResult:
        """Solve on one thread."""
        try:
            with _environment() as environment, gp.Model(env=environment) as model:
                return self._run(model, mip, limits)
        except gp.GurobiError as error:
            if error.errno == _TOO_LARGE:
                raise SolverLicenseError(
                    f"Gurobi's licence does not admit {len(mip.cost)} variables and {len(mip.row_lower)} constraints "
                    "(the one that comes with pip stops at 2000); use --solver highs, or install a full licence"
                ) from error
            raise SolverError(f"Gurobi failed: {error}; use --solver highs") from error

    def _run(self, model: gp.Model, mip: Mip, limits: Limits) -> MipResult:
        model.Params.Threads = 1
        model.Params.TimeLimit = limits.seconds
        model.Params.MIPGap = limits.gap
        model.Params.MIPGapAbs = 1e-12
        model.Params.IntFeasTol = model.Params.FeasibilityTol = 1e-9
        kinds = np.where(mip.integer, gp.GRB.INTEGER, gp.GRB.CONTINUOUS)
        x = model.addMVar(len(mip.cost), lb=mip.column_lower, ub=mip.column_upper, obj=mip.cost, vtype=kinds)
        model.ObjCon = mip.offset
        entries = x.tolist()
        for row, (low, high) in enumerate(zip(mip.row_lower, mip.row_upper, strict=True)):
            span = slice(mip.start[row], mip.start[row + 1])
            columns = [entries[column] for column in mip.columns[span]]
            line = gp.LinExpr(mip.values[span].tolist(), columns)
            if low == high:
                model.addLConstr(line, gp.GRB.EQUAL, low)
            else:
                model.addLConstr(line, gp.GRB.LESS_EQUAL, high)
        model.optimize()
        names = {getattr(gp.GRB, name): name for name in self.statuses}
        status = self.statuses.get(names.get(model.Status, ""), Status.UNKNOWN)
        found = model.SolCount > 0
        if status is Status.FEASIBLE and not found:
            status = Status.UNKNOWN
        bound = float("inf") if status is Status.INFEASIBLE else float(model.ObjBound)
        return MipResult(status, np.array(x.X) if found else None, bound)


def _environment() -> gp.Env:
    return gp.Env(params={"OutputFlag": 0, "LogToConsole": 0})
