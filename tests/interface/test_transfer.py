"""Out of one store and into another: nothing is lost on the way, and nothing that is not ours does harm."""

from __future__ import annotations

import base64
import io
import json
import random
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from configs.load import load_catalogue
from configs.schema import ModelSpec, UploadsConfig
from engines.base import GenerationSettings, ImagePart, Usage
from engines.errors import ImportRejected
from interface import archive, transcript
from interface.history import History, Store
from interface.messages import explain
from interface.transfer import export_json, export_markdown, import_file
from interface.uploads import Uploads

TEXTS = [
    "你好，**world**",
    "  spaces\n\n  and lines ",
    "\u0000 and \u2028",
    "<script>",
    "🙂" * 50,
    "x" * 20_000,
    "'; DROP",
]
MODELS = ("internlm2-chat-1_8b", "internvl2-2b")


@dataclass
class Place:
    """A data folder."""

    store: Store
    uploads: Uploads
    inbox: Path

    def put(self, data: bytes | str | Any, name: str = "chats.json") -> Path:
        """As the server itself would put an upload."""
        if not isinstance(data, bytes | str):
            data = json.dumps(data)
        path = self.inbox / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def take(self, data: bytes | str | Any, name: str = "chats.json") -> list[transcript.Transcript]:
        ids = import_file(self.store, self.uploads, self.put(data, name), chosen)
        return [one for id in ids if (one := transcript.read(self.store, id))]

    def image(self, colour: str) -> ImagePart:
        return self.uploads.accept(self.put(png(colour), f"{colour}.png"))


def chosen(model: str, images: bool) -> ModelSpec:
    catalogue = load_catalogue()
    return catalogue[model] if model in catalogue else catalogue[MODELS[images]]


def png(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Place, Place]]:
    made = []
    for name in ("one", "two"):
        inbox = tmp_path / name / "uploads"
        inbox.mkdir(parents=True)
        images = tmp_path / name / "images"
        store = History(tmp_path / name / "c.sqlite3", images).of("")
        made.append(Place(store, Uploads(UploadsConfig(), inbox, images), inbox))
    yield made[0], made[1]
    for one in made:
        one.store.file.close()


@pytest.fixture
def place(places: tuple[Place, Place]) -> Place:
    return places[1]


def held(place: Place, chance: random.Random) -> str:
    """A conversation with everything that one can have, at random."""
    settings = GenerationSettings(chance.randint(1, 9000), chance.random(), 0.5, chance.randint(0, 9), 1.1, 7, "low")
    id = place.store.create(chance.choice(MODELS), chance.choice(TEXTS), settings)
    for _ in range(chance.randint(0, 12)):
        if chance.random() < 0.3:
            for one in chance.sample(place.store.path(id), k=min(1, len(place.store.path(id)))):
                place.store.rewind(id, one.id)
        images = [place.image(chance.choice(("red", "teal")))] if chance.random() < 0.2 else []
        place.store.add(id, "user", chance.choice(TEXTS), images=images)
        row = place.store.add(id, "assistant", "", "growing")
        text, usage = chance.choice(TEXTS), Usage(10, 4, 20, 0.5, 2.0, "stop", 8192, 1)
        error = {
            "code": "engine_died",
            "facts": {"model": "m", "signal": "SIGKILL", "exit_code": -9, "stage": "answer"},
        }
        place.store.write(
            row, *chance.choice([(text, "complete", usage), (text, "stopped", None), ("", "failed", None, error)])
        )
    return id


@pytest.mark.parametrize("seed", range(8))
def test_what_is_imported_equals_what_was_exported(places: tuple[Place, Place], tmp_path: Path, seed: int) -> None:
    one, two = places
    chance = random.Random(seed)
    ids = [held(one, chance) for _ in range(chance.randint(1, 4))]
    first = export_json(one.store, ids, tmp_path)
    taken = import_file(two.store, two.uploads, two.put(first.read_bytes(), first.name), chosen)
    (tmp_path / "again").mkdir()
    again = export_json(two.store, taken, tmp_path / "again")
    assert again.name == first.name and contents(again) == contents(first)
    assert [shown(two.store, id) for id in taken] == [shown(one.store, id) for id in ids]
    assert len({*taken, *ids}) == 2 * len(ids)


