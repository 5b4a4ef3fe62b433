"""What a conversation is held with, as a page's controls have it: settings as sliders, models by name."""

from __future__ import annotations

from typing import Any

from configs.schema import ModelKind, ModelSpec
from engines.base import Detail, GenerationSettings
from interface.desk import Desk, label
from interface.i18n import Lang, t


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


def who_answers(spec: ModelSpec, lang: Lang) -> str:
    """With whom one talks, and where what is said goes."""
    if spec.remote is not None:
        return t("chat.empty_remote", lang, title=spec.title, server=spec.remote.servers)
    return t("chat.empty_demo" if spec.demo else "chat.empty_ready", lang, title=spec.title)
