"""Python and the packages. That Python is too old, or that nothing is installed, interface/needs.py says before."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from engines.checkup.finding import Finding, note, ok, problem
from engines.memory import Backend


def python(version: str, bits: int, executable: str, prefix: str, base: str, environ: Mapping[str, str]) -> Finding:
    """`prefix` and `base` are sys.prefix and sys.base_prefix, which differ in an environment of venv."""
    facts = {"version": version, "bits": bits, "executable": executable}
    if bits < 64:
        return problem("python", "python_32bit", **facts)
    own = prefix != base or "CONDA_PREFIX" in environ
    return ok("python", "python_ok", **facts) if own else note("python", "python_shared", **facts)


def packages(file: Path, version_of: Callable[[str], str | None] | None = None) -> list[Finding]:
    """Whether what a requirements file asks for is installed, in a version that it allows."""
    version_of = version_of or _installed
    wanted = list(requirements(file))
    found = {one.name: version_of(one.name) for one in wanted}
    missing = [one.name for one in wanted if found[one.name] is None]
    other = [
        f"{one.name} {found[one.name]} ({one.specifier})" for one in wanted
        if (version := found[one.name]) is not None and not one.specifier.contains(version, prereleases=True)
    ]  # fmt: skip
    facts = {"file": file.name}
    findings = [problem("packages", "packages_missing", packages=missing, **facts)] if missing else []
    findings += [note("packages.versions", "packages_other", packages=other, **facts)] if other else []
    return findings or [ok("packages", "packages_ok", count=len(wanted), **facts)]


def requirements(file: Path) -> Iterator[Requirement]:
    """What a requirements file asks for on this machine, with the files that it takes in. Of two lines about one
    package both count."""
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if text.startswith("-r "):
            yield from requirements(file.parent / text.removeprefix("-r ").strip())
        elif text:
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue  # an option of pip
            if wanted.marker is None or wanted.marker.evaluate():
                yield wanted


def image_engines(backends: Sequence[Backend], card: bool) -> Finding:
    """What image models run on here."""
    if card and tuple(backends) == ("native",):
        return note("image_engines", "image_engines_native")
    return ok("image_engines", "image_engines_ok", engines=list(backends))


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
