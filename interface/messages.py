"""Errors and plans -> words. The only place that words either; everything else passes facts."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from configs.errors import ConfigError
from engines.acquire import Progress
from engines.base import Usage
from engines.errors import AppError
from engines.memory import MemoryPlan, Need, Note
from interface.i18n import Lang, seconds_text, t, texts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """What to tell a person: what happened, and what to do."""

    title: str
    body: str
    hint: str

    @property
    def opening(self) -> str:
        """The title as a sentence of its language."""
        return self.title + ("。" if self.title[-1] > "\u2e80" else ".")

    @property
    def line(self) -> str:
        return f"{self.opening} {self.body} {self.hint}".strip()


def explain(error: AppError | ConfigError | Mapping[str, Any], lang: Lang) -> Notice:
    """The words for an error, or for what `record` made of one."""
    if isinstance(error, AppError | ConfigError):
        code, facts = error.code, error.facts
    else:
        code, facts = error["code"], error["facts"]
    if f"error.{code}.title" not in texts(lang):
        code, facts = "internal", {}
    words = _worded(code, facts, lang)
    hint = f"error.{code}.hint"
    if "nearest" in facts and not facts["nearest"]:
        # Nothing was near enough to ask "did you mean": only the list remains of the sentence.
        return Notice(t(f"error.{code}.title", lang), t(f"error.{code}.body", lang, **words), facts.get("known", ""))
    return Notice(
        t(f"error.{code}.title", lang, **words), t(f"error.{code}.body", lang, **words), t(hint, lang, **words)
    )


def record(error: AppError) -> dict[str, Any]:
    """The error as plain values, to be kept with a conversation and worded whenever it is shown.

    It gets a number, under which the log has it too.
    """
    facts = {name: plan_dict(value) if isinstance(value, MemoryPlan) else value for name, value in error.facts.items()}
    incident = secrets.token_hex(4)
    log.error("incident %s: %s", incident, error)
    return {"code": error.code, "facts": facts, "incident": incident}


def plan_dict(plan: MemoryPlan) -> dict[str, Any]:
    """A plan as plain values: what `plan --json` prints, but with reasons and remedies still unworded."""
    device = plan.device
    return {
        "model": plan.model,
        "verdict": plan.verdict,
        "reasons": [{"code": note.code, "facts": dict(note.facts)} for note in plan.reasons],
        "remedies": [{"code": note.code, "facts": dict(note.facts)} for note in plan.remedies],
        "device": {"name": device.name, "kind": device.kind, "total": device.total, "free": device.free},
        "need": asdict(plan.need) | {"total": plan.need.total},
        "settings": {
            "backend": plan.settings.backend,
            "device": plan.settings.device,
            "dtype": plan.settings.dtype,
            "quantization": plan.settings.quantization,
            "weight_bits": plan.settings.weight_bits,
            "cache_max_entry_count": round(plan.settings.kv_ratio(device.free), 4) if plan.settings.kv_bytes else 0,
            "session_len": plan.settings.context,
            "max_batch_size": plan.settings.max_batch,
            "max_prefill_token_num": plan.settings.prefill_chunk,
            "quant_policy": 0 if plan.settings.kv_bits == 16 else plan.settings.kv_bits,
            "max_tiles": plan.settings.max_tiles,
        },
        "forced": plan.forced,
    }


def need_parts(need: Need) -> tuple[tuple[str, int], ...]:
    """What a load takes, by the name of each part's sentence."""
    return (
        ("weights", need.weights), ("kv_cache", need.kv_cache), ("vision", need.vision),
        ("workspace", need.workspace), ("runtime", need.context),
    )  # fmt: skip


def plan_notes(notes: Iterable[Note] | Iterable[Mapping[str, Any]], lang: Lang) -> list[str]:
    """Reasons or remedies as sentences."""
    pairs = ((one.code, one.facts) if isinstance(one, Note) else (one["code"], one["facts"]) for one in notes)
    return [t(f"plan.{code}", lang, **facts) for code, facts in pairs]


def left_out(usage: Usage, lang: Lang) -> str:
    """That the oldest turns were left out of a prompt, if some were."""
    key = "chat.left_out_one" if usage.turns_left_out == 1 else "chat.left_out"
    return t(key, lang, count=usage.turns_left_out, context=usage.context) if usage.turns_left_out else ""


