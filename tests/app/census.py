"""Serves the built app with a login and prints its port and the path of every route: python -m tests.app.census DATA.

A process of its own, because what Gradio leaves behind in one would fail other tests. It ends with its input.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def paths_of(routes: Sequence[Any], prefix: str = "") -> Iterator[str]:
    """Each route's path, through everything that holds routes. What stands in braces may be anything."""
    for route in routes:
        path = prefix + (getattr(route, "path", None) or "")
        router = getattr(route, "original_router", None)
        inner = router.routes if router is not None else getattr(route, "routes", None)
        if inner:
            yield from paths_of(inner, path)
        # Icons have names that are there.
        yield re.sub(r"\{\w+(:\w+)?\}", "seal.svg" if path == "/icons/{name}" else "x", path) or "/"


def main(data: Path) -> None:
    os.environ["GRADIO_TEMP_DIR"] = str(data / "uploads")
    from configs.load import load_catalogue, load_config
    from engines.library import Library
    from interface import app, reach
    from interface.desk import Desk
    from interface.entrance import Entrance

    config = load_config({"data": data, "auth": ["ann:correct horse"]}, {})
    desk = Desk.open(Library(config, load_catalogue(), fake=True))
    demo = app.build(desk, login=True)
    port = reach.free_port("127.0.0.1", 0, exact=True) or 0
    app.serve(desk, demo, port, Entrance.of(config, no_auth=False))
    print(json.dumps({"port": port, "paths": sorted(set(paths_of(demo.app.routes)))}), flush=True)
    sys.stdin.read()
    demo.close(verbose=False)
    desk.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
