"""Paths and models that tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper
from threadpoolctl import threadpool_limits

from onnx_mdp.graph.infer import infer
from onnx_mdp.graph.network import read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.graph.shapes import input_shapes
from onnx_mdp.groups.find import Analysis, analyze
from onnx_mdp.pipeline import loop, stopwatch
from onnx_mdp.runtime.base import Runtime, RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
SHARED = ROOT.parent / "shared"

settings.register_profile("onnx-mdp", deadline=None, print_blob=True)
settings.load_profile("onnx-mdp")

if (SHARED / "real").is_dir():
    sys.path.insert(0, str(SHARED / "real"))


@pytest.fixture(scope="session", autouse=True)
def brief() -> Iterator[None]:
    """Whole models are compared for a fraction of the time: what tests ask of latencies stands in the same report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopwatch, "_PROCESSES", 3)
        patch.setattr(stopwatch, "_SECONDS", (0.3, 1.0))
        patch.setattr(stopwatch, "_CAREFUL", (0.4, 1.2))
        patch.setattr(loop, "BRIEF", (0.3, 0.8))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Linear algebra on one thread, as the pipeline has it by default."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def cnn() -> Path:
    """The bundled residual CNN."""
    return MODELS / "digits_cnn.onnx"


@pytest.fixture
def vit() -> Path:
    """The bundled vision transformer."""
    return MODELS / "digits_vit.onnx"


@pytest.fixture
def calibration() -> Path:
    """Calibration inputs of both bundled models."""
    return MODELS / "digits_calibration.npz"


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    """ONNX Runtime on one thread."""
    return open_runtime(RuntimeSpec())


@pytest.fixture(scope="session")
def lut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One latency table for the whole test session: what one test measures, the next reuses.

    It lies where the commands have theirs by default, if XDG_CACHE_HOME is its parent's parent.
    """
    folder = tmp_path_factory.mktemp("cache") / "onnx-mdp"
    folder.mkdir()
    return folder / "lut.sqlite"


Weights = dict[str, tuple[int, ...] | np.ndarray]


@pytest.fixture(scope="session")
def build() -> Callable[..., onnx.ModelProto]:
    """Makes a model from nodes, input shapes, output names and weights (seeded noise where only a shape is given)."""
    return build_model


def build_model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int | str, ...]],
    outputs: list[str],
    weights: Weights,
    opset: int = 18,
) -> onnx.ModelProto:
    """Makes a model from nodes, input shapes, output names and weights (seeded noise where only a shape is given)."""
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(
            np.asarray(w) if isinstance(w, np.ndarray | np.generic) else rng.normal(0, 0.3, w).astype(np.float32), name
        )
        for name, w in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        tensors,
    )
    domains = {n.domain for n in nodes if n.domain}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    inferred = onnx.shape_inference.infer_shapes(model)
    for value, found in zip(model.graph.output, inferred.graph.output, strict=True):
        value.CopyFrom(found)
        if domains and not found.type.tensor_type.HasField("shape"):  # ONNX does not infer through other domains
            facts = infer(model, input_shapes(model.graph, {}))
            value.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, facts.shapes[value.name]))
    return model


def analysis_of(model: onnx.ModelProto | str | Path, locks: tuple[str, ...] = ()) -> Analysis:
    """The analysis of a copy of a model."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model if isinstance(model, onnx.ModelProto) else onnx.load(str(model)))
    normalize(proto, {})
    return analyze(read_network(proto, {}), locks)
