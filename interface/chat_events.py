"""What the chat tab does: handlers that start answers, and the one that follows them. Draws nothing.

An answer is followed by `follow`, whoever started it: a question, a retry, an edit, or a page that was reloaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from configs.schema import ModelSpec
from engines.base import GenerationSettings, Usage
from engines.errors import AppError
from engines.job import Delta, Event, Loading, Waiting, Working
from interface.desk import Desk
from interface.history import StoredMessage
from interface.i18n import Lang, t
from interface.messages import explain
from interface.render import notice_html, plain, show, status_html


class ChatEvents:
    """One for the app; it keeps nothing about a page. `conversation` is an id, "" before the first question."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # -- starting answers: each returns what it changed and, last, a notice ("" when all went well) -----------------

    def ask(
        self, request: gr.Request, text: str, conversation: str, model: str, system: str, *sliders: float
    ) -> tuple[Any, Any, str]:
        """-> prompt, conversation, notice. A question that cannot be asked stays in the box."""
        if not text.strip():
            return gr.skip(), gr.skip(), ""

        def start() -> str:
            return self._ask(text, conversation, model, system, settings_from(*sliders))

        id, notice = self._noticed(start, request)
        return (gr.skip(), gr.skip(), notice) if notice else ("", id, "")

    def retry(self, request: gr.Request, conversation: str, model: str, system: str, *sliders: float) -> str:
        """-> notice. Another answer to the last question, with the settings as they are now."""

        def start() -> None:
            self._desk.store.configure(conversation, model, system.strip(), settings_from(*sliders))
            self._desk.answers.again(conversation)

        return self._noticed(start, request)[1]

    def edit(
        self, request: gr.Request, change: gr.EditData, conversation: str, model: str, system: str, *sliders: float
    ) -> str:
        """-> notice. The edited question is asked in the place of the old one."""

        def start() -> None:
            index = change.index if isinstance(change.index, int) else change.index[0]
            row = self._desk.store.path(conversation)[index]
            self._desk.store.configure(conversation, model, system.strip(), settings_from(*sliders))
            self._desk.answers.rewrite(conversation, row.id, plain(text_of(change.value)))

        return self._noticed(start, request)[1]

    def undo(self, request: gr.Request, conversation: str) -> tuple[Any, str]:
        """-> prompt, notice. Takes the last question back into the box."""
        question, notice = self._noticed(lambda: self._desk.answers.undo(conversation), request)
        return (gr.skip(), notice) if notice else (question.text if question else "", "")

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
        held_with = self._desk.store.conversation(conversation) if conversation else None
        if held_with is None or held_with.model not in self._desk.library.catalogue:
            model = self._desk.config.models.model
            return ("", model, *self.usual(model))
        settings = held_with.settings
        seed = -1 if settings.seed is None else settings.seed
        return (
            held_with.id, held_with.model, held_with.system,
            settings.temperature, settings.top_p, settings.repetition_penalty, settings.max_new_tokens, seed,
        )  # fmt: skip

    def usual(self, model: str) -> tuple[Any, ...]:
        """-> system, *sliders: a model's own settings."""
        return usual_settings(self._desk.library.spec(model))

    def follow(self, request: gr.Request, conversation: str, model: str) -> Iterator[tuple[Any, ...]]:
        """-> chat, status, send, stop. Shows the conversation, and the answer in it until it has ended."""
        lang = self._desk.lang(request)
        answer = self._desk.answers.of(conversation)
        path = self._desk.store.path(conversation) if conversation else []
        if answer is None:
            yield self._settled(path, model, lang)
            return
        before = [bubble(one, lang) for one in path if one.id < answer.row]
        title = self._desk.library.spec(answer.job.model).title
        pause = 1 / self._desk.config.interface.refresh_per_second
        text = ""
        try:
            for event in answer.job:
                text += event.text if isinstance(event, Delta) else ""
                growing = [*before, {"role": "assistant", "content": show(text)}] if text else before
                yield growing, status_html(doing(event, title, lang)), gr.update(visible=False), gr.update(visible=True)
                # However fast the engine is, what came in the meantime is shown in one go.
                time.sleep(pause)
        except AppError:
            pass  # it is in the store, and shown from there like any earlier one
        answer.recorded.wait(5)
        yield self._settled(self._desk.store.path(conversation), model, lang)

    # -- within -----------------------------------------------------------------------------------------------------

    def _ask(self, text: str, conversation: str, model: str, system: str, settings: GenerationSettings) -> str:
        store = self._desk.store
        if not conversation or store.conversation(conversation) is None:
            conversation = store.create(model, system.strip(), settings)
        else:
            store.configure(conversation, model, system.strip(), settings)
        self._desk.answers.ask(conversation, text)
        return conversation

    def _noticed(self, work: Callable[[], Any], request: gr.Request) -> tuple[Any, str]:
        try:
            return work(), ""
        except AppError as error:
            return None, notice_html(explain(error, self._desk.lang(request)))

    def _settled(self, path: list[StoredMessage], model: str, lang: Lang) -> tuple[Any, ...]:
        chat: Any = [bubble(one, lang) for one in path]
        if not path:
            chat = gr.update(value=[], **self._empty(model, lang))
        status = status_html(usage_line(path[-1].usage, lang)) if path and path[-1].usage else ""
        if self._desk.answers.unsaved is not None:
            status += notice_html(explain(self._desk.answers.unsaved, lang))
        return chat, status, gr.update(visible=True), gr.update(visible=False)

    def _empty(self, model: str, lang: Lang) -> dict[str, Any]:
        """What an empty conversation shows: what to try, and with whom."""
        spec = self._desk.library.spec(model)
        subtitle = t("chat.empty_demo" if spec.demo else "chat.empty_ready", lang, title=spec.title)
        asked_in: Lang = "en" if spec.demo else lang
        return {
            "placeholder": f"## {t('chat.empty_title', lang)}\n{subtitle}",
            "examples": [{"text": t(f"chat.example_{n}", asked_in)} for n in (1, 2, 3)],
        }


