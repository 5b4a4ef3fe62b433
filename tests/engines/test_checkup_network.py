"""Proxies, ports and hubs, each a real one on loopback, or a place where nobody listens."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from configs.load import load_catalogue
from engines.checkup import hubs, network
from engines.checkup.finding import Finding
from engines.checkup.network import Address
from engines.preferences import Preferences
from tests.findings import briefly, only, said
from tests.hubs import Hub, Quiet, index

SECRET = "hunter2"
MODEL = "internlm2-chat-1_8b"


@pytest.fixture
def listening() -> Iterator[int]:
    """A port where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# -- proxies ----------------------------------------------------------------------------------------------------------


def test_no_proxy_is_fine() -> None:
    assert briefly(network.proxies({"TRAVIS_APT_PROXY": "x"}, 1)) == [("proxy", "ok", "proxy_none")]


def test_a_proxy_that_answers_and_one_that_does_not(listening: int, closed: int) -> None:
    environ = {
        "http_proxy": f"http://me:{SECRET}@127.0.0.1:{listening}",
        "HTTPS_PROXY": f"127.0.0.1:{closed}",
        "https_proxy": f"127.0.0.1:{closed}",
        "all_proxy": f"ftp://me:{SECRET}@x",
        "no_proxy": "localhost,127.0.0.1,::1",
    }
    found = network.proxies(environ, 1)
    assert briefly(found) == [
        ("proxy.all_proxy", "problem", "proxy_malformed"),
        ("proxy.http_proxy", "ok", "proxy_ok"),
        ("proxy.https_proxy", "problem", "proxy_dead"),
    ]
    assert said(found[2]).remedy.endswith("\nunset https_proxy HTTPS_PROXY")
    assert not any(SECRET in str(one) + str(said(one)) for one in found)


def test_a_socks_proxy_needs_packages(listening: int) -> None:
    environ = {"all_proxy": f"socks5h://127.0.0.1:{listening}", "no_proxy": "*"}
    found = only(network.proxies(environ, 1, installed=lambda name: name == "socksio"))
    assert found.code == "proxy_socks" and found.facts["packages"] == ["pysocks"]
    assert only(network.proxies(environ, 1, installed=lambda _: True)).code == "proxy_ok"


def test_this_computer_is_not_asked_of_a_proxy(listening: int) -> None:
    found = network.proxies({"http_proxy": f"http://127.0.0.1:{listening}", "NO_PROXY": "localhost,.lan"}, 1)
    assert found[-1].code == "proxy_bypass" and found[-1].facts["lacking"] == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("https://a.com", {"https_proxy": "http://p:1", "http_proxy": "http://q:2"}, "http://p:1"),
        ("https://a.com", {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ("https://a.com", {"HTTPS_PROXY": "http://q:2", "https_proxy": "http://p:1"}, "http://p:1"),
        ("https://a.com", {"all_proxy": "socks5://p:1"}, "socks5://p:1"),
        ("https://a.com", {"https_proxy": "http://p:1", "no_proxy": "b.org,.a.com,a.com"}, None),
        ("http://127.0.0.1:9", {"http_proxy": "http://p:1"}, None),
    ],
)
def test_which_proxy_an_address_is_reached_through(url: str, environ: dict[str, str], proxy: str | None) -> None:
    found = network.proxy_for(url, environ)
    assert (str(found) if found else None) == proxy


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://me:pw@host:8080/x", "http://host:8080"),
        ("host:8080", "http://host:8080"),
        ("https://hf-mirror.com", "https://hf-mirror.com"),
        ("socks5://h", "socks5://h:1080"),
        ("http://[::1]:3128", "http://[::1]:3128"),
        ("http://host:many", "None"),
        ("http://", "None"),
        ("not an address", "None"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert str(Address.of(text)) == address


# -- this computer's name and ports -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (["127.0.0.1", "::1"], ("ok", "localhost_ok")),
        (["::1"], ("note", "localhost_ipv6_only")),
        (["127.0.0.1", "192.0.2.1"], ("problem", "localhost_elsewhere")),
        ([], ("problem", "localhost_unknown")),
    ],
)
def test_localhost(addresses: list[str], found: tuple[str, str]) -> None:
    assert briefly(network.localhost(lambda _: addresses)) == [("localhost", *found)]


def test_a_port_that_is_free_or_taken(listening: int, closed: int) -> None:
    taken = network.port("127.0.0.1", listening, True, ours=False)
    assert briefly(taken) == [("port", "problem", "port_taken")]
    assert taken.facts["pid"] == os.getpid() and str(os.getpid()) in said(taken).line
    others = [
        network.port("127.0.0.1", listening, False, ours=False),
        network.port("127.0.0.1", listening, True, ours=True),
        network.port("127.0.0.1", closed, True, ours=False),
        network.port("127.0.0.1", 0, True, ours=False),
    ]
    assert [(state, code) for _, state, code in briefly(others)] == [
        ("note", "port_next"), ("ok", "port_ours"), ("ok", "port_free"), ("ok", "port_any")
    ]  # fmt: skip


def test_an_address_that_is_not_ours() -> None:
    found = network.port("192.0.2.7", 7860, False, ours=False)
    assert (found.state, found.code) == ("problem", "error") and "192.0.2.7" in said(found).line