def contents(path: Path) -> dict[str, bytes]:
    if path.suffix == ".json":
        return {"conversations.json": path.read_bytes()}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def shown(store: Store, id: str) -> list[Any]:
    return [
        (one.role, one.text, one.status, one.usage, one.error, [i.sha256 for i in one.images]) for one in store.path(id)
    ]


def test_an_image_that_grew_when_it_was_stored_is_taken_back(places: tuple[Place, Place], tmp_path: Path) -> None:
    one, two = places
    id = one.store.create(MODELS[1], "", GenerationSettings())
    one.store.add(id, "user", "what is this?", images=[one.image("teal")])
    path = export_json(one.store, [id], tmp_path)
    small = Uploads(UploadsConfig(max_bytes=20), two.inbox, two.uploads.folder)
    (taken,) = import_file(two.store, small, two.put(path.read_bytes(), path.name), chosen)
    assert shown(two.store, taken) == shown(one.store, id)


def test_what_is_growing_is_exported_as_stopped(place: Place, tmp_path: Path) -> None:
    id = place.store.create(MODELS[0], "", GenerationSettings())
    place.store.add(id, "user", "a question")
    place.store.write(place.store.add(id, "assistant", "", "growing"), "half", "growing")
    path = export_json(place.store, [id], tmp_path)
    assert path.name == "a question.json"
    assert [one.status for one in place.take(path.read_bytes())[0].messages] == ["complete", "stopped"]


def test_markdown_reads_well_and_its_images_lie_beside_it(place: Place, tmp_path: Path) -> None:
    ids = []
    for colour in ("red", "teal"):
        ids.append(place.store.create(MODELS[1], "Be brief.", GenerationSettings()))
        place.store.add(ids[-1], "user", "这是什么？/ what?", images=[place.image(colour)])
        place.store.write(place.store.add(ids[-1], "assistant", "", "growing"), "**A colour.**", "stopped")
    path = export_markdown(place.store, ids, tmp_path, lambda model: "InternVL2", "en")
    files = contents(path)
    assert path.name.startswith("shusheng-") and path.suffix == ".zip"
    texts = {name: data.decode() for name, data in files.items() if name.endswith(".md")}
    assert sorted(texts) == ["这是什么 what 2.md", "这是什么 what.md"]
    for text in texts.values():
        image = text.split("](")[1].split(")")[0]
        assert image in files and "data:" not in text
        assert "> Be brief." in text and "## You" in text and "## InternVL2\n\n**A colour.**\n\n*Stopped*" in text
    plain = place.store.create(MODELS[0], "", GenerationSettings())
    place.store.add(plain, "user", "only text")
    path = export_markdown(place.store, [plain], tmp_path, str, "zh")
    assert path.name == "only text.md" and "## 我\n\nonly text" in path.read_text(encoding="utf-8")


# -- other programs' formats --------------------------------------------------------------------------------------


def test_openai_messages_with_images(place: Place) -> None:
    url = "data:image/png;base64," + base64.b64encode(png("teal")).decode()
    chat = {"model": "gpt-4o", "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": url}},
        ]},
        {"role": "assistant", "content": "Teal."},
        {"role": "user", "content": "thanks"},
    ]}  # fmt: skip
    (one,) = place.take(chat)
    assert (one.title, one.system, one.model) == ("what is this?", "Be brief.", "internvl2-2b")
    assert [(entry.role, entry.text) for entry in one.path] == [
        ("user", "what is this?"), ("assistant", "Teal."), ("user", "thanks"),
    ]  # fmt: skip
    assert one.settings == GenerationSettings.of(load_catalogue()["internvl2-2b"].defaults)
    assert one.messages[0].images[0].sha256 == place.image("teal").sha256
    assert [len(place.take([chat, chat])), len(place.take(chat["messages"]))] == [2, 1]