def progress_text(progress: Progress, lang: Lang) -> str:
    """A download's line: bytes, speed, time left, and where from."""
    if progress.stage != "downloading":
        return t(f"models.stage_{progress.stage}", lang) + "…"
    unknown = t("models.unknown_time", lang)
    left = unknown if progress.seconds_left is None else seconds_text(progress.seconds_left, lang)
    line = t(
        "models.stage_downloading", lang,
        done=progress.done, total=progress.total, speed=int(progress.speed), left=left,
    )  # fmt: skip
    return f"{line} · " + t("models.from", lang, source=t(f"models.source_{progress.source}", lang))


def sentences(parts: Iterable[str], lang: Lang) -> str:
    """Sentences one after the other, as the language sets them."""
    return ("" if lang == "zh" else " ").join(parts)


def _worded(code: str, facts: Mapping[str, Any], lang: Lang) -> dict[str, Any]:
    """The facts with those that are codes themselves put into words."""
    words = dict(facts)
    if "stage" in facts:
        words["doing"] = t("doing.answer" if facts["stage"] == "answer" else "doing.load", lang)
    more = _WORDED.get(code)
    return words | (more(facts, lang) if more is not None else {})


def _problem(facts: Mapping[str, Any], lang: Lang) -> dict[str, str]:
    key = f"problem.{facts['problem']}"
    return {"problem": t(key, lang, **facts)} if key in texts(lang) else {}


def _server(facts: Mapping[str, Any], lang: Lang) -> dict[str, str]:
    reason = facts["reason"]
    why = t(f"server.why_{facts['why']}", lang) if "why" in facts else ""
    words = t(f"server.{reason}", lang, **{**facts, "why": why})
    remedy = "busy_for" if reason == "busy" and facts.get("seconds") else reason
    return {"reason": words.strip(), "remedy": t(f"server.remedy_{remedy}", lang, **facts)}


def _import(facts: Mapping[str, Any], lang: Lang) -> dict[str, str]:
    image = facts.get("image")
    why = {"why": t(f"image.{image['reason']}", lang, **image)} if image else {}
    return {"reason": t(f"import.{facts['reason']}", lang, **facts, **why)}


def _plan(facts: Mapping[str, Any], lang: Lang) -> dict[str, str]:
    plan = plan_dict(facts["plan"]) if isinstance(facts["plan"], MemoryPlan) else facts["plan"]
    reasons, remedies = (sentences(plan_notes(plan[key], lang), lang) for key in ("reasons", "remedies"))
    return {"model": plan["model"], "reasons": reasons, "remedies": remedies}


_WORDED: dict[str, Callable[[Mapping[str, Any], Lang], dict[str, str]]] = {
    "engine_died": lambda facts, lang: {"how": t("how.signal" if facts.get("signal") else "how.exit", lang, **facts)},
    "download_failed": lambda facts, lang: {
        "source": t(f"models.source_{facts['source']}", lang),
        "reason": t(f"reason.{facts['kind']}", lang),
    },
    "model_corrupt": _problem,
    "model_unsupported": _problem,
    "image_rejected": lambda facts, lang: {"reason": t(f"image.{facts['reason']}", lang, **facts)},
    "image_not_fetched": lambda facts, lang: {"reason": t(f"fetch.{facts['reason']}", lang, **facts)},
    "import_rejected": _import,
    "server": _server,
    "not_saved": lambda facts, lang: {"reason": t(f"storage.{facts['kind']}", lang)},
    "data_in_use": lambda facts, lang: {"where": facts["address"] or t("app.starting", lang)},
    "model_refused": lambda facts, lang: {"why": explain({"code": facts["cause"], "facts": facts["facts"]}, lang).body},
    "model_missing": lambda facts, lang: {"tried": "".join(f" {_tried(one, lang)}" for one in facts.get("tried", ()))},
    "not_enough_memory": _plan,
    "share_failed": lambda facts, lang: {"reason": t(f"share.{facts['reason']}", lang, **facts)},
}
"""What an error's code needs besides its facts."""


def _tried(one: tuple[str, str, Mapping[str, Any]], lang: Lang) -> str:
    """One source that was tried in vain, and why."""
    source, code, facts = one
    name = t(f"models.source_{source}", lang)
    if code == "download_failed":
        return f"{name}: " + t("reason." + facts["kind"], lang) + "."
    return f"{name}: " + explain({"code": code, "facts": facts}, lang).body
