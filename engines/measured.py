"""What loads took on this machine, kept as a file in the data folder, so that the next plans start from it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engines.memory import Measured


class Measurements:
    """By model, device and backend, the last load of each. A file that cannot be read or written counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def of(self, model: str, device: str) -> dict[str, Measured]:
        """The last load with each backend."""
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            return {backend: Measured(**values) for backend, values in self._read()[device][model].items()}
        return {}

    def keep(self, model: str, device: str, backend: str, measured: Measured) -> None:
        """Puts this in the place of what was known of such a load."""
        with self._lock, contextlib.suppress(OSError):
            known = self._read()
            known.setdefault(device, {}).setdefault(model, {})[backend] = asdict(measured)
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(known, indent=1), encoding="utf-8")
            os.replace(new, self._path)

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}
