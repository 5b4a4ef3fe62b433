"""What loads took on this machine, kept as a file in the data folder, so that the next plans start from it."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from pydantic import TypeAdapter

from engines.memory import Measured

Known = dict[str, dict[str, dict[str, Measured]]]
"""By device, model and backend."""
_FILE = TypeAdapter(Known)


class Measurements:
    """The last load of each model with each backend. A file that cannot be read or written counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def of(self, model: str, device: str) -> dict[str, Measured]:
        """The last load of a model on a device, by backend."""
        return self._read().get(device, {}).get(model, {})

    def keep(self, model: str, device: str, backend: str, measured: Measured) -> None:
        """Puts this in the place of what was known of such a load."""
        with self._lock, contextlib.suppress(OSError):
            known = self._read()
            known.setdefault(device, {}).setdefault(model, {})[backend] = measured
            new = self._path.with_suffix(".new")
            new.write_bytes(_FILE.dump_json(known, indent=1))
            os.replace(new, self._path)

    def _read(self) -> Known:
        try:
            return _FILE.validate_json(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
