"""Images by address: which addresses are asked at all, what is taken of the answers, and by which name and line."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from engines.errors import ImageNotFetched
from interface import remote_images
from interface.remote_images import RemoteImages, is_public, resolve

PNG = b"\x89PNG and so on"
ALLOWED = "127.0.0.2"
"""Stands for the public internet in these tests; the canary listens on every other address of the machine, too."""


class Site(ThreadingHTTPServer):
    """A web server that remembers what it was asked for. `answers` are (status, headers, body) by path."""

    daemon_threads = True

    def __init__(self, host: str, port: int = 0) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        super().__init__((host, port), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers["host"]))
        status, headers, data = self.server.answers.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_CONNECT = do_GET

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site(ALLOWED)
    site.answers["/x.png"] = (200, {"content-type": "image/png"}, PNG)
    yield site
    site.shutdown()
    site.server_close()


@pytest.fixture(scope="module")
def canary() -> Iterator[Site]:
    site = Site("0.0.0.0")
    yield site
    site.shutdown()
    site.server_close()


def allowed(address: str) -> bool:
    return address == ALLOWED or is_public(address)


def named(*addresses: str) -> Any:
    """A resolver that gives one address after the other, the last one for good."""
    left = list(addresses)

    async def names(host: str, port: int) -> Sequence[str]:
        return [left.pop(0) if len(left) > 1 else left[0]]

    return names


def fetch(url: str, **how: Any) -> bytes:
    return anyio.run(RemoteImages(**{"max_bytes": 1000, "public": allowed, "seconds": 5.0, **how}).fetch, url)


def refused(url: str, **how: Any) -> str:
    with pytest.raises(ImageNotFetched) as caught:
        fetch(url, **how)
    return str(caught.value.facts["reason"])


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "192.0.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
     "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
     "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1",
     "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "nonsense", ""],
)  # fmt: skip
def test_private_addresses_are_not_public_whatever_they_are_wrapped_in(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


TRICKY = (
    "http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://LOCALHOST:{port}/", "http://localhost.:{port}/",
    "http://127.0.0.1.:{port}/", "http://2130706433:{port}/", "http://017700000001:{port}/", "http://0x7f000001:{port}/",
    "http://0x7f.1:{port}/", "http://0177.0.0.1:{port}/", "http://127.1:{port}/", "http://127.0.1:{port}/",
    "http://0:{port}/", "http://0.0.0.0:{port}/", "http://127.8.8.8:{port}/", "http://[::1]:{port}/",
    "http://[::]:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/",
    "http://[0:0:0:0:0:ffff:7f00:1]:{port}/", "http://[64:ff9b::7f00:1]:{port}/", "http://[2002:7f00:1::]:{port}/",
    "http://[::1%25lo]:{port}/", "http://[fe80::1]:{port}/", "http://169.254.169.254:{port}/latest/meta-data/",
    "http://169.254.169.254./latest/meta-data/", "http://2852039166/latest/meta-data/", "http://[fd00:ec2::254]/",
    "http://user:password@127.0.0.1:{port}/", "http://8.8.8.8@127.0.0.1:{port}/", "http://127.0.0.1:{port}@8.8.8.8/",
    "http://127.0.0.1:{port}\\@8.8.8.8/", "http://127.0.0.1:{port}%2f@8.8.8.8/", "http://127.0.0.1:{port}#@8.8.8.8/",
    "http://127.0.0.1:{port}?@8.8.8.8/", "http://①②⑦.⓪.⓪.①:{port}/", "http://127。0。0。1:{port}/",
    "http://xn--lcalhost-4ya:{port}/", "http://localhost%00.example.com:{port}/", "http://127.0.0.1%00:{port}/",
    "http://127.0.0.1\t:{port}/", "http://127.0.0.1:{port}\r\nhost: x/", "http:/127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/", "//127.0.0.1:{port}/", "https://127.0.0.1:{port}/", "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/", "file:///etc/passwd", "http://127.0.0.1:22/", "http://127.0.0.1:0/",
    "http://127.0.0.1:99999/", "http://", "",
)  # fmt: skip


@pytest.mark.parametrize("url", TRICKY)
def test_the_canary_is_not_heard(url: str, canary: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def connect(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise OSError

    monkeypatch.setattr(anyio, "connect_tcp", connect)
    refused(url.format(port=canary.port), resolve=resolve, public=is_public)
    assert asked == [] and canary.asked == []


@pytest.mark.parametrize(
    "place",
    ["http://127.0.0.1:{port}/x.png", "http://localhost:{port}/", "http://[::1]:{port}/", "//127.0.0.1:{port}/",
     "http://2130706433:{port}/", "http://user@127.0.0.1:{port}/", "http://169.254.169.254/", "file:///etc/passwd"],
)  # fmt: skip
@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_is_checked_like_the_first_address(place: str, status: int, site: Site, canary: Site) -> None:
    site.answers["/away"] = (status, {"location": place.format(port=canary.port)}, b"")
    refused(f"http://{ALLOWED}:{site.port}/away", resolve=resolve)
    assert canary.asked == [] and len(site.asked) == 1


def test_a_name_that_is_bent_in_between_does_not_get_through(site: Site, canary: Site) -> None:
    site.answers["/again"] = (302, {"location": f"http://bent.example:{canary.port}/x.png"}, b"")
    url = f"http://bent.example:{site.port}/again"
    assert refused(url, resolve=named(ALLOWED, "127.0.0.1")) == "not_public"
    # The address that was checked is the one that is used: a second answer is not asked for.
    assert fetch(f"http://bent.example:{site.port}/x.png", resolve=named(ALLOWED, "127.0.0.1")) == PNG
    assert canary.asked == []


def test_one_private_address_among_public_ones_is_enough_to_refuse(site: Site, canary: Site) -> None:
    async def both(host: str, port: int) -> Sequence[str]:
        return [ALLOWED, "127.0.0.1"]

    assert refused(f"http://two.example:{canary.port}/", resolve=both) == "not_public"
    assert canary.asked == []


def test_an_image_comes_by_its_hosts_name_and_the_next_address_is_tried(site: Site) -> None:
    async def first_is_down(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.3", ALLOWED]

    public = lambda address: address in (ALLOWED, "127.0.0.3")  # noqa: E731
    url = f"http://pictures.example:{site.port}/x.png"
    assert fetch(url, resolve=first_is_down, public=public) == PNG
    assert site.asked == [("GET", "/x.png", f"pictures.example:{site.port}")]


def test_redirects_are_followed_three_times(site: Site) -> None:
    for n in range(5):
        site.answers[f"/{n}"] = (302, {"location": f"/{n + 1}"}, b"")
    site.answers["/5"] = site.answers["/x.png"]
    here = f"http://pictures.example:{site.port}"
    assert fetch(f"{here}/2", resolve=named(ALLOWED)) == PNG
    assert refused(f"{here}/1", resolve=named(ALLOWED)) == "redirects"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, {"content-type": "text/html"}, b"<html>"), "type"),
        ((200, {}, PNG), "type"),
        ((200, {"content-type": "image/png", "content-encoding": "gzip"}, PNG), "type"),
        ((404, {"content-type": "image/png"}, PNG), "status"),
        ((204, {}, b""), "status"),
        ((200, {"content-type": "image/png", "content-length": "1001"}, b"x" * 1001), "too_many_bytes"),
        ((200, {"content-type": "image/png"}, b"x" * 1001), "too_many_bytes"),
        ((200, {"content-type": "image/png", "content-length": "500"}, b"x" * 9), "unreachable"),
        ((302, {}, b""), "status"),
    ],
)
def test_what_is_no_image_of_bearable_size_is_not_taken(
    answer: tuple[int, dict[str, str], bytes], reason: str, site: Site
) -> None:
    site.answers["/bad"] = answer
    assert refused(f"http://pictures.example:{site.port}/bad", resolve=named(ALLOWED)) == reason


def test_time_is_limited_in_all(site: Site) -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await anyio.sleep_forever()
        return []

    assert refused("http://slow.example/", resolve=never, seconds=0.05) == "slow"


def test_offline_asks_nobody(site: Site) -> None:
    url = f"http://pictures.example:{site.port}/x.png"
    assert refused(url, resolve=named(ALLOWED), offline=True) == "offline"
    assert site.asked == []


def test_a_long_address_is_not_repeated_in_full() -> None:
    with pytest.raises(ImageNotFetched) as caught:
        fetch("http://127.0.0.1/" + "x" * 5000)
    assert len(caught.value.facts["url"]) < 250


def test_a_proxy_is_handed_the_address_that_was_checked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name it would resolve itself, to whatever it likes."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://{ALLOWED}:{site.port}")
    site.answers["http://9.9.9.9/x.png"] = site.answers["/x.png"]
    assert fetch("http://pictures.example/x.png", resolve=named("9.9.9.9")) == PNG
    assert site.asked == [("GET", "http://9.9.9.9/x.png", "pictures.example")]
    refused("https://pictures.example/x.png", resolve=named("9.9.9.9"))
    assert site.asked[1][:2] == ("CONNECT", "9.9.9.9:443")
    assert refused("http://pictures.example/x.png", resolve=named("10.0.0.1")) == "not_public"
    assert len(site.asked) == 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_certificates_are_checked_against_the_name(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=pictures.example", "-addext", "subjectAltName=DNS:pictures.example",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert fetch(f"https://pictures.example:{site.port}/x.png", resolve=named(ALLOWED)) == PNG
    assert refused(f"https://others.example:{site.port}/x.png", resolve=named(ALLOWED)) == "unreachable"


def test_ports_of_other_services_are_left_alone() -> None:
    for port in (22, 25, 1023):
        assert refused(f"http://pictures.example:{port}/", resolve=named(ALLOWED)) == "port"
    assert remote_images.PORTS == (80, 443)
