"""What a doctor says of the app's own things: configuration, a running app, conversations, ways to the page; and that
every finding has words."""

from __future__ import annotations

import ast
import re
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from configs.load import HERE, load_catalogue
from configs.schema import AppConfig, Catalogue, MemoryConfig, ServerConfig
from engines.base import GenerationSettings
from engines.library import Library
from interface import checkup, doctor
from interface.data_lock import DataLock, in_use
from interface.doctor_text import COLUMNS, wrapped
from interface.history import History
from interface.i18n import texts
from interface.terminal import width
from tests.findings import briefly, only, said

ROOT = Path(__file__).resolve().parents[2]


# -- configuration ----------------------------------------------------------------------------------------------------


def test_configuration_that_is_right(tmp_path: Path) -> None:
    config, catalogue, found = checkup.configuration({"data": tmp_path, "port": None}, {})
    assert config.data == tmp_path and len(catalogue.models) >= 4
    assert briefly(found) == [("configuration", "ok", "configuration_ok")]


def test_what_is_wrong_with_configuration_is_said_and_the_rest_of_it_used(tmp_path: Path) -> None:
    environ = {"SHUSHENG_PROT": "1", "SHUSHENG_HOST": "::1"}
    config, _, found = checkup.configuration({"data": tmp_path, "port": 7999}, environ)
    assert "SHUSHENG_PROT" in said(only(found)).line and "SHUSHENG_PORT" in said(found[0]).remedy
    assert (config.data, config.server.port, config.server.host) == (tmp_path, 7999, "127.0.0.1")


def test_files_that_are_broken(tmp_path: Path) -> None:
    (tmp_path / "app.toml").write_text("data = \n")
    (tmp_path / "models.toml").write_text("models = 3\n")
    config, catalogue, found = checkup.configuration({"data": tmp_path / "d"}, {}, tmp_path)
    assert briefly(found) == [("configuration", "problem", "error"), ("configuration.models", "problem", "error")]
    assert config == AppConfig(tmp_path / "d") and catalogue == Catalogue(())
    found = checkup.configuration({}, {}, tmp_path / "none")[2]
    assert [one.check for one in found] == ["configuration.app", "configuration.models"] and said(found[0])


def test_added_models_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "added-models.json").write_text("{")
    library, found = checkup.library(AppConfig(tmp_path), load_catalogue())
    assert library is None and only(found).code == "added_broken"
    checks = doctor.Doctor(AppConfig(tmp_path), load_catalogue(), None, {}, False).checks()
    assert "disk" in checks and not {"fit", "models"} & set(checks)
    assert briefly(checks["disk"]())[0][0] == "disk"


def test_keys_are_not_repeated(tmp_path: Path) -> None:
    text = (HERE / "app.toml").read_text(encoding="utf-8")
    (tmp_path / "app.toml").write_text(re.sub(r"api_keys = \[\]", 'api_keys = "me:hunter2"', text), encoding="utf-8")
    shutil.copy(HERE / "models.toml", tmp_path)
    found = only(checkup.configuration({}, {}, tmp_path)[2])
    assert "api_keys" in said(found).line and "hunter2" not in str(found) + str(said(found))


# -- models and memory ------------------------------------------------------------------------------------------------


def test_what_the_guard_says_of_the_model_to_start_with(tmp_path: Path) -> None:
    catalogue, model = load_catalogue(), "smollm2-135m-instruct"
    assert briefly(checkup.fit(Library(AppConfig(tmp_path), catalogue), model))[0][0] == "fit"
    tight = AppConfig(tmp_path, memory=MemoryConfig(gpu_margin=2**60, host_margin=2**60))
    found = only(checkup.fit(Library(tight, catalogue), model))
    assert (found.state, found.code) == ("problem", "fit_refused") and found.facts["reasons"]
    unknown = only(checkup.fit(Library(AppConfig(tmp_path), catalogue), "smollm"))
    assert unknown.code == "error" and model in said(unknown).remedy


# -- a running app, and the port --------------------------------------------------------------------------------------


