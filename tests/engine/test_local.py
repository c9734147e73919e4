"""The measuring process may crash, hang or run out of memory: the run goes on and knows why."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node as node

from onnx_mdp.engine.base import Asked, Failure, Model, Timing
from onnx_mdp.engine.local import LocalEngine
from onnx_mdp.errors import OptionError, RuntimeBackendError, WorkerError
from onnx_mdp.graph.sample import conv_chain, matmul_chain
from onnx_mdp.runtime.base import RuntimeSpec
from tests.conftest import build_model

FEW = Asked(precision=1.0, passes=(2, 2), seconds=0.001)


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    running = LocalEngine(RuntimeSpec(), timeout=20)
    yield running
    running.close()


def model(width: int = 32) -> Model:
    built, feeds = matmul_chain(width)
    return built.SerializeToString(), feeds


def huge() -> Model:
    """Asks for eight terabytes when it runs."""
    nodes = [
        node("ConstantOfShape", ["shape"], ["big"]),
        node("ReduceSum", ["big"], ["s"]),
        node("Add", ["x", "s"], ["y"]),
    ]
    built = build_model(nodes, {"x": (1, 1)}, ["y"], {"shape": np.array([1 << 41], np.int64)})
    return built.SerializeToString(), {"x": np.zeros((1, 1), np.float32)}


def fifo(folder: Path) -> Model:
    """A file that never ends to be read: a runtime that opens it hangs."""
    path = folder / "endless.onnx"
    os.mkfifo(path)
    return str(path), {}


def test_wider_models_take_longer(engine: LocalEngine) -> None:
    narrow, wide = engine.time([model(32), model(256)], Asked())
    assert isinstance(narrow, Timing)
    assert isinstance(wide, Timing)
    assert wide.ms > 2 * narrow.ms > 0
    assert 5 <= wide.count <= 15
    assert wide.precision >= 0


def test_what_does_not_load_or_fit_is_a_failure_among_timings(engine: LocalEngine) -> None:
    broken: Model = (b"no model", {})
    found = engine.time([model(), broken, huge(), model()], FEW)
    assert [type(result) for result in found] == [Timing, Failure, Failure, Timing]
    assert isinstance(found[1], Failure)
    assert "does not load" in found[1].reason
    assert isinstance(found[2], Failure)
    assert "memory" in found[2].reason or "alloc" in found[2].reason.lower()


def test_a_killed_worker_is_replaced_and_the_models_measured(engine: LocalEngine) -> None:
    first = engine.pid
    threading.Timer(0.3, os.kill, (first, signal.SIGKILL)).start()
    slow = Asked(precision=0.0, passes=(200, 200), seconds=0.002)
    found = engine.time([model(), model()], slow)
    assert all(isinstance(result, Timing) for result in found)
    assert engine.pid != first


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe to hang on")
def test_a_model_that_hangs_is_marked_and_the_rest_measured(tmp_path: Path) -> None:
    engine = LocalEngine(RuntimeSpec(), timeout=2)
    found = engine.time([model(), fifo(tmp_path), model()], FEW)
    engine.close()
    assert [type(result) for result in found] == [Timing, Failure, Timing]
    assert isinstance(found[1], Failure)
    assert "no answer within 2 s" in found[1].reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe to know when the model is being read")
def test_a_model_that_kills_its_process_twice_is_marked(engine: LocalEngine, tmp_path: Path) -> None:
    deadly = fifo(tmp_path)
    killed: list[int] = []

    def kill_readers() -> None:
        for _ in range(3):  # once among the others, twice alone
            with open(str(deadly[0]), "wb"):
                killed.append(engine.pid)
                os.kill(killed[-1], signal.SIGKILL)
            while engine._worker is not None and engine.pid == killed[-1]:
                threading.Event().wait(0.01)

    threading.Thread(target=kill_readers, daemon=True).start()
    found = engine.time([model(), deadly], FEW)
    assert isinstance(found[0], Timing)
    assert isinstance(found[1], Failure)
    assert "killed" in found[1].reason
    assert len(killed) == 3


def test_duel_finds_the_faster_model(engine: LocalEngine) -> None:
    duel = engine.duel(model(256), model(32), (0.1, 0.3), 0.02)
    assert duel.busy_ratio < 0.5
    assert duel.busy[1] < duel.busy[0]
    assert duel.rounds >= 12
    again = engine.duel(model(256), model(256), (0.1, 0.3), 0.02)
    assert 0.5 < again.busy_ratio < 2


def test_profile_adds_up_to_the_model(engine: LocalEngine) -> None:
    built, feeds = conv_chain(64)
    kernels = engine.profile((built.SerializeToString(), feeds), 5)
    assert sum("Conv" in kernel.op for kernel in kernels) == 3
    assert all(kernel.ms >= 0 for kernel in kernels)


def test_errors_of_the_runtime_cross_the_process(engine: LocalEngine) -> None:
    with pytest.raises(RuntimeBackendError, match="does not load"):
        engine.duel((b"no model", {}), model(), (0.1, 0.1), 0.1)
    with pytest.raises(OptionError, match="choose from"):
        LocalEngine(RuntimeSpec("tpu"))
    assert isinstance(engine.time([model()], FEW)[0], Timing), "the worker survives a refused model"


def test_a_worker_that_never_answers_is_an_error(tmp_path: Path) -> None:
    engine = LocalEngine(RuntimeSpec(), timeout=2)
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs a named pipe to hang on")
    with pytest.raises(WorkerError, match="hangs"):
        engine.duel(fifo(tmp_path), model(), (0.1, 0.1), 0.1)
    engine.close()


def test_the_worker_ends_with_its_engine(engine: LocalEngine) -> None:
    pid = engine.pid
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
