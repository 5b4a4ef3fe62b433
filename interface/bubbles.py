"""A conversation -> what the page draws of it: bubbles, the line under each, the context meter. Knows no event."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engines.base import ImagePart, Usage
from engines.errors import AppError, ConversationMoved, InputError
from engines.job import Event, Loading, Waiting, Working
from engines.status import RunnerStatus
from interface.answers import was_cut
from interface.branches import Versions
from interface.history import StoredMessage
from interface.i18n import Lang, t
from interface.messages import explain, left_out, record
from interface.render import closed, images_html, notice_html, plain, show

SHOWN, STEP, EARLIER = 24, 16, 100
"""Messages that a page draws of a long conversation; how many of them it lets go at once, so that most turns move
nothing; how many come back with a click. Gradio looks at every bubble for each word of an answer.
"""
WHOLE_RATE_UNTIL = 10_000
"""Characters of an answer from which on it is drawn less often."""
FULL_FROM = 0.8
"""Part of what a prompt may take from which the meter warns."""


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
        note = f"> **{notice.opening}** {show(notice.body)}\n>\n> {show(notice.hint)}"
    elif one.status == "stopped":
        note = f"*{t('chat.stopped', lang)}*"
    elif one.usage and one.usage.reason == "length":
        note = f"*{t('chat.length_reached', lang)}*"
    return [*shown, {"role": one.role, "content": f"{closed(content)}\n\n{note}" if note else content}]


def bubble_count(one: StoredMessage) -> int:
    """How many `bubbles` there are of a message."""
    return 2 if one.images and one.text else 1


def edited(index: int, before: str, path: Sequence[StoredMessage]) -> StoredMessage:
    """The message of the bubble at `index`, if it still says what was shown there. Raises ConversationMoved."""
    rows = [one for one in path for _ in range(bubble_count(one))]
    # The Chatbot strips what it shows.
    if index >= len(rows) or rows[index].text.split() != plain(before).split():
        raise ConversationMoved()
    return rows[index]


def first_shown(path: Sequence[StoredMessage], since: str = "") -> int:
    """The place of the first message that is drawn: `since` if a page has asked for earlier ones, or of the newest."""
    if since:
        return min(int(since), len(path))
    place = max(0, len(path) - SHOWN) // STEP * STEP
    return place - 1 if place and path[place].role == "assistant" else place


def earlier_html(first: int, lang: Lang) -> str:
    """The button above the first message that is drawn, for page.js; "" if there is nothing before it."""
    if not first:
        return ""
    says = t("chat.earlier", lang, count=first)
    return f'<div data-at="earlier">{_button("earlier", max(0, first - EARLIER), says)}</div>'


def images_block(images: Sequence[ImagePart], lang: Lang) -> dict[str, Any]:
    """Thumbnails in a bubble, as Gradio's HTML component."""
    return {
        "type": "component",
        "component": "html",
        "value": images_html(images, lang),
        "constructor_args": {},
        "props": {},
    }


def pause(length: int, per_second: float) -> float:
    """Seconds until a growing answer of so many characters is drawn again.

    A browser reads the whole of it for each drawing: so the part of its time that this takes grows no further.
    """
    return max(1.0, length / WHOLE_RATE_UNTIL) / per_second


def feet_html(path: Sequence[StoredMessage], versions: Mapping[int, Versions], lang: Lang, done: bool = True) -> str:
    """The line under each message, by the place of its last bubble: page.js puts it there, outside of the text.

    While an answer is growing (not `done`), the last of these cannot be gone on with.
    """
    feet, place = [], -1
    for one in path:
        place += bubble_count(one)
        resumable = done and one is path[-1] and was_cut(one)
        feet.append(f'<div data-at="{place}">{_foot(one, versions.get(one.id), resumable, lang)}</div>')
    return "".join(feet)


def _foot(one: StoredMessage, versions: Versions | None, resumable: bool, lang: Lang) -> str:
    parts = []
    if versions is not None:
        parts.append(
            '<span class="versions">'
            + _button("choose", versions.before, "‹", t("chat.version_before", lang))
            + f"<span>{versions.number} / {versions.count}</span>"
            + _button("choose", versions.after, "›", t("chat.version_after", lang))
            + "</span>"
        )
    if resumable:
        parts.append(_button("resume", one.id, t("chat.continue", lang)))
    parts.append(_button("delete", one.id, "", t("chat.delete", lang)))
    line = usage_line(one.usage, lang)
    if line:
        parts.append(f'<span class="usage">{html.escape(line)}</span>')
    if one.error:
        parts.append(_details(one.error, lang))
    return "".join(parts)


