"""What a person is told to type at another computer, and which proxies an app can start with."""

from __future__ import annotations

import getpass
import os
import socket

import pytest

from interface import reach

ME, HERE = getpass.getuser(), socket.gethostname()


@pytest.mark.parametrize(
    ("host", "session", "line"),
    [
        ("127.0.0.1", "", f"ssh -N -L 7860:127.0.0.1:7860 {ME}@{HERE}"),
        ("0.0.0.0", "10.0.0.1 50000 10.0.0.2 22", f"ssh -N -L 7860:127.0.0.1:7860 {ME}@10.0.0.2"),
        ("::1", "10.0.0.1 50000 10.0.0.2 2222", f"ssh -N -L 7860:[::1]:7860 -p 2222 {ME}@10.0.0.2"),
        ("::", "::1 50000 ::1 22", f"ssh -N -L 7860:[::1]:7860 {ME}@{HERE}"),
        ("127.0.0.1", "fe80::2%eth0 1 fe80::1%eth0 22", f"ssh -N -L 7860:127.0.0.1:7860 {ME}@fe80::1%eth0"),
        ("127.0.0.1", "odd", f"ssh -N -L 7860:127.0.0.1:7860 {ME}@{HERE}"),
    ],
)
def test_the_line_to_type_at_another_computer(host: str, session: str, line: str) -> None:
    hint = reach.ssh_hint(host, 7860, "en", {"SSH_CONNECTION": session})
    assert line in hint.splitlines()[1] and "http://127.0.0.1:7860/" in hint
    assert f"-L 7861:{line.split(' ')[3].partition(':')[2]}" in hint and hint.endswith("http://127.0.0.1:7861/")


def test_who_has_no_name_and_the_last_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: {}["1000"])
    assert "USER@" in reach.ssh_hint("127.0.0.1", 65535, "zh", {}) and "65534" in reach.ssh_hint("::1", 65535, "zh", {})


@pytest.mark.parametrize(
    ("host", "address"),
    [("::", "http://[::1]:1/"), ("0.0.0.0", "http://127.0.0.1:1/"), ("10.0.0.2", "http://10.0.0.2:1/")],
)
def test_addresses(host: str, address: str) -> None:
    assert reach.address(host, 1) == address


def test_proxies_that_nothing_here_can_use_are_left_out() -> None:
    given = {"http_proxy": "http://p:1", "HTTPS_PROXY": "p:2", "all_proxy": "socks://p:3", "ALL_PROXY": "socks4://p:4"}
    assert reach.settle_proxies(environ := dict(given), "10.0.0.2") == {"ALL_PROXY": "socks4"}
    assert environ["http_proxy"] == "http://p:1" and environ["HTTPS_PROXY"] == "p:2" and "ALL_PROXY" not in environ
    assert environ["all_proxy"] == "socks5://p:3"
    assert environ["no_proxy"] == environ["NO_PROXY"] == "localhost,127.0.0.1,::1,10.0.0.2"
    assert reach.settle_proxies(environ := given | {"no_proxy": "a,::1"}, "::1") == {"ALL_PROXY": "socks4"}
    assert environ["no_proxy"] == "a,::1,localhost,127.0.0.1"


def test_a_session_over_ssh_is_far_from_its_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "DISPLAY", ":0")
    assert reach.is_far({"SSH_CONNECTION": "a 1 b 22"}) and not reach.is_far({})
