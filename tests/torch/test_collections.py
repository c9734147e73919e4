"""The exports of ../shared/zoo and the models of ../shared/real compute in PyTorch what they do in ONNX Runtime.

Equal means: the largest difference of any output is at most 1e-5 of its largest element. Where the whole differs by
more, every node by itself must be that close on the inputs that ONNX Runtime computed for it (`tests/torch/nodes.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from onnx_mdp.torch import to_module, write_back
from tests.conftest import SHARED
from tests.torch.gradients import check_gradients
from tests.torch.nodes import node_errors
from tests.zoo.variants import FOLDER, ZOO, zoo_model, zoo_models

REAL = (
    *("vit_tiny", "mobilenet_v2", "mobilenet_v1_025", "resnet20", "resnet56", "mlperf_resnet8", "cifar_vit"),
    *("resnet50_probe", "yolox_nano"),
)
TOLERANCE = 1e-5
# ONNX Runtime's own error, of 2e-4 in hf_fnet__D18; `test_long_transforms` compares with numpy's in double precision.
INEXACT = {"DFT"}


def assert_bridged(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    """The module computes what the model does, gives back what it took, and can be trained."""
    module = to_module(model)
    assert write_back(model, module).SerializeToString() == model.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        found = module({name: torch.from_numpy(value) for name, value in feeds.items()})
    pairs = zip(session.run(None, feeds), found.values(), strict=True)
    if not all(equal(expected, value.numpy()) for expected, value in pairs):
        errors = node_errors(model, feeds)
        worst = {node: error for node, error in errors.items() if error > TOLERANCE and node.split()[0] not in INEXACT}
        assert not worst
    check_gradients(model, module, feeds)


def equal(expected: np.ndarray, found: np.ndarray) -> bool:
    """Whether shapes, types and numbers are the same."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if expected.dtype.kind != "f":
        return np.array_equal(expected, found)
    scale = np.abs(expected).max(initial=0)
    return bool(np.abs(expected - found).max(initial=0) <= TOLERANCE * scale)


@pytest.mark.zoo
@pytest.mark.parametrize("name", zoo_models())
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # where the seeded weights are made
def test_exports(name: str) -> None:
    model = zoo_model(name)
    sys.path.append(str(ZOO))
    from inflate import make_inputs

    assert_bridged(model, make_inputs(model, 0))


@pytest.mark.real
@pytest.mark.skipif(not (SHARED / "real").is_dir(), reason="../shared/real is not there")
@pytest.mark.parametrize("name", REAL)
def test_real_models(name: str) -> None:
    import real

    model = onnx.load(str(Path(real.path(name))))
    value = model.graph.input[0]
    batch = value.type.tensor_type.shape.dim[0].dim_value or 4
    if real.MODELS[name].data == "none":
        shape = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
        images = 255 * np.random.default_rng(0).random(shape, np.float32)
    else:
        images = real.calibration(name, batch)
    assert_bridged(model, {value.name: images})


def test_the_collection_is_known() -> None:
    """Without the collection nothing above runs; with it all of it does."""
    assert len(zoo_models()) in ((320,) if FOLDER.is_dir() else (0,))
