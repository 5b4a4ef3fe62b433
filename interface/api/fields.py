"""A JSON object taken apart field by field: what is missing, of the wrong type or unknown is named by its path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from interface.api.errors import ApiError

TYPES: dict[str, tuple[type, ...]] = {
    "json.string": (str,),
    "json.integer": (int,),
    "json.number": (int, float),
    "json.boolean": (bool,),
    "json.array": (list,),
    "json.object": (dict,),
}


class Fields:
    """One object of a request. A field that is null counts as left out, as with OpenAI."""

    def __init__(self, value: Any, where: str = "") -> None:
        self._left = dict(typed(value, "json.object", where or "body"))
        self._where = where

    def path(self, name: str) -> str:
        """A field as errors name it: messages[0].content"""
        return f"{self._where}.{name}" if self._where else name

    def take(self, name: str, *types: str) -> Any:
        """A field's value, or None. Raises ApiError if it is of none of the types."""
        value = self._left.pop(name, None)
        return None if value is None else typed(value, types[0], self.path(name), types)

    def need(self, name: str, *types: str) -> Any:
        """Like take, for what must be there."""
        value = self.take(name, *types)
        if value is None:
            raise ApiError(400, "api.missing", "missing_required_parameter", self.path(name))
        return value

    def between(self, name: str, low: float, high: float, kind: str = "json.number") -> Any:
        """A number in its range, or None."""
        value = self.take(name, kind)
        if value is not None and not low <= value <= high:
            raise ApiError(400, "api.out_of_range", "invalid_value", self.path(name), value=value, low=low, high=high)
        return value

    def one_of(self, name: str, supported: Sequence[str]) -> str | None:
        """One of a few words, or None."""
        value: str | None = self.take(name, "json.string")
        if value is not None and value not in supported:
            raise invalid(self.path(name), value, supported)
        return value

    def ignore(self, *names: str) -> None:
        """Fields whose value changes nothing here."""
        for name in names:
            self._left.pop(name, None)

    def only(self, name: str, *neutral: Any) -> None:
        """A field that is not supported, unless it holds what it would do without."""
        value = self._left.pop(name, None)
        if value is not None and not any(value == one and type(value) is type(one) for one in neutral):
            raise ApiError(400, "api.unsupported_parameter", "unsupported_parameter", self.path(name))

    def end(self) -> None:
        """Raises ApiError if something is left that no server knows."""
        if self._left:
            name = self.path(next(iter(self._left)))
            raise ApiError(400, "api.unknown_parameter", "unknown_parameter", name)


def typed(value: Any, expected: str, where: str, types: Sequence[str] = ()) -> Any:
    """`value`, if it is of one of the types. Raises ApiError otherwise."""
    for one in types or (expected,):
        # To Python, true is an integer; 1e999 is JSON, and no number.
        endless = isinstance(value, float) and not math.isfinite(value)
        if isinstance(value, TYPES[one]) and (one == "json.boolean") == isinstance(value, bool) and not endless:
            return value
    raise ApiError(400, "api.wrong_type", "invalid_type", where, expected=expected, found=_type(value))


def invalid(where: str, value: str, supported: Sequence[str]) -> ApiError:
    """What to say of a word that is none of those that are understood."""
    shown = value if len(value) <= 80 else value[:80] + "…"
    return ApiError(400, "api.invalid_value", "invalid_value", where, value=shown, supported=", ".join(supported))


def _type(value: Any) -> str:
    if value is None:
        return "json.null"
    if isinstance(value, bool):
        return "json.boolean"
    if isinstance(value, int):
        return "json.integer"
    return next(name for name, types in TYPES.items() if isinstance(value, types))
