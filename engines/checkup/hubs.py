"""Whether models can be fetched: each place is asked what a download asks first, by the same client in the same way."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema import ModelSpec, Source, SourceKind
from engines import child, fetch
from engines.checkup.finding import Finding, note, ok, problem, side_by_side
from engines.checkup.network import Address, proxy_for
from engines.errors import AppError, DownloadFailed
from engines.preferences import Preferences

CONNECT, ASK = 2.5, 6.5
"""Seconds for a connection, and for an answer."""
ASKS = {"modelscope": fetch.list_modelscope, "huggingface": fetch.list_huggingface, "pypi": fetch.look_pypi}
ENVIRON = {"MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "4"}
"""Once is enough to know: nobody waits for a doctor that is patient."""
PUBLIC = {"modelscope": "https://modelscope.cn", "huggingface": "https://huggingface.co", "pypi": "https://pypi.org"}
MIRRORS = {"modelscope": "MODELSCOPE_ENDPOINT", "huggingface": "HF_ENDPOINT", "pypi": "PIP_INDEX_URL"}
REACHED = ("refused", "not_found")
"""What an answer says that is no trouble with the network."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One place, what it is asked for, and as whom."""

    source: Source
    address: str
    environ: Mapping[str, str]

    @property
    def kind(self) -> SourceKind:
        return self.source.kind


def asks(
    models: Sequence[ModelSpec], chosen: str, configured: Sequence[SourceKind], preferences: Preferences,
    environ: Mapping[str, str],
) -> list[Ask]:  # fmt: skip
    """What to ask each place that models are fetched from: for the model to start with where it has that."""
    ordered = sorted(models, key=lambda spec: spec.id != chosen)
    environ = dict(environ) | preferences.environ
    found = []
    hubs = preferences.hubs(tuple(configured))
    for kind in (one for one in configured if one in hubs or one == "pypi"):
        source = next((source for spec in ordered if (source := spec.source(kind))), None)
        if source is not None:
            found.append(Ask(source, environ.get(MIRRORS[kind]) or PUBLIC[kind], preferences.environ))
    return found


def reach(asked: Sequence[Ask], environ: Mapping[str, str], needs_pypi: bool) -> list[Finding]:
    """Asks all at once. That one hub is out of reach is no problem while another answers; PyPI is needed only for the
    embedded model."""
    answers = side_by_side([lambda one=one: _reached(one, environ) for one in asked], CONNECT + ASK + 0.2)  # type: ignore[misc]
    found = [
        answer if isinstance(answer, Finding) else problem(f"hub.{one.kind}", "hub_slow", **_facts(one, environ))
        for one, answer in zip(asked, answers, strict=True)
    ]
    answered = any(one.state == "ok" for one in found if one.check != "hub.pypi")
    spared = {one.check for one in found if (not needs_pypi if one.check == "hub.pypi" else answered)}
    return [replace(one, state="note") if one.state == "problem" and one.check in spared else one for one in found]


def _reached(ask: Ask, environ: Mapping[str, str]) -> Finding:
    if ask.kind == "pypi":
        if importlib.util.find_spec("pip") is None:
            return problem("hub.pypi", "hub_no_pip", **_facts(ask, environ))
        ask = replace(ask, address=environ.get(MIRRORS["pypi"]) or _index() or ask.address)
    check, facts = f"hub.{ask.kind}", _facts(ask, environ)
    if ask.kind != "pypi":  # pip may have other places to look than this one
        proxy = proxy_for(ask.address, environ)
        place = proxy or Address.of(ask.address)
        if place is None:
            return problem(check, "hub_no_address", variable=MIRRORS[ask.kind], **facts)
        if why := place.unreachable(CONNECT):
            return problem(check, "hub_proxy_dead" if proxy else f"hub_{why}", host=place.host, **facts)
    start = time.monotonic()
    try:
        _listing(ask, start + ASK)
    except AppError as error:
        return _failure(ask, error, facts)
    return ok(check, "hub_ok", seconds=round(time.monotonic() - start, 1), **facts)


def _failure(ask: Ask, error: AppError, facts: dict[str, str]) -> Finding:
    """What a client said, by its name: that it reached somebody who said no is worth a note."""
    check, kind, detail = f"hub.{ask.kind}", error.facts.get("kind", "tool"), error.facts.get("detail", error.code)
    if kind in REACHED:
        return note(check, "hub_refused", kind=kind, detail=detail, **facts)
    if kind == "tool":
        code = "hub_certificate" if re.search("CERTIFICATE|certificate", detail) else "hub_tool"
        return problem(check, code, kind=kind, detail=detail, **facts)
    return problem(check, "hub_failed_pypi" if ask.kind == "pypi" else "hub_failed", kind=kind, detail=detail, **facts)


def _listing(ask: Ask, end: float) -> None:
    def tick() -> None:
        if time.monotonic() > end:
            raise DownloadFailed(source=ask.kind, kind="stalled", detail="")

    with tempfile.TemporaryDirectory() as scratch:
        args = (ask.source.name, ask.source.revision)
        child.run(ask.kind, Path(scratch), tick, ASKS[ask.kind], *args, environ=ENVIRON | dict(ask.environ))


def _index() -> str:
    """The index that pip is configured with; "" for its usual one."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url", "--disable-pip-version-check"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, text=True, timeout=CONNECT, check=False).stdout.strip()
    return ""


def _facts(ask: Ask, environ: Mapping[str, str]) -> dict[str, str]:
    proxy, place = proxy_for(ask.address, environ), Address.of(ask.address)
    return {"source": ask.kind, "address": str(place or ""), "proxy": str(proxy or "")}
