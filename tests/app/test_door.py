"""The door and the guards over HTTP: the built app's every route, sign-in and sign-out, foreign pages, sizes."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from configs.schema import ServerConfig
from interface.door import FORM_BYTES, Door, Reception
from interface.guards import BodyLimit, middleware
from interface.logins import Login, login_of
from interface.sessions import Sessions
from interface.throttle import BURST, Throttle
from tests.app.test_http import until
from tools.served import ROOT, Served

ANN = {"name": "ann", "password": "correct horse"}
HTML = {"accept": "text/html,*/*"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    logins = {"SHUSHENG_AUTH": "ann:correct horse,书生:案头有书和茶，还有灯"}
    app = Served(tmp_path_factory.mktemp("app"), "--fake", environ=logins)
    yield app
    assert app.stop() == 0, app.output


@pytest.fixture(scope="module")
def ann(app: Served) -> Iterator[httpx.Client]:
    """A browser that has signed in."""
    with httpx.Client(base_url=app.url, timeout=30) as client:
        assert client.post("login", data=ANN).status_code == 303
        yield client


# -- the census -------------------------------------------------------------------------------------------------------

WITHOUT_LOGIN = {
    ("GET", "/login"), ("HEAD", "/login"),
    ("GET", "/manifest.json"), ("HEAD", "/manifest.json"),
    ("GET", "/icons/seal.svg"), ("HEAD", "/icons/seal.svg"),
}  # fmt: skip
"""Everything that answers anyone with anything but 401, a refusal, or the way to the login."""
REFUSED = {("POST", "/login", 415), *((method, "/login", 405) for method in ("PUT", "PATCH", "DELETE", "OPTIONS"))}

ODD_PATHS = (
    "//", "//config", "/./config", "/login/", "/login/../config", "/v1/../config", "/v1/%2e%2e/config", "/V1/models",
    "/v1", "/icons/../config", "/icons/%2e%2e/config", "/icons/..%2fconfig", "/manifest.json/", "/manifest.json%00",
    "/gradio_api/startup-events", "/gradio_api/startup-events/", "/gradio_api/../login", "/nothing/of/the/kind",
)  # fmt: skip


def answered(port: int, method: str, path: str, accept: str) -> tuple[int, str]:
    """Status and place of an answer, to exactly this path: a client library would tidy it up."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\nconnection: close\r\n"
        line.sendall(f"{head}content-length: 0\r\n\r\n".encode())
        text = b""
        while b"\r\n\r\n" not in text and (piece := line.recv(65536)):
            text += piece
    place = re.search(r"\r\nlocation: (\S+)", text.decode("latin-1"), re.IGNORECASE)
    return int(text.split()[1]), place[1] if place else ""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[int, set[str]]]:
    """The port of the built app, and the paths of all its routes."""
    command = [sys.executable, "-m", "tests.app.census", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        said = json.loads(child.stdout.readline())
        yield said["port"], set(said["paths"])
        child.communicate(timeout=30)


def test_the_census_of_what_answers_without_a_login(served: tuple[int, set[str]]) -> None:
    port, paths = served
    assert len(paths) > 70
    assert paths >= {"/", "/config", "/gradio_api/upload", "/gradio_api/file=x", "/gradio_api/queue/data", "/v1/models"}
    found = set()
    for path in sorted({*paths, *ODD_PATHS, "/login", "/logout"}):
        for method in METHODS:
            for accept in ("*/*", "text/html"):
                status, place = answered(port, method, path, accept)
                assert status < 500, (method, path)
                to_login = status == 303 and re.fullmatch(r"(\.\.?/)+login(\?to=\S*)?", place)
                if status != 401 and not to_login:
                    found.add((method, path, status))
    assert found == {(*one, 200) for one in WITHOUT_LOGIN} | REFUSED


# -- signing in and out -----------------------------------------------------------------------------------------------


def test_without_a_session_pages_lead_to_the_login_and_the_rest_is_told(app: Served) -> None:
    to_login = httpx.get(app.url + "?c=abc&tab=images", headers=HTML)
    assert to_login.status_code == 303 and to_login.headers["location"] == "./login?to=%2F%3Fc%3Dabc%26tab%3Dimages"
    assert httpx.get(app.url + "a/b", headers=HTML).headers["location"] == "../login?to=%2Fa%2Fb"
    for path in ("", "config", "gradio_api/info", "gradio_api/queue/data?session_hash=x", "gradio_api/heartbeat/x"):
        told = httpx.get(app.url + path)
        assert told.status_code == 401 and "sign in" in told.json()["detail"]
    chinese = {"accept-language": "zh-CN"}
    sent = httpx.post(app.url + "gradio_api/upload", files={"files": ("x", b"x")}, headers=chinese)
    assert sent.status_code == 401 and "登录" in sent.json()["error"]
    assert not any((app.data / "uploads").rglob("x"))


def test_the_login_page_speaks_the_readers_language(app: Served) -> None:
    said = [
        httpx.get(app.url + "login", headers={"accept-language": language, "cookie": cookie}).text
        for language, cookie in (("de", ""), ("zh-CN", ""), ("en", "shusheng_lang=zh-CN"), ("zh", "shusheng_lang=en"))
    ]
    assert ["登录" in text for text in said] == [False, True, True, False]
    assert "src=" not in said[0] and "//" not in said[0].replace("http://www.w3.org", ""), "nothing from elsewhere"


def test_signing_in_and_out(app: Served) -> None:
    with httpx.Client(base_url=app.url) as browser:
        assert browser.get("config").status_code == 401
        entered = browser.post("login?to=/%3Ftab%3Dmodels", data={"name": "书生", "password": "案头有书和茶，还有灯"})
        assert entered.status_code == 303 and entered.headers["location"] == "./?tab=models"
        session, known = entered.headers.get_list("set-cookie")
        for cookie in (session, known):
            assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Path" not in cookie and "Secure" not in cookie
        assert browser.get("config").status_code == 200
        assert browser.get("login", headers=HTML).headers["location"] == "./"
        token = session.partition(";")[0]
        left = browser.post("logout")
        assert left.status_code == 303 and left.headers["location"] == "./login"
        assert browser.get("config").status_code == 401
    assert httpx.get(app.url + "config", headers={"cookie": token}).status_code == 401, (
        "not only forgotten by the browser"
    )


def test_a_session_is_no_key_of_the_api(app: Served, ann: httpx.Client) -> None:
    lines = (app.data / "api-keys.txt").read_text(encoding="utf-8").splitlines()
    keys = dict(line.partition(":")[::2] for line in lines if not line.startswith("#"))
    assert set(keys) == {"ann", "书生"}
    assert ann.get("v1/models").status_code == 401 == httpx.get(app.url + "v1/models").status_code
    for key, status in ((keys["ann"], 200), ("correct horse", 401), ("none", 401)):
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(app.url + "v1/models", headers=headers).status_code == status
        assert httpx.get(app.url + "config", headers=headers).status_code == 401


def test_the_password_is_in_no_log(app: Served, ann: httpx.Client) -> None:
    assert ann.get("config").status_code == 200
    written = app.output + (app.data / "logs" / "app.log").read_text(encoding="utf-8")
    assert "correct horse" not in written and "sk-" not in written
    assert all("SHUSHENG_AUTH" not in one.environ() for one in until(app.workers))


# -- the door with a clock at hand ------------------------------------------------------------------------------------


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """A small app behind the door, whose time is ours."""

    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.reception = Reception([Login(**ANN)], ServerConfig(session_idle=100, session_lifetime=1000), "auto", 7860)
        self.reception.sessions = Sessions(100, 1000, self.clock)
        self.reception.strangers, self.reception.known = Throttle(self.clock), Throttle(self.clock)
        routes = [
            Route("/{path:path}", lambda request: JSONResponse({"login": login_of(request)}), methods=["GET", "POST"])
        ]
        self.app = Starlette(routes=routes, middleware=[Middleware(Door, reception=self.reception)])

    def visitor(self, address: str = "192.0.2.1", root_path: str = "", **headers: str) -> TestClient:
        return TestClient(
            self.app, "http://desk", root_path=root_path, client=(address, 1), headers=headers, follow_redirects=False
        )


def test_wrong_logins_are_answered_ever_later_and_never_waited_for() -> None:
    house = House()
    visitor, statuses = house.visitor(), []
    for _ in range(6):
        answer = visitor.post("/login", data=ANN | {"password": "wrong"})
        statuses.append((answer.status_code, answer.headers.get("retry-after")))
    assert statuses == [(401, None)] * 4 + [(429, "1")] * 2
    refused = visitor.post("/login", data=ANN)
    assert refused.status_code == 429 and "Too many wrong tries" in refused.text, "even with the right one"
    assert "错误次数太多" in visitor.post("/login", data=ANN, headers={"accept-language": "zh"}).text
    house.clock.now += int(refused.headers["retry-after"])
    assert visitor.post("/login", data=ANN).status_code == 303


def test_a_wrong_name_and_a_wrong_password_look_the_same() -> None:
    visitor = House().visitor()
    answers = [visitor.post("/login", data={"name": name, "password": "x"}).text for name in ("ann", "bob")]
    assert answers[0].replace("ann", "") == answers[1].replace("bob", "") and "do not belong together" in answers[0]
    assert "&lt;script&gt;" in visitor.post("/login", data={"name": '"><script>', "password": "x"}).text


def test_many_addresses_are_held_to_one_budget_and_forged_ones_count_for_nothing() -> None:
    house = House()
    tried = [house.visitor(f"192.0.2.{n}").post("/login", data=ANN | {"password": "x"}).status_code for n in range(20)]
    assert tried.count(401) == BURST
    house = House()
    statuses = [
        house.visitor(**{"x-forwarded-for": f"198.51.100.{n}"}).post("/login", data=ANN | {"password": "x"}).status_code
        for n in range(20)
    ]
    assert statuses.count(401) == 4


def test_a_browser_that_was_signed_in_before_is_not_kept_out_by_others() -> None:
    house = House()
    known = house.visitor()
    assert known.post("/login", data=ANN).status_code == 303
    assert known.post("/logout").status_code == 303
    for _ in range(50):
        house.visitor().post("/login", data=ANN | {"password": "x"})
    assert house.visitor().post("/login", data=ANN).status_code == 429
    assert known.post("/login", data=ANN).status_code == 303
    statuses = [known.post("/login", data=ANN | {"password": "x"}).status_code for _ in range(20)]
    assert statuses.count(401) <= BURST, "and gets no more tries than anyone"


def test_a_session_ends_by_itself() -> None:
    house = House()
    visitor = house.visitor()
    visitor.post("/login", data=ANN)
    for _ in range(9):
        house.clock.now += 99
        assert visitor.get("/").json() == {"login": "ann"}
    house.clock.now += 101
    assert visitor.get("/").status_code == 401
    visitor.post("/login", data=ANN)
    for _ in range(10):
        house.clock.now += 99
        assert visitor.get("/").status_code == 200
    house.clock.now += 20
    assert visitor.get("/").status_code == 401


def test_under_a_prefix_everything_is_relative() -> None:
    house = House()
    visitor = house.visitor(root_path="/user/ann/proxy/7860")
    assert visitor.get("/user/ann/proxy/7860/?c=1", headers=HTML).headers["location"] == "./login?to=%2F%3Fc%3D1"
    assert visitor.get("/user/ann/proxy/7860", headers=HTML).headers["location"] == "./7860/login"
    entered = visitor.post("/user/ann/proxy/7860/login?to=/%3Fc%3D1", data=ANN)
    assert entered.headers["location"] == "./?c=1"
    assert visitor.get("/user/ann/proxy/7860/").json() == {"login": "ann"}


def test_cookies_are_for_https_where_the_browser_came_by_it() -> None:
    house = House()
    for headers, secure in (
        ({}, False),
        ({"x-forwarded-proto": "https"}, True),
        ({"x-forwarded-proto": "http"}, False),
    ):
        entered = house.visitor(**headers).post("/login", data=ANN)
        assert [("Secure" in one) for one in entered.headers.get_list("set-cookie")] == [secure] * 2


def test_a_cookie_of_another_path_does_not_hide_ours() -> None:
    house = House()
    visitor = house.visitor()
    visitor.post("/login", data=ANN)
    own = visitor.cookies["shusheng_session_7860"]
    for cookie in (f"shusheng_session_7860=old; shusheng_session_7860={own}", f"shusheng_session_7860={own}; "
                   "shusheng_session_7860=old"):  # fmt: skip
        assert house.visitor(cookie=cookie).get("/").status_code == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"x" * (FORM_BYTES + 1), "application/x-www-form-urlencoded", 413),
        (b'{"name": "ann"}', "application/json", 415),
        (b"\xff=%ff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a=1" for _ in range(100)), "application/x-www-form-urlencoded", 400),
        (b"", "application/x-www-form-urlencoded", 401),
    ],
)
def test_a_form_that_is_none(body: bytes, kind: str, status: int) -> None:
    answer = House().visitor().post("/login", content=body, headers={"content-type": kind})
    assert answer.status_code == status and "<form" in answer.text


