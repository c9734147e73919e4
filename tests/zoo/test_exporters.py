"""The same network gives the same groups and blocks, whoever exported it and whatever optimizer it went through.

The whole collection beside the checkout runs with `bash tools/test.sh -m zoo`; a quick part of it, and the bundled
models, run always. There are no exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.conftest import MODELS
from tests.zoo.variants import FOLDER, OPTIMIZERS, Anatomy, anatomy_of, export_pairs, zoo_anatomy, zoo_model, zoo_models

QUICK = (
    *("resnet18", "mobilenet_v3_small", "res2net50_26w_4s", "deit_tiny_patch16_224", "efficientvit_m0", "starnet_s1"),
    *("h_hvit_permute", "h_hvit_chunk", "h_llama_gqa_hand", "h_conformer", "h_wavenet_gated", "h_glow_coupling"),
    *("h_cifar_resnet20_padshortcut", "h_siamese_shared", "h_spatial_transformer", "h_torch_transformer_encoder"),
    *("hf_opt", "hf_llama_gqa", "hf_gptneox", "xcit_nano_12_p16_224"),
)
BUNDLED = sorted(path.stem for path in MODELS.glob("*.onnx"))


def parameters(names: Sequence[Any]) -> list[Any]:
    """Test parameters for models or pairs of the collection: the quick ones run always, the others when asked for."""
    if not FOLDER.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{FOLDER} is not there"), id="none")]

    def quick(name: Any) -> bool:
        model = name if isinstance(name, str) else name[0]
        return model.partition("__")[0] in QUICK

    def label(name: Any) -> str:
        return name if isinstance(name, str) else name[1]

    return [pytest.param(n, marks=() if quick(n) else pytest.mark.zoo, id=label(n)) for n in names]


def compare(expected: Anatomy, found: Anatomy) -> None:
    """Assert that both are equal, and say where they are not."""
    assert expected == found, f"only before: {expected - found}; only after: {found - expected}"


@pytest.mark.parametrize("pair", parameters(export_pairs()))
def test_exporters_agree(pair: tuple[str, str]) -> None:
    first, other = pair
    compare(zoo_anatomy(first), zoo_anatomy(other))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", parameters(zoo_models()))
def test_optimizers_change_nothing(name: str, optimizer: str, tmp_path: Path) -> None:
    optimized = OPTIMIZERS[optimizer](zoo_model(name), tmp_path)
    compare(zoo_anatomy(name), anatomy_of(optimized))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", BUNDLED)
def test_optimizers_change_nothing_in_bundled_models(name: str, optimizer: str, tmp_path: Path) -> None:
    model = onnx.load(str(MODELS / f"{name}.onnx"))
    expected = anatomy_of(model)
    assert expected.groups
    compare(expected, anatomy_of(OPTIMIZERS[optimizer](model, tmp_path)))
