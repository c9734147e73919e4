"""Models beyond protobuf's 2 GiB: what small ones are tested with here, by a lower limit, a real one confirms.

`LARGE` is the size from which weights stay in files and runtimes load paths; lowered, small models take the same way.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data

from onnx_mdp import pipeline
from onnx_mdp.config import ApplyOptions, PruneOptions
from onnx_mdp.errors import ExternalDataError, ModelError, NotOnnxError, OutputError, ProofError
from onnx_mdp.graph import weights
from onnx_mdp.graph.external import loadable
from onnx_mdp.graph.load import load
from onnx_mdp.graph.save import save_model
from onnx_mdp.graph.weights import array, model_bytes, weight_bytes
from onnx_mdp.runtime.base import Runtime
from tests.conftest import build_model
from tests.large.mlp import DATA, write_mlp

WIDTH, HIDDEN, BLOCKS = 128, 256, 3
SIZE = BLOCKS * 4 * (2 * WIDTH * HIDDEN + HIDDEN)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def large(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model with external data that counts as large, given by a path from another directory."""
    for name in ("in", "elsewhere"):
        (tmp_path / name).mkdir()
    write_mlp(tmp_path / "in", WIDTH, HIDDEN, BLOCKS)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(weights, "LARGE", SIZE // 8)
    monkeypatch.setattr(weights, "_BIG", 1024)
    yield Path("../in/m.onnx")
    assert not list(temporary.iterdir())


def test_big_weights_stay_in_their_file(large: Path) -> None:
    source, proto = load(large)
    external = {tensor.name for tensor in proto.graph.initializer if uses_external_data(tensor)}
    assert external == {f"{i}.{name}" for i in range(BLOCKS) for name in ("up", "down")}
    assert proto.ByteSize() < SIZE / 20
    assert source.size == model_bytes(proto) > SIZE == weight_bytes(proto)
    whole = {tensor.name: tensor for tensor in onnx.load(str(large)).graph.initializer}
    for tensor in proto.graph.initializer:
        values = array(tensor)
        assert np.array_equal(values, numpy_helper.to_array(whole[tensor.name]))
        assert not values.flags.writeable


def test_short_data_of_a_large_model_is_found(large: Path) -> None:
    data = large.with_name(DATA)
    data.write_bytes(data.read_bytes()[: SIZE - 4])
    with pytest.raises(ExternalDataError, match=rf"{DATA} holds 131068 of the 131072 bytes of '2.down'"):
        load(large)


def test_too_large_to_read_is_said_with_the_remedy(tmp_path: Path, cnn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "one_file.onnx").open("wb") as file:
        file.truncate(weights.PROTOBUF_LIMIT + 1)  # sparse: takes no room
    with pytest.raises(NotOnnxError, match=r"2\.1 GB in one file.*export it with external data"):
        load(tmp_path / "one_file.onnx")
    monkeypatch.setattr("onnx_mdp.graph.load.PROTOBUF_LIMIT", 100_000)
    with pytest.raises(ModelError, match=r"more than protobuf copies; .*give its path"):
        load(onnx.load(str(cnn)))


def test_large_model_is_inspected_explained_and_applied(large: Path, tmp_path: Path) -> None:
    assert [group["units"] for group in pipeline.inspect(large)["groups"]] == [HIDDEN] * BLOCKS
    assert pipeline.explain(large, "0.up").tensor
    plan = tmp_path / "plan.json"
    result = pipeline.prune(large, PruneOptions(ratio="50%", output=tmp_path / "a.onnx", plan=plan, force=True))
    pipeline.apply(large, plan, ApplyOptions(output=tmp_path / "b.onnx"))
    first, second = (onnx.load(str(tmp_path / name)) for name in ("a.onnx", "b.onnx"))
    assert first == second
    assert result.report.bytes["pruned"] == pytest.approx(0.5 * SIZE, rel=0.02)
    assert result.report.proof["max_relative_error"] <= 1e-5
    assert (tmp_path / "a.onnx").stat().st_size < SIZE / 20
    assert (tmp_path / "a.onnx.data").stat().st_size > 0.45 * SIZE
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)


