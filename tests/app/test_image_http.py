"""Images over real HTTP: what is read, kept and served of what a request names."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.app.test_http import Page, rows, until
from tools.served import Served


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    app = Served(tmp_path_factory.mktemp("app"), "--fake")
    yield app
    assert app.stop() == 0, app.output


SETTINGS = ["internvl2-2b", "", 0.0, 0.8, 1.0, 800, -1, "auto"]


def upload(app: Served, name: str, image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    (path,) = httpx.post(app.url + "gradio_api/upload", files={"files": (name, data.getvalue())}).json()
    return str(path)


def image_question(page: Page, path: str, text: str = "what is it?") -> dict[str, Any]:
    file = {"path": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
    page.call("image_ask", [{"text": text, "files": [file]}, "", "", *SETTINGS])
    with page.stream() as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line else {}
            if message.get("msg") == "process_completed":
                return dict(message)
    raise AssertionError("no answer")


def test_an_uploaded_image_is_kept_as_ours_and_served_and_seen_by_the_engine(app: Served) -> None:
    done = image_question(Page(app), upload(app, "../../x.png", Image.new("RGB", (64, 48), "teal")))
    conversation = str(done["output"]["data"][1])
    until(lambda: rows(app, conversation)[-1][1] == "complete")
    assert rows(app, conversation)[-1][0] == "1 image: 64x48. what is it? "
    whole = next(path for path in (app.data / "images").glob("*.webp") if ".small" not in path.name)
    for path in (whole, whole.with_suffix(".small.webp")):
        answer = httpx.get(f"{app.url}gradio_api/file={path}")
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/webp"


def test_only_uploads_are_read_whatever_a_request_names(app: Served) -> None:
    Image.new("RGB", (8, 8)).save(app.data / "logs" / "mine.png")
    before = sorted((app.data / "images").iterdir())
    for path in (app.data / "logs" / "mine.png", app.data / "uploads" / ".." / "logs" / "mine.png", "/etc/passwd"):
        done = image_question(Page(app), str(path))
        assert not done["success"] or "notice" in str(done["output"]["data"][2])
    assert sorted((app.data / "images").iterdir()) == before


def test_a_refused_image_leaves_box_and_conversation_alone(app: Served) -> None:
    answer = httpx.post(app.url + "gradio_api/upload", files={"files": ("cat.png", b"no image")})
    done = image_question(Page(app), answer.json()[0])
    box, conversation, notice = done["output"]["data"]
    assert "cat.png: this is no image" in notice
    assert {one["__type__"] for one in (box, conversation)} == {"update"}