class Page(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(401)  # a login page is an answer, too
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_an_app_that_runs_is_told_by_its_lock_and_answers(tmp_path: Path, page: int) -> None:
    config = AppConfig(tmp_path, server=ServerConfig(port=page))
    assert [code for *_, code in briefly(checkup.running(config, True))] == ["app_none", "port_taken"]
    lock = DataLock(tmp_path)
    assert in_use(tmp_path) == "" and checkup.running(config, True)[0].code == "app_starting"
    lock.serving(f"http://127.0.0.1:{page}/")
    assert [code for *_, code in briefly(checkup.running(config, True))] == ["app_there", "port_ours"]
    lock.release()
    assert in_use(tmp_path) is None
    DataLock(tmp_path).release()  # having looked holds nobody up


def test_an_app_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "ANSWER", 0.3)
    lock = DataLock(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        lock.serving(f"http://127.0.0.1:{port}/")
        found = checkup.running(AppConfig(tmp_path, server=ServerConfig(port=port)), False)
    lock.release()
    assert [one[1:] for one in briefly(found)] == [("problem", "app_silent"), ("ok", "port_ours")]


# -- conversations ----------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A file with a conversation, its app ended in order."""
    store = History(tmp_path / "conversations.sqlite3", tmp_path / "images")
    store.of("").create("m", "", GenerationSettings())
    store.close()
    return tmp_path / "conversations.sqlite3"


def folder(file: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in file.parent.iterdir()}


def test_a_whole_file_is_looked_at_and_left_alone(kept: Path) -> None:
    before = folder(kept)
    assert briefly(checkup.conversations(kept, False)) == [("conversations", "ok", "store_ok")]
    assert folder(kept) == before
    assert only(checkup.conversations(kept.with_name("none.sqlite3"), False)).code == "store_none"


def test_beside_a_running_app_nothing_is_locked(kept: Path, tmp_path: Path) -> None:
    store = History(kept, tmp_path / "images")
    with store.transaction() as writing:
        writing.execute("UPDATE conversations SET title = 'now'")
        assert only(checkup.conversations(kept, True)).code == "store_ok"
    store.close()


def test_the_log_of_a_killed_app_is_read_from_a_copy(kept: Path, tmp_path: Path) -> None:
    store = History(kept, tmp_path / "images")
    store.of("").create("m", "", GenerationSettings())
    killed = tmp_path / "killed"
    killed.mkdir()
    for path in tmp_path.glob("conversations.sqlite3*"):
        shutil.copy(path, killed)
    store.close()
    (killed / "conversations.sqlite3-shm").unlink()
    before = folder(killed / kept.name)
    assert len(before) == 2 and only(checkup.conversations(killed / kept.name, False)).code == "store_ok"
    assert folder(killed / kept.name) == before


def test_a_damaged_file_one_that_is_none_and_one_that_is_newer(kept: Path) -> None:
    with closing(sqlite3.connect(kept)) as db:
        db.execute("PRAGMA user_version = 999")
    assert "999" in said(only(checkup.conversations(kept, False))).line
    whole = kept.read_bytes()
    kept.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    (kept.with_name("conversations.damaged-2026-11-23-071500.sqlite3")).write_bytes(b"")
    assert briefly(checkup.conversations(kept, False)) == [
        ("conversations", "problem", "store_damaged"), ("conversations.aside", "note", "store_aside")
    ]  # fmt: skip
    kept.write_bytes(b"no database at all" * 100)
    assert checkup.conversations(kept, False)[0].code == "store_damaged"
    kept.unlink()
    kept.mkdir()
    assert checkup.conversations(kept, False)[0].code == "store_unreadable"


# -- ways to the page -------------------------------------------------------------------------------------------------


def test_over_ssh_the_line_for_the_other_computer_is_told() -> None:
    environ = {"SSH_CONNECTION": "10.0.0.5 50000 203.0.113.9 2222", "DISPLAY": ":10"}
    found = checkup.browser(7999, environ, "me", "box", desktop=False)
    assert briefly(found) == [("browser", "note", "browser_ssh")]
    assert said(found).remedy.endswith("\nssh -L 7999:127.0.0.1:7999 -p 2222 me@203.0.113.9")
    nothing = checkup.browser(7860, {}, "me", "box", desktop=False)
    assert nothing.code == "browser_no_display" and nothing.facts["command"].endswith("7860 me@box")


def test_a_browser_where_there_is_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup.webbrowser, "get", lambda: type("Browser", (), {"name": "firefox"}))
    assert briefly(checkup.browser(7860, {"DISPLAY": ":0"}, "me", "box", False)) == [("browser", "ok", "browser_ok")]

    def none() -> None:
        raise checkup.webbrowser.Error

    monkeypatch.setattr(checkup.webbrowser, "get", none)
    assert checkup.browser(7860, {}, "me", "box", desktop=True).code == "browser_none"


