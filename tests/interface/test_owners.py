"""One file, several logins: to each, another's is as good as not there. And which files Gradio may hand out to whom."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from configs.load import load_catalogue, load_config
from configs.schema import ModelSpec
from engines.base import GenerationSettings, ImagePart
from engines.errors import ConversationMoved
from engines.library import Library
from interface import branches, transcript
from interface.desk import Desk, LoginDesk
from interface.history import MIGRATIONS, History, Store
from interface.index import Index, purge
from interface.logins import login_of
from interface.presets import Presets
from interface.separation import Files, Separation
from interface.transfer import export_json, export_markdown, import_file
from interface.uploads import Uploads

MODEL = "smollm2-135m-instruct"
SETTINGS = GenerationSettings(max_new_tokens=30_000)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path / "c.sqlite3", tmp_path / "images")
    yield history
    history.close()


def talked(store: Store, text: str, *images: ImagePart) -> str:
    id = store.create(MODEL, "", SETTINGS)
    store.add(id, "user", text, images=images)
    store.write(store.add(id, "assistant", "", "growing"), f"about {text}", "complete")
    return id


def dump(history: History) -> list[str]:
    return list(history._file.iterdump())


def last(store: Store, id: str) -> int:
    return store.path(id)[-1].id


# Each is called with another owner's store, a conversation that is not hers, and a message of it.
ATTACKS: dict[str, Callable[[Store, str, int], object]] = {
    "open": lambda store, id, row: store.conversation(id),
    "read": lambda store, id, row: store.path(id),
    "configure": lambda store, id, row: store.configure(id, "other", "be evil", SETTINGS),
    "add": lambda store, id, row: [store.add(id, "user", "mine now")] and None,
    "write": lambda store, id, row: store.write(row, "mine now", "complete"),
    "rewind": lambda store, id, row: store.rewind(id, row),
    "versions": lambda store, id, row: branches.versions(store, id),
    "choose": lambda store, id, row: branches.choose(store, id, row),
    "end at": lambda store, id, row: branches.end_at(store, id, row - 1),
    "delete message": lambda store, id, row: branches.delete(store, id, row),
    "restore message": lambda store, id, row: branches.restore(store, id, row),
    "deleted": lambda store, id, row: Index(store).lately_deleted(0.0),
    "rename": lambda store, id, row: Index(store).rename(id, "mine now"),
    "pin": lambda store, id, row: Index(store).pin(id, True),
    "delete": lambda store, id, row: Index(store).delete(id),
    "restore": lambda store, id, row: Index(store).restore(id),
    "list": lambda store, id, row: Index(store).recent(9),
    "search": lambda store, id, row: [*Index(store).search("secret", 9), *Index(store).search("密", 9)],
    "export": lambda store, id, row: transcript.read(store, id),
    "ids": lambda store, id, row: transcript.ids(store),
}


@pytest.mark.parametrize(
    ("owner", "other"), [("ann", "ben"), ("ann", ""), ("", "ann"), ("ann", "Ann"), ("ann", "ann ")]
)
def test_another_owners_conversation_is_as_good_as_none(history: History, owner: str, other: str) -> None:
    mine = history.of(owner)
    id = talked(mine, "a secret 密")
    mine.rewind(id, last(mine, id))
    mine.add(id, "assistant", "another version")
    partly, hidden = talked(mine, "secret too"), talked(mine, "secret three")
    gone = last(mine, partly)
    branches.delete(mine, partly, gone)
    Index(mine).delete(hidden)
    before, store = dump(history), history.of(other)
    for name, attack in ATTACKS.items():
        for target, row in ((id, last(mine, id)), (partly, gone), (hidden, gone + 2)):
            got = attack(store, target, row)
            assert got == attack(store, "no-such", row) and not got, name
        assert dump(history) == before, name
    assert len(Index(mine).search("secret", 9)) == 2 and mine.path(id)[0].text == "a secret 密"


def test_exports_hold_ones_own_and_imports_become_the_importers(history: History, tmp_path: Path) -> None:
    ann, ben = history.of("ann"), history.of("ben")
    talked(ben, "ben's")
    ids = [talked(ann, "ann's")]
    for made in (
        export_json(ben, [*ids, *transcript.ids(ben)], tmp_path),
        export_markdown(ben, [*ids, *transcript.ids(ben)], tmp_path, str, "en"),
    ):
        assert "ann's" not in made.read_text() and "ben's" in made.read_text()
    (tmp_path / "inbox").mkdir()
    taken = tmp_path / "inbox" / "taken.json"
    taken.write_bytes(export_json(ann, ids, tmp_path).read_bytes())
    uploads = Uploads(load_config({"data": tmp_path}, {}).uploads, tmp_path / "inbox", tmp_path / "images")

    def choose(model: str, images: bool) -> ModelSpec:
        return load_catalogue()[model]

    (copy,) = import_file(ben, uploads, taken, choose)
    assert ben.path(copy)[0].text == "ann's" and ann.path(copy) == [] and transcript.ids(ann) == ids


def test_presets_of_one_name_are_each_logins_own(history: History) -> None:
    ann, ben = (Presets(history.of(name), "text") for name in ("ann", "ben"))
    ann.save("brief", "Answer ann.", SETTINGS)
    assert ben.names == [] and ben.get("brief") is None and not ben.delete("brief")
    ben.save("brief", "Answer ben.", SETTINGS)
    assert ann.get("brief").system == "Answer ann." and ben.get("brief").system == "Answer ben."  # type: ignore[union-attr]
    assert ben.delete("brief") and ann.names == ["brief"]


def test_what_was_made_before_there_were_logins_is_kept_for_whoever_needs_none(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "old.sqlite3", isolation_level=None)
    for number, migration in enumerate(MIGRATIONS[:5], 1):
        migration(db)
        db.execute(f"PRAGMA user_version = {number}")
    settings = json.dumps({"max_new_tokens": 9})
    db.execute(
        "INSERT INTO conversations (id, title, model, system, settings, created, updated, head)"
        " VALUES ('id', 't', 'm', '', ?, 0, 0, 1)",
        (settings,),
    )
    db.execute(
        "INSERT INTO messages (id, conversation, role, text, status, created)"
        " VALUES (1, 'id', 'user', 'old', 'complete', 0)"
    )
    db.execute("INSERT INTO presets VALUES ('text', 'brief', 'Be brief.', ?)", (settings,))
    db.close()
    history = History(tmp_path / "old.sqlite3", tmp_path)
    nobody, ann = history.of(""), history.of("ann")
    assert [one.id for one in Index(nobody).search("old", 9)] == ["id"]
    assert Presets(nobody, "text").get("brief").settings.max_new_tokens == 9  # type: ignore[union-attr]
    assert Index(ann).recent(9) == [] and Presets(ann, "text").names == [] and ann.path("id") == []
    history.close()


def image(history: History, name: str) -> ImagePart:
    history.images.mkdir(exist_ok=True)
    path = history.images / f"{name * 64}.webp"
    for one in (path, path.with_suffix(".small.webp")):
        one.write_bytes(b"x")
    return ImagePart(name * 64, path, 8, 8)


def test_an_image_is_of_everyone_who_has_a_message_with_it(history: History) -> None:
    one, both = image(history, "a"), image(history, "b")
    ann, ben, files = history.of("ann"), history.of("ben"), Files(history)
    id = talked(ann, "x", one, both)
    talked(ben, "y", both)

    def readable(login: str) -> list[bool]:
        return [
            files.may_read(login, str(part.path.with_suffix(end)))
            for part in (one, both)
            for end in (".webp", ".small.webp")
        ]

    assert readable("ann") == [True] * 4 and readable("ben") == [False, False, True, True] and not any(readable("eve"))
    assert not any(readable(""))
    Index(ann).delete(id)
    purge(history)
    assert readable("ann") == [False] * 4 and readable("ben") == [False, False, True, True]
    assert not one.path.exists() and both.path.exists()


def test_a_path_is_read_as_gradio_reads_it(history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, lent, other = Files(history), tmp_path / "uploads" / "x" / "a.png", tmp_path / "uploads" / "y" / "a.png"
    for path in (lent, other):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    files.lend("ann", lent)
    monkeypatch.chdir(tmp_path)
    os.symlink(other, tmp_path / "uploads" / "x" / "link.png")
    for same in (lent, f"{tmp_path}/uploads/./y/../x/a.png", "uploads/x/a.png", f"//{lent}"[1:]):
        assert files.may_read("ann", str(same)) and not files.may_read("ben", str(same))
    for foreign in (
        other,
        "uploads/x/../y/a.png",
        "uploads/x/link.png",
        "uploads/x",
        "",
        "\0",
        "http://x/a.png",
        tmp_path,
    ):
        assert not files.may_read("ann", str(foreign))
    files.lend(None, other)
    assert files.may_read("ann", str(other)) and files.may_read("ben", str(other))


def test_a_foreign_file_in_an_event_is_one_that_is_not_there(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    files, mine, other = Files(history), tmp_path / "mine.png", tmp_path / "other.png"
    for path in (mine, other):
        path.write_bytes(b"x")
    files.lend("ann", mine)
    sent: dict[str, Any] = {"data": [{"text": "hi", "files": [{"path": str(mine), "meta": {}}, {"path": str(other)}]}]}
    sent["event_data"] = {"value": [[{"path": str(other)}]], "path": 3}
    kept = files.without_foreign("ann", sent)
    gone = str(tmp_path / "gone" / "other.png")
    assert kept["data"][0] == {"text": "hi", "files": [{"path": str(mine), "meta": {}}, {"path": gone}]}
    assert kept["event_data"] == {"value": [[{"path": gone}]], "path": 3}


# -- in front of Gradio -----------------------------------------------------------------------------------------------


@pytest.fixture
def asked(history: History) -> Callable[..., Any]:
    """What Gradio gets to see of a request that a login has sent."""

    async def gradio(request: Request) -> Response:
        body = (await request.body()).decode()
        seen = {"path": request.url.path, "query": request.query_params.multi_items(), "body": body}
        return JSONResponse(seen | {"length": request.headers.get("content-length")})

    inner = Starlette(routes=[Route("/{path:path}", gradio, methods=["GET", "POST"])])
    files = Files(history)

    def ask(login: str, method: str, path: str, **how: Any) -> Any:
        async def door(scope: Scope, receive: Receive, send: Send) -> None:
            await Separation(inner, files)({**scope, "state": {"login": login}}, receive, send)

        with TestClient(door) as client:
            return client.request(method, path, **how).json()

    return ask


def test_names_of_sessions_and_uploads_are_each_logins_own(asked: Callable[..., Any]) -> None:
    for path in ("queue/data?session_hash=X", "upload_progress?upload_id=X", "heartbeat/X", "upload?upload_id=X&a=b"):
        for before in ("/gradio_api/", "/behind/a/proxy/gradio_api/"):
            ann, ben, nobody = (asked(login, "GET", before + path) for login in ("ann", "ben", ""))
            assert asked("ann", "GET", before + path) == ann != ben
            assert "X" in str(nobody) and ".X" not in str(nobody)
            assert str(ann).count(".X") == 1 and ann["path"].startswith(before)
    twice = asked("ann", "GET", "/gradio_api/queue/data?session_hash=X&session_hash=Y&x=%2B%20é")["query"]
    assert [value[32:] for _, value in twice[:2]] == [".X", ".Y"] and twice[2] == ["x", "+ é"]
    for sent in ({"session_hash": "X"}, {"session_hash": "X", "data": []}):
        for route in ("queue/join", "queue/join/", "run/stop", "api/stop/"):
            body = json.loads(asked("ann", "POST", f"/gradio_api/{route}", json=sent)["body"])
            assert body == {**sent, "session_hash": body["session_hash"]} and body["session_hash"][32:] == ".X"


def test_an_event_is_told_as_it_was_sent_but_for_its_session(asked: Callable[..., Any]) -> None:
    sent = {
        "data": ["你好 \ud83d\n", 1.5, -1, None, True, {"a": [1e-9]}],
        "session_hash": None,
        "event_data": {"x": 2**60},
    }
    seen = asked("ann", "POST", "/gradio_api/queue/join", content=json.dumps(sent))
    assert json.loads(seen["body"]) == sent and seen["length"] == str(len(seen["body"].encode()))
    named_twice = asked("ann", "POST", "/gradio_api/queue/join", content='{"session_hash": "X", "session_hash": "Y"}')
    assert "X" not in named_twice["body"] and ".Y" in named_twice["body"]


def test_what_is_not_gradios_passes_as_it_is(asked: Callable[..., Any]) -> None:
    for login in ("ann", ""):
        seen = asked(login, "POST", "/v1/chat/completions?session_hash=X", content='{"session_hash": "X"}')
        assert seen["query"] == [["session_hash", "X"]] and seen["body"] == '{"session_hash": "X"}'


# -- on a desk --------------------------------------------------------------------------------------------------------


def of(desk: Desk, login: str) -> LoginDesk:
    request = gr.Request(request=None)
    request.request = type("Request", (), {"scope": {"state": {"login": login}}})()
    assert login_of(request) == login
    return desk.of(request)


def test_a_growing_answer_is_its_owners_alone(tmp_path: Path) -> None:
    desk = Desk.open(Library(load_config({"data": tmp_path}, {}), load_catalogue(), fake=True))
    ann, ben = of(desk, "ann"), of(desk, "ben")
    id = ann.store.create(MODEL, "", SETTINGS)
    ann.answers.ask(id, "fake: words=100000 delay=0.01")
    row = last(ann.store, id)
    assert ann.answers.of(id) is of(desk, "ann").answers.of(id) is not None and ann.answers.growing() == {id}
    assert ben.answers.of(id) is None and not ben.answers.growing() and ben.answers.path(id) == []
    assert ben.answers.mark(id) == ben.answers.mark("no-such") and ben.answers.undo(id) is None
    for attack in (
        lambda: ben.answers.ask(id, "x"),
        lambda: ben.answers.ask(id, "x", (), (MODEL, "be evil", SETTINGS)),
        lambda: ben.answers.again(id),
        lambda: ben.answers.resume(id, row),
        lambda: ben.answers.rewrite(id, row - 1, "x"),
        lambda: ben.answers.change(branches.delete, id, row),
    ):
        with pytest.raises(ConversationMoved):
            attack()
    assert ann.store.conversation(id).system == "" and len(ann.store.path(id)) == 2  # type: ignore[union-attr]
    assert not ann.answers.of(id).job.ended  # type: ignore[union-attr]
    desk.close()
    assert ann.store.file.of("ann").owner == "ann"


def test_pictures_taken_back_are_lent_to_who_takes_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    history = History(tmp_path / "c.sqlite3", tmp_path / "images")
    files, picture = Files(history), tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(picture)
    copy = files.lend_copy("ann", picture)
    assert Path(copy).read_bytes() == picture.read_bytes() and copy.startswith(str(tmp_path / "uploads"))
    assert files.may_read("ann", copy) and not files.may_read("ben", copy) and not files.may_read("ann", str(picture))
    history.close()
