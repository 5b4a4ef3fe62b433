"""How often a password may be tried: by each that tries, and by all together. Nobody waits here; all are told how long.

A try is admitted before it is compared and counts as wrong until it turns out right, so that many at once are no way
around it. Wrong ones slow down who sent them; in all, a budget that refills with time bounds what many senders get.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

FREE = 3
"""Tries that cost no delay: people mistype."""
LONGEST = 60.0
FORGOTTEN_AFTER = 900.0
BURST = 5
EVERY = 1.0
"""Seconds in which one more try comes to the budget of all, which holds BURST of them."""


class Throttle:
    """Not for several threads: the server's loop asks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._senders: dict[str, _Sender] = {}
        self._spent_until = float("-inf")

    def admit(self, sender: str) -> float:
        """Seconds that `sender` has to wait; 0 if the try may be made now, and is counted."""
        now = self._clock()
        self._forget(now)
        one = self._senders.get(sender, _Sender())
        wait = max(one.until - now, self._spent_until - (BURST - 1) * EVERY - now, 0.0)
        if wait == 0:
            self._spent_until = max(self._spent_until, now) + EVERY
            self._count(sender, one.wrong + 1, now)
        return wait

    def succeeded(self, sender: str) -> None:
        """The try that was admitted last was right. Earlier ones stay counted: one's own login buys no guesses."""
        if sender in self._senders:
            self._count(sender, self._senders[sender].wrong - 1, self._clock(), waits=False)

    def _count(self, sender: str, wrong: int, now: float, waits: bool = True) -> None:
        delay = min(2.0 ** min(wrong - FREE - 1, 10), LONGEST) if waits and wrong > FREE else 0.0
        self._senders.pop(sender, None)  # the last to have tried stands last
        self._senders[sender] = _Sender(wrong, now, now + delay)

    def _forget(self, now: float) -> None:
        """Admitted tries are few by the budget, and so are those who are remembered."""
        while self._senders:
            oldest = next(iter(self._senders))
            if now - self._senders[oldest].last < FORGOTTEN_AFTER:
                return
            del self._senders[oldest]


@dataclass(frozen=True, slots=True)
class _Sender:
    wrong: int = 0
    last: float = float("-inf")
    until: float = float("-inf")
