"""What a tab with a conversation does: handlers that start answers, and the one that follows them. Draws nothing.

An answer is followed by `follow`, whoever started it: a question, a retry, an edit, or a page that was reloaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from configs.schema import ModelKind, ModelSpec
from engines.base import Detail, GenerationSettings, ImagePart, Usage
from engines.errors import AppError, ConversationMoved
from engines.job import Delta, Event, Loading, Waiting, Working
from interface.desk import Desk, label
from interface.history import HeldWith, StoredMessage
from interface.i18n import Lang, t
from interface.messages import explain, left_out
from interface.render import closed, images_html, notice_html, plain, show, status_html


class ChatEvents:
    """One for the app; it keeps nothing about a page. `conversation` is an id, "" before the first question.

    A question is what the tab's box holds; vision_events.py has a box with images.
    """

    kind: ModelKind = "text"

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # -- starting answers: each returns what it changed and, last, a notice ("" when all went well) -----------------

    def ask(
        self, request: gr.Request, box: Any, conversation: str, model: str, system: str, *sliders: Any
    ) -> tuple[Any, Any, str]:
        """-> prompt, conversation, notice. A question that cannot be asked stays in the box."""
        if self.is_empty(box):
            return gr.skip(), gr.skip(), ""

        def start() -> str:
            return self._ask(*self.question(box), conversation, (model, system.strip(), settings_from(*sliders)))

        id, notice = self._noticed(start, request)
        return (gr.skip(), gr.skip(), notice) if notice else ("", id, "")

    def retry(self, request: gr.Request, conversation: str, model: str, system: str, *sliders: Any) -> str:
        """-> notice. Another answer to the last question, with the settings as they are now."""

        def start() -> None:
            self._desk.answers.again(conversation, (model, system.strip(), settings_from(*sliders)))

        return self._noticed(start, request)[1]

    def edit(
        self, request: gr.Request, change: gr.EditData, conversation: str, model: str, system: str, *sliders: Any
    ) -> str:
        """-> notice. The edited question is asked in the place of the old one, about the same images.

        One without text is not asked.
        """

        def start() -> None:
            text = plain(text_of(change.value))
            if text.strip():
                row = self._edited(change, conversation)
                held_with = (model, system.strip(), settings_from(*sliders))
                self._desk.answers.rewrite(conversation, row.id, text, row.images, held_with)

        return self._noticed(start, request)[1]

    def undo(self, request: gr.Request, conversation: str) -> tuple[Any, str]:
        """-> prompt, notice. Takes the last question back into the box."""
        question, notice = self._noticed(lambda: self._desk.answers.undo(conversation), request)
        return (gr.skip(), notice) if notice else (self.boxed(question) if question else "", "")

    def example(self, choice: gr.SelectData) -> str:
        """-> prompt."""
        return str(choice.value["text"])

    def stop(self, conversation: str) -> None:
        answer = self._desk.answers.of(conversation)
        if answer is not None:
            answer.job.cancel()  # `follow` sees the job end, and shows it

    # -- showing ----------------------------------------------------------------------------------------------------

    def open(self, conversation: str) -> tuple[Any, ...]:
        """-> conversation, model, system, *sliders: what the address names, or a new conversation as configured."""
        try:
            held_with = self._desk.store.conversation(conversation) if conversation else None
        except AppError:
            # The address goes on naming it, and `follow` says what is wrong.
            return (conversation, gr.skip(), *(gr.skip() for _ in self.usual(self._desk.first_model(self.kind))))
        catalogue = self._desk.library.catalogue
        if held_with is None or held_with.model not in catalogue:
            model = self._desk.first_model(self.kind)
            return ("", gr.update(choices=choices(self._desk, self.kind), value=model), *self.usual(model))
        picker = choices(self._desk, self.kind, catalogue[held_with.model])
        values = (held_with.system, *slider_values(held_with.settings), held_with.settings.detail)
        return (held_with.id, gr.update(choices=picker, value=held_with.model), *self.fitting(values))

    def usual(self, model: str) -> tuple[Any, ...]:
        """-> system, *sliders: a model's own settings."""
        return self.fitting((*usual_settings(self._desk.library.spec(model)), "auto"))

    def follow(self, request: gr.Request, conversation: str, model: str) -> Iterator[tuple[Any, ...]]:
        """-> chat, status, send, stop. Shows the conversation, and the answer in it until it has ended."""
        lang = self._desk.lang(request)
        try:
            yield from self._growing(conversation, lang)
            yield self._settled(conversation, model, lang)
        except AppError as error:
            yield gr.skip(), notice_html(explain(error, lang)), gr.update(visible=True), gr.update(visible=False)

    # -- within -----------------------------------------------------------------------------------------------------

    def _growing(self, conversation: str, lang: Lang) -> Iterator[tuple[Any, ...]]:
        """The answer in a conversation until it has ended; nothing if there is none."""
        answer = self._desk.answers.of(conversation)
        if answer is None:
            return
        path = self._desk.answers.path(conversation)
        before = [bubble for one in path if one.id < answer.row for bubble in bubbles(one, lang)]
        title = self._desk.library.spec(answer.job.model).title
        pause = 1 / self._desk.config.interface.refresh_per_second
        text = ""
        try:
            for event in answer.job:
                text += event.text if isinstance(event, Delta) else ""
                # A slow model works between its words; it has long read the conversation by then.
                event = Delta("") if text and isinstance(event, Working) else event
                growing = [*before, {"role": "assistant", "content": show(text)}] if text else before
                yield growing, status_html(doing(event, title, lang)), gr.update(visible=False), gr.update(visible=True)
                # However fast the engine is, what came in the meantime is shown in one go.
                time.sleep(pause)
        except AppError:
            pass  # it is in the store, and shown from there like any earlier one
        answer.recorded.wait(5)

    def _edited(self, change: gr.EditData, conversation: str) -> StoredMessage:
        """The question that was edited, if it is still what the page showed. Raises ConversationMoved."""
        index = change.index if isinstance(change.index, int) else change.index[0]
        rows = [one for one in self._desk.answers.path(conversation) for _ in bubbles(one, "en")]
        shown = plain(text_of(change.previous_value)).split()  # the Chatbot strips what it shows
        if index >= len(rows) or rows[index].text.split() != shown:
            raise ConversationMoved()
        return rows[index]

    # -- what the image tab does otherwise --------------------------------------------------------------------------

    def is_empty(self, box: Any) -> bool:
        return not box.strip()

    def question(self, box: Any) -> tuple[str, tuple[ImagePart, ...]]:
        """Text and images of what is in the box. Raises InputError."""
        return box, ()

    def boxed(self, question: StoredMessage) -> Any:
        """A question as the box takes it."""
        return question.text

    def fitting(self, settings: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of a conversation's settings, those that the tab has: all but the last, detail."""
        return settings[:-1]

    def empty(self, spec: ModelSpec, lang: Lang) -> dict[str, Any]:
        """What an empty conversation shows: what to try, and with whom."""
        subtitle = t("chat.empty_demo" if spec.demo else "chat.empty_ready", lang, title=spec.title)
        asked_in: Lang = "en" if spec.demo else lang
        return {
            "placeholder": f"## {t('chat.empty_title', lang)}\n{subtitle}",
            "examples": [{"text": t(f"chat.example_{n}", asked_in)} for n in (1, 2, 3)],
        }

    # -- within -----------------------------------------------------------------------------------------------------

    def _ask(self, text: str, images: Sequence[ImagePart], conversation: str, held_with: HeldWith) -> str:
        store = self._desk.store
        if not conversation or store.conversation(conversation) is None:
            conversation = store.create(*held_with)
        self._desk.answers.ask(conversation, text, images, held_with)
        return conversation

    def _noticed(self, work: Callable[[], Any], request: gr.Request) -> tuple[Any, str]:
        try:
            return work(), ""
        except AppError as error:
            return None, notice_html(explain(error, self._desk.lang(request)))

    def _settled(self, conversation: str, model: str, lang: Lang) -> tuple[Any, ...]:
        path = self._desk.answers.path(conversation) if conversation else []
        chat: Any = [bubble for one in path for bubble in bubbles(one, lang)]
        if not path:
            chat = gr.update(value=[], **self.empty(self._desk.library.spec(model), lang))
        status = status_html(usage_line(path[-1].usage, lang)) if path and path[-1].usage else ""
        if self._desk.answers.unsaved is not None:
            status += notice_html(explain(self._desk.answers.unsaved, lang))
        return chat, status, gr.update(visible=True), gr.update(visible=False)


def settings_from(
    temperature: float, top_p: float, penalty: float, length: float, seed: float | None, detail: Detail = "auto"
) -> GenerationSettings:
    """The sliders' values, in their order. Raises SettingOutOfRange."""
    fixed = None if seed is None or seed < 0 else int(seed)
    return GenerationSettings(int(length), temperature, top_p, 0, penalty, fixed, detail).checked()


def slider_values(settings: GenerationSettings) -> tuple[Any, ...]:
    """The reverse, without detail."""
    seed = -1 if settings.seed is None else settings.seed
    return settings.temperature, settings.top_p, settings.repetition_penalty, settings.max_new_tokens, seed


def usual_settings(spec: ModelSpec) -> tuple[Any, ...]:
    """A model's own system prompt and sliders, in the page's order."""
    return ("", *slider_values(GenerationSettings.of(spec.defaults)))


def choices(desk: Desk, kind: ModelKind, also: ModelSpec | None = None) -> list[tuple[Any, str]]:
    """The picker's models: those of a kind, and the one that a conversation happens to be held with."""
    specs = [spec for spec in desk.library.catalogue.models if spec.kind == kind or spec == also]
    return [marked(spec) for spec in specs]


def marked(spec: ModelSpec) -> tuple[Any, str]:
    """A model as a picker names it."""
    return f"{spec.title} · {label('models.demo')}" if spec.demo else spec.title, spec.id


def bubbles(one: StoredMessage, lang: Lang) -> list[dict[str, Any]]:
    """A stored message as the Chatbot takes it: its images, then what it says, if anything.

    What went wrong with an answer stands below what it said.
    """
    shown: list[dict[str, Any]] = []
    if one.images:
        shown.append({"role": one.role, "content": [images_block(one.images, lang)]})
        if not one.text:
            return shown
    content = show(one.text)
    note = ""
    if one.error:
        notice = explain(one.error, lang)
        note = f"> **{notice.title}.** {show(notice.body)}\n>\n> {show(notice.hint)}"
    elif one.status == "stopped":
        note = f"*{t('chat.stopped', lang)}*"
    elif one.usage and one.usage.reason == "length":
        note = f"*{t('chat.length_reached', lang)}*"
    return [*shown, {"role": one.role, "content": f"{closed(content)}\n\n{note}" if note else content}]


def images_block(images: Sequence[ImagePart], lang: Lang) -> dict[str, Any]:
    """Thumbnails in a bubble, as Gradio's HTML component."""
    return {
        "type": "component",
        "component": "html",
        "value": images_html(images, lang),
        "constructor_args": {},
        "props": {},
    }


def doing(event: Event, title: str, lang: Lang) -> str:
    """What a job is doing, in words."""
    match event:
        case Waiting(0):
            return t("chat.waiting_next", lang)
        case Waiting(ahead):
            return t("chat.waiting", lang, ahead=ahead)
        case Loading(stage, seconds):
            return t("chat.loading", lang, title=title, stage=t(f"stage.{stage}", lang), seconds=seconds)
        case Working(seconds):
            return t("chat.reading", lang, seconds=seconds)
        case _:
            return t("chat.answering", lang)


def usage_line(usage: Usage | None, lang: Lang) -> str:
    """What an answer took, and whether turns were left out for it."""
    if usage is None or not usage.context:
        return ""
    used = usage.prompt_tokens + usage.new_tokens
    line = t(
        "chat.usage", lang,
        new=usage.new_tokens, rate=usage.tokens_per_second, first=usage.first_token_s, used=used, context=usage.context,
    )  # fmt: skip
    if usage.cached_tokens:
        line += t("chat.usage_cached", lang, cached=usage.cached_tokens)
    return f"{left_out(usage, lang)} {line}".lstrip()


def text_of(content: Any) -> str:
    """The text in what the Chatbot hands back: a string, or its list of blocks."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else [content]
    return "".join(one if isinstance(one, str) else str(one.get("text", "")) for one in blocks)
