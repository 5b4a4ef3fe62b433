"""What the installer asks pip for, with a stand-in for pip."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tools import install

RUN, CUDA, DEV, ALONE = (f"requirements{name}.txt" for name in ("", "-cuda", "-dev", "-lmdeploy"))


@pytest.mark.parametrize(
    ("card", "flags", "expected"),
    [
        (False, [], [[RUN]]),
        (False, ["--dev"], [[RUN, DEV], ["--no-deps", ALONE]]),
        (True, [], [[CUDA]]),
        (True, ["--dev"], [[CUDA, DEV]]),
    ],
)
def test_lmdeploy_comes_alone_for_tests_where_there_is_no_card(
    card: bool, flags: list[str], expected: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setattr(install, "VENV", tmp_path)
    monkeypatch.setattr(install, "PYTHON", python)
    monkeypatch.setattr(install, "has_card", lambda: card)
    monkeypatch.setattr(install, "install_cpu_torch", lambda: None)
    monkeypatch.setattr(install, "install_socks", lambda: None)
    monkeypatch.setattr(install, "pip", lambda *words: asked.append([*words]))
    monkeypatch.setattr(sys, "argv", ["install.py", *flags])
    install.main()
    install.main()  # which finds nothing to do
    assert [[Path(word).name for word in words if word not in ("install", "-r")] for words in asked] == expected


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:7890", "socks5://127.0.0.1:7890"])
def test_what_pip_needs_for_a_socks_proxy_comes_first_and_past_it(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[str, ...], dict[str, str]]] = []
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setattr(install, "pip", lambda *words, environ: asked.append((words, environ)))
    install.install_socks()
    if proxy.startswith("http"):
        assert not asked
    else:
        [(words, environ)] = asked
        assert words[0] == "install" and words[1].startswith("PySocks==") and "PATH" in environ
        assert "ALL_PROXY" not in environ


def test_the_tests_lmdeploy_is_the_one_that_cards_run() -> None:
    pins = [re.search(r"^lmdeploy==\S+", (install.ROOT / name).read_text(), re.MULTILINE) for name in (CUDA, ALONE)]
    assert pins[0] and pins[1] and pins[0][0] == pins[1][0]
