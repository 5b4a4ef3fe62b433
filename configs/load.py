"""Files, environment and flags -> frozen configuration, once, at the start.

`app.toml` < `SHUSHENG_*` < flags. An unknown key is a ConfigError that names the nearest known one.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from configs.errors import ConfigError
from configs.schema import AppConfig, Catalogue

HERE = Path(__file__).parent
ROOT = HERE.parent
PREFIX = "SHUSHENG_"
SECRET = {"auth", "api_keys"}
"""Keys whose values are not said."""

T = TypeVar("T")


def load_config(
    overrides: Mapping[str, object], environ: Mapping[str, str], file: Path = HERE / "app.toml"
) -> AppConfig:
    """The configuration of this start.

    `overrides` are flags by key ("port", "lang"; None means not given); of `environ` only SHUSHENG_* is read.
    Raises ConfigError for an unknown key or a value out of range.
    """
    settings = _read(file)
    sections = _sections()
    given = {key: value for key, value in overrides.items() if value is not None}
    for key, value in (_from_environment(environ, sections) | given).items():
        (settings.setdefault(sections[key], {}) if sections[key] else settings)[key] = value
    config = _validated(AppConfig, settings, file.name)
    return replace(config, data=ROOT / config.data.expanduser())


def load_catalogue(file: Path = HERE / "models.toml") -> Catalogue:
    """The models the app knows. Raises ConfigError like load_config."""
    return _validated(Catalogue, _read(file), file.name)


def catalogue_of(file: Path) -> Catalogue:
    """The models that a person has added, which the app keeps as JSON. Raises ConfigError like load_config."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("config_syntax", file=file.name, detail=str(error)) from None
    return _validated(Catalogue, data if isinstance(data, dict) else {"models": data}, file.name)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config_syntax", file=file.name, detail=str(error)) from None


def _sections() -> dict[str, str]:
    """Every key -> the section it stands in ("" for the top). Keys are unique over all sections."""
    hints = get_type_hints(AppConfig)
    nested = {key: name for name, cls in hints.items() if is_dataclass(cls) for key in get_type_hints(cls)}
    return nested | {name: "" for name, cls in hints.items() if not is_dataclass(cls)}


def _from_environment(environ: Mapping[str, str], sections: Mapping[str, str]) -> dict[str, object]:
    """SHUSHENG_PORT=7999 -> {"port": "7999"}; a list is written with commas."""
    lists = {f.name for section in fields(AppConfig) for f in _fields_of(section.name) if "tuple" in str(f.type)}
    values: dict[str, object] = {}
    for name, text in environ.items():
        if name.startswith(PREFIX):
            key = name.removeprefix(PREFIX).lower()
            if key not in sections:
                raise ConfigError.unknown("config_unknown_variable", name, [PREFIX + k.upper() for k in sections])
            values[key] = [part.strip() for part in text.split(",") if part.strip()] if key in lists else text
    return values


def _fields_of(section: str) -> tuple[Any, ...]:
    cls = get_type_hints(AppConfig)[section]
    return fields(cls) if is_dataclass(cls) else ()


def _validated(cls: type[T], data: Mapping[str, object], file: str) -> T:
    try:
        return TypeAdapter(cls).validate_python(data)
    except ValidationError as failure:
        error = failure.errors()[0]
        where = ".".join(str(part) for part in error["loc"])
        if error["type"] == "unexpected_keyword_argument":
            name = str(error["loc"][-1])
            raise ConfigError.unknown("config_unknown_key", name, set(_keys(cls)), file=file, where=where) from None
        value = "…" if SECRET & set(error["loc"]) else error["input"]
        raise ConfigError("config_value", file=file, where=where, value=value, detail=error["msg"]) from None


def _keys(cls: Any) -> Iterator[str]:
    """Every key that may stand somewhere below `cls`."""
    for name, hint in get_type_hints(cls).items() if is_dataclass(cls) else ():
        yield name
        for part in (hint, *get_args(hint)):
            yield from _keys(part)