# -- foreign pages and names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["login", "logout", "gradio_api/upload", "gradio_api/queue/join", "v1/chat/completions"]
)
@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://["}, {"origin": "http://localhost:1"},
     {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
     {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}],
    ids=str,
)  # fmt: skip
def test_another_sites_page_posts_nothing(ann: httpx.Client, path: str, headers: dict[str, str]) -> None:
    assert ann.post(path, headers=headers, files={"files": ("x.txt", b"x")}).status_code == 403
    assert ann.get("config").status_code == 200, "still signed in"


def test_another_sites_page_gets_nothing_but_a_click_leads_here(ann: httpx.Client) -> None:
    foreign = {"sec-fetch-site": "cross-site"}
    click = foreign | {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert ann.get("", headers=HTML | click).status_code == 200
    for path in ("gradio_api/deep_link?session_hash=x", "gradio_api/heartbeat/x", "gradio_api/file=x"):
        assert ann.get(path, headers=HTML | click).status_code == 403
    for headers in ({"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, {"sec-fetch-mode": "cors"},
                    {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}):  # fmt: skip
        assert ann.get("config", headers=foreign | headers).status_code == 403
    assert ann.get("config", headers={"origin": "http://evil.example"}).status_code == 403
    for own in ("same-origin", "none"):
        assert ann.get("config", headers={"sec-fetch-site": own}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[", "localhost.evil.example:7860"])
def test_a_name_bent_to_our_address_is_refused_with_a_session_too(ann: httpx.Client, host: str) -> None:
    for path in ("", "login", "v1/models", "manifest.json"):
        assert ann.get(path, headers={"host": host}).status_code == 400
    assert ann.post("gradio_api/upload", headers={"host": host}, files={"files": ("x", b"x")}).status_code == 400


def asked(guards: list[Middleware], host: str, **headers: str) -> int:
    routes = [Route("/", lambda request: JSONResponse("in"), methods=["GET", "POST"])]
    with TestClient(Starlette(routes=routes, middleware=guards), base_url=f"http://{host}") as client:
        return client.post("/", headers=headers).status_code


def test_forwarded_ports_and_the_share_link_pass_unchanged() -> None:
    here, shared = middleware("127.0.0.1", ()), middleware("127.0.0.1", (), share=True)
    for host in ("localhost:9999", "127.0.0.1:1", "[::1]:9999", "LOCALHOST:80"):
        assert asked(here, host, origin=f"http://{host}") == 200
    link, proxied = "0a1b2c.gradio.live", {"x-forwarded-proto": "https", "x-forwarded-host": "0a1b2c.gradio.live"}
    assert asked(shared, link, origin=f"https://{link}", **proxied) == 200
    assert asked(here, link, origin=f"https://{link}", **proxied) == 400
    assert asked(shared, link, origin="https://other.gradio.live", **proxied) == 403
    assert asked(shared, link, **{"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, **proxied) == 403
    assert asked(middleware("127.0.0.1", ("desk.example",)), "desk.example", origin="https://desk.example:443") == 200
    forged = {"x-forwarded-host": "desk.example", "origin": "https://desk.example"}
    assert asked(here, "localhost", **forged) == 403


# -- headers and sizes ------------------------------------------------------------------------------------------------


def test_every_answer_carries_the_headers(app: Served, ann: httpx.Client) -> None:
    answers = [
        ann.get("", headers=HTML), ann.get("config"), httpx.get(app.url + "config"), httpx.get(app.url + "login"),
        httpx.get(app.url, headers={"host": "evil.example"}), ann.post("logout", headers={"origin": "null"}),
    ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [200, 200, 401, 200, 400, 403]
    for answer in answers:
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "geolocation=()" in answer.headers["permissions-policy"]
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answers[0].headers["cache-control"] == answers[3].headers["cache-control"] == "no-store"
    uploaded = ann.post("gradio_api/upload", files={"files": ("x.txt", b"x")}).json()[0]
    assert ann.get(f"gradio_api/file={uploaded}").headers["cache-control"] == "private, no-cache"


def test_a_request_that_grows_too_large_is_refused_while_it_comes(ann: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (b" " * 2**20 for _ in range(17))

    for path in ("gradio_api/queue/join", "gradio_api/run/stop"):
        answer = ann.post(path, content=pieces(), headers={"content-type": "application/json"})
        assert answer.status_code == 413 and "larger than 16.0 MiB" in answer.text


def test_a_request_that_announces_too_much_is_not_waited_for(app: Served) -> None:
    with socket.create_connection(("127.0.0.1", int(app.url.rstrip("/").rpartition(":")[2])), timeout=20) as line:
        head = f"POST /gradio_api/upload HTTP/1.1\r\nhost: localhost\r\ncontent-length: {2**40}\r\n"
        line.sendall(f"{head}accept-language: zh\r\n\r\nx".encode())
        text = b"".join(iter(lambda: line.recv(65536), b"")).decode()
    assert text.startswith("HTTP/1.1 413 ") and "请求超过了" in text


def limited(endpoint: Any, **headers: str) -> httpx.Response:
    guard = Middleware(BodyLimit, limits={"": 100, "/files": 1000, "/own": None})
    routes = [Route("/{path:path}", endpoint, methods=["POST"])]
    with TestClient(Starlette(routes=routes, middleware=[guard])) as client:
        return client.post(headers.pop("path"), content=iter([b"x" * 60] * 10), headers=headers)


def test_the_limit_is_the_paths_and_whatever_the_app_does_the_refusal_is_the_answer() -> None:
    async def length(request: Request) -> JSONResponse:
        return JSONResponse(len(await request.body()))

    async def swallows(request: Request) -> JSONResponse:
        try:
            await request.body()
        except Exception:
            pass
        return JSONResponse("fine")

    async def turns(request: Request) -> JSONResponse:
        try:
            return JSONResponse(len(await request.body()))
        except Exception:
            raise ValueError("cannot be parsed") from None

    assert [limited(length, path=path).status_code for path in ("/a", "/files", "/own")] == [413, 200, 200]
    assert limited(swallows, path="/a").status_code == limited(turns, path="/a").status_code == 413
    with pytest.raises(ValueError, match="cannot be parsed"):
        limited(lambda request: turns_always(), path="/own")


def turns_always() -> JSONResponse:
    raise ValueError("cannot be parsed")


# -- what is said at the start ----------------------------------------------------------------------------------------


def test_a_login_that_is_made_up_is_printed_once_and_works(tmp_path: Path) -> None:
    app = Served(tmp_path, "--fake", "--host", "0.0.0.0", "--lang", "en")
    try:
        (password,) = set(re.findall(r"\b(?:[a-z2-9]{4}-){3}[a-z2-9]{4}\b", app.output))
        assert app.output.count(password) == 2 and f"密码 {password}" in app.output, "once in each language"
        (key,) = re.findall(r"sk-\S+", app.output)
        assert httpx.get(app.url + "config").status_code == 401
        assert httpx.post(app.url + "login", data={"name": "desk", "password": password}).status_code == 303
        assert httpx.get(app.url + "v1/models").status_code == 401
        assert httpx.get(app.url + "v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
        log = (tmp_path / "logs" / "app.log").read_text(encoding="utf-8")
        assert password not in log and key not in log
    finally:
        assert app.stop() == 0


def test_no_login_where_that_was_typed_and_it_is_said(tmp_path: Path) -> None:
    app = Served(tmp_path, "--fake", "--host", "0.0.0.0", "--no-auth", "--allow-host", "desk.example")
    try:
        assert httpx.get(app.url + "config").status_code == 200 == httpx.get(app.url + "v1/models").status_code
        assert httpx.get(app.url + "config", headers={"host": "desk.example"}).status_code == 200
        assert "nobody is asked" in app.output and "不需要登录" in app.output and "password" not in app.output
        assert httpx.post(app.url + "logout").status_code in (404, 405)
    finally:
        assert app.stop() == 0
