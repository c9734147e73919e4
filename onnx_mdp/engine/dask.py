"""Measures on a Dask cluster of like machines. The only home of `distributed`.

Every worker measures in a process of its own below it, as `LocalEngine` does here, so that a model that crashes the
runtime costs its own entry only. What a worker was measuring when it was lost is measured again on another one.

Measurements on one machine would disturb each other, so one runs per host at a time. Workers that declare the resource
`onnx-mdp`, as `dask worker --resources onnx-mdp=1` does, are taken at their word that they have cores of their own.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Client, Future, wait

from onnx_mdp.engine.base import Asked, Duel, Engine, Facts, Failure, Model, Timing
from onnx_mdp.engine.local import LocalEngine
from onnx_mdp.errors import MdpError, RuntimeBackendError, WorkerError
from onnx_mdp.graph.load import load
from onnx_mdp.graph.weights import is_large
from onnx_mdp.runtime.base import Fingerprint, Kernel, RuntimeSpec

RESOURCE = "onnx-mdp"
_CONNECT = 10.0  # seconds that the scheduler has to answer
_ANNOUNCE = 120.0  # seconds that a worker has to start its runtime
_PATIENCE = 60.0  # seconds to wait for a worker to come back when none is left
_POLL = 0.2  # seconds between looks at which workers are alive
_TRIES = 3  # workers that may be lost with one measurement

# In the worker processes -------------------------------------------------------------------------------------------

_ENGINES: dict[RuntimeSpec, LocalEngine] = {}
_LOCK = threading.Lock()


def measure(spec: RuntimeSpec, method: str, arguments: tuple[Any, ...]) -> Any:
    """What the worker's engine answers, or the error it raises: tasks themselves fail only if the worker does."""
    with _LOCK:
        try:
            if spec not in _ENGINES:
                _ENGINES[spec] = LocalEngine(spec)
            engine = _ENGINES[spec]
            return engine.facts if method == "facts" else getattr(engine, method)(*arguments)
        except MdpError as error:
            return error


def release(spec: RuntimeSpec) -> None:
    """End the measuring process of the worker, unless it measures: a call cannot be taken back, it ends by itself."""
    if spec in _ENGINES and _LOCK.acquire(blocking=False):
        with contextlib.closing(_ENGINES.pop(spec)):
            _LOCK.release()


# In the process that runs the fill ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """A call that runs on a worker."""

    future: Future
    address: str

    def answer(self, alive: Iterable[str]) -> tuple[bool, Any]:
        """Whether it is over, and what came of it; an exception if its worker is lost."""
        if not self.future.done():
            if self.address in alive:
                return False, None
            self.future.cancel()
            return True, ConnectionError(f"{self.address} is gone")
        try:
            return True, self.future.result(timeout=_CONNECT)
        except (Exception, CancelledError) as error:  # of any kind that Dask makes of a lost worker
            return True, error


