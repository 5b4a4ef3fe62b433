"""What a person sees when conversations cannot be read or written, and of a second start."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, ask
from tools.served import ROOT, Served


def test_a_damaged_file_is_said_once_and_work_goes_on(tmp_path: Path, open_page: OpenPage) -> None:
    (tmp_path / "conversations.sqlite3").write_bytes(b"\xa5" * 8192)
    app = Served(tmp_path, "--fake")
    assert re.search(r"set aside as conversations\.damaged-[\d-]+\.sqlite3", app.output)
    page = open_page(app.url, locale="zh-CN")
    expect(page.locator("#notice")).to_contain_text("对话文件已损坏")
    expect(page.locator("#notice")).to_contain_text("conversations.damaged-")
    other = open_page(app.url)
    ask(other, "hello")
    expect(answers(other).last).to_contain_text("hello")
    expect(other.locator("#notice")).to_be_hidden()
    for one in (page, other):
        one.context.close()
    assert app.stop() == 0, app.output


@pytest.mark.skipif(sys.platform != "linux", reason="limits a running process from outside")
def test_a_full_disk_is_said_and_the_chat_goes_on(tmp_path: Path, open_page: OpenPage) -> None:
    app = Served(tmp_path, "--fake")
    page = open_page(app.url)
    ask(page, "saved")
    process, log = psutil.Process(app.process.pid), tmp_path / "conversations.sqlite3-wal"
    process.rlimit(psutil.RLIMIT_FSIZE, (log.stat().st_size, -1))
    ask(page, "not saved " + "x" * 9000)
    expect(answers(page).last).to_contain_text("not saved x")
    expect(page.locator("#status")).to_contain_text("This chat is not being saved")
    page.reload()
    expect(answers(page)).to_have_count(2)
    expect(page.locator("#status")).to_contain_text("This chat is not being saved")
    process.rlimit(psutil.RLIMIT_FSIZE, (-1, -1))
    ask(page, "saved again")
    expect(page.locator("#chat .usage").last).to_contain_text("tokens")
    expect(page.locator("#status")).not_to_contain_text("not being saved")
    page.context.close()
    assert app.stop() == 0, app.output
    with closing(sqlite3.connect(tmp_path / "conversations.sqlite3")) as db:
        rows = db.execute("SELECT substr(text, 1, 9) FROM messages WHERE role = 'user' ORDER BY id").fetchall()
    assert [text for (text,) in rows] == ["saved", "not saved", "saved aga"]


def test_a_second_start_on_one_folder_says_where_the_first_is(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "fake: words=2")

    def launch(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "launch.py", *argv, "--data", str(fake.data)]
        return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    for flags in (["--no-browser"], ["--no-browser", "--port", fake.url.split(":")[-1].strip("/")]):
        second = launch(*flags, "--lang", "en")
        assert second.returncode == 1 and second.stdout == ""
        assert second.stderr.count("\n") == 1 and "already running" in second.stderr and fake.url in second.stderr
    assert launch("chat", "--fake", stdin="beside it").stdout == "beside it \n"
    assert launch("plan", "internlm2-chat-1_8b", "--memory", "8GiB").returncode == 0
    assert launch("models").returncode == 0
    page.reload()
    expect(answers(page).last).to_contain_text("word1")
