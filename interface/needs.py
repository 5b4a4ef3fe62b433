"""Imported first, for what it does: where this Python lacks what the app needs, the program ends with a sentence.

Needs nothing but Python itself. What is installed in the wrong version, `launch.py doctor` says.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
OURS = ("configs", "engines", "interface")


def _end(missing: str) -> NoReturn:
    from interface.i18n import lang_of, t

    lang = lang_of(os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG"))
    if "--lang" in sys.argv:
        lang = lang_of(sys.argv[min(sys.argv.index("--lang") + 1, len(sys.argv) - 1)])
    own = ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    facts = {"package": missing, "executable": sys.executable, "python": str(own)}
    code = "needs_own" if own.exists() and own.parent != Path(sys.executable).parent else "needs"
    line, remedy = t(f"doctor.{code}", lang, **facts), t(f"remedy.{code}", lang, **facts)
    if "doctor" in sys.argv and "--json" in sys.argv:
        found = {"id": "packages", "state": "problem", "facts": facts, "line": line, "remedy": remedy}
        print(json.dumps({"checks": [found], "ok": False}, ensure_ascii=False, indent=2))
        sys.exit(1)
    sys.exit(f"{line}\n{remedy}")


if sys.version_info < (3, 11):
    sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}. / 需要 Python 3.11 或更新版本。")
try:
    import interface.terminal  # noqa: F401  all that launch.py needs at its start
except ImportError as error:
    if (error.name or "").partition(".")[0] in OURS:
        raise
    _end((error.name or str(error)).partition(".")[0])