class _Cluster:
    """The workers of a cluster, those among them that are like, and what keeps the others out."""

    def __init__(self, address: str, spec: RuntimeSpec, like: Fingerprint | None) -> None:
        self._address = address
        self._spec = spec
        self._client = _connect(address)
        self._known: dict[str, Facts | str] = {}
        try:
            self._announce(list(self.workers()))
            self.facts = self._shared(like)
        except MdpError:
            self.close()
            raise

    def workers(self) -> Mapping[str, Mapping[str, Any]]:
        """All workers that are alive."""
        found: Mapping[str, Mapping[str, Any]] | None = self._client.scheduler_info(n_workers=-1).get("workers")
        if found is None or self._client.status == "closed":
            raise WorkerError(f"--cluster {self._address}: the scheduler is gone; {_AGAIN}")
        return found

    def stations(self) -> dict[str, str]:
        """One like worker for each place where one measurement may run; waits for one if there is none.

        Raises:
            WorkerError: there is still none.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            workers = self.workers()
            self._announce([address for address in workers if address not in self._known])
            like = {address: info for address, info in workers.items() if self._known.get(address) == self.facts}
            found: dict[str, str] = {}
            for address, info in like.items():
                found.setdefault(address if RESOURCE in info.get("resources", {}) else info["host"], address)
            if found:
                return found
            if time.monotonic() > deadline:
                raise WorkerError(
                    f"--cluster {self._address}: no worker is left for {self.facts.fingerprint}; {_AGAIN}"
                )
            time.sleep(_POLL)

    def others(self) -> dict[str, str]:
        """Why workers are not used, by address."""
        found = {}
        for address, facts in self._known.items():
            if isinstance(facts, str):
                found[address] = facts
            elif facts != self.facts:
                found[address] = f"it is another device, {facts.fingerprint}"
        return found

    def start(self, address: str, method: str, arguments: tuple[Any, ...]) -> _Task:
        """Call a method of the engine of a worker."""
        with warnings.catch_warnings():  # models are as large as they are
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            future = self._client.submit(
                measure, self._spec, method, arguments, workers=[address], allow_other_workers=False, pure=False
            )
        return _Task(future, address)

    def wait(self, tasks: Iterable[_Task]) -> None:
        """Wait a little for one of some tasks to be over."""
        with self._client.as_current(), contextlib.suppress(TimeoutError, CancelledError):
            wait([task.future for task in tasks], timeout=_POLL, return_when="FIRST_COMPLETED")

    def close(self) -> None:
        """End the measuring processes and the connection."""
        with contextlib.suppress(WorkerError):
            alive = [address for address in self.workers() if address in self._known]
            if alive:
                self._client.run(release, self._spec, workers=alive, on_error="return")
        self._client.close()

    def _announce(self, addresses: Sequence[str]) -> None:
        """Let workers tell what they are."""
        tasks = {address: self.start(address, "facts", ()) for address in addresses}
        deadline = time.monotonic() + _ANNOUNCE
        while tasks:
            alive = self.workers()
            for address, task in list(tasks.items()):
                done, answer = task.answer(alive)
                if done:
                    self._known[address] = answer if isinstance(answer, Facts) else _reason(answer)
                    del tasks[address]
            if time.monotonic() > deadline:
                self._known |= dict.fromkeys(tasks, f"it did not answer within {_ANNOUNCE:.0f} s")
                return
            time.sleep(_POLL / 4)

    def _shared(self, like: Fingerprint | None) -> Facts:
        """The facts to measure for: this machine's if a worker has them, else those of most workers."""
        announced = [facts for facts in self._known.values() if isinstance(facts, Facts)]
        if not announced:
            why = "; ".join(f"{address}: {reason}" for address, reason in self._known.items()) or "it has none"
            raise RuntimeBackendError(f"--cluster {self._address}: no worker can measure: {why}")
        same = [facts for facts in announced if facts.fingerprint == like]
        counts = Counter(same or announced)
        return min(counts, key=lambda facts: (-counts[facts], str(facts.fingerprint)))


_AGAIN = "finished measurements are kept: start workers with `dask worker ADDRESS` and run the same command again"


class _Connection(Client):  # type: ignore[misc]  # distributed has no types
    """A client that is closed if it cannot connect.

    `distributed` leaves that to the finalizer, which deadlocks if the garbage collector runs while another client is
    being made: it waits for the lock that its own thread holds.
    """

    def __init__(self, address: str) -> None:
        try:
            super().__init__(address, timeout=_CONNECT, set_as_default=False, name="onnx-mdp")
        except BaseException:
            self.close()
            raise


def _connect(address: str) -> Client:
    try:
        return _Connection(address)
    except (OSError, ValueError) as error:
        raise RuntimeBackendError(
            f"--cluster {address}: no Dask scheduler answers ({_reason(error)}); start one with `dask scheduler` and "
            "give the address it prints, such as tcp://10.0.0.1:8786"
        ) from error


def _reason(error: object) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


@dataclass
class _Job:
    """Models that are timed together, and how many workers were lost with them."""

    models: Mapping[str, Model]
    losses: int = 0


