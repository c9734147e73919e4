"""What can go wrong.

    MdpError                     anything the user can act on: printed in one line, exit status 1
    ├── ModelError               the model file
    │   ├── NotOnnxError         not an ONNX model, or cut short
    │   ├── ExternalDataError    its weights lie in a file that is missing or too short
    │   ├── DynamicShapeError    an input dimension has no size
    │   └── NothingToPruneError  every axis is locked
    ├── InputError               calibration inputs do not fit the model
    ├── EvaluationError          the accuracy of a model cannot be measured
    ├── OptionError              an option's value, or options that exclude each other
    │   └── UnknownNameError     the model has nothing of that name
    ├── OutputError              the result cannot be written
    ├── BudgetError              no plan reaches the budget
    ├── PlanError                a plan does not fit the model
    ├── ProofError               the cut model differs from the masked original
    ├── RuntimeBackendError      a runtime cannot load or run a model
    │   └── WorkerError          the process that measures crashed, hung or ran out of memory
    ├── ProblemError             a program is malformed
    ├── SolverError              a solver failed
    │   ├── SolverMissingError   it is not installed
    │   └── SolverLicenseError   its licence does not admit the problem
    └── LutError                 the latency look-up table file

Every message carries the value, the place and the remedy. Anything that is not an `MdpError` is a bug and keeps
its traceback.
"""

from __future__ import annotations


class MdpError(Exception):
    """Base of every error the user can act on."""


class ModelError(MdpError):
    """The model file cannot be used."""


class NotOnnxError(ModelError):
    """The file is no ONNX model, or is cut short."""


class ExternalDataError(ModelError):
    """A weight's external data file is missing or too short."""


class DynamicShapeError(ModelError):
    """An input dimension has no size."""


class NothingToPruneError(ModelError):
    """Every axis of the model is locked."""


class InputError(MdpError):
    """Calibration inputs do not fit the model."""


class EvaluationError(MdpError):
    """The accuracy of a model cannot be measured: a function of the user fails, or labels do not fit the model."""


class OptionError(MdpError):
    """An option's value is malformed, or two options exclude each other."""


class UnknownNameError(OptionError):
    """The model has no tensor, group or locked dimension of the asked name."""


class OutputError(MdpError):
    """The result cannot be written where it was asked for."""


class BudgetError(MdpError):
    """No plan reaches the budget."""


class PlanError(MdpError):
    """A plan does not fit the model it is applied to."""


class ProofError(MdpError):
    """The cut model differs from the masked original."""


class RuntimeBackendError(MdpError):
    """A runtime cannot load or run a model."""


class WorkerError(RuntimeBackendError):
    """The process that measures crashed, hung or ran out of memory."""


class ProblemError(MdpError):
    """A program is malformed, or its file is."""


class SolverError(MdpError):
    """A solver failed."""


class SolverMissingError(SolverError):
    """The solver is not installed."""


class SolverLicenseError(SolverError):
    """The solver's licence does not admit the problem."""


class LutError(MdpError):
    """The latency look-up table file cannot be used."""
