"""The bridge to PyTorch: a model as a module that trains, its weights back in the model, and plans made on modules.

Needs the extra `torch`. Nothing else of the package imports it before it is used.
"""

from __future__ import annotations

from importlib.util import find_spec

from onnx_mdp.errors import OptionError

if find_spec("torch") is None:
    raise OptionError("onnx_mdp.torch: PyTorch is not installed: pip install 'onnx-mdp[torch]'")

from onnx_mdp.torch.cut import apply_plan
from onnx_mdp.torch.module import OnnxModule, to_module
from onnx_mdp.torch.write_back import write_back

__all__ = ["OnnxModule", "apply_plan", "to_module", "write_back"]
