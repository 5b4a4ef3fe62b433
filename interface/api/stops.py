"""Text that comes in pieces, up to the first of a few stop sequences: none of which may show, however it is cut."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Feed it pieces; what may be shown comes back. `found` is true once a stop sequence was there."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = tuple(stops), ""
        self.found = False

    def feed(self, piece: str) -> str:
        """What is now certain to stand before every stop sequence."""
        if self.found:
            return ""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        self.found = bool(places)
        # The longest end of the text that a stop sequence may yet grow from.
        held = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        cut = min(places) if places else len(text) - held
        self._held = "" if places else text[cut:]
        return text[:cut]

    def rest(self) -> str:
        """At the end: what was held back and was no stop sequence after all."""
        held, self._held = self._held, ""
        return held
