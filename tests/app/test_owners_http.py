"""Two logins at one app attack each other: by id, file path, search, export, session, undo and forged payload."""

from __future__ import annotations

import base64
import io
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from gradio import routes as gradio_routes
from PIL import Image

from tests.app.test_http import until
from tools.served import Served

TEXT: list[Any] = ["smollm2-135m-instruct", "", 0.2, 0.9, 1.1, 8000, -1]
VISION: list[Any] = ["internvl2-2b", "", 0.0, 0.8, 1.0, 800, -1, "auto"]
LIST = "history-list"
LOGINS, PASSWORD = ("ann", "ben"), "correct horse battery"
NOBODYS = "made without a login"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a conversation that was made while no login was needed."""
    data = tmp_path_factory.mktemp("app")
    app = Served(data, "--fake")
    with Person(app, "") as nobody:
        nobody.answered(NOBODYS)
    assert app.stop() == 0, app.output
    return data


@pytest.fixture(scope="module")
def app(data: Path) -> Iterator[Served]:
    app = Served(data, "--fake", *(flag for name in LOGINS for flag in ("--auth", f"{name}:{PASSWORD}")))
    yield app
    assert app.stop() == 0, app.output


class Person:
    """A page of one login, as Gradio's own script speaks to the app."""

    def __init__(self, app: Served, login: str, session: str = "") -> None:
        self.app, self.login, self.session = app, login, session or f"page-of-{login}"
        self.http = httpx.Client(base_url=app.url, timeout=30)
        if login:
            signed_in = self.http.post("login", data={"name": login, "password": PASSWORD})
            assert signed_in.status_code == 303, signed_in.text
        self.config = self.http.get("config").json()

    def __enter__(self) -> Person:
        return self

    def __exit__(self, *error: object) -> None:
        self.http.close()

    def join(self, name: str, *data: Any, of: str = "", event: Any = None) -> httpx.Response:
        """Calls an event by its name, or by the component and the name of what happened on it."""
        number = self.number(name, of)
        body = {"data": data, "fn_index": number, "session_hash": self.session, "event_data": event}
        return self.http.post("gradio_api/queue/join", json=body)

    def number(self, name: str, of: str = "") -> int:
        ids = [one["id"] for one in self.config["components"] if one["props"].get("elem_id") == of]
        found = [
            one["id"]
            for one in self.config["dependencies"]
            if (one["api_name"] == name if not of else [ids[0], name] in [list(target) for target in one["targets"]])
        ]
        return int(found[0])

    @contextmanager
    def events(self, session: str = "") -> Iterator[Iterator[dict[str, Any]]]:
        asked = {"session_hash": session or self.session}
        with self.http.stream("GET", "gradio_api/queue/data", params=asked) as stream:
            yield (json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line)

    def call(self, name: str, *data: Any, of: str = "", event: Any = None) -> list[Any]:
        """What the event returns, at last; or its error, as a list of one."""
        joined = self.join(name, *data, of=of, event=event)
        assert joined.status_code == 200, joined.text
        with self.events() as events:
            (output,) = [one["output"] for one in events if one["msg"] == "process_completed"]
        return list(output.get("data") or [output["error"]])

    # -- what people do -------------------------------------------------------------------------------------------

    def ask(self, text: str, conversation: str = "") -> str:
        _, id, notice = self.call("ask", text, conversation, "", *TEXT)
        assert notice == ""
        return str(id)

    def answered(self, text: str) -> str:
        id = self.ask(text)
        until(lambda: self.stored(id)[-1][2] == "complete")
        return id

    def ask_image(self, path: str, text: str = "what is it?", **more: Any) -> list[Any]:
        file = {"path": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}, **more}
        return self.call("image_ask", {"text": text, "files": [file]}, "", "", *VISION)

    def stored(self, id: str) -> list[tuple[Any, ...]]:
        """Rows of a conversation of this login's: id, text, status, images."""
        with closing(sqlite3.connect(self.app.data / "conversations.sqlite3")) as db:
            return db.execute(
                "SELECT m.id, text, status, images FROM messages m JOIN conversations c ON c.id = conversation"
                " WHERE c.id = ? AND owner = ? ORDER BY m.id",
                (id, self.login),
            ).fetchall()

    def images(self, id: str) -> list[Any]:
        return list(json.loads(self.stored(id)[0][3]))

    def listed(self, query: str = "") -> str:
        return str(self.call("input", query, of="history-search")[0])

    def upload(self, name: str, data: bytes, **params: str) -> str:
        (path,) = self.http.post("gradio_api/upload", files={"files": (name, data)}, params=params).json()
        return str(path)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get(f"gradio_api/file={quote(path)}", headers=headers)


