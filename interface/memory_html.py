"""HTML of the device's memory: by use, planned beside measured, and how it was in the last minutes. Asks nobody."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from engines.memory import MemoryPlan
from engines.watch import KEPT, Sample
from interface.i18n import Lang, bytes_text, t
from interface.messages import need_parts

SHADES = 4
"""Colours of models; more than so many take turns."""
GAP = 5.0
"""Seconds without a sample: nobody looked, and nothing is drawn."""
HEIGHT = 48

Part = tuple[str, str, int]
"""Class, name, bytes."""


def memory_html(
    samples: Sequence[Sample], plans: Mapping[str, MemoryPlan], titles: Mapping[str, str], lang: Lang
) -> str:
    """`plans` are those that the loaded models were loaded by, `titles` their names."""
    now = samples[-1]
    whole = max(now.device.total, now.taken, 1)
    measured = uses(now, titles, lang)
    planned = [part for model in now.ours if model in plans for part in _planned(plans[model], lang)]
    device = t("memory.device", lang, name=now.device.name, taken=now.taken, total=now.device.total)
    rows = _row(t("memory.measured", lang), _bar(measured, whole))
    if planned:
        rows += _row(t("memory.planned", lang), _bar(planned, max(whole, sum(size for *_, size in planned))))
    return (
        f'<div class="memory"><div class="facts">{html.escape(device)}</div>{rows}'
        f"{history_svg(samples, lang)}{_table(now, measured, plans, titles, lang)}</div>"
    )


def uses(sample: Sample, titles: Mapping[str, str], lang: Lang) -> list[Part]:
    """What holds the memory, from our models to what is free."""
    parts = [
        (f"model-{number % SHADES}", titles.get(model, model), size)
        for number, (model, size) in enumerate(sample.ours.items())
    ]
    named = sample.named
    parts += [("others", one.name, one.bytes) for one in named]
    rest = sample.others - sum(one.bytes for one in named)
    parts.append(("rest", t("memory.rest" if named else "plan.others", lang), rest))
    parts.append(("free", t("plan.free", lang), sample.device.free))
    return [part for part in parts if part[2] > 0]


def history_svg(samples: Sequence[Sample], lang: Lang) -> str:
    """The last minutes as two areas, what others hold and our models on top of that; its text says the extremes."""
    now, top = samples[-1].at, max(max(one.device.total for one in samples), 1)
    shapes = ""
    for run in _runs(samples):
        x = [KEPT - (now - one.at) for one in run]
        others = [HEIGHT * one.others / top for one in run]
        all_of_it = [HEIGHT * min(one.taken, top) / top for one in run]
        shapes += _area(x, [0.0] * len(run), others, "others") + _area(x, others, all_of_it, "ours")
    least, most = min(one.taken for one in samples), max(one.taken for one in samples)
    said = t("memory.history", lang, least=least, most=most)
    return (
        f'<svg class="history" viewBox="0 0 {KEPT} {HEIGHT}" preserveAspectRatio="none" role="img"'
        f' aria-label="{html.escape(said)}">{shapes}</svg><div class="facts axis"><span>{t("memory.ago", lang)}</span>'
        f"<span>{html.escape(said)}</span><span>{t('memory.now', lang)}</span></div>"
    )


def _runs(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples with nothing missing between them, of the time that is drawn."""
    runs: list[list[Sample]] = []
    for one in samples:
        if samples[-1].at - one.at > KEPT:
            continue
        if runs and one.at - runs[-1][-1].at <= GAP:
            runs[-1].append(one)
        else:
            runs.append([one])
    return runs


def _area(x: Sequence[float], lower: Sequence[float], upper: Sequence[float], name: str) -> str:
    if len(x) == 1:  # one look alone is a second wide
        x, lower, upper = [x[0] - 1, x[0]], [*lower, *lower], [*upper, *upper]
    there = [f"{a:.1f},{HEIGHT - b:.1f}" for a, b in zip(x, upper, strict=True)]
    back = [f"{a:.1f},{HEIGHT - b:.1f}" for a, b in zip(x, lower, strict=True)]
    return f'<polygon class="{name}" points="{" ".join([*there, *reversed(back)])}"/>'


def _planned(plan: MemoryPlan, lang: Lang) -> list[Part]:
    return [(name, t(f"plan.{name}", lang), size) for name, size in need_parts(plan.need) if size]


def _row(name: str, bar: str) -> str:
    return f'<div class="memory-row"><span class="facts">{name}</span>{bar}</div>'


def _bar(parts: Sequence[Part], whole: int) -> str:
    return (
        '<div class="bar" aria-hidden="true">'
        + "".join(
            f'<span class="part {name}" style="width:{100 * size / whole:.2f}%"'
            f' title="{html.escape(title)} {bytes_text(size)}"></span>'
            for name, title, size in parts
        )
        + "</div>"
    )


def _table(
    now: Sample, measured: Sequence[Part], plans: Mapping[str, MemoryPlan], titles: Mapping[str, str], lang: Lang
) -> str:
    """The picture in numbers."""
    planned = {titles.get(model, model): plans[model] for model in now.ours if model in plans}
    rows = ""
    for name, title, size in measured:
        plan, said, need = planned.get(title) if name.startswith("model-") else None, "", ""
        if plan is not None:
            said = " · ".join(f"{part} {bytes_text(of)}" for _, part, of in _planned(plan, lang))
            need = bytes_text(plan.need.total)
        detail = f'<div class="facts">{html.escape(said)}</div>' if said else ""
        rows += (
            f'<tr><th scope="row"><span class="key {name}">{html.escape(title)}</span>{detail}</th>'
            f"<td>{need}</td><td>{bytes_text(size)}</td></tr>"
        )
    head = "".join(f'<th scope="col">{t(f"memory.{name}", lang)}</th>' for name in ("what", "planned", "measured"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
