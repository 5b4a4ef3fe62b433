"""What a person has chosen on the page, kept as a file in the data folder: where models come from, what was dismissed.

configs/app.toml says what may be had at all; this says what is asked first.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from configs.schema import ModelSpec, SourceKind
from engines.disk import HUB_KINDS
from engines.errors import MirrorInvalid

SourceChoice = Literal["auto", "modelscope", "huggingface", "mirror"]
CHOICES: tuple[SourceChoice, ...] = ("auto", "modelscope", "huggingface", "mirror")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Preferences:
    """`mirror` is the address of a mirror of Hugging Face, `speed` that of the last download in bytes per second."""

    source: SourceChoice = "auto"
    mirror: str = ""
    welcomed: bool = False
    """Whether the first run's card was dismissed."""
    speed: int = 0

    def hubs(self, configured: tuple[SourceKind, ...]) -> tuple[SourceKind, ...]:
        """The hubs to ask, in order."""
        wanted: SourceKind = "huggingface" if self.source in ("huggingface", "mirror") else "modelscope"
        return tuple(kind for kind in configured if kind in HUB_KINDS and (self.source == "auto" or kind == wanted))

    def sources(self, spec: ModelSpec, configured: tuple[SourceKind, ...]) -> tuple[SourceKind, ...]:
        """Where to look for a model, in order: the chosen hub alone, unless that is not one of the model's."""
        hubs = self.hubs(configured)
        if not any(spec.source(kind) for kind in hubs):
            return configured
        return tuple(kind for kind in configured if kind not in HUB_KINDS or kind in hubs)

    @property
    def environ(self) -> dict[str, str]:
        """What the hubs' clients are told of it."""
        return {"HF_ENDPOINT": self.mirror} if self.source == "mirror" and self.mirror else {}


_FILE = TypeAdapter(Preferences)


class Preferred:
    """The preferences as they are now. Safe from any thread; a file that cannot be read counts as nothing chosen."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        try:
            self._now = _FILE.validate_json(path.read_bytes())
        except FileNotFoundError:
            self._now = Preferences()
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read: %s", path, error)
            self._now = Preferences()

    @property
    def now(self) -> Preferences:
        return self._now

    def change(self, **values: Any) -> Preferences:
        """The preferences with these changed. Where the file cannot be written they last until the app ends."""
        with self._lock:
            self._now = replace(self._now, **values)
            new = self._path.with_suffix(".new")
            try:
                new.write_bytes(_FILE.dump_json(self._now, indent=1))
                os.replace(new, self._path)
            except OSError as error:
                log.warning("%s cannot be written: %s", self._path, error)
            return self._now


def mirror_address(text: str) -> str:
    """The address of a mirror as it is kept. Raises MirrorInvalid(address) for all but http and https with a host."""
    address = text.strip().rstrip("/")
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known or parts.query or parts.fragment or parts.username or any(char.isspace() for char in address):
        raise MirrorInvalid(address=text.strip())
    return address
