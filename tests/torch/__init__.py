"""Tests of the bridge to PyTorch: skipped where it is not installed."""

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-mdp[torch]'")