def test_chatgpts_export_keeps_its_branches(place: Place) -> None:
    def node(parent: str | None, role: str, *texts: Any, children: tuple[str, ...] = ()) -> dict[str, Any]:
        message = {
            "author": {"role": role},
            "create_time": 1.7e9,
            "content": {"content_type": "text", "parts": [*texts]},
        }
        return {"parent": parent, "children": [*children], "message": message}

    mapping = {
        "root": {"parent": None, "children": ["hidden"], "message": None},
        "hidden": node("root", "system", "", children=("q",)),
        "q": node("hidden", "user", "question", children=("a1", "a2")),
        "a1": node("q", "assistant", "first"),
        "a2": node("q", "assistant", "second", {"asset": 1}, children=("tool",)),
        "tool": node("a2", "tool", "noise", children=("q2",)),
        "q2": node("tool", "user", "more"),
    }
    raw = [{"title": "A title", "create_time": 1.6e9, "mapping": mapping, "current_node": "q2"}]
    (one,) = place.take(raw)
    assert one.title == "A title" and one.created == 1.6e9 and one.updated == 1.7e9
    assert [entry.text for entry in one.path] == ["question", "second", "more"]
    assert sorted(entry.text for entry in one.messages if entry.parent == 0) == ["first", "second"]


# -- what is refused ----------------------------------------------------------------------------------------------


def exported(**changes: Any) -> dict[str, Any]:
    message = {"parent": None, "role": "user", "text": "hello", "status": "complete", "created": 1.0}
    one = {"title": "t", "model": MODELS[0], "system": "", "settings": {}, "created": 1.0, "updated": 1.0, "head": 0}
    return {"format": "shusheng-desk", "version": 1, "conversations": [one | {"messages": [message]} | changes]}


def message(**changes: Any) -> dict[str, Any]:
    return exported(messages=[exported()["conversations"][0]["messages"][0] | changes])


