"""Measures in a worker process on this machine, which may crash, hang or run out of memory."""

from __future__ import annotations

import contextlib
import pickle
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from onnx_mdp.engine.base import Asked, Duel, Engine, Facts, Failure, Model, Timing
from onnx_mdp.errors import MdpError, WorkerError
from onnx_mdp.runtime.base import Kernel, RuntimeSpec

TIMEOUT = 180.0  # seconds of one call


class LocalEngine(Engine):
    """One worker process, started again after it failed.

    Args:
        spec: the runtime to measure on.
        timeout: seconds after which a call counts as hanging.

    Raises:
        OptionError, RuntimeBackendError: the runtime does not exist or is not installed.
    """

    def __init__(self, spec: RuntimeSpec, timeout: float = TIMEOUT) -> None:
        self.spec = spec
        self._timeout = timeout
        self._worker: _Worker | None = None
        self.facts: Facts = self._started().facts

    def time(self, models: Sequence[Model], asked: Asked) -> list[Timing | Failure]:
        """Time models together; if that fails, one by one, each tried twice."""
        try:
            return list(self._call("time", models, asked))
        except WorkerError:
            return [self._alone(model, asked) for model in models]

    def canary_ms(self) -> float:
        """The canary's present time in milliseconds."""
        return float(self._twice("canary_ms"))

    def duel(self, first: Model, second: Model, seconds: tuple[float, float], precision: float) -> Duel:
        """Compare two models in the worker; tried twice."""
        result: Duel = self._twice("duel", first, second, seconds, precision)
        return result

    def profile(self, model: Model, runs: int) -> list[Kernel]:
        """Profile a model in the worker; tried twice."""
        result: list[Kernel] = self._twice("profile", model, runs)
        return result

    @property
    def pid(self) -> int:
        """Process number of the worker, which is started if it does not run."""
        return self._started().pid

    def renew(self) -> None:
        """End the worker; the next call starts another."""
        self.close()

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _alone(self, model: Model, asked: Asked) -> Timing | Failure:
        try:
            found: list[Timing | Failure] = self._twice("time", [model], asked)
        except WorkerError as error:
            return Failure(str(error))
        return found[0]

    def _twice(self, method: str, *arguments: object) -> Any:
        try:
            return self._call(method, *arguments)
        except WorkerError:
            return self._call(method, *arguments)

    def _call(self, method: str, *arguments: object) -> Any:
        worker = self._started()
        try:
            return worker.call(self._timeout, method, *arguments)
        except WorkerError:
            self.close()
            raise

    def _started(self) -> _Worker:
        if self._worker is None:
            self._worker = _Worker(self.spec, self._timeout)
        return self._worker


class _Worker:
    """A running worker process and the thread that reads its answers."""

    def __init__(self, spec: RuntimeSpec, timeout: float) -> None:
        command = [sys.executable, "-m", "onnx_mdp.engine.worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._reader = threading.Thread(target=_read, args=(self._process, self._answers), daemon=True)
        self._reader.start()
        self._end = weakref.finalize(self, _end, self._process, self._reader)
        try:
            self.facts: Facts = self.call(timeout, "start", spec)
        except MdpError:
            self.end()
            raise

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    def call(self, timeout: float, method: str, *arguments: object) -> Any:
        """The result of a station's method.

        Raises:
            WorkerError: the process ended or did not answer in time.
            MdpError: what the method raised.
        """
        try:
            pickle.dump((method, arguments), self._stdin, protocol=5)
            self._stdin.flush()
        except OSError as error:
            raise WorkerError(self._ended()) from error
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise WorkerError(f"no answer within {timeout:.0f} s: the runtime hangs") from None
        if isinstance(answer, EOFError):
            raise WorkerError(self._ended()) from None
        if isinstance(answer, MdpError):
            raise answer
        return answer

    def end(self) -> None:
        """Kill the process, if it still runs."""
        self._end()

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    def _ended(self) -> str:
        status = self._process.wait()
        if status == -9:
            return "the process was killed: it may have run out of memory"
        return f"the runtime crashed: signal {-status}" if status < 0 else f"the process ended with status {status}"


def _read(process: subprocess.Popen[bytes], answers: queue.SimpleQueue[object]) -> None:
    """Collect answers until the process ends."""
    while True:
        try:
            answers.put(pickle.load(process.stdout))  # type: ignore[arg-type]
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            answers.put(EOFError())
            return


def _end(process: subprocess.Popen[bytes], reader: threading.Thread) -> None:
    """Kill the process; also called when the engine is collected or the interpreter exits."""
    process.kill()
    process.wait()
    reader.join()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # half a call may still be in the buffer
            if stream is not None:
                stream.close()
