"""What the image tab does besides what every conversation does: its box holds images, and a picture can be taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from configs.schema import ModelKind, ModelSpec
from engines.base import ImagePart
from interface.chat_events import ChatEvents
from interface.history import StoredMessage
from interface.i18n import Lang, t
from interface.logins import login_of
from interface.settings import who_answers

SAMPLES_FOLDER = Path(__file__).parent / "samples"
SAMPLES = ("receipt", "chart", "still_life", "formula")


class VisionEvents(ChatEvents):
    """The box is {"text": …, "files": [paths of uploads]}, as Gradio's MultimodalTextbox gives it."""

    kind: ModelKind = "vision"

    def is_empty(self, box: Any) -> bool:
        return not box or not (box["text"].strip() or box["files"])

    def question(self, box: Any) -> tuple[str, tuple[ImagePart, ...]]:
        """Every file goes through the gate. Raises ImageRejected or TooManyImages."""
        return box["text"], self._desk.uploads.accept_all(box["files"])

    def boxed(self, question: StoredMessage, request: gr.Request) -> Any:
        files = [self._desk.files.lend_copy(login_of(request), one.path) for one in question.images]
        return {"text": question.text, "files": files}

    def fitting(self, settings: tuple[Any, ...]) -> tuple[Any, ...]:
        return settings

    def empty(self, spec: ModelSpec, lang: Lang) -> dict[str, Any]:
        ready = who_answers(spec, lang)
        return {
            "placeholder": f"## {t('vision.empty_title', lang)}\n{t('vision.empty_hint', lang)}\n\n{ready}",
            "examples": [sample(name, lang) for name in SAMPLES],
        }

    def example(self, choice: gr.SelectData) -> Any:
        """-> box: the sample and its question."""
        return {"text": choice.value["text"], "files": [sample_path(SAMPLES[choice.index])]}

    def camera(self, is_open: bool) -> tuple[Any, bool]:
        """-> the camera's place, whether it is open."""
        return gr.update(visible=not is_open), not is_open

    def taken(self, request: gr.Request, box: Any, picture: str | None) -> tuple[Any, Any, Any, bool]:
        """-> box, camera, its place, whether it is open: the picture lies with the other images."""
        if picture is None:
            return gr.skip(), gr.skip(), gr.skip(), True
        self._desk.files.lend(login_of(request), picture)  # Gradio may have made a file of what the camera sent
        box = box or {"text": "", "files": []}
        return {"text": box["text"], "files": [*box["files"], picture]}, None, gr.update(visible=False), False


def sample(name: str, lang: Lang) -> dict[str, Any]:
    """A picture of ours with a question that shows what the tab is for."""
    return {"text": t(f"vision.sample_{name}", lang), "icon": sample_path(name)}


def sample_path(name: str) -> str:
    return str(SAMPLES_FOLDER / f"{name.replace('_', '-')}.jpg")