class DaskEngine(Engine):
    """The like workers of a Dask cluster.

    Args:
        address: the scheduler's.
        spec: the runtime to measure on.
        like: the fingerprint to prefer: this machine's.

    Raises:
        RuntimeBackendError: there is no scheduler, or no worker that can measure.
    """

    def __init__(self, address: str, spec: RuntimeSpec, like: Fingerprint | None = None) -> None:
        self.spec = spec
        self._cluster = _Cluster(address, spec, like)
        self.facts: Facts = self._cluster.facts
        self._file: tuple[str, bytes] = ("", b"")

    @property
    def width(self) -> int:
        """How many measurements can run at once."""
        return len(self._cluster.stations())

    @property
    def warnings(self) -> tuple[str, ...]:
        """The workers that are not used, and why."""
        return tuple(f"worker {address} is not used: {why}" for address, why in self._cluster.others().items())

    def time(self, models: Sequence[Model], asked: Asked) -> list[Timing | Failure]:
        """Time models on one worker."""
        named = {str(i): model for i, model in enumerate(models)}
        found: dict[str, Timing | Failure] = {}
        for part in self.time_all([named], asked):
            found |= part
        return [found[name] for name in named]

    def time_all(self, chunks: Iterable[Mapping[str, Model]], asked: Asked) -> Iterator[dict[str, Timing | Failure]]:
        """Time chunks of models on all stations at once; what a lost worker was timing goes to another."""
        source = iter(chunks)
        waiting: deque[_Job] = deque()
        running: dict[str, tuple[_Task, _Job]] = {}
        try:
            while True:
                self._occupy(running, waiting, source, asked)
                if not running:
                    return
                yield from self._collect(running, waiting)
        finally:
            for task, _ in running.values():
                task.future.cancel()

    def canary_ms(self) -> float:
        """The canary's present time on one worker."""
        return float(self._call("canary_ms"))

    def duel(self, first: Model, second: Model, seconds: tuple[float, float], precision: float) -> Duel:
        """Compare two models on one worker."""
        pair = [(self._portable(model), feeds) for model, feeds in (first, second)]
        result: Duel = self._call("duel", *pair, seconds, precision)
        return result

    def profile(self, model: Model, runs: int) -> list[Kernel]:
        """Profile a model on one worker."""
        result: list[Kernel] = self._call("profile", (self._portable(model[0]), model[1]), runs)
        return result

    def renew(self) -> None:
        """Let the worker that compares whole models go on in a new process."""
        self._call("renew")

    def close(self) -> None:
        """End the measuring processes on the workers; the workers stay."""
        self._cluster.close()

    def _occupy(
        self,
        running: dict[str, tuple[_Task, _Job]],
        waiting: deque[_Job],
        source: Iterator[Mapping[str, Model]],
        asked: Asked,
    ) -> None:
        """Give every free station something to do."""
        for place, address in self._cluster.stations().items():
            if place in running:
                continue
            if not waiting:
                waiting.extend(_Job(chunk) for chunk in _first(source))
            if not waiting:
                return
            job = waiting.popleft()
            models = [(model, feeds) for model, feeds in job.models.values() if isinstance(model, bytes)]
            running[place] = self._cluster.start(address, "time", (models, asked)), job

    def _collect(
        self, running: dict[str, tuple[_Task, _Job]], waiting: deque[_Job]
    ) -> Iterator[dict[str, Timing | Failure]]:
        """What is finished by now; waits a little for something to finish."""
        self._cluster.wait(task for task, _ in running.values())
        alive = self._cluster.workers()
        for place, (task, job) in list(running.items()):
            done, answer = task.answer(alive)
            if not done:
                continue
            del running[place]
            if isinstance(answer, list):
                yield _named(job, answer)
            elif isinstance(answer, MdpError):
                raise answer
            elif job.losses + 1 < _TRIES:
                waiting.extendleft(_again(job))
            else:
                reason = f"{job.losses + 1} workers were lost while it was measured, the last: {_reason(answer)}"
                yield dict.fromkeys(job.models, Failure(reason))

    def _call(self, method: str, *arguments: Any) -> Any:
        """What a worker answers; asked again of another one if it is lost."""
        answer: Any = None
        for _ in range(_TRIES):
            task = self._cluster.start(min(self._cluster.stations().items())[1], method, arguments)
            done = False
            while not done:
                self._cluster.wait([task])
                done, answer = task.answer(self._cluster.workers())
            if isinstance(answer, MdpError):
                raise answer
            if not isinstance(answer, BaseException):
                return answer
        raise WorkerError(f"{_TRIES} workers were lost while they measured a whole model, the last: {_reason(answer)}")

    def _portable(self, model: str | bytes) -> bytes:
        """A model as it can be sent: the bytes of a file, with the weights that lie beside it."""
        if isinstance(model, bytes):
            return model
        if self._file[0] != model:
            source, proto = load(model)
            if is_large(proto):
                raise RuntimeBackendError(
                    f"{source.name}: {source.size / 1e9:.1f} GB are too much to be sent to workers; run this on a "
                    "machine like them without --cluster"
                )
            self._file = model, proto.SerializeToString() if source.external else Path(model).read_bytes()
        return self._file[1]


def _first(source: Iterator[Mapping[str, Model]]) -> list[Mapping[str, Model]]:
    """The next chunk, if there is one."""
    chunk = next(source, None)
    return [] if chunk is None else [chunk]


def _again(job: _Job) -> list[_Job]:
    """What to do of a job whose worker was lost: the same, then its models one by one, lest one take all along."""
    if job.losses == 0 or len(job.models) == 1:
        return [_Job(job.models, job.losses + 1)]
    return [_Job({name: model}, 1) for name, model in job.models.items()]


def _named(job: _Job, timings: Sequence[Timing | Failure]) -> dict[str, Timing | Failure]:
    """Timings by the models' names; those that are files were too large to be sent."""
    found = iter(timings)
    unsent = Failure("more than 1 GB: too large to be sent to a worker; measure it on the device without --cluster")
    return {n: next(found) if isinstance(model, bytes) else unsent for n, (model, _) in job.models.items()}
