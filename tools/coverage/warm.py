"""What a process loads with its first analysis, whatever the model: ONNX's definitions of all operators, some 3 MB."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from onnx_mdp.graph.load import load
from onnx_mdp.graph.network import read_network
from onnx_mdp.graph.normalize import normalize
from onnx_mdp.groups.find import analyze

# A size is read, one is computed from it, and operators run on both: inference, folding and rules are all called.
_SMALLEST = """<ir_version: 8, opset_import: ["" : 17]>
smallest (float[1,2,4] x) => (float[2,4] y)
<float[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, int64 last = {2}, int64[1] all = {-1}, int64[1] front = {0}>
{
    sizes = Shape(x)
    size = Gather(sizes, last)
    width = Unsqueeze(size, front)
    shape = Concat<axis = 0>(all, width)
    flat = Reshape(x, shape)
    a = MatMul(flat, w)
    root = Sqrt(w)
    b = MatMul(a, root)
    c = Softmax<axis = -1>(b)
    y = Add(a, c)
}
"""


def warm_up() -> None:
    """Analyze the smallest model there is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "smallest.onnx"
        onnx.save(onnx.parser.parse_model(_SMALLEST), str(path))
        _, model = load(path)
    normalize(model, {})
    analyze(read_network(model, {}))
