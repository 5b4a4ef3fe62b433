"""What works without a page: the runner, the downloads and the loads. Needs no Gradio, so it is at work before that is
imported."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from engines.library import Library
from engines.runner import Runner
from engines.worker import Worker
from interface.downloads import Downloads
from interface.loads import Loads


@dataclass(frozen=True, slots=True)
class EngineRoom:
    library: Library
    runner: Runner
    downloads: Downloads
    loads: Loads

    @classmethod
    def open(cls, library: Library) -> EngineRoom:
        """Nothing is loaded in it yet."""
        config = library.config
        runner = Runner(library, config.limits, lambda: Worker(config.data / "logs" / "engine.log"))
        return cls(library, runner, Downloads(library), Loads(runner))

    def get_ready(self) -> None:
        """Gets the first model ready, so that the first question does not wait for it; comes back at once."""
        # A folder of the person's own is hashed before it counts, which takes seconds.
        threading.Thread(target=self._get_ready, name="first-model", daemon=True).start()

    def _get_ready(self) -> None:
        model = self.library.config.models.model
        if self.library.folder(model) is not None:
            self.loads.load(model)
        else:
            self.downloads.start(model, lambda: self.loads.load(model))

    def close(self) -> None:
        """Ends every transfer and every engine's process."""
        self.downloads.close()
        self.runner.close()
