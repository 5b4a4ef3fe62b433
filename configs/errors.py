"""The one way in which configuration fails. It carries facts; interface/messages.py words them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """Raised for a key, flag, value or name that is not one of ours. `code` and `facts` are for messages.py."""

    def __init__(self, code: str, **facts: object) -> None:
        super().__init__(f"{code}: {facts}")
        self.code = code
        self.facts = facts

    @classmethod
    def unknown(cls, code: str, name: str, known: Iterable[str], **facts: object) -> ConfigError:
        """An unknown name, with the nearest known one (or all of them, if none is near)."""
        choices = sorted(known)
        near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
        return cls(code, name=name, nearest=near[0] if near else "", known=", ".join(choices), **facts)
