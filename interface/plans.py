"""HTML of models and plans: cards, the guard's word with its bar, a download's line. Asks nobody anything."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from configs.schema import ModelSpec, Remote
from engines.acquire import Progress
from engines.memory import MemoryPlan, Note
from interface.i18n import Lang, bytes_text, t
from interface.messages import need_parts, plan_notes, progress_text, sentences


def card_html(spec: ModelSpec, state: str, plan: str, news: str, taken: int, own: Path | None, lang: Lang) -> str:
    """A model: what it is, how it is, and what the guard says of it here.

    `taken` are bytes of the data folder's disk, `own` is the folder of the person's own that it is read from.
    """
    badges = [t(f"models.{name}", lang) for name in ("demo", "added") if getattr(spec, name)]
    marks = "".join(f' <span class="badge">{one}</span>' for one in badges)
    takes = t("models.taken" if taken else "models.disk", lang, disk=taken or spec.disk)
    facts = (
        t(f"models.kind_{spec.kind}", lang),
        takes if own is None else t("models.own", lang, folder=own),
        t("models.window", lang, window=spec.window),
        t("models.licence", lang, licence=spec.licence if spec.licence != "?" else t("models.unknown_licence", lang)),
    )
    return (
        f'<div class="card-head"><strong>{html.escape(spec.title)}</strong>{marks}{state}</div>'
        f'<div class="facts">{html.escape(" · ".join(facts))}</div>'
        f'<div class="facts">{html.escape(_sources(spec, lang))}</div>{plan}{news}'
    )


def remote_card_html(
    spec: ModelSpec, remote: Remote, state: str, servers: str, plan: str, news: str, lang: Lang
) -> str:
    """A model that a server elsewhere answers for: what it is, where, and whether it answers."""
    facts = [t(f"models.kind_{spec.kind}", lang)]
    facts += [t("models.remote", lang, model=remote.model)] if remote.model else []
    facts += [t("models.window", lang, window=spec.window)] if spec.window else []
    mark = f' <span class="badge">{t("models.added", lang)}</span>' if spec.added else ""
    return (
        f'<div class="card-head"><strong>{html.escape(spec.title)}</strong>{mark}{state}</div>'
        f'<div class="facts">{html.escape(" · ".join(facts))}</div>'
        f'<div class="facts">{html.escape(servers)}</div>{plan}{news}'
    )


def _sources(spec: ModelSpec, lang: Lang) -> str:
    """Where it can be had, in words."""
    return " · ".join(f"{t(f'models.source_{one.kind}', lang)}: {one.name}" for one in spec.sources)


def plan_html(plan: MemoryPlan, measured: int, beside: int, lang: Lang, remedies: Sequence[Note] | None = None) -> str:
    """The guard's word, and its numbers as a bar of the whole device.

    `measured` bytes are what the model holds now, `beside` what other models of ours do; `remedies` are those to be
    put into words, where not all of them are.
    """
    notes = (*plan.reasons, *(plan.remedies if remedies is None else remedies))
    words = sentences(plan_notes(notes, lang), lang)
    if plan.settings.backend == "remote":
        return f'<div class="plan {plan.verdict}"><div>{html.escape(words)}</div></div>'
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


def first_run_html(parts: Sequence[Sequence[str]], news: str, lang: Lang) -> str:
    """The first run's card: a title, and a line for each part."""
    lines = "".join(f"<li>{html.escape(sentences(part, lang))}</li>" for part in parts)
    return f'<div class="offer first"><strong>{t("first.title", lang)}</strong><ul>{lines}</ul></div>{news}'


def state_html(state: str, lang: Lang, percent: int | None = None) -> str:
    word = t(f"models.{state}", lang)
    if percent is not None:
        word = t("models.paused_at", lang, percent=percent)
    return f'<span class="state {state}">{word}</span>'


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
