"""The command line as a value, and as a program."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

import psutil
import pytest

from configs.errors import ConfigError
from interface.arguments import Arguments, parse_args, parse_size
from interface.reach import free_port
from tools.served import ROOT, Served


def test_serve_is_the_default() -> None:
    assert parse_args([]) == parse_args(["serve"]) == Arguments()


def test_every_flag_of_serve() -> None:
    flags = "--host ::1 --port 0 --no-browser --offline --lang zh --model internlm2-chat-1_8b --fake --data /tmp/x"
    flags += " --backend pytorch --weights full --force --share --auth ann:pw:1 --auth ben:pw2 --auth-file l.txt"
    flags += " --allow-host d.example --root-path /desk"
    got = parse_args(flags.split())
    assert (got.host, got.port, got.browser, got.offline, got.lang) == ("::1", 0, False, True, "zh")
    assert (got.model, got.fake, got.data) == ("internlm2-chat-1_8b", True, Path("/tmp/x"))
    assert got.overrides == {
        "host": "::1", "port": 0, "browser": False, "data": Path("/tmp/x"), "offline": True, "lang": "zh",
        "model": "internlm2-chat-1_8b", "backend": "pytorch", "weights": "full", "force": True, "share": True,
        "auth": ["ann:pw:1", "ben:pw2"], "auth_file": "l.txt", "allow_hosts": ["d.example"], "root_path": "/desk",
    }  # fmt: skip


def test_a_password_is_not_said_again() -> None:
    assert "pw2" not in repr(parse_args(["--auth", "ann:pw2"])) and not parse_args([]).no_auth
    assert parse_args(["--no-auth"]).no_auth and "no_auth" not in parse_args(["--no-auth"]).overrides


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["--fake", "chat"], "chat"),
        (["--lang", "zh", "--data", "models", "chat", "--model", "plan"], "chat"),
        (["--data=/tmp/x", "models", "get"], "models"),
        (["--json", "plan", "m"], "plan"),
        (["--model", "chat"], "serve"),
    ],
)
def test_flags_may_stand_before_the_command(argv: list[str], command: str) -> None:
    assert parse_args(argv).command == command


def test_plan_takes_a_card_described_by_hand() -> None:
    got = parse_args("plan internlm2-chat-1_8b --memory 7.4GiB --total 8GiB --context 4096 --json".split())
    assert (got.target, got.memory, got.total) == ("internlm2-chat-1_8b", int(7.4 * 2**30), 8 * 2**30)
    assert got.context == 4096 and got.json and not got.force


@pytest.mark.parametrize(("text", "size"), [("8GiB", 2**33), ("8g", 8 * 10**9), ("1.5 GB", 15 * 10**8), ("12", 12)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("argv", "code", "facts"),
    [
        (["--prot", "1"], "config_unknown_flag", {"name": "--prot", "nearest": "--port"}),
        (["--no-brwser"], "config_unknown_flag", {"nearest": "--no-browser"}),
        (["modles"], "config_unknown_command", {"name": "modles", "nearest": "models"}),
        (["chat", "--port", "1"], "config_unknown_flag", {"name": "--port"}),
        (["--port", "many"], "config_value", {}),
        (["plan", "x", "--memory", "much"], "config_value", {}),
        (["plan", "x", "--memory", "-1GiB"], "config_value", {}),
        (["plan", "x", "--memory", "1e999"], "config_value", {}),
        (["plan", "x", "--total", "0"], "config_value", {}),
        (["plan", "x", "--context", "-100000"], "config_value", {}),
        (["plan", "x", "--context", "0"], "config_value", {}),
        (["--fake", "caht"], "config_unknown_command", {"name": "caht", "nearest": "chat"}),
    ],
)
def test_what_is_wrong_on_the_command_line_is_named(argv: list[str], code: str, facts: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_args(argv)
    assert wrong.value.code == code and facts.items() <= wrong.value.facts.items()


# -- as a program -----------------------------------------------------------------------------------------------------


def launch(*argv: str, data: Path, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "launch.py", *argv, "--data", str(data)],
        cwd=ROOT, env=os.environ | {"LANG": "C.UTF-8"} | environ, input=stdin, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


def test_plan_prints_one_json_object_and_its_verdict_as_exit_code(tmp_path: Path) -> None:
    fits = launch("plan", "internlm2-chat-1_8b", "--memory", "7.4GiB", "--total", "8GiB", "--json", data=tmp_path)
    plan = json.loads(fits.stdout)
    assert fits.returncode == 0 and plan["verdict"] == "load" and plan["device"]["free"] == int(7.4 * 2**30)
    assert plan["need"]["total"] == sum(size for name, size in plan["need"].items() if name != "total")
    assert set(plan) >= {"model", "verdict", "reasons", "remedies", "device", "need", "settings"}
    refused = launch("plan", "internlm2-chat-1_8b", "--memory", "2GiB", "--total", "4GiB", "--json", data=tmp_path)
    plan = json.loads(refused.stdout)
    assert refused.returncode == 3 and plan["verdict"] == "refuse" and plan["remedies"]


def test_plan_in_words_in_both_languages(tmp_path: Path) -> None:
    english = launch("plan", "internlm2-chat-1_8b", "--memory", "2GiB", data=tmp_path)
    chinese = launch("plan", "internlm2-chat-1_8b", "--memory", "2GiB", "--lang", "zh", data=tmp_path)
    assert "Does not fit" in english.stdout and "放不下" in chinese.stdout
    assert (
        "放不下" in launch("plan", "internlm2-chat-1_8b", "--memory", "2GiB", data=tmp_path, LANG="zh_CN.UTF-8").stdout
    )


def test_models_lists_the_catalogue(tmp_path: Path) -> None:
    done = launch("models", data=tmp_path)
    assert "smollm2-135m-instruct (small English demo model)  not downloaded" in done.stdout
    assert "internlm2-chat-1_8b" in done.stdout


def test_mistakes_are_one_line_on_stderr(tmp_path: Path) -> None:
    for argv in (["--prot"], ["plan", "internlm"], ["chat", "--model", "intern"]):
        done = launch(*argv, data=tmp_path)
        assert done.returncode == 2 and done.stdout == "" and "Did you mean" in done.stderr
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_what_is_wrong_with_logins_is_one_line_without_them(tmp_path: Path) -> None:
    mistakes = (
        ["--auth", "ann:swordfish7", "--port", "many"],
        ["--auth=swordfish7"],
        ["--auth", "ann:swordfish7", "--no-auth"],
        ["--auth", "ann:swordfish7", "--auth", "ann:swordfish7"],
        ["--auth-file", str(tmp_path / "none.txt")],
    )
    for argv in mistakes:
        done = launch("--no-browser", *argv, data=tmp_path)
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
        assert "swordfish7" not in done.stderr and "Traceback" not in done.stderr


def test_a_model_that_is_not_here_says_what_to_do(tmp_path: Path) -> None:
    done = launch("chat", "--offline", data=tmp_path, stdin="hello\n")
    assert done.returncode == 1 and done.stdout == "" and "has not been downloaded" in done.stderr


def test_piped_input_gets_the_answer_and_nothing_else(tmp_path: Path) -> None:
    done = launch("chat", "--fake", data=tmp_path, stdin="  Write a   short story\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "  Write a   short story \n", "")
    assert launch("chat", "--fake", data=tmp_path, stdin="\n").stdout == ""


def _in_the_background_of_a_terminal() -> None:
    """In the child: Ctrl-C is its terminal's, and ignored, as a shell leaves it to what it starts with "&"."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Terminal:
    """launch.py chat in a pseudo-terminal, typed at."""

    def __init__(self, data: Path, **environ: str) -> None:
        self._side, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "launch.py", "chat", "--fake", "--data", str(data)],
            cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
            env=os.environ | {"LANG": "C.UTF-8", "TERM": "dumb"} | environ,
            start_new_session=True,
            preexec_fn=_in_the_background_of_a_terminal,
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def until(self, text: str, seconds: float = 30) -> str:
        """Reads until `text` has come; what came before it."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} did not come:\n{self.seen}"
            if select.select([self._side], [], [], 0.1)[0]:
                self.seen += os.read(self._side, 4096).decode("utf-8", "replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self._side, text.encode())

    def waits(self) -> None:
        """Until its main thread sleeps in the read: a signal just before that would be seen only with the next key.

        It may sleep for a moment elsewhere, so two looks have to find it where it was.
        """
        process, before = psutil.Process(self.process.pid), None
        while (now := (process.status(), process.num_ctx_switches())) != before or now[0] != psutil.STATUS_SLEEPING:
            before = now
            time.sleep(0.1)

    def close(self) -> int:
        code = self.process.wait(20)
        os.close(self._side)
        return code


def test_a_conversation_in_the_terminal(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.until("you> ")
    terminal.type("keep  the   spaces\n")
    terminal.until("keep  the   spaces \r\n")
    terminal.until("you> ")
    terminal.type("/nonsense\n")
    terminal.until("There is no /nonsense")
    terminal.type("/system Be brief.\n")
    terminal.until("System prompt set.")
    terminal.type("fake: words=5000 delay=0.01\n")
    terminal.until("word5 ")
    terminal.type("\x03")  # Ctrl-C
    said = terminal.until("you> ")
    assert "word4999" not in said
    terminal.type("still here?\n")
    terminal.until("still here? \r\n")
    terminal.type("/clear\n")
    terminal.until("Forgotten")
    terminal.until("you> ")
    terminal.type("half a line")
    terminal.until("half a line")
    terminal.waits()
    terminal.type("\x03")
    terminal.until("you> ")
    terminal.waits()
    terminal.type("\x04")  # Ctrl-D
    assert terminal.close() == 0


def test_exit_leaves_the_terminal(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.until("you> ")
    terminal.type("/exit\n")
    assert terminal.close() == 0


# -- ending -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_ends_the_idle_app_cleanly(tmp_path: Path, by: signal.Signals) -> None:
    app = Served(tmp_path, "--fake")
    assert app.stop(by) == 0 and "Traceback" not in app.output


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_ends_the_app_while_it_loads(tmp_path: Path, by: signal.Signals) -> None:
    app = Served(tmp_path, "--fake", environ={"FAKE_LOAD": "fake: hang"})
    end = time.monotonic() + 20
    while not app.workers():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert app.stop(by) == 0 and "Traceback" not in app.output


@pytest.mark.parametrize("load", ["fake:", "fake: hang"], ids=["answering", "loading"])
def test_sigterm_ends_the_conversation_in_the_terminal(tmp_path: Path, load: str) -> None:
    terminal = Terminal(tmp_path, FAKE_LOAD=load)
    terminal.until("you> ")
    terminal.type("fake: words=5000 delay=0.01\n")
    terminal.until("Loading" if "hang" in load else "word5 ")
    family = psutil.Process(terminal.process.pid).children(recursive=True)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.close() == 0
    assert not psutil.wait_procs(family, timeout=5)[1] and "Traceback" not in terminal.seen


def test_sigterm_ends_the_terminal_that_waits_for_a_question(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.until("you> ")
    terminal.waits()
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.close() == 0


def test_an_address_that_is_not_ours_is_not_a_taken_port(tmp_path: Path) -> None:
    for flags in ([], ["--port", "7860"]):
        done = launch("--fake", "--no-browser", "--host", "192.0.2.7", *flags, data=tmp_path)
        assert done.returncode == 2 and "192.0.2.7" in done.stderr and "Another program" not in done.stderr
        assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_the_last_ports_are_looked_at_and_none_beyond() -> None:
    with socket.socket() as last:
        last.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        last.bind(("127.0.0.1", 65535))
        last.listen()
        assert free_port("127.0.0.1", 65535, exact=False) is None


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for command in ("serve", "chat", "models"):
        done = launch(command, data=tmp_path / "file" / "data")
        assert done.returncode == 2 and "The data folder cannot be written" in done.stderr
        assert done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    app = Served(tmp_path / "a", "--fake")
    port = app.url.rstrip("/").rsplit(":", 1)[1]
    asked = launch("--fake", "--no-browser", "--port", port, data=tmp_path / "b")
    assert asked.returncode == 2 and f"port {port}" in asked.stderr
    assert app.stop() == 0
