"""The exports of ../shared/zoo and the models of ../shared/real compute in PyTorch what they do in ONNX Runtime.

Equal means: the largest difference of any output is at most 1e-5 of its largest element. Where rounding makes the two
differ by more, ONNX Runtime is no measure of 1e-5, as it is not that close to itself. There

* every node by itself must be that close on the inputs that ONNX Runtime computed for it (`tests/torch/nodes.py`);
* the module must be no further from its own results in double precision than a small multiple of what ONNX Runtime is,
  with its fusions or without them, whichever is closer (`tests/torch/double.py`): in the median over inputs, as
  rounding is larger or smaller by chance.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_mdp.torch import to_module, write_back
from tests.conftest import SHARED
from tests.torch.double import Feeds, by_onnxruntime, computed, distance, doubled, in_double
from tests.torch.gradients import check_gradients
from tests.torch.nodes import node_errors
from tests.zoo.variants import FOLDER, ZOO, zoo_model, zoo_models

REAL = (
    *("vit_tiny", "mobilenet_v2", "mobilenet_v1_025", "resnet20", "resnet56", "mlperf_resnet8", "cifar_vit"),
    *("resnet50_probe", "yolox_nano"),
)
TOLERANCE = 1e-5
MULTIPLE = 3
DRAWS = 3


def assert_bridged(model: onnx.ModelProto, draws: Sequence[Feeds]) -> None:
    """The module computes what the model does, gives back what it took, and can be trained."""
    module = to_module(model)
    assert write_back(model, module).SerializeToString() == model.SerializeToString()
    if not all(equal(*pair) for pair in zip(*first(model, draws), strict=True)):
        assert_right_but_for_rounding(model, draws)
    check_gradients(model, module, draws[0])


def first(model: onnx.ModelProto, draws: Sequence[Feeds]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What the module and ONNX Runtime make of the first inputs."""
    return next(computed(model, draws)), next(by_onnxruntime(model, draws))


def equal(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether shapes, types and numbers are the same."""
    return found.dtype == expected.dtype and distance(found, expected) <= TOLERANCE


def assert_right_but_for_rounding(model: onnx.ModelProto, draws: Sequence[Feeds]) -> None:
    """See the top of this file."""
    assert not node_errors(model, draws[0], TOLERANCE)
    truths = list(computed(doubled(model), [in_double(feeds) for feeds in draws]))
    own = medians(computed(model, draws), truths)
    theirs = [medians(by_onnxruntime(model, draws, fused=fused), truths) for fused in (True, False)]
    limits = np.maximum(TOLERANCE, MULTIPLE * np.min(theirs, axis=0))
    assert (own <= limits).all(), (own, theirs)


def medians(found: Iterable[list[np.ndarray]], truths: Sequence[list[np.ndarray]]) -> np.ndarray:
    """How far outputs are from the truth, in the median over inputs."""
    rows = [list(map(distance, *pair)) for pair in zip(found, truths, strict=True)]
    return np.median(rows, axis=0)


@pytest.mark.zoo
@pytest.mark.parametrize("name", zoo_models())
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # where the seeded weights are made
def test_exports(name: str) -> None:
    model = zoo_model(name)
    sys.path.append(str(ZOO))
    from inflate import make_inputs

    assert_bridged(model, [make_inputs(model, seed) for seed in range(DRAWS)])


@pytest.mark.real
@pytest.mark.skipif(not (SHARED / "real").is_dir(), reason="../shared/real is not there")
@pytest.mark.parametrize("name", REAL)
def test_real_models(name: str) -> None:
    import real

    model = onnx.load(str(Path(real.path(name))))
    value = model.graph.input[0]
    batch = value.type.tensor_type.shape.dim[0].dim_value or 4
    if real.MODELS[name].data == "none":
        shape = [DRAWS * batch, *(d.dim_value for d in value.type.tensor_type.shape.dim[1:])]
        images = 255 * np.random.default_rng(0).random(shape, np.float32)
    else:
        images = real.calibration(name, DRAWS * batch)
    assert_bridged(model, [{value.name: part} for part in np.split(images, DRAWS)])


def test_the_collection_is_known() -> None:
    """Without the collection nothing above runs; with it all of it does."""
    assert len(zoo_models()) in ((320,) if FOLDER.is_dir() else (0,))
