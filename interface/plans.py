"""HTML of models and plans: cards, the guard's word with its bar, a download's line. Asks nobody anything."""

from __future__ import annotations

import html
from collections.abc import Sequence

from configs.schema import ModelSpec
from engines.acquire import Progress
from engines.memory import MemoryPlan, Note
from interface.i18n import Lang, bytes_text, t
from interface.messages import need_parts, plan_notes, progress_text, sentences


def card_html(spec: ModelSpec, state: str, plan: str, news: str, lang: Lang) -> str:
    """A model: what it is, how it is, and what the guard says of it here."""
    demo = f' <span class="badge">{t("models.demo", lang)}</span>' if spec.demo else ""
    facts = " · ".join(
        (
            t("models.disk", lang, disk=spec.disk),
            t("models.window", lang, window=spec.window),
            t("models.licence", lang, licence=spec.licence),
        )
    )
    return (
        f'<div class="card-head"><strong>{html.escape(spec.title)}</strong>{demo}{state_html(state, lang)}</div>'
        f'<div class="facts">{html.escape(facts)}</div>{plan}{news}'
    )


def plan_html(plan: MemoryPlan, measured: int, beside: int, lang: Lang, remedies: Sequence[Note] | None = None) -> str:
    """The guard's word, and its numbers as a bar of the whole device.

    `measured` bytes are what the model holds now, `beside` what other models of ours do; `remedies` are those to be
    put into words, where not all of them are.
    """
    notes = (*plan.reasons, *(plan.remedies if remedies is None else remedies))
    words = sentences(plan_notes(notes, lang), lang)
    device = t("plan.device", lang, name=plan.device.name, free=plan.device.free, total=plan.device.total)
    held = f'<span class="key">{t("plan.measured", lang, bytes=measured)}</span>' if measured else ""
    return (
        f'<div class="plan {plan.verdict}"><div>{html.escape(words)}</div>{_bar(plan, beside, lang, held)}'
        f'<div class="facts">{html.escape(device)}</div></div>'
    )


def _bar(plan: MemoryPlan, beside: int, lang: Lang, held: str) -> str:
    """All of the device from what others hold to what stays free; a line where it ends, if more is asked of it."""
    need, device = plan.need, plan.device
    others = max(device.total - device.free - beside, 0)
    free = max(device.free - need.total, 0)
    parts = (("others", others), ("beside", beside), *need_parts(need), ("free", free))
    whole = max(sum(size for _, size in parts), 1)
    bar = "".join(
        f'<span class="part {name}" style="width:{100 * size / whole:.2f}%"'
        f' title="{t(f"plan.{name}", lang)} {bytes_text(size)}"></span>'
        for name, size in parts
        if size
    )
    end = 100 * device.total / whole
    line = f'<span class="end" style="left:{end:.2f}%" title="{bytes_text(device.total)}"></span>' if end < 99.5 else ""
    legend = "".join(
        f'<span class="key {name}">{t(f"plan.{name}", lang)} {bytes_text(size)}</span>' for name, size in parts if size
    )
    return f'<div class="bar">{bar}{line}</div><div class="legend">{legend}{held}</div>'


def offer_html(words: Sequence[str], news: str, lang: Lang) -> str:
    return f'<div class="offer">{html.escape(sentences(words, lang))}</div>{news}'


def state_html(state: str, lang: Lang) -> str:
    return f'<span class="state {state}">{t(f"models.{state}", lang)}</span>'


def news_html(line: str) -> str:
    """A line about something under way, announced to screen readers when it changes."""
    return f'<div class="facts" role="status">{html.escape(line)}</div>'


def progress_html(progress: Progress | None, lang: Lang) -> str:
    """A download's bar and its line."""
    if progress is None:
        return news_html(t("models.stage_checking", lang) + "…")
    share = 100 * progress.done / max(progress.total, 1)
    bar = f'<div class="bar"><span class="part done" style="width:{share:.1f}%"></span></div>'
    return bar + news_html(progress_text(progress, lang))
