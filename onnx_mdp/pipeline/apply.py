"""`apply`: repeats the cut of a plan file, without measuring anything."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnx_mdp.config import ApplyOptions
from onnx_mdp.graph.edit import rewrite
from onnx_mdp.graph.load import load
from onnx_mdp.graph.save import save_model
from onnx_mdp.groups.find import analyze
from onnx_mdp.pipeline.stages import Lossless, ModelLike, check_output, exact_runtime, prepare
from onnx_mdp.pipeline.streams import read_bases, turned_again
from onnx_mdp.quantities import parse_shapes
from onnx_mdp.rewrite.plan import from_json, plan_edits, read_plan
from onnx_mdp.runtime.base import RuntimeSpec
from onnx_mdp.runtime.registry import open_runtime
from onnx_mdp.verify.oracle import Proof, prove, prove_same


def approximates(plan: str | Path) -> bool:
    """Whether a plan cuts normalized groups, so that the masked original is not the model's own function."""
    return bool(read_plan(Path(plan)).get("selected"))


def apply(model: ModelLike, plan: str | Path, options: ApplyOptions | None = None) -> tuple[onnx.ModelProto, Proof]:
    """The model cut as the plan file says, and its proof; written to the output if one is given.

    Raises:
        PlanError: the file is no plan, or does not fit the model.
        ProofError: the cut is not exact.
    """
    options = options or ApplyOptions()
    content = read_plan(Path(plan))
    bases = read_bases(Path(plan), content)
    source, proto = load(model)
    check_output(options.output, source, force=options.force)
    rewrites = Lossless(options.lossless, content.get("convolved", ()))
    network = prepare(proto, parse_shapes(options.shape), lossless=rewrites).network
    runtime = open_runtime(RuntimeSpec(options.runtime, options=options.runtime_option))
    runtime = exact_runtime(network, runtime)
    turned = turned_again(network, runtime, bases, content.get("selected", ()))
    analysis = turned.analysis() if turned else analyze(network)
    cut = from_json(analysis, content)
    pruned = turned.cut(analysis, cut) if turned else rewrite(analysis.network.model, plan_edits(analysis, cut))
    proof = prove(source, analysis, cut, pruned, runtime, [])
    if turned is not None:
        proven, pruned = pruned, turned.restored(analysis, cut, pruned)
        prove_same(analysis.network, proven, pruned, runtime, [])
    if options.output:
        save_model(pruned, options.output, external=source.external)
    return pruned, proof