# -- hubs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy, mirror or pip configuration of the developer's own."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith(("PIP_", "HF_", "MODELSCOPE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))


def reached(monkeypatch: pytest.MonkeyPatch, ask: float = 60.0, **environ: str) -> dict[str, Finding]:
    """What is found of each place, with these variables, when it is given so many seconds: tests' machines are busy."""
    monkeypatch.setattr(hubs, "ASK", ask)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    catalogue, kinds = load_catalogue(), ("local", "modelscope", "huggingface", "pypi")
    asked = hubs.asks(catalogue.models, MODEL, kinds, Preferences(), dict(os.environ))
    assert [one.kind for one in asked] == ["modelscope", "huggingface", "pypi"]
    found = hubs.reach(asked, dict(os.environ), needs_pypi=False)
    briefly(found)
    return {one.check.removeprefix("hub."): one for one in found}


@pytest.mark.usefixtures("alone")
def test_hubs_that_answer_are_asked_by_their_own_clients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = {source.kind: source.name for source in load_catalogue()[MODEL].sources}
    [embedded] = load_catalogue()["smollm2-135m-instruct"].sources
    with (
        Hub(names["modelscope"]) as modelscope,
        Hub(names["huggingface"]) as huggingface,
        index(tmp_path / "pypi", embedded.name, *embedded.files) as pypi,
    ):
        found = reached(
            monkeypatch, MODELSCOPE_ENDPOINT=modelscope.url, HF_ENDPOINT=huggingface.url, PIP_INDEX_URL=pypi
        )
    assert {name: (one.state, one.code) for name, one in found.items()} == dict.fromkeys(found, ("ok", "hub_ok"))
    assert found["huggingface"].facts["address"] == huggingface.url and "without a proxy" in said(found["pypi"]).line


@pytest.mark.usefixtures("alone")
def test_a_hub_without_the_model_a_dead_one_and_a_dead_proxy(monkeypatch: pytest.MonkeyPatch, closed: int) -> None:
    nowhere = f"http://127.0.0.1:{closed}"
    proxy = {"https_proxy": f"http://me:{SECRET}@127.0.0.1:{closed}"}
    with Hub("another/model") as hub:
        found = reached(monkeypatch, MODELSCOPE_ENDPOINT="https://hub.example", HF_ENDPOINT=hub.url,
                        PIP_INDEX_URL=nowhere, **proxy)  # fmt: skip
    assert {name: (one.state, one.code, one.facts.get("kind")) for name, one in found.items()} == {
        "modelscope": ("problem", "hub_proxy_dead", None),
        "huggingface": ("note", "hub_refused", "not_found"),
        "pypi": ("note", "hub_failed_pypi", "offline"),
    }
    assert not any(SECRET in str(one) + str(said(one)) for one in found.values())


@pytest.mark.usefixtures("alone")
def test_names_that_are_not_found_and_addresses_that_are_none(monkeypatch: pytest.MonkeyPatch, closed: int) -> None:
    nowhere = f"http://127.0.0.1:{closed}"
    found = reached(monkeypatch, MODELSCOPE_ENDPOINT="http://nowhere.invalid", HF_ENDPOINT="http://x:many",
                    PIP_INDEX_URL=nowhere)  # fmt: skip
    assert [found[name].code for name in ("modelscope", "huggingface")] == ["hub_unresolved", "hub_no_address"]


@pytest.mark.usefixtures("alone")
def test_a_hub_that_never_answers_is_given_up_and_nothing_stays_behind(
    monkeypatch: pytest.MonkeyPatch, listening: int
) -> None:
    silent = f"http://127.0.0.1:{listening}"
    found = reached(monkeypatch, ask=0.5, MODELSCOPE_ENDPOINT=silent, HF_ENDPOINT=silent, PIP_INDEX_URL=silent)
    assert [one.facts["kind"] for one in found.values()] == ["stalled"] * 3
    assert psutil.Process().children(recursive=True) == []


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[int]:
    """A port where TLS is spoken with a certificate that nobody has signed."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    program = shutil.which("openssl") or pytest.skip("needs openssl, to make a certificate")
    command = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
               "-keyout", str(key), "-out", str(certificate)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  the client hangs up, as it should
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("alone")
def test_a_certificate_that_is_not_trusted(monkeypatch: pytest.MonkeyPatch, untrusted: int) -> None:
    url = f"https://127.0.0.1:{untrusted}"
    found = reached(monkeypatch, MODELSCOPE_ENDPOINT=url, HF_ENDPOINT=url, PIP_INDEX_URL=url)
    assert {name: one.code for name, one in found.items()} == dict.fromkeys(found, "hub_certificate")


def test_only_the_hub_that_was_chosen_is_asked() -> None:
    kinds = ("modelscope", "huggingface", "pypi")
    mirror = Preferences(source="mirror", mirror="https://hf-mirror.com")
    asked = hubs.asks(load_catalogue().models, MODEL, kinds, mirror, {})
    assert [(one.kind, one.address) for one in asked] == [
        ("huggingface", "https://hf-mirror.com"), ("pypi", "https://pypi.org")
    ]  # fmt: skip