def _button(does: str, row: int | None, text: str, label: str = "") -> str:
    """A button for page.js; without a row there is nothing that it could do."""
    named = f' aria-label="{html.escape(label)}" title="{html.escape(label)}"' if label else ""
    target = f' data-do="{does}" data-row="{row}"' if row is not None else " disabled"
    return f'<button type="button" class="{does}"{target}{named}>{html.escape(text)}</button>'


def _details(error: Mapping[str, Any], lang: Lang) -> str:
    """An error's code and facts, folded, with the number under which the log has it."""
    facts = [f"{name}: {value}" for name, value in error["facts"].items() if isinstance(value, str | int | float)]
    lines = [" · ".join([error["code"], *facts])]
    if error.get("incident"):
        lines.append(t("chat.incident", lang, number=error["incident"]))
    body = "".join(f"<div>{html.escape(line)}</div>" for line in lines)
    return f"<details><summary>{t('chat.details', lang)}</summary>{body}</details>"


def error_html(error: AppError, lang: Lang) -> str:
    """An error as a notice. One that nobody can mend by asking otherwise gets a number and goes into the log."""
    if isinstance(error, InputError):
        return notice_html(explain(error, lang))
    recorded = record(error)
    return notice_html(explain(recorded, lang), _details(recorded, lang))


def deleted_html(message: int, lang: Lang) -> str:
    """That a message is out of sight, and the button that puts it back."""
    back = _button("restore", message, t("chat.put_back", lang))
    return f'<div class="notice" role="status">{t("chat.deleted", lang)} {back}</div>'


def meter_html(path: Sequence[StoredMessage], lang: Lang) -> str:
    """How much of the context the conversation takes, by its last answer, and whether turns are about to fall out."""
    usage = next((one.usage for one in reversed(path) if one.usage and one.usage.context), None)
    if usage is None:
        return ""
    used = usage.prompt_tokens + usage.new_tokens
    full = used >= FULL_FROM * (usage.prompt_limit or usage.context)
    says = t("chat.meter", lang, used=used, context=usage.context)
    warning = f'<span class="warning">{t("chat.meter_full", lang)}</span>' if full else ""
    return (
        f'<div class="meter{" full" if full else ""}">{warning}'
        f'<div class="gauge" role="meter" aria-label="{t("chat.meter_label", lang)}" aria-valuemin="0"'
        f' aria-valuenow="{used}" aria-valuemax="{usage.context}" aria-valuetext="{says}">'
        f'<div style="width:{min(100, 100 * used / usage.context):.1f}%"></div></div><span>{says}</span></div>'
    )


def doing(event: Event, title: str, lang: Lang, others: str = "") -> str:
    """What a job is doing, in words; `others` is what it waits for."""
    match event:
        case Waiting(ahead):
            waiting = t("chat.waiting", lang, ahead=ahead) if ahead else t("chat.waiting_next", lang)
            return f"{waiting} · {others}" if others else waiting
        case Loading(stage, seconds):
            return t("chat.loading", lang, title=title, stage=t(f"stage.{stage}", lang), seconds=seconds)
        case Working(seconds):
            return t("chat.reading", lang, seconds=seconds)
        case _:
            return t("chat.answering", lang)


def waited_for(status: RunnerStatus, title: Callable[[str], str], lang: Lang) -> str:
    """What the queue waits for, in words; "" if for nothing that has a name."""
    if status.loading is not None:
        return t("chat.waits_loading", lang, title=title(status.loading))
    return t("chat.waits_answering", lang, title=title(status.answering)) if status.answering else ""


def usage_line(usage: Usage | None, lang: Lang) -> str:
    """What an answer took, and whether turns were left out for it."""
    if usage is None or not (usage.context or usage.new_tokens):
        return ""
    if not usage.context:
        # A server elsewhere that does not say how long a conversation may be, or not even what it has written.
        key = "chat.usage_estimated" if usage.estimated else "chat.usage_short"
        return t(key, lang, new=usage.new_tokens, rate=usage.tokens_per_second, first=usage.first_token_s)
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