@pytest.mark.parametrize(
    ("encoding", "windows", "code"),
    [("utf-8", False, "terminal_ok"), ("gbk", True, "terminal_ok"), ("cp1252", True, "terminal_windows"),
     ("ascii", False, "terminal_ascii"), (None, False, "terminal_ascii")],
)  # fmt: skip
def test_what_a_terminal_can_show(encoding: str | None, windows: bool, code: str) -> None:
    assert briefly(checkup.terminal(encoding, windows))[0][2] == code


def test_the_helper_of_share_links(tmp_path: Path) -> None:
    assert briefly(checkup.share_helper(tmp_path)) == [("share", "ok", "share_absent")]
    (tmp_path / "gradio" / "frpc").mkdir(parents=True)
    (tmp_path / "gradio" / "frpc" / "frpc_linux_amd64_v0.3").write_bytes(b"")
    assert checkup.share_helper(tmp_path).code == "share_here"


# -- words ------------------------------------------------------------------------------------------------------------

SAYS = [*(ROOT / "engines" / "checkup").glob("*.py"),
        *(ROOT / "interface" / name for name in ("checkup.py", "doctor.py", "doctor_text.py", "needs.py"))]  # fmt: skip


def nodes() -> list[ast.AST]:
    return [node for path in SAYS for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def codes_of(node: ast.expr) -> Iterator[str]:
    """The codes that an expression may come to, as regular expressions."""
    for one in [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]:
        if isinstance(one, ast.JoinedStr):
            yield "".join(re.escape(p.value) if isinstance(p, ast.Constant) else r"\w+" for p in one.values)
        elif isinstance(one, ast.Constant):
            yield re.escape(str(one.value))


def test_whatever_is_found_has_words_and_every_problem_a_remedy() -> None:
    calls = [node for node in nodes() if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.IfExp)]
    seen = 0
    for call in calls:
        names = {one.id for one in ast.walk(call.func) if isinstance(one, ast.Name)}
        if names & {"ok", "note", "problem"} and len(call.args) == 2:
            for pattern in codes_of(call.args[1]):
                if pattern == "error":  # has the error's own words
                    continue
                seen += 1
                assert any(re.fullmatch(f"doctor.{pattern}", key) for key in texts("en")), pattern
                found = [key.split(".")[1] for key in texts("en") if re.fullmatch(f"doctor.{pattern}", key)]
                assert "problem" not in names or any(f"remedy.{code}" in texts("en") for code in found), pattern
    assert seen > 50


def test_no_words_are_left_over() -> None:
    patterns = {p.removeprefix("doctor\\.") for node in nodes() if isinstance(node, ast.expr) for p in codes_of(node)}
    patterns -= {r"\w+", ""}
    for key in (key for key in texts("en") if key.startswith(("doctor.", "remedy."))):
        assert any(re.fullmatch(pattern, key.split(".")[1]) for pattern in patterns), key
    for key in (key for key in texts("en") if key.startswith("remedy.")):
        assert key.replace("remedy", "doctor") in texts("en"), key


def test_lines_are_broken_where_a_reader_expects_it() -> None:
    english = "A row ends between words, never within one, however narrow the column is for them."
    assert wrapped(english, 20)[0] == "A row ends between" and " ".join(wrapped(english, 20)) == english
    chinese = "行可以在汉字之间断开，但逗号、句号（还有括号）不会落到下一行的开头。"
    rows = wrapped(chinese, 20)
    assert "".join(rows) == chinese and all(width(row) <= 22 for row in rows)
    assert not any(row[0] in "，。、）" for row in rows) and not any(row[-1] == "（" for row in rows)
    assert wrapped("", COLUMNS) == [""] and wrapped("x" * 100, COLUMNS) == ["x" * 100]
