"""Filling a latency table on a Dask cluster: real worker processes, one of which is killed while it measures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_mdp.engine.base import Asked, Failure, Timing
from onnx_mdp.engine.registry import open_engine
from onnx_mdp.errors import RuntimeBackendError, WorkerError
from onnx_mdp.graph.sample import matmul_chain
from onnx_mdp.latency.lut import LatencyTable
from onnx_mdp.latency.measure import Meter
from onnx_mdp.runtime.base import Fingerprint, RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime
from tests.cli.test_cli import run
from tests.conftest import build_model

distributed = pytest.importorskip("distributed", reason="dask[distributed] is not installed")

QUICK = Asked(passes=(3, 5), seconds=0.002)
# A worker of other hardware, as far as it and its measuring process can tell: python imports this before all else.
OTHER = "import onnx_mdp.runtime.base as base; base.cpu_model = lambda: 'another processor'"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three worker processes that each say they have cores of their own."""
    with distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, resources={"onnx-mdp": 1}, dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        client.wait_for_workers(3, timeout=60)
        yield client


def chains(count: int) -> dict[str, Any]:
    return {f"chain {width}": partial(matmul_chain, width) for width in range(16, 16 + count)}


def test_a_worker_that_is_killed_loses_only_what_it_was_measuring(cluster: Any, client: Any, tmp_path: Path) -> None:
    """SIGKILL of one of three workers midway: the fill still ends with every entry, each stored once."""
    requests = chains(120)
    pids = client.run(os.getpid)
    seen: list[int] = []
    victims: list[str] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        busy = [address for address, tasks in client.processing().items() if tasks]
        if done and busy and not victims:
            victims.append(busy[0])
            os.kill(pids[busy[0]], signal.SIGKILL)

    with closing(open_engine(RuntimeSpec(), cluster.scheduler_address)) as engine:
        assert engine.width == 3
        with closing(LatencyTable(tmp_path / "lut.sqlite", engine.fingerprint)) as table:
            meter = Meter(engine, table)
            meter.fill(requests, progress)
            times = {text: meter.latency(text) for text in requests}
        assert len(victims) == 1, "no worker was busy when the first chunk came back"
        assert victims[0] not in client.run(os.getpid), "the worker was not killed"
    assert seen[-1] == len(requests)
    assert meter.failed == {}
    assert meter.measured == len(requests)
    assert all(times.values())
    low, high = times["chain 16"], times["chain 135"]
    assert low is not None
    assert high is not None
    assert high > 2 * low, "times do not follow the models that were sent"


def test_several_chunks_are_in_flight_and_one_per_worker(cluster: Any, client: Any) -> None:
    """Chunks are taken from the source before the first is finished, but never more than there are workers."""
    taken: list[int] = []
    finished: list[int] = []

    def source() -> Iterator[dict[str, Any]]:
        for number in range(9):
            taken.append(number)
            assert len(taken) - len(finished) <= 3
            model, feeds = matmul_chain(32 + number)
            yield {f"chunk {number}": (model.SerializeToString(), feeds)}

    together = 0
    with closing(open_engine(RuntimeSpec(), cluster.scheduler_address)) as engine:
        for part in engine.time_all(source(), QUICK):
            together = max(together, len(taken) - len(finished))
            finished.append(int(next(iter(part)).split()[1]))
    assert sorted(finished) == list(range(9))
    assert together == 3


def test_a_model_that_cannot_run_costs_only_its_own_entry(cluster: Any, client: Any) -> None:
    good, feeds = matmul_chain(32)
    gather = helper.make_node("Gather", ["table", "at"], ["y"])
    bad = build_model([gather], {"table": (4, 4)}, ["y"], {"at": np.array([9])})
    models = [(good.SerializeToString(), feeds), (bad.SerializeToString(), {"table": np.zeros((4, 4), np.float32)})]
    with closing(open_engine(RuntimeSpec(), cluster.scheduler_address)) as engine:
        first, second = engine.time(models, QUICK)
    assert isinstance(first, Timing)
    assert isinstance(second, Failure)


def test_the_rest_of_the_seam(cluster: Any, client: Any, tmp_path: Path) -> None:
    """Canary, duel and profile; a model given by its file is sent with the weights that lie beside it."""
    path = tmp_path / "chain.onnx"
    model, feeds = matmul_chain(64)
    onnx.save(model, str(path), save_as_external_data=True, size_threshold=0, location="chain.data")
    larger, fed = matmul_chain(128)
    with closing(open_engine(RuntimeSpec(), cluster.scheduler_address)) as engine:
        assert engine.canary_ms() > 0
        duel = engine.duel((str(path), feeds), (larger.SerializeToString(), fed), (0.2, 0.4), 0.05)
        assert duel.busy_ratio > 1.5
        assert {kernel.op for kernel in engine.profile((str(path), feeds), 3)} >= {"MatMul"}
        with pytest.raises(RuntimeBackendError, match="does not load"):
            engine.duel((b"no model", {}), (b"no model", {}), (0.2, 0.4), 0.05)


