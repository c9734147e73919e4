"""The shape of the code: who may import whom, how long things may be, what importing costs."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "onnx_mdp"
FILES = sorted(PACKAGE.rglob("*.py"))

# Package -> packages it may import. `errors` and `config` are for everyone.
LAYERS: dict[str, set[str]] = {
    "axes": set(),
    "solve": set(),
    "graph": set(),
    "runtime": {"graph"},
    "engine": {"graph", "runtime"},
    "inputs": {"graph"},
    "rules": {"graph", "axes"},
    "groups": {"rules", "graph", "axes"},
    "lossless": {"rules", "graph"},
    "rewrite": {"groups", "graph", "axes"},
    "statistics": {"groups", "graph", "axes", "runtime", "inputs", "divergence"},
    "torch": {"axes", "graph", "groups", "rewrite", "runtime", "inputs", "divergence", "finetune_config"},
    "importance": {"rewrite", "groups", "graph", "axes", "runtime", "inputs", "statistics", "divergence", "torch"},
    "recover": {"rewrite", "groups", "graph", "axes", "runtime", "inputs", "statistics", "divergence"},
    "streams": {"rewrite", "groups", "graph", "axes", "runtime", "inputs", "statistics"},
    "task": {"graph", "runtime", "inputs"},
    "latency": {"engine", "groups", "graph", "axes", "runtime"},
    "verify": {"rewrite", "groups", "graph", "runtime"},
    "report": {"groups", "rewrite"},
    "pipeline": {
        *("axes", "graph", "groups", "importance", "inputs", "latency", "report", "rewrite", "runtime", "solve"),
        *("engine", "lossless", "recover", "statistics", "streams", "task", "verify", "lut_config", "program_config"),
        *("finetune_config", "torch"),
    },
    "cli": {"pipeline", "report", "lut_config", "program_config", "finetune_config"},
    "__main__": {"cli"},
    "__init__": {"pipeline"},
    "config": set(),
    "divergence": set(),
    "finetune_config": set(),
    "lut_config": set(),
    "program_config": set(),
    "quantities": set(),
    "errors": set(),
}
# Package -> the one file, or folder, that may import it.
HOMES = {
    "onnx": "graph",
    "onnx_graphsurgeon": "graph/edit.py",
    "onnxruntime": "runtime/ort.py",
    "openvino": "runtime/openvino.py",
    "polygraphy": "runtime/tensorrt.py",
    "tensorrt": "runtime/tensorrt.py",
    "tensorrt_rtx": "runtime/tensorrt.py",
    "highspy": "solve/solvers/highs.py",
    "gurobipy": "solve/solvers/gurobi.py",
    "pyscipopt": "solve/solvers/scip.py",
    "sqlite3": "latency/lut.py",
    "distributed": "engine/dask.py",
    "PIL": "inputs/images.py",
    "matplotlib": "report/plot.py",
    "torch": "torch",
}


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(path: Path) -> str:
    """The first folder below the package, or the file's own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    allowed = LAYERS[package_of(path)] | {package_of(path), "errors", "config", "quantities", "__version__"}
    used = {name.split(".")[1] for name in imports(path) if name.startswith("onnx_mdp.")}
    assert used <= allowed


def test_layers_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(LAYERS):
        ready = {layer for layer, below in LAYERS.items() if below <= done} - done
        assert ready, f"cycle among {set(LAYERS) - done}"
        done |= ready


def test_modules_have_no_import_cycle() -> None:
    names = {".".join(("onnx_mdp", *p.relative_to(PACKAGE).with_suffix("").parts)): p for p in FILES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {
        name: {other for other in imports(path) if other in names and other != name} for name, path in names.items()
    }
    graph.pop("onnx_mdp")  # imports lazily, inside a function
    done: set[str] = {"onnx_mdp"}
    while len(done) <= len(graph):
        ready = {name for name, below in graph.items() if below <= done} - done
        assert ready, f"cycle among {sorted(set(graph) - done)}"
        done |= ready


@pytest.mark.parametrize("package", HOMES)
def test_heavy_packages_have_one_home(package: str) -> None:
    home = PACKAGE / HOMES[package]
    users = [path for path in FILES if any(n == package or n.startswith(f"{package}.") for n in imports(path))]
    assert users
    outside = [str(path.relative_to(PACKAGE)) for path in users if path != home and home not in path.parents]
    allowed = {  # the stages pass ModelProto through, and say so in their signatures
        *(
            "pipeline/case.py",
            "pipeline/finetune.py",
            "pipeline/joint.py",
            "pipeline/loop.py",
            "pipeline/prune.py",
            "pipeline/stages.py",
            "pipeline/apply.py",
            "pipeline/reporting.py",
            "verify/oracle.py",
        ),
        *(
            "torch/body.py",
            "torch/cut.py",
            "torch/gradients.py",
            "torch/module.py",
            "torch/replaced.py",
            "torch/tensors.py",
            "torch/tune/tune.py",
            "torch/write_back.py",
        ),
        *("latency/fill.py", "latency/measure.py", "pipeline/tabulate.py"),
        *("streams/bridge.py", "streams/fold.py", "streams/spell.py", "streams/turn.py"),
        *("rewrite/plan.py", "recover/recover.py", "recover/refit.py", "statistics/walk.py"),
    }
    assert set(outside) <= (allowed if package == "onnx" else set())


def functions() -> Iterator[tuple[str, int]]:
    """Name and length of every function."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(PACKAGE)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_functions_are_short() -> None:
    lengths = dict(functions())
    longest = max(lengths, key=lambda name: lengths[name])
    assert lengths[longest] <= 60, longest
    assert statistics.median(lengths.values()) <= 10
    assert sorted(lengths.values())[int(0.9 * len(lengths))] <= 30


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short_and_have_a_subject(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in {"utils", "helpers", "common", "misc"}


def test_public_names_have_docstrings() -> None:
    missing = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        private = {n.name for n in tree.body if isinstance(n, ast.ClassDef) and n.name.startswith("_")}
        for scope in [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name not in private)]:
            for node in scope.body:
                named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
                if named and not ast.get_docstring(node):
                    missing.append(f"{path.relative_to(PACKAGE)}:{node.name}")
    assert not missing


def loaded_by(statement: str) -> set[str]:
    """Top-level modules loaded after a statement, in a fresh interpreter."""
    code = f"{statement}; import sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


LATE = {"onnxruntime", "openvino", "tensorrt", "polygraphy", "distributed", "PIL", "matplotlib"}


def test_importing_the_package_is_light() -> None:
    heavy = {"highspy", "gurobipy", "pyscipopt", "onnx", "onnx_graphsurgeon", "torch", "scipy", "rich"} | LATE
    assert not loaded_by("import onnx_mdp") & heavy


def test_solvers_and_runtimes_are_loaded_only_when_used() -> None:
    late = {"highspy", "gurobipy", "pyscipopt", "torch"} | LATE
    assert not loaded_by("import onnx_mdp.pipeline") & late
    assert not loaded_by("from onnx_mdp.cli.main import app") & late
    code = (
        "from onnx_mdp.solve.solve import is_available as a; from onnx_mdp.runtime.registry import remedy, variants; "
    )
    assert not loaded_by(code + "a('highs'); a('gurobi'); a('scip'); [remedy(name) for name in variants()]") & late
