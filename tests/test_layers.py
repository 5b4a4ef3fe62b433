"""The direction of imports is a test, not a wish."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BELOW = {"configs": set(), "engines": {"configs"}, "interface": {"configs", "engines"}}
HEAVY = {
    "torch",
    "transformers",
    "lmdeploy",
    "modelscope",
    "modelscope_hub",
    "huggingface_hub",
    "safetensors",
    "gguf",
    "onnx",
    "onnxruntime",
}
LATE = {"engines/kernels.py": "engines.kernels", "engines/block_linear.py": "engines.block_linear"}
"""What is made of a heavy library's classes, and is itself imported inside functions alone."""
FILES = sorted(path for layer in BELOW for path in (ROOT / layer).rglob("*.py"))


def imported(tree: ast.AST, everywhere: bool) -> Iterator[str]:
    nodes = ast.walk(tree) if everywhere else ast.iter_child_nodes(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set(imported(tree, everywhere=True))
    assert not names & (set(BELOW) | {"launch", "tests"}) - BELOW[layer] - {layer}
    assert layer == "interface" or "gradio" not in names
    if str(path.relative_to(ROOT)) not in LATE:
        at_once = {node.module for node in ast.iter_child_nodes(tree) if isinstance(node, ast.ImportFrom)}
        heavy = set(imported(tree, everywhere=False)) & HEAVY | at_once & {*LATE.values()}
        assert not heavy, "heavy libraries are imported inside functions"


def test_the_apps_own_process_loads_no_engine_library() -> None:
    """Everything that serve wires, in a fresh interpreter: none of the heavy libraries came along, and no stubs."""
    program = (
        "import sys, launch, interface.swift_gradio; early = 'gradio' in sys.modules;"
        "import interface.app, interface.desk; heavy = {"
        + ", ".join(repr(name) for name in sorted(HEAVY - {"safetensors", "huggingface_hub"}))
        + "}; print(sorted(heavy & set(sys.modules)), early);"
        # What Gradio calls for each component, by a name that is still in use, comes to nothing.
        "from gradio import component_meta as meta; name = interface.swift_gradio.WRITER;"
        "print(name in meta.ComponentMeta.__new__.__code__.co_names, getattr(meta, name)(None, '', []))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[] False", "True None"]
