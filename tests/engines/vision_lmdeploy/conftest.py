"""A loaded LMDeploy engine whose LMDeploy is real, and nothing behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.base import ImagePart
from engines.checkpoints import load_tokenizer
from engines.memory import LoadSettings
from engines.vision import LMDeployEngine
from tests.engines.vision_lmdeploy.core import GIB, Core, put_in_place
from tests.internvl2_checkpoint import make_internvl2, write_image

Loader = Callable[..., LMDeployEngine]


@pytest.fixture(autouse=True, scope="session")
def _lmdeploy() -> None:
    pytest.importorskip("lmdeploy", reason="tools/install.py --dev installs it where there are wheels of it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_internvl2(tmp_path_factory.mktemp("internvl2") / "model", tile=448)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImagePart]:
    """Of 3x2, 1x1 and 2x1 tiles, where there may be 12."""
    folder, sizes = tmp_path_factory.mktemp("images"), [(1300, 860), (300, 300), (900, 450)]
    return [
        ImagePart(f"sha{n}", write_image(folder / f"{n}.png", *size, seed=n), *size) for n, size in enumerate(sizes)
    ]


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    # Set, so that what is set later is taken back.
    before = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "0", "LMDEPLOY_ENABLE_CHECK_ENV": "1"}
    for name, value in (before | {"LMDEPLOY_W4A16_GEMM_BACKEND": "auto"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TM_LOG_LEVEL", "ERROR")
    core = Core()
    put_in_place(core, monkeypatch)
    return core


@pytest.fixture
def load(folder: Path, core: Core) -> Iterator[Loader]:
    """Loads an engine; what its warm-up asked is taken out of `core.requests`."""
    made: list[LMDeployEngine] = []

    def _load(backend: str = "turbomind", context: int = 8192, tiles: int = 12, **more: Any) -> LMDeployEngine:
        more = {"kv_bytes": GIB, "before_kv": 3 * GIB, "prefill_chunk": 4096} | more
        settings = LoadSettings(backend, "cuda", "bfloat16", context, max_tiles=tiles, **more)  # type: ignore[arg-type]
        made.append(LMDeployEngine(folder, settings))
        core.requests.clear()
        return made[-1]

    yield _load
    for engine in made:
        engine.close()
    assert core.closed or not made
