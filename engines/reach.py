"""Whether servers elsewhere can be reached: asked in the background while somebody looks, never waited for."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass

from configs.schema import Remote, server_of
from engines.errors import ServerError
from engines.servers import listed

EVERY = 10.0
SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Reached:
    """One server at the last look; `answers` is None before the first."""

    server: str
    answers: bool | None


class Reach:
    """Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, bool]] = {}
        self._looking: set[str] = set()

    def of(self, remote: Remote) -> tuple[Reached, ...]:
        """Its servers as they were a moment ago. Begins another look if that is long ago."""
        return tuple(Reached(server_of(one), self._of(one, remote)) for one in remote.addresses)

    def _of(self, address: str, remote: Remote) -> bool | None:
        with self._lock:
            at, answers = self._seen.get(address, (0.0, None))
            if address not in self._looking and time.monotonic() - at > (EVERY if at else 0):
                self._looking.add(address)
                threading.Thread(target=self._look, args=(address, remote), name="reach", daemon=True).start()
        return answers

    def _look(self, address: str, remote: Remote) -> None:
        answers = False
        try:
            asyncio.run(listed(address, remote, SECONDS))
            answers = True
        except ServerError:
            pass
        finally:
            with self._lock:
                self._seen[address] = time.monotonic(), answers
                self._looking.discard(address)
