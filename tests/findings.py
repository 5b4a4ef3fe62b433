"""What a check found, said: every finding of a test is put into words of both languages."""

from __future__ import annotations

from collections.abc import Sequence

from engines.checkup.finding import Finding
from interface.doctor_text import Line, worded
from interface.i18n import LANGS

HERE = {"python": ".venv/bin/python", "port": 7860}


def said(finding: Finding) -> Line:
    """A finding in English. A problem says what to do in both languages."""
    lines = {lang: worded(finding, lang, HERE) for lang in LANGS}
    for one in lines.values():
        assert one.title and one.line and "{" not in one.line + one.remedy
        assert one.state != "problem" or one.remedy
    assert lines["en"].line != lines["zh"].line or finding.code in ("python_ok", "clock_ok")
    return lines["en"]


def only(found: Sequence[Finding]) -> Finding:
    [one] = found
    said(one)
    return one


def briefly(found: Finding | Sequence[Finding]) -> list[tuple[str, str, str]]:
    """What was looked at, how it is, and what was found."""
    findings = [found] if isinstance(found, Finding) else found
    for one in findings:
        said(one)
    return [(one.check, one.state, one.code) for one in findings]
