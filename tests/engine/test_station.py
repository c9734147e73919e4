"""Two models in turn: the turns that nothing disturbed are those that count."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from onnx_mdp.engine import pinning
from onnx_mdp.engine.station import Station
from onnx_mdp.graph.sample import matmul_chain
from onnx_mdp.runtime.base import Array, Feeds, RuntimeSpec, Session


class Crowded(Session):
    """Takes its time by a clock of its own, and more of it on cores that something from outside slows down."""

    def __init__(self, ns: int, slowed: float) -> None:
        self.ns, self.slowed = ns, slowed
        self.clock, self.ticks = 0, 0

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Array]:
        return []

    def bind(self, feeds: Feeds) -> None:
        self.feeds = feeds

    def tick(self) -> None:
        self.ticks += 1
        jitter = 1 + 0.001 * (self.ticks % 3)
        self.clock += int(self.ns * jitter * (self.slowed if self.core in CROWDED else 1))

    def busy_ns(self) -> int:
        return self.clock

    @property
    def core(self) -> int:
        return MOVES[-1][0]


@pytest.fixture(autouse=True)
def back() -> Iterator[None]:
    """Whatever a test moves this process to, it is moved back."""
    with pinning.moved_back():
        yield


CROWDED = {0, 1, 3}
MOVES: list[Sequence[int]] = []


@pytest.fixture
def station(monkeypatch: pytest.MonkeyPatch) -> Station:
    MOVES.clear()
    monkeypatch.setattr(pinning, "places", lambda threads, most: [(core,) for core in range(most)])
    monkeypatch.setattr(pinning, "move", lambda cores: MOVES.append(cores) if len(cores) == 1 else None)
    return Station(RuntimeSpec())


def test_turns_on_crowded_cores_do_not_count(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = iter([Crowded(1_000_000, 1.6), Crowded(500_000, 1.9)])
    monkeypatch.setattr(type(station.runtime), "open", lambda self, model: next(sessions))
    duel = station.duel((b"dense", {}), (b"pruned", {}), (1e-6, 1e-5), 0.0)
    assert duel.busy_ratio == pytest.approx(0.5, rel=0.002)
    assert duel.busy == pytest.approx((1.0, 0.5), rel=0.003)
    assert {place[0] for place in MOVES} == {0, 1, 2, 3}
    assert duel.precision < 0.01


def test_a_few_turns_are_enough_of_a_slow_model(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [Crowded(10, 1.0), Crowded(10, 1.0)]
    given = iter(sessions)
    monkeypatch.setattr(type(station.runtime), "open", lambda self, model: next(given))
    duel = station.duel((b"dense", {}), (b"pruned", {}), (0.0, 0.0), 0.0)
    assert duel.rounds == 12
    assert all(session.ticks == 12 + 2 * len(MOVES) for session in sessions)


def test_a_model_against_itself() -> None:
    model, feeds = matmul_chain(64)
    data = model.SerializeToString()
    duel = Station(RuntimeSpec()).duel((data, feeds), (data, feeds), (0.2, 2.0), 0.01)
    assert duel.busy_ratio == pytest.approx(1, abs=0.1)
    assert duel.rounds >= 12


def test_places_share_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinning, "_ALLOWED", {0, 1, 2, 3, 4, 5})
    monkeypatch.setattr(pinning, "_siblings", lambda cpu: {cpu, (cpu + 3) % 6})
    idled = iter([dict.fromkeys(range(6), 0), {0: 5, 1: 9, 2: 7, 3: 1, 4: 9, 5: 9}])
    monkeypatch.setattr(pinning, "_idle", lambda: next(idled))
    found = pinning.places(1, 6)
    assert [place[0] for place in found] == [1, 5, 0, 4, 2, 3], "first threads of cores, then their siblings"


@pytest.mark.parametrize(("threads", "count", "sizes"), [(1, 3, 1), (2, 2, 2), (4, 1, 4), (9, 1, 4)])
def test_places_have_as_many_cores_as_threads(
    monkeypatch: pytest.MonkeyPatch, threads: int, count: int, sizes: int
) -> None:
    monkeypatch.setattr(pinning, "_ALLOWED", {0, 1, 2, 3})
    found = pinning.places(threads, 3)
    assert [len(place) for place in found] == [sizes] * count
    assert len({core for place in found for core in place}) == sizes * count


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system pins no processes")
def test_a_worker_can_be_moved_back() -> None:
    before = os.sched_getaffinity(0)
    pinning.move([min(before)])
    assert os.sched_getaffinity(0) == {min(before)}
    pinning.move(before)
    assert os.sched_getaffinity(0) == before
    pinning.move(())
    assert os.sched_getaffinity(0) == before