def test_large_and_small_are_pruned_alike(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = np.random.default_rng(1).standard_normal((8, WIDTH), np.float32)
    options = PruneOptions(ratio="60%", output=tmp_path / "large.onnx", force=True)
    pipeline.prune(large, options, inputs=inputs)
    monkeypatch.undo()
    small = pipeline.prune(tmp_path / "in" / "m.onnx", PruneOptions(ratio="60%", force=True), inputs=inputs)
    assert content(tmp_path / "large.onnx") == content(small.model)


def test_large_model_meets_a_budget(large: Path, tmp_path: Path, lut: Path) -> None:
    result = pipeline.prune(large, PruneOptions(latency="80%", output=tmp_path / "out.onnx", lut=lut))
    assert result.report.latency.ratio <= 0.8
    assert result.report.proof["max_relative_error"] <= 1e-5


def test_wrong_cut_of_a_large_model_is_found(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary copies hold the weights they should: one that is mapped from a wrong place is noticed."""
    rewrite = pipeline.apply.__globals__["rewrite"]

    def wrong(model: onnx.ModelProto, edits: object) -> onnx.ModelProto:
        result: onnx.ModelProto = rewrite(model, edits)
        tensor = next(t for t in result.graph.initializer if t.name == "0.up")
        values = np.array(array(tensor))
        values[:, [0, 1]] = values[:, [1, 0]]
        weights.put(tensor, values, tensor.name)
        return result

    plan = tmp_path / "plan.json"
    pipeline.prune(large, PruneOptions(ratio="50%", plan=plan, force=True))
    monkeypatch.setitem(pipeline.apply.__globals__, "rewrite", wrong)
    with pytest.raises(ProofError, match="differs from the masked original"):
        pipeline.apply(large, plan)


def test_session_of_a_large_model_outlives_its_files(large: Path, temporary: Path, runtime: Runtime) -> None:
    x = np.random.default_rng(1).standard_normal((2, WIDTH), np.float32)
    _, proto = load(large)
    with loadable(proto) as reference:
        assert isinstance(reference, str)
        assert list(temporary.iterdir()) == [Path(reference).parent]
        session = runtime.open(reference)
    assert not list(temporary.iterdir())
    assert np.array_equal(session.run({"x": x})[0], runtime.open(str(large)).run({"x": x})[0])


def test_small_model_goes_as_bytes(cnn: Path) -> None:
    with loadable(lambda: load(cnn)[1]) as reference:
        assert isinstance(reference, bytes)


def content(model: onnx.ModelProto | Path) -> tuple[list[bytes], dict[str, bytes]]:
    """Nodes, and weights by name: equal for models that differ only in where their weights lie."""
    model = model if isinstance(model, onnx.ModelProto) else onnx.load(str(model))
    shown = {t.name: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}
    return [node.SerializeToString() for node in model.graph.node], shown


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes; the error is not that of a full disk, but comes where that would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_no_room_for_temporary_files(large: Path, temporary: Path) -> None:
    _, proto = load(large)
    message = f"^{temporary}: no room for a temporary copy of 0.0 GB of weights .*TMPDIR"
    with full_disk(SIZE // 2), pytest.raises(OutputError, match=message), loadable(proto):
        pass


def test_no_room_for_the_result_leaves_the_old_one(large: Path, tmp_path: Path) -> None:
    _, proto = load(large)
    folder = tmp_path / "out"
    folder.mkdir()
    save_model(proto, folder / "o.onnx", external=True)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with full_disk(SIZE // 2), pytest.raises(OutputError, match="cannot be written"):
        save_model(proto, folder / "o.onnx", external=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


# Writes a pair over an older one, and is killed at the rename whose number it is given.
KILLED = """
import os, signal, sys
from pathlib import Path
from onnx_mdp.graph.load import load
from onnx_mdp.graph.save import save_model

renames = 0

def listen(event, arguments):
    global renames
    renames += event == "os.rename"
    if event == "os.rename" and renames == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(listen)
save_model(load(sys.argv[1])[1], Path(sys.argv[2]), external=True)
"""


@pytest.mark.parametrize(("rename", "survivor"), [(1, "old"), (2, "old"), (3, "new")])
def test_kill_leaves_a_whole_pair(tmp_path: Path, rename: int, survivor: str) -> None:
    for name, width in (("old", 64), ("new", 96), ("out", 64)):
        (tmp_path / name).mkdir()
        write_mlp(tmp_path / name, width, 64, 1)
    out = tmp_path / "out" / "m.onnx"
    save_model(load(tmp_path / "old" / "m.onnx")[1], out, external=True)
    (tmp_path / "out" / DATA).unlink()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "new" / "m.onnx"), str(out), str(rename)]
    done = subprocess.run(command, check=False)
    assert done.returncode == (0 if survivor == "new" else -signal.SIGKILL)
    assert content(out) == content(tmp_path / survivor / "m.onnx")
    if survivor == "new":
        assert len(list(out.parent.iterdir())) == 2, "the old data is gone"


def test_data_of_another_model_is_not_overwritten(tmp_path: Path) -> None:
    """`out.onnx.data` may be the data of the very model that is pruned."""
    nodes = [onnx.helper.make_node("Gemm", ["x", "w"], ["y"])]
    model = build_model(nodes, {"x": (1, 64)}, ["y"], {"w": (64, 32)})
    save_model(model, tmp_path / "out.onnx", external=True)
    (tmp_path / "out.onnx").rename(tmp_path / "in.onnx")
    save_model(build_model(nodes, {"x": (1, 64)}, ["y"], {"w": (64, 48)}), tmp_path / "out.onnx", external=True)
    assert content(tmp_path / "in.onnx") == content(model)


# Runs a command below a small parent, whose memory a child would count, and prints the child's peak in KiB.
PEAK = "import resource as r, subprocess as s, sys; s.run(sys.argv[1:], check=True, stdout=sys.stderr); "
PEAK += "print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
REAL = {"width": 6144, "hidden": 12288, "blocks": 4}


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """2.4 GB of weights; removed afterwards, since pytest would keep them."""
    folder = tmp_path_factory.mktemp("huge")
    if shutil.disk_usage(folder).free < 12e9:
        pytest.skip(f"{folder}: models and temporary copies take 12 GB")
    write_mlp(folder, **REAL)
    yield folder
    shutil.rmtree(folder)


def peak(folder: Path, *arguments: str) -> float:
    """Peak memory of a command, run from a subfolder, over the model's size."""
    (folder / "elsewhere").mkdir(exist_ok=True)
    (folder / "temporary").mkdir(exist_ok=True)
    command = [sys.executable, "-c", PEAK, sys.executable, "-m", "onnx_mdp", *arguments]
    environment = {**os.environ, "TMPDIR": str(folder / "temporary")}
    shown = subprocess.run(
        command, cwd=folder / "elsewhere", env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    assert not list((folder / "temporary").glob("onnx-mdp-*"))  # onnxruntime leaves a file of its own, .ses
    return int(shown.stdout) * 1024 / (folder / DATA).stat().st_size


@pytest.mark.slow
def test_model_over_2_gb_is_read_in_little_memory(huge: Path) -> None:
    assert weight_bytes(load(huge / "m.onnx")[1]) > 2**31
    assert peak(huge, "inspect", "../m.onnx") < 0.25
    assert peak(huge, "explain", "../m.onnx", "0.up") < 0.25
    assert peak(huge, "bench", "../m.onnx", "--seconds", "1") < 2


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["--ratio=95%", "--latency=70%"])
def test_model_over_2_gb_is_pruned_and_applied(huge: Path, budget: str) -> None:
    """At a ratio of 95 % the result is over 2 GiB too."""
    options = ["-o", "out.onnx", "--plan", "plan.json", "--report", "report.json", "--lut", "lut.sqlite", "--force"]
    assert peak(huge, "prune", "../m.onnx", budget, *options, "--quiet") < 4
    assert peak(huge, "apply", "../m.onnx", "plan.json", "-o", "again.onnx") < 4
    folder = huge / "elsewhere"
    report = json.loads((folder / "report.json").read_text())
    assert report["proof"]["max_relative_error"] <= 1e-5
    assert report["proof"]["varies"]
    assert (folder / "out.onnx").stat().st_size < 1e6
    assert ((folder / "out.onnx.data").stat().st_size > 2**31) == (budget == "--ratio=95%")
    onnx.checker.check_model(str(folder / "out.onnx"), full_check=True)
    first, again = (load(folder / name)[1].graph for name in ("out.onnx", "again.onnx"))
    assert first.node == again.node
    for a, b in zip(first.initializer, again.initializer, strict=True):
        assert a.data_type == TensorProto.FLOAT
        assert np.array_equal(array(a), array(b))
    for name in ("out.onnx", "out.onnx.data", "again.onnx", "again.onnx.data"):
        (folder / name).unlink()
