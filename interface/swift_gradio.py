"""Imported before Gradio, for what it does: Gradio then writes no stubs.

With each import Gradio makes the `.pyi` file of every component anew, for editors, and writes it beside the component:
more than a third of the time that `import gradio` takes, for what no app reads. Where a later Gradio does not do that,
this does nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

MODULE, WRITER = "gradio.component_meta", "create_or_modify_pyi"


class _WithoutStubs(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path, target) if name == MODULE else None
        if found is None or found.loader is None:
            return None
        execute = found.loader.exec_module

        def execute_without_stubs(module: ModuleType) -> None:
            execute(module)
            setattr(module, WRITER, lambda *_: None)

        found.loader.exec_module = execute_without_stubs  # type: ignore[method-assign]
        return found


sys.meta_path.insert(0, _WithoutStubs())
