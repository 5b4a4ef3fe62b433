"""How much of the card a process has held at most: for engines whose memory torch does not allocate."""

from __future__ import annotations

import os
import threading

from engines.probe import free_memory, process_memory

EVERY = 0.02


class PeakWatch:
    """Looks at the driver's numbers until it is closed. `free_before` are the bytes free at its making."""

    def __init__(self) -> None:
        self.free_before = self._least = free_memory()
        self._closed = threading.Event()
        threading.Thread(target=self._look, name="peak-watch", daemon=True).start()

    def peak(self) -> int:
        """Bytes held at the peak so far.

        What the driver says that the process holds, for LMDeploy gives nothing back before its end. In a container,
        where the driver does not say that, what was gone of the free memory when the watch was closed: what goes after
        the load may be another program's.
        """
        return process_memory(os.getpid(), "cuda") or max(0, self.free_before - self._least)

    def close(self) -> None:
        self._closed.set()

    def _look(self) -> None:
        while not self._closed.wait(EVERY):
            free = free_memory()
            self._least = min(self._least, free) if free else self._least  # 0: the driver was not to be asked
