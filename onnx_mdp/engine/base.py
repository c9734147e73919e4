"""The seam to whatever measures: models in, timings out, and a failure is a value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx_mdp.runtime.base import Feeds, Fingerprint, Kernel, RuntimeSpec

Model = tuple[str | bytes, Feeds]


@dataclass(frozen=True)
class Timing:
    """The latency of one run of a model.

    Attributes:
        ms: median milliseconds by the clock to trust, at the canary's reference speed.
        wall_ms: median wall milliseconds, as they were.
        precision: half-width of the 95 % interval around `ms`, as a share of it.
        count: passes.
    """

    ms: float
    wall_ms: float
    precision: float
    count: int


@dataclass(frozen=True)
class Failure:
    """Why a model was not measured."""

    reason: str


@dataclass(frozen=True)
class Duel:
    """Two models run in turn on the same inputs.

    Attributes:
        wall: median wall milliseconds of the first and the second.
        busy: the same by the session's own clock.
        wall_ratio: median ratio of the second to the first in the same turn, in wall time.
        busy_ratio: the same by the session's own clock.
        precision: half-width of the 95 % interval around the ratio by the clock to trust, as a share of it.
        rounds: turns.
        note: what the user should know about how the first one is run; see `onnx_mdp.runtime.base.Session`.
    """

    wall: tuple[float, float]
    busy: tuple[float, float]
    wall_ratio: float
    busy_ratio: float
    precision: float
    rounds: int
    note: str = ""


@dataclass(frozen=True)
class Asked:
    """How exactly to measure.

    Attributes:
        precision: half-width of the 95 % interval to reach, as a share of the latency.
        passes: fewest passes of each model, and the most that are spent on reaching the precision.
        seconds: of each pass of each model.
        canary_ms: the canary's reference time; None to take the first one as the reference.
    """

    precision: float = 0.02
    passes: tuple[int, int] = (5, 15)
    seconds: float = 0.003
    canary_ms: float | None = None


@dataclass(frozen=True)
class Facts:
    """What the measuring process says of its runtime: see `onnx_mdp.runtime.base.Runtime`."""

    fingerprint: Fingerprint
    profiles: bool
    trusts_busy: bool


class Engine(ABC):
    """Measures models on one kind of device. Closing it ends its processes."""

    spec: RuntimeSpec
    facts: Facts

    @property
    def fingerprint(self) -> Fingerprint:
        """The device and runtime that are measured."""
        return self.facts.fingerprint

    @property
    def width(self) -> int:
        """How many measurements can run at once, on as many machines."""
        return 1

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the machines."""
        return ()

    @property
    def profiles(self) -> bool:
        """Whether `profile` can be asked."""
        return self.facts.profiles

    @abstractmethod
    def time(self, models: Sequence[Model], asked: Asked) -> list[Timing | Failure]:
        """Time models in turn with a canary; one that crashes, hangs or does not fit in memory is a failure."""

    def time_all(self, chunks: Iterable[Mapping[str, Model]], asked: Asked) -> Iterator[dict[str, Timing | Failure]]:
        """Time chunks of models, each chunk as `time` does; yields timings by name as soon as they are known.

        Chunks are taken as they are needed. One that is taken may be dropped by the caller's iterator when it is asked
        for the next: engines that hold several keep what they need of them.
        """
        for chunk in chunks:
            yield dict(zip(chunk, self.time(list(chunk.values()), asked), strict=True))

    @abstractmethod
    def canary_ms(self) -> float:
        """The canary's present time in milliseconds."""

    @abstractmethod
    def duel(self, first: Model, second: Model, seconds: tuple[float, float], precision: float) -> Duel:
        """Compare two models, for between `seconds[0]` and `seconds[1]` seconds, until the ratio is that precise.

        Raises:
            RuntimeBackendError: one of them does not run.
        """

    @abstractmethod
    def profile(self, model: Model, runs: int) -> list[Kernel]:
        """The kernels of a model, timed over some runs.

        Raises:
            RuntimeBackendError: the model does not run, or the runtime has no profile.
        """

    @abstractmethod
    def renew(self) -> None:
        """Go on in a new process.

        Where memory happens to lie makes the latencies of one process differ from another's by a percent or more.
        """

    @abstractmethod
    def close(self) -> None:
        """End the processes."""
