"""Where inputs are kept: no growth of memory, nothing left behind, and what can go wrong on disk."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onnx_mdp.errors import InputError
from onnx_mdp.inputs.base import InputSpec
from onnx_mdp.inputs.load import InputsLike, Reading, load_inputs
from tests.inputs.sources import COUNT, IMAGE, write_images, write_sources


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with every source in it."""
    monkeypatch.chdir(tmp_path)
    write_sources(tmp_path)
    yield tmp_path
    sys.modules.pop("given", None)


def test_a_file_that_changes_is_an_error(here: Path) -> None:
    inputs = load_inputs("x.npy", (IMAGE,))
    (here / "x.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"x\.npy: was changed while in use"):
        inputs.first()


def test_a_full_disk_names_the_remedy(here: Path) -> None:
    pytest.importorskip("resource")
    code = """
import resource, sys
import numpy as np
from onnx_mdp.inputs.base import InputSpec
from onnx_mdp.inputs.load import load_inputs
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
source = (lambda: np.load("x.npy")) if sys.argv[1] == "function" else sys.argv[1]
load_inputs(source, (InputSpec("x", np.dtype(np.float32), (3, 8, 8), None),))
"""
    for source in ("packed.npz", "function"):
        done = subprocess.run([sys.executable, "-c", code, source], capture_output=True, text=True)
        assert "InputError: --inputs cannot be kept: File too large" in done.stderr
        assert "set TMPDIR to a folder with more room" in done.stderr


def test_no_place_for_temporary_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(here / "absent"))
    with pytest.raises(InputError, match="need a temporary file: .*; set TMPDIR"):
        load_inputs("given:singles", (IMAGE,))


def test_nothing_is_left_behind(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary files have no names, and are closed with the inputs."""
    (here / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(here / "tmp"))
    gc.collect()
    opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for source, preprocess in (("packed.npz", None), ("images", "raw"), ("given:singles", None)):
        inputs = load_inputs(source, (IMAGE,), Reading(preprocess))
        assert list((here / "tmp").iterdir()) == []
        assert inputs.count == COUNT
        part = inputs.take(2, 5)
        del inputs
        gc.collect()
        assert sum(len(feeds["x"]) for feeds in part.batches()) == 3
        del part
    gc.collect()
    if opened:
        assert len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize("kind", ["npy", "npz", "packed", "function", "folder", "synthetic"])
def test_memory_does_not_grow_with_the_number_of_inputs(
    here: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Peak of what Python and numpy allocate: all samples against a twentieth of them."""
    spec = InputSpec("x", np.dtype(np.float32), (3, 32, 32), None)
    sources: dict[str, InputsLike] = {
        "function": lambda: (np.full((20, 3, 32, 32), i, np.float32) for i in range(100)),
        "npy": "big.npy",
        "npz": "big.npz",
        "packed": "big-packed.npz",
        "folder": "many",
        "synthetic": "synthetic",
    }
    if kind == "folder":
        write_images(here / "many", 2000, (32, 32))
    big = np.lib.format.open_memmap("big.npy", "w+", np.float32, (2000, 3, 32, 32))
    if kind in ("npz", "packed"):
        (np.savez if kind == "npz" else np.savez_compressed)(sources[kind], x=big)
    del big

    def peak(count: int) -> int:
        reading = Reading("unit" if kind == "folder" else None, samples=count)
        tracemalloc.start()
        seen = sum(len(feeds["x"]) for feeds in load_inputs(sources[kind], (spec,), reading).batches(20))
        assert seen == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    caplog.set_level("WARNING")  # else what decoders log is kept, if a library has made loggers talk
    many = 400 if kind == "synthetic" else 2000  # traced, leaves fall slowly
    peak(20)
    assert peak(many) < peak(many // 20) + 0.2 * many * 4 * 3 * 32 * 32


def test_resident_memory_does_not_grow_either(here: Path) -> None:
    """Mapped files count as memory of the process while they are mapped: seen from outside, several passes."""
    np.lib.format.open_memmap("big.npy", "w+", np.float32, (2000, 3, 64, 64)).flush()
    code = """
import resource, sys
import numpy as np
from onnx_mdp.inputs.base import InputSpec
from onnx_mdp.inputs.load import Reading, load_inputs
spec = InputSpec("x", np.dtype(np.float32), (3, 64, 64), None)
def read(source, count):
    inputs = load_inputs(source, (spec,), Reading(samples=count))
    for _ in range(2):
        assert sum(len(feeds["x"]) for feeds in inputs.batches(16)) == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
source = (lambda: (np.full((3, 64, 64), i, np.float32) for i in range(2000)))
source = source if sys.argv[1] == "function" else sys.argv[1]
before = read(source, 100)
print(read(source, 2000) - before)
"""
    for source in ("big.npy", "function"):
        done = subprocess.run([sys.executable, "-c", code, source], capture_output=True, text=True, check=True)
        assert int(done.stdout) < 20e6, source  # 2000 samples are 98 MB
