"""HiGHS, the embedded default. The only home of `highspy`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import highspy
import numpy as np

from onnx_mdp.errors import SolverError
from onnx_mdp.solve.linearize import Mip
from onnx_mdp.solve.problem import Status
from onnx_mdp.solve.solvers.base import Limits, MipResult


class HighsSolver:
    """HiGHS through its own Python interface; open source, without limits on size."""

    name: ClassVar[str] = "highs"
    statuses: ClassVar[Mapping[str, Status]] = {
        "kOptimal": Status.OPTIMAL,
        "kInfeasible": Status.INFEASIBLE,
        "kUnboundedOrInfeasible": Status.INFEASIBLE,
        "kTimeLimit": Status.FEASIBLE,
        "kSolutionLimit": Status.FEASIBLE,
        "kIterationLimit": Status.FEASIBLE,
        "kInterrupt": Status.FEASIBLE,
    }

    def admits(self, mip: Mip) -> bool:
        """Always: HiGHS has no licence."""
        return True

    def solve(self, mip: Mip, limits: Limits) -> MipResult:
        """Solve on one thread."""
        solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
        options = {
            "output_flag": False,
            "threads": 1,
            "time_limit": limits.seconds,
            "mip_rel_gap": limits.gap,
            "mip_abs_gap": 1e-12,
            "mip_feasibility_tolerance": 1e-9,
            "primal_feasibility_tolerance": 1e-9,
        }
        for key, value in options.items():
            solver.setOptionValue(key, value)
        solver.passModel(_model(mip))
        solver.run()
        native = solver.getModelStatus().name
        info = solver.getInfo()
        found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        status = self.statuses.get(native, Status.UNKNOWN)
        if status is Status.UNKNOWN:
            raise SolverError(f"HiGHS stopped with {native}")
        if status is Status.FEASIBLE and not found:
            status = Status.UNKNOWN
        x = np.array(solver.getSolution().col_value) if found and status is not Status.INFEASIBLE else None
        return MipResult(status, x, float(info.mip_dual_bound) if mip.integer.any() else float("-inf"))


def _model(mip: Mip) -> Any:
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(mip.cost), len(mip.row_lower)
    model.col_cost_, model.offset_ = mip.cost, mip.offset
    model.col_lower_, model.col_upper_ = mip.column_lower, mip.column_upper
    model.row_lower_, model.row_upper_ = mip.row_lower, mip.row_upper
    matrix = model.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.start_, matrix.index_, matrix.value_ = mip.start, mip.columns, mip.values
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    model.integrality_ = [kinds[int(flag)] for flag in mip.integer]
    return model