def test_only_workers_with_one_fingerprint_share_a_table(cluster: Any, client: Any, tmp_path: Path) -> None:
    """One worker runs on other hardware, for all it knows; it is named and not used, unless it is the one like us."""
    (tmp_path / "sitecustomize.py").write_text(OTHER)
    scheduler = cluster.scheduler_address
    here = open_runtime(RuntimeSpec()).fingerprint
    command = [sys.executable, "-m", "dask", "worker", scheduler, "--no-nanny", "--no-dashboard"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    odd = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL)
    try:
        client.wait_for_workers(4, timeout=60)
        with closing(open_engine(RuntimeSpec(), scheduler, here)) as engine:
            assert engine.fingerprint == here
            assert engine.width == 3
            (warning,) = engine.warnings
        assert "is not used: it is another device, onnxruntime" in warning
        assert "another processor" in warning
        elsewhere = Fingerprint(here.runtime, here.version, "another processor", 1)
        with closing(open_engine(RuntimeSpec(), scheduler, elsewhere)) as engine:
            assert engine.fingerprint == elsewhere
            assert (engine.width, len(engine.warnings)) == (1, 3)
        nowhere = Fingerprint(here.runtime, here.version, "a third one", 1)
        with closing(open_engine(RuntimeSpec(), scheduler, nowhere)) as engine:
            assert engine.fingerprint == here, "most workers decide"
    finally:
        odd.kill()
        odd.wait()


def test_a_cluster_that_is_not_there(cluster: Any) -> None:
    with pytest.raises(RuntimeBackendError, match=r"--cluster tcp://127\.0\.0\.1:9: no Dask scheduler answers"):
        open_engine(RuntimeSpec(), "tcp://127.0.0.1:9")
    with pytest.raises(RuntimeBackendError, match=r"--cluster here: no Dask scheduler answers"):
        open_engine(RuntimeSpec(), "here")


def test_a_cluster_without_workers(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    command = [
        sys.executable,
        "-m",
        "dask",
        "scheduler",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(file),
    ]
    scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with distributed.Client(scheduler_file=str(file), set_as_default=False, timeout=60) as client:
            address = client.scheduler.address
        with pytest.raises(RuntimeBackendError, match=r"--cluster tcp://.*: no worker can measure: it has none"):
            open_engine(RuntimeSpec(), address)
    finally:
        scheduler.kill()
        scheduler.wait()


def test_one_measurement_per_machine_unless_workers_say_otherwise() -> None:
    """Two workers of one host without the resource are one station."""
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        closing(open_engine(RuntimeSpec(), cluster.scheduler_address)) as engine,
    ):
        assert engine.width == 1


def test_the_commands_measure_on_the_cluster(
    capsys: pytest.CaptureFixture[str], cluster: Any, client: Any, vit: Path, tmp_path: Path
) -> None:
    """Everything is measured by the workers, the comparison of whole models included."""
    options = ("--cluster", cluster.scheduler_address, "--lut", tmp_path / "lut.sqlite")
    status, out, err = run(capsys, "profile", vit, *options, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["table"]["measured"] > 100
    assert found["failed"] == {}
    assert abs(found["difference"]) < 0.5
    files = ("-o", tmp_path / "o.onnx", "--report", tmp_path / "r.json")
    status, _, err = run(capsys, "prune", vit, *options, "--latency", "75%", *files)
    assert status == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["device"] == found["device"]
    assert report["latency"]["ratio"] <= 0.75
    assert (tmp_path / "o.onnx").exists()


def test_a_cluster_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str], vit: Path, tmp_path: Path) -> None:
    status, out, err = run(capsys, "profile", vit, "--cluster", "nowhere", "--lut", tmp_path / "lut.sqlite", "-q")
    assert (status, out) == (1, "")
    assert err.startswith("error: --cluster nowhere: no Dask scheduler answers")
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("lost", "message"), [("scheduler", "the scheduler is gone"), ("worker", "no worker is left for onnxruntime")]
)
def test_what_is_lost_for_good_ends_the_fill_with_the_remedy(
    lost: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither comes back: the fill ends, and what was finished is in the table."""
    monkeypatch.setattr("onnx_mdp.engine.dask._PATIENCE", 3.0)
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    options = ["--no-dashboard", "--scheduler-file", str(file)]
    quiet = {"stderr": subprocess.DEVNULL}
    running = {"scheduler": subprocess.Popen([*dask, "scheduler", "--port", "0", *options], **quiet)}
    running["worker"] = subprocess.Popen([*dask, "worker", "--no-nanny", "--nthreads", "1", *options], **quiet)
    try:
        with distributed.Client(scheduler_file=str(file), set_as_default=False, timeout=60) as client:
            client.wait_for_workers(1, timeout=60)
            address = client.scheduler.address
        seen: list[int] = []

        def progress(done: int, total: int) -> None:
            seen.append(done)
            if done:
                running[lost].kill()

        path = tmp_path / "lut.sqlite"
        with closing(open_engine(RuntimeSpec(), address)) as engine:
            with (
                closing(LatencyTable(path, engine.fingerprint)) as table,
                pytest.raises(WorkerError, match=rf"--cluster tcp://.*: {message}.*finished measurements are kept"),
            ):
                Meter(engine, table).fill(chains(60), progress)
            with closing(LatencyTable(path, engine.fingerprint)) as table:
                assert len(table) == seen[-1] + 1, "the finished entries and the canary"
    finally:
        for process in running.values():
            process.kill()
            process.wait()
