"""What a tab with a conversation does: handlers that start answers, and the one that follows them. Draws nothing.

An answer is followed by `follow`, whoever started it: a question, a retry, an edit, or a page that was reloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import gradio as gr

from configs.schema import ModelKind, ModelSpec
from engines.base import ImagePart
from engines.errors import AppError
from engines.job import Delta, Event, Waiting, Working
from interface import branches
from interface.answers import mark_of
from interface.bubbles import (
    bubbles,
    deleted_html,
    doing,
    earlier_html,
    edited,
    error_html,
    feet_html,
    first_shown,
    meter_html,
    pause,
    text_of,
    waited_for,
)
from interface.desk import Desk, LoginDesk
from interface.history import HeldWith, StoredMessage
from interface.i18n import Lang, t
from interface.latest import Latest
from interface.messages import explain
from interface.render import notice_html, plain, show, status_html
from interface.settings import choices, settings_from, slider_values, usual_settings, who_answers

READY = (gr.update(visible=True), gr.update(visible=False))
BUSY = (gr.update(visible=False), gr.update(visible=True))
"""Send and Stop."""
NOTHING = (gr.skip(),) * 7
"""What `follow` shows of nothing new."""
MESSAGE_CHANGES = {"choose": branches.choose, "delete": branches.delete, "restore": branches.restore}
"""What a button under a message does."""
Question = tuple[str, tuple[ImagePart, ...]]


class ChatEvents:
    """One for the app; it keeps nothing about a page. `conversation` is an id, "" before the first question; `seen`
    is what the page shows of it, so that nothing is asked behind what it has not seen.

    A question is what the tab's box holds; vision_events.py has a box with images.
    """

    kind: ModelKind = "text"

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._latest = Latest()

    # -- starting answers: each returns what it changed and, last, a notice ("" when all went well) -----------------

    def ask(
        self, request: gr.Request, box: Any, conversation: str, seen: str, model: str, system: str, *sliders: Any
    ) -> tuple[Any, Any, str]:
        """-> prompt, conversation, notice. A question that cannot be asked stays in the box."""
        if self.is_empty(box):
            return gr.skip(), gr.skip(), ""

        def start() -> str:
            held_with = (model, system.strip(), settings_from(*sliders))
            return self._ask(self._desk.of(request), self.question(box), conversation, held_with, seen)

        id, notice = self._noticed(start, request)
        return (gr.skip(), gr.skip(), notice) if notice else ("", id, "")

    def retry(self, request: gr.Request, conversation: str, seen: str, model: str, system: str, *sliders: Any) -> str:
        """-> notice. Another answer to the last question, with the settings as they are now."""

        def start() -> None:
            answers = self._desk.of(request).answers
            answers.again(conversation, (model, system.strip(), settings_from(*sliders)), seen)

        return self._noticed(start, request)[1]

    def edit(
        self,
        request: gr.Request,
        change: gr.EditData,
        conversation: str,
        seen: str,
        since: str,
        model: str,
        system: str,
        *sliders: Any,
    ) -> str:
        """-> notice. The edited question is asked in the place of the old one, about the same images.

        One without text is not asked.
        """

        def start() -> None:
            text = plain(text_of(change.value))
            if text.strip():
                answers = self._desk.of(request).answers
                index = change.index if isinstance(change.index, int) else change.index[0]
                path = answers.path(conversation)
                row = edited(index, text_of(change.previous_value), path[first_shown(path, since) :])
                held_with = (model, system.strip(), settings_from(*sliders))
                answers.rewrite(conversation, row.id, text, row.images, held_with, seen)

        return self._noticed(start, request)[1]

    def act(
        self,
        request: gr.Request,
        pressed: gr.EventData,
        conversation: str,
        seen: str,
        model: str,
        system: str,
        *sliders: Any,
    ) -> tuple[str, Any]:
        """-> notice, since. Does what a button by a message says: show a version, go on, delete, put back, earlier."""
        if pressed.do == "earlier":
            return "", str(int(pressed.row))
        answers, row, does = self._desk.of(request).answers, int(pressed.row), pressed.do

        def start() -> None:
            if does == "resume":
                answers.resume(conversation, row, (model, system.strip(), settings_from(*sliders)), seen)
            else:
                answers.change(MESSAGE_CHANGES[does], conversation, row, seen)

        notice = self._noticed(start, request)[1]
        deleted = does == "delete" and not notice
        return deleted_html(row, self._desk.lang(request)) if deleted else notice, gr.skip()

    def undo(self, request: gr.Request, conversation: str, seen: str) -> tuple[Any, str]:
        """-> prompt, notice. Takes the last question back into the box."""
        answers = self._desk.of(request).answers
        question, notice = self._noticed(lambda: answers.undo(conversation, seen), request)
        return (gr.skip(), notice) if notice else (self.boxed(question, request) if question else "", "")

    def example(self, choice: gr.SelectData) -> str:
        """-> prompt."""
        return str(choice.value["text"])

    def stop(self, request: gr.Request, conversation: str) -> None:
        answer = self._desk.of(request).answers.of(conversation)
        if answer is not None:
            answer.job.cancel()  # `follow` sees the job end, and shows it

    # -- showing ----------------------------------------------------------------------------------------------------

    def open(self, request: gr.Request, conversation: str) -> tuple[Any, ...]:
        """-> conversation, model, system, *sliders: what the address names, or a new conversation as configured."""
        try:
            held_with = self._desk.of(request).store.conversation(conversation) if conversation else None
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

    def follow(self, request: gr.Request, conversation: str, model: str, since: str = "") -> Iterator[tuple[Any, ...]]:
        """-> chat, status, send, stop, feet, meter, seen. Shows the conversation, and its answer until it has ended.

        `since` is where a page begins that has asked for earlier messages, "" for the newest.
        """
        show = partial(self._shown, self._desk.of(request), conversation, model, since, self._desk.lang(request))
        yield from self._latest.only(request.session_hash, show, NOTHING)

    def look(
        self, request: gr.Request, conversation: str, model: str, since: str, seen: str
    ) -> Iterator[tuple[Any, ...]]:
        """-> as `follow`. For a page that comes back into sight: shows what has changed, if anything has."""
        try:
            changed = seen != self._desk.of(request).answers.mark(conversation)
        except AppError:
            changed = True
        yield from self.follow(request, conversation, model, since) if changed else [NOTHING]

    # -- within -----------------------------------------------------------------------------------------------------

    def _shown(
        self, desk: LoginDesk, conversation: str, model: str, since: str, lang: Lang
    ) -> Generator[tuple[Any, ...], None, None]:
        try:
            yield from self._growing(desk, conversation, since, lang)
            yield self._settled(desk, conversation, model, since, lang)
        except AppError as error:
            yield gr.skip(), error_html(error, lang), *READY, gr.skip(), gr.skip(), gr.skip()

    def _growing(self, desk: LoginDesk, conversation: str, since: str, lang: Lang) -> Iterator[tuple[Any, ...]]:
        """The answer in a conversation until it has ended; nothing if there is none."""
        answer = desk.answers.of(conversation)
        if answer is None:
            return
        path = desk.answers.path(conversation)
        first = first_shown(path, since)
        earlier = [one for one in path[first:] if one.id != answer.row]
        before = [bubble for one in earlier for bubble in bubbles(one, lang)]
        text = answer.before.text if answer.before else ""
        written = len(text)
        versions = branches.versions(desk.store, conversation)
        feet = earlier_html(first, lang) + feet_html(earlier, versions, lang, done=False)
        beside: tuple[Any, ...] = (feet, gr.skip(), mark_of(path))
        try:
            for event in answer.job:
                text += event.text if isinstance(event, Delta) else ""
                # A slow model works between its words; it has long read the conversation by then.
                event = Delta("") if len(text) > written and isinstance(event, Working) else event
                growing = [*before, {"role": "assistant", "content": show(text)}] if text else before
                yield growing, status_html(self._doing(event, answer.job.model, lang)), *BUSY, *beside
                beside = (gr.skip(),) * 3
                # However fast the engine is, what came in the meantime is shown in one go; the last of it at once.
                if answer.recorded.wait(pause(len(text), desk.config.interface.refresh_per_second)):
                    return
        except AppError:
            pass  # it is in the store, and shown from there like any earlier one
        answer.recorded.wait(5)

    def _doing(self, event: Event, model: str, lang: Lang) -> str:
        def title(model: str) -> str:
            return self._desk.library.spec(model).title

        others = waited_for(self._desk.runner.status(), title, lang) if isinstance(event, Waiting) else ""
        return doing(event, title(model), lang, others)

    # -- what the image tab does otherwise --------------------------------------------------------------------------

    def is_empty(self, box: Any) -> bool:
        return not box.strip()

    def question(self, box: Any) -> Question:
        """Text and images of what is in the box. Raises InputError."""
        return box, ()

    def boxed(self, question: StoredMessage, request: gr.Request) -> Any:
        """A question as the box takes it."""
        return question.text

    def fitting(self, settings: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of a conversation's settings, those that the tab has: all but the last, detail."""
        return settings[:-1]

    def empty(self, spec: ModelSpec, lang: Lang) -> dict[str, Any]:
        """What an empty conversation shows: what to try, and with whom."""
        subtitle = who_answers(spec, lang)
        asked_in: Lang = "en" if spec.demo else lang
        return {
            "placeholder": f"## {t('chat.empty_title', lang)}\n{subtitle}",
            "examples": [{"text": t(f"chat.example_{n}", asked_in)} for n in (1, 2, 3)],
        }

    # -- within -----------------------------------------------------------------------------------------------------

    def _ask(self, desk: LoginDesk, asked: Question, conversation: str, held_with: HeldWith, seen: str) -> str:
        if not conversation or desk.store.conversation(conversation) is None:
            conversation, seen = desk.store.create(*held_with, self.kind), ""
        desk.answers.ask(conversation, *asked, held_with, seen)
        return conversation

    def _noticed(self, work: Callable[[], Any], request: gr.Request) -> tuple[Any, str]:
        try:
            return work(), ""
        except AppError as error:
            return None, error_html(error, self._desk.lang(request))

    def _settled(self, desk: LoginDesk, conversation: str, model: str, since: str, lang: Lang) -> tuple[Any, ...]:
        path = desk.answers.path(conversation) if conversation else []
        first = first_shown(path, since)
        chat: Any = [bubble for one in path[first:] for bubble in bubbles(one, lang)]
        if not path:
            chat = gr.update(value=[], **self.empty(desk.library.spec(model), lang))
        unsaved = desk.store.unsaved
        status = notice_html(explain(unsaved, lang)) if unsaved is not None else ""
        versions = branches.versions(desk.store, conversation)
        feet = earlier_html(first, lang) + feet_html(path[first:], versions, lang)
        return chat, status, *READY, feet, meter_html(path, lang), mark_of(path)