def settings_from(
    temperature: float, top_p: float, penalty: float, length: float, seed: float | None
) -> GenerationSettings:
    """The sliders' values, in their order. Raises SettingOutOfRange."""
    fixed = None if seed is None or seed < 0 else int(seed)
    return GenerationSettings(int(length), temperature, top_p, 0, penalty, fixed).checked()


def usual_settings(spec: ModelSpec) -> tuple[Any, ...]:
    """A model's own system prompt and sliders, in the page's order."""
    usual = spec.defaults
    return ("", usual.temperature, usual.top_p, usual.repetition_penalty, usual.max_new_tokens, -1)


def bubble(one: StoredMessage, lang: Lang) -> dict[str, str]:
    """A stored message as the Chatbot takes it; what went wrong with an answer stands below what it said."""
    content = show(one.text)
    if one.error:
        notice = explain(one.error, lang)
        content += f"\n\n> **{notice.title}.** {show(notice.body)}\n>\n> {show(notice.hint)}"
    elif one.status == "stopped":
        content += f"\n\n*{t('chat.stopped', lang)}*"
    elif one.usage and one.usage.reason == "length":
        content += f"\n\n*{t('chat.length_reached', lang)}*"
    return {"role": one.role, "content": content}


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
    if usage.turns_left_out:
        key = "chat.left_out_one" if usage.turns_left_out == 1 else "chat.left_out"
        line = t(key, lang, count=usage.turns_left_out, context=usage.context) + " " + line
    return line


def text_of(content: Any) -> str:
    """The text in what the Chatbot hands back: a string, or its list of blocks."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else [content]
    return "".join(one if isinstance(one, str) else str(one.get("text", "")) for one in blocks)