def zipped(members: dict[str, bytes | str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


INSIDE = f"images/{'0' * 64}.webp"
PICTURE = {"sha256": "0" * 64, "width": 4, "height": 4}
LIST = json.dumps(exported())
ENCRYPTED = bytearray(zipped({"conversations.json": LIST}))
for flags in (6, ENCRYPTED.index(b"PK\1\2") + 8):
    ENCRYPTED[flags] |= 1
REFUSED: dict[str, tuple[Any, str, str]] = {
    "empty": (b"", "empty", ""),
    "text": ("hello", "not_json", ""),
    "binary": (b"\xff\xd8\xff\xe0" * 9, "not_json", ""),
    "cut short": (LIST[:-9], "not_json", ""),
    "nested": ("[" * 10**6, "not_json", ""),
    "no number": ('{"a": NaN}', "not_json", ""),
    "half a character": ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "not_json", ""),
    "infinite": ('[{"create_time": 1e999, "messages": []}]', "wrong_value", "0.create_time"),
    "number": (5, "not_conversations", ""),
    "nothing": ([], "not_conversations", ""),
    "other JSON": ({"name": "package"}, "not_conversations", ""),
    "newer": (exported() | {"version": 2}, "too_new", ""),
    "unknown key": (exported(colour="red"), "unknown_key", "conversations[0].colour"),
    "unknown key within": (exported(settings={"heat": 1}), "unknown_key", "conversations[0].settings.heat"),
    "wrong type": (exported(title=5), "wrong_value", "conversations[0].title"),
    "no model": (exported() | {"conversations": [{"title": "t"}]}, "wrong_value", "conversations[0].model"),
    "head": (exported(head=7), "wrong_value", "conversations[0].head"),
    "circle": (message(parent=0), "wrong_value", "conversations[0].messages[0].parent"),
    "setting": (exported(settings={"temperature": 99.0}), "wrong_value", "conversations[0].settings.temperature"),
    "far future": (exported(updated=1e300), "wrong_value", "conversations[0].updated"),
    "status": (message(status="growing"), "wrong_value", "conversations[0].messages[0].status"),
    "image by path": (
        message(images=[PICTURE | {"sha256": "../../x"}]), "wrong_value",
        "conversations[0].messages[0].images[0].sha256",
    ),
    "no image": (message(images=[PICTURE]), "image_missing", INSIDE),
    "no image in zip": (
        zipped({"conversations.json": json.dumps(message(images=[PICTURE]))}), "image_missing", INSIDE,
    ),
    "image is none": (
        zipped({"conversations.json": json.dumps(message(images=[PICTURE])), INSIDE: b"%PDF"}),
        "image", INSIDE,
    ),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, "role", "messages[0]"),
    "message": ({"messages": ["x"]}, "role", "messages[0]"),
    "part": ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "wrong_value", "messages[0].content[0]"),
    "remote image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/a.png"}}]}]},
        "remote_image", "messages[0].content[0]",
    ),
    "second of two": ([{"messages": []}, {"messages": [{"role": "x"}]}], "role", "[1].messages[0]"),
    "no list": (zipped({"readme.txt": "x"}), "not_conversations", ""),
    "traversal": (zipped({"conversations.json": LIST, "../../evil": "x"}), "unsafe_name", "../../evil"),
    "windows": (zipped({"conversations.json": LIST, "a\\..\\..\\evil": "x"}), "unsafe_name", "a\\..\\..\\evil"),
    "absolute": (zipped({"conversations.json": LIST, "/etc/passwd": "x"}), "unsafe_name", "/etc/passwd"),
    "bomb": (zipped({"conversations.json": b"[" + b" " * 10**7}), "too_large", ""),
    "bombs beside": (zipped({"conversations.json": LIST} | {f"{n}": b"0" * 10**6 for n in range(12)}), "too_large", ""),
    "many": (zipped({"conversations.json": LIST} | {f"{n}": b"" for n in range(600)}), "too_large", ""),
    "cut archive": (zipped({"conversations.json": LIST * 50})[:300] + zipped({"a": "b"})[-60:], "damaged", ""),
    "encrypted": (bytes(ENCRYPTED), "damaged", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_taken_is_refused_by_name(
    place: Place, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in (("MAX_JSON", 2 * 10**6), ("MAX_UNPACKED", 10**7), ("MAX_MEMBERS", 500)):
        monkeypatch.setattr(archive, name, limit)
    kept = place.store.create(MODELS[0], "", GenerationSettings())
    data, reason, where = REFUSED[case]
    with pytest.raises(ImportRejected) as refused:
        place.take(data, "文件.json")
    facts = refused.value.facts
    assert (facts["name"], facts["reason"], facts.get("where", "")) == ("文件.json", reason, where)
    for lang in ("en", "zh"):
        assert "文件.json" in explain(refused.value, lang).body
    assert transcript.ids(place.store) == [kept] and not list(place.inbox.parent.glob("**/evil"))


def test_an_import_that_fails_late_adds_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    work = transcript.write

    def failing(store: Store, one: transcript.Transcript) -> str:
        if one.title == "second":
            raise ZeroDivisionError
        return work(store, one)

    monkeypatch.setattr(transcript, "write", failing)
    both = exported()["conversations"] + exported(title="second")["conversations"]
    with pytest.raises(ZeroDivisionError):
        place.take(exported() | {"conversations": both})
    assert transcript.ids(place.store) == []


def test_only_an_upload_can_be_imported(place: Place, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text(LIST)
    with pytest.raises(ImportRejected) as refused:
        import_file(place.store, place.uploads, tmp_path / "elsewhere.json", chosen)
    assert refused.value.facts["reason"] == "gone"


def test_an_error_that_cannot_be_worded_does_not_break_the_page(place: Place) -> None:
    (one,) = place.take(message(status="failed", error={"code": "engine_died", "facts": {"stage": "answer"}}))
    assert one.messages[0].error == transcript.Problem("internal", {})


def test_a_model_that_is_not_here_is_replaced(place: Place) -> None:
    assert [one.model for one in place.take(exported(model="somebody/else"))] == [MODELS[0]]