@pytest.fixture(scope="module")
def ann(app: Served) -> Iterator[Person]:
    with Person(app, "ann") as person:
        yield person


@pytest.fixture(scope="module")
def ben(app: Served) -> Iterator[Person]:
    with Person(app, "ben") as person:
        yield person


def png(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(data, "PNG")
    return data.getvalue()


# -- conversations ----------------------------------------------------------------------------------------------------


def test_a_conversation_is_not_there_for_another_login(ann: Person, ben: Person) -> None:
    id = ann.answered("the secret of ann")
    before, seen = ann.stored(id), ann.call("look", id, TEXT[0], "", "")[-1]
    assert ann.call("open", id)[0] == id and "secret" in str(ann.call("follow", id, TEXT[0], ""))
    row = before[-1][0]
    edit = {"index": 0, "previous_value": "the secret of ann", "value": "mine now"}
    for name, data, event in (
        ("open", [], None),
        ("follow", [TEXT[0], ""], None),
        ("look", [TEXT[0], "", ""], None),
        ("look", [TEXT[0], "", seen], None),
        ("retry", [seen, *TEXT], None),
        ("edit", ["", "", *TEXT], edit),
        ("undo", [""], None),
        *(("act", ["", *TEXT], {"do": do, "row": row}) for do in ("delete", "restore", "choose", "resume")),
        ("markdown_1", [], None),
        ("json_1", [], None),
    ):
        got = ben.call(name, id, *data, event=event)
        assert got == ben.call(name, "no-such", *data, event=event), name
        assert "secret" not in str(got)
    assert ann.stored(id) == before
    asked = ben.ask("x", id)
    assert asked not in (id, "") and ann.stored(id) == before and ben.stored(asked)[0][1] == "x"


def test_the_list_shows_and_changes_ones_own(ann: Person, ben: Person) -> None:
    id = ann.answered("a pineapple 菠萝")
    for query in ("", "pineapple", "菠", "a p"):
        assert id in ann.listed(query) and id not in ben.listed(query) and "菠萝" not in ben.listed(query)
    for what, more in (("rename", {"title": "mine now"}), ("pin", {}), ("delete", {}), ("restore", {})):
        (shown,) = ben.call("act", "", None, of=LIST, event={"what": what, "id": id, **more})
        assert id not in shown and "菠萝" not in shown
        assert "a pineapple 菠萝" in ann.listed() and f'data-do="pin" data-key="pin {id}"' in ann.listed()
    assert ann.call("act", "", None, of=LIST, event={"what": "delete", "id": id})
    assert f'href="?c={id}"' not in ann.listed()
    ben.call("act", "", None, of=LIST, event={"what": "restore", "id": id})
    assert ann.call("open", id)[0] == ""
    ann.call("act", "", None, of=LIST, event={"what": "restore", "id": id})
    assert ann.call("open", id)[0] == id


def test_an_answer_on_its_way_is_neither_seen_nor_stopped_by_another(ann: Person, ben: Person) -> None:
    id = ann.ask("fake: words=100000 delay=0.01")
    shown = ben.call("follow", id, TEXT[0], "")
    assert "word" not in str(shown[:2]) and shown == ben.call("follow", "no-such", TEXT[0], "")
    body = {"data": [id], "fn_index": ben.number("stop"), "session_hash": ben.session}
    assert ben.http.post("gradio_api/run/stop", json=body).status_code == 200
    ben.call("act", "", None, of=LIST, event={"what": "delete", "id": id})
    assert ann.stored(id)[-1][2] == "growing" and ann.call("open", id)[0] == id
    assert ann.http.post("gradio_api/run/stop", json=body).status_code == 200
    until(lambda: ann.stored(id)[-1][2] == "stopped")


def test_exports_hold_ones_own_and_an_import_is_the_importers(ann: Person, ben: Person) -> None:
    id, _ = ann.answered("exported by ann"), ben.answered("exported by ben")
    for name in ("json", "markdown"):
        made = ann.call(name)[0]["path"]
        assert made.endswith(".zip") or "exported by ann" in ann.get(made).text
        assert ben.get(made).status_code == 403
        assert "exported by ann" not in str(ben.get(ben.call(name)[0]["path"]).content)
    (one, _) = ann.call("json_1", id)
    taken = ben.upload("taken.json", ann.get(one["path"]).content)
    file = {"path": taken, "orig_name": "taken.json", "meta": {"_type": "gradio.FileData"}}
    links = ben.call("upload", file, of="import")[0]
    (copy,) = re.findall(r"\?c=([\w-]+)", links)
    assert ben.stored(copy)[0][1] == "exported by ann" and ann.stored(copy) == []
    forged = ben.call("upload", {**file, "path": one["path"], "orig_name": "x.json"}, of="import")[0]
    assert "?c=" not in forged


def test_presets_are_ones_own(ann: Person, ben: Person) -> None:
    ann.call("save", "ann's way", "Answer ann.", *TEXT[2:])
    assert "ann's way" in str(ann.call("choices")) and "ann's way" not in str(ben.call("choices"))
    assert "Answer ann." not in str(ben.call("chosen", "ann's way"))


def test_what_was_made_without_a_login_is_no_logins(app: Served, ann: Person) -> None:
    with closing(sqlite3.connect(app.data / "conversations.sqlite3")) as db:
        (id,) = db.execute("SELECT id FROM conversations WHERE owner = ''").fetchone()
    assert ann.call("open", id)[0] == "" and NOBODYS not in ann.listed() + ann.listed("without")


# -- files ------------------------------------------------------------------------------------------------------------


def ways_to(path: str, app: Served) -> list[str]:
    up = "../" * 12
    inside = path.removeprefix(str(app.data))
    return [
        path, f"/{path}", f"{up}{path.lstrip('/')}", f"{app.data}/uploads/..{inside}", f"{app.data}/./{inside}",
        path.upper(), f"{path}/", f"file://{path}",
    ]  # fmt: skip


def refused(person: Person, path: str) -> None:
    """Neither by GET nor HEAD nor a part of it, by whatever spelling; and in the words for what is not there."""
    for way in ways_to(path, person.app):
        for route in ("file=", "file/"):
            for spelled in (quote(way), quote(way, safe="")):
                assert person.http.get(f"gradio_api/{route}{spelled}").status_code in (403, 404), way
                assert person.http.head(f"gradio_api/{route}{spelled}").status_code in (403, 404, 405), way
    for name in (path, "/no/such"):
        assert person.get(name).json() == {"detail": f"File not allowed: {name}."}
    assert person.get(path, range="bytes=0-9").status_code == 403


def test_an_image_is_read_by_those_who_asked_about_it(ann: Person, ben: Person, app: Served) -> None:
    upload = ann.upload("mine.png", png("teal"))
    id = str(ann.ask_image(upload)[1])
    picture = ann.images(id)
    whole, small = (str(app.data / "images" / f"{picture[0][0]}{end}") for end in (".webp", ".small.webp"))
    shown = str(ann.call("image_follow", id, VISION[0], "")[0])
    assert quote(small) in shown
    taken_back, _ = ann.call("image_undo", id, "")
    (copy,) = [one["path"] for one in taken_back["files"]]
    for path in (upload, whole, small, copy):
        assert ann.get(path).status_code == 200, path
        refused(ben, path)
    assert str(ben.ask_image(copy)[2]) and "notice" in str(ben.ask_image(copy)[2])
    sent_again = ann.ask_image(copy)[1]
    assert ann.images(sent_again) == picture
    # The same picture is one file, of both.
    other = str(ben.ask_image(ben.upload("same.png", png("teal")))[1])
    assert ben.images(other) == picture
    assert ben.get(small).status_code == 200 and ben.get(upload).status_code == 403


FORMS: list[dict[str, Any]] = [{}, {"url": "/gradio_api/file=x"}, {"url": "data:x"}, {"meta": {}}, {"is_stream": True}]


def test_a_forged_path_brings_no_file_of_another(ann: Person, ben: Person, app: Served) -> None:
    upload = ann.upload("forged.png", png("navy"))
    id = str(ann.ask_image(upload)[1])
    whole = str(app.data / "images" / f"{ann.images(id)[0][0]}.webp")
    before = sorted((app.data / "images").iterdir())
    for path in (upload, whole, *ways_to(upload, app), f"{app.url}gradio_api/file={upload}"):
        for more in FORMS:
            got = ben.ask_image(path, **more)
            assert len(got) == 1 or ("notice" in got[2] and "__type__" in str(got[1])), (path, got)
    file = {"path": upload, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
    assert len(ben.call("taken", {"text": "", "files": []}, file)) == 1  # an error
    mine = ben.upload("mine.png", png("navy"))
    box = {"text": "", "files": [{**file, "path": upload}]}
    taken = ben.call("taken", box, {**file, "path": mine})[0]
    assert [ben.get(one["path"]).status_code for one in taken["files"]] == [403, 200]
    assert sorted((app.data / "images").iterdir()) == before


def test_an_upload_is_told_of_to_the_uploader(ann: Person, ben: Person) -> None:
    ann.upload("told.png", png("red"), upload_id="known")
    assert ben.http.get("gradio_api/upload_progress", params={"upload_id": "known"}).status_code == 404


def test_the_samples_are_everybodys(ann: Person, ben: Person) -> None:
    for person in (ann, ben):
        shown = person.call("image_follow", "", VISION[0], "")[0]
        icons = [one["icon"]["path"] for one in shown["examples"]]
        assert len(icons) == 4 and all(person.get(path).status_code == 200 for path in icons)
        box = person.call("example_select", of="image-chat", event={"index": 0, "value": {"text": "read it"}})[0]
        assert person.get(box["files"][0]["path"]).status_code == 200
        assert person.call("image_ask", box, "", "", *VISION)[2] == ""


@pytest.mark.parametrize("name", ["conversations.sqlite3", "running.lock", "logs/engine.log", "requests", "uploads"])
def test_no_other_file_of_the_data_folder_is_read(ann: Person, app: Served, name: str) -> None:
    assert ann.get(str(app.data / name)).status_code == 403


def test_an_image_of_the_api_is_nobodys_on_the_page(ann: Person, app: Served) -> None:
    url = "data:image/png;base64," + base64.b64encode(png("gold")).decode()
    parts = [{"type": "text", "text": "fake: words=9 delay=0.2"}, {"type": "image_url", "image_url": {"url": url}}]
    asked = {"model": VISION[0], "stream": True, "messages": [{"role": "user", "content": parts}]}
    (found,) = re.findall(r"^ann:(.+)$", (app.data / "api-keys.txt").read_text(), re.MULTILINE)
    key = {"authorization": f"Bearer {found}"}
    with httpx.stream("POST", f"{app.url}v1/chat/completions", json=asked, headers=key, timeout=20) as stream:
        next(stream.iter_lines())
        images = [str(path) for path in (app.data / "requests").glob("*/*.webp")]
        assert images and {ann.get(path).status_code for path in images} == {403}


# -- sessions ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(app: Served) -> Iterator[tuple[Person, Person]]:
    """Two logins whose pages go by one name."""
    with Person(app, "ann", "one-name") as ann, Person(app, "ben", "one-name") as thief:
        yield ann, thief


def test_a_session_is_its_logins_own(pair: tuple[Person, Person]) -> None:
    ann, thief = pair
    id = ann.ask("fake: words=300 delay=0.01")
    ann.join("follow", id, TEXT[0], "")
    with ann.events() as events:
        next(one for one in events if "word" in str(one.get("output", "")))
        with thief.events() as stolen, pytest.raises(httpx.RemoteProtocolError):
            assert (error := next(stolen))["msg"] == "unexpected_error" and error["session_not_found"]
            next(stolen)  # Gradio breaks off
        assert "word" not in str(thief.call("opened_tab", "models"))
        for route, body in (
            ("cancel", {"session_hash": ann.session, "fn_index": ann.number("follow"), "event_id": "x"}),
            ("reset", {"event_id": "x"}),
        ):
            assert thief.http.post(f"gradio_api/{route}", json=body).status_code == 404
        (ended,) = [one for one in events if one["msg"] == "process_completed"]
    assert "word299" in str(ended["output"])


def test_what_was_deleted_last_is_told_to_its_login_alone(pair: tuple[Person, Person]) -> None:
    """Its title is in the offer to undo that. Both name their sessions alike."""
    ann, thief = pair
    id = ann.answered("deleted by ann")
    ann.call("act", "", None, of=LIST, event={"what": "delete", "id": id})
    assert "deleted by ann" in ann.listed() and "deleted by ann" not in thief.listed()
    with thief.http.stream("GET", "gradio_api/heartbeat/one-name") as beat:
        assert next(beat.iter_lines()) == "data: ALIVE"


# -- every route ------------------------------------------------------------------------------------------------------

CLOSED = {
    "/call/v2/{api_name}", "/call/v2/{api_name}/", "/call/v2/{api_name}/{event_id}", "/call/{api_name}",
    "/call/{api_name}/", "/call/{api_name}/{event_id}", "/cancel", "/component_server", "/component_server/",
    "/custom_component/{id}/{environment}/{type}/{file_name}", "/deep_link", "/process_recording",
    "/proxy={url_path:path}", "/reset", "/reset/", "/runs", "/runs/", "/stream/{event_id}", "/stream/{event_id}/close",
    "/stream/{session_hash}/{run}/{component_id}/playlist-file",
    "/stream/{session_hash}/{run}/{component_id}/playlist.m3u8",
    "/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}", "/token", "/token/",
}  # fmt: skip
PASSED = {
    "/api/{api_name}", "/api/{api_name}/", "/app_id", "/app_id/", "/file/{path:path}", "/file={path_or_url:path}",
    "/heartbeat/{session_hash}", "/info", "/info/", "/login_check", "/login_check/", "/openapi.json", "/queue/data",
    "/queue/join", "/queue/status", "/run/{api_name}", "/run/{api_name}/", "/startup-events", "/theme.css", "/upload",
    "/upload_progress", "/user", "/user/",
}  # fmt: skip


def test_every_route_of_gradios_is_looked_after(ann: Person) -> None:
    source = Path(gradio_routes.__file__).read_text(encoding="utf-8")
    found = set(re.findall(r'@router\.\w+\(\s*f?"([^"]+)"', source))
    found |= set(re.findall(r'@app\.\w+\(\s*"/gradio_api([^"]+)"', source))
    off = {one for one in found if re.match("/(vibe|undo-vibe|profiling|run-history|dev/)", one)}
    assert found - off == CLOSED | PASSED, "this version of Gradio has other routes: see what they tell of whom"
    for route in CLOSED | off:
        for method in ("GET", "POST"):
            answer = ann.http.request(method, "gradio_api" + re.sub(r"\{[^}]*\}", "1", route))
            assert (answer.status_code, answer.text) == (404, '{"detail":"Not Found"}'), route


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"data": [' + b"[" * 100_000])
def test_an_event_that_cannot_be_read_is_refused(ann: Person, body: bytes) -> None:
    answer = ann.http.post("gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
