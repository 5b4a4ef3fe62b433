"""Findings -> words, and words -> lines of a terminal, 80 columns wide. Knows no check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.checkup.finding import Finding, State
from interface.i18n import Lang, bytes_text, t, texts
from interface.messages import explain, plan_notes, sentences
from interface.terminal import width

COLUMNS = 80
COLOURS: dict[State, str] = {"ok": "\x1b[32m", "note": "\x1b[33m", "problem": "\x1b[1;31m"}


@dataclass(frozen=True, slots=True)
class Line:
    """A finding in words. What follows the first line of a remedy are commands, to be typed as they are."""

    check: str
    state: State
    facts: Mapping[str, Any]
    title: str
    line: str
    remedy: str


def worded(finding: Finding, lang: Lang, here: dict[str, Any]) -> Line:
    """What was found, and what to do about it ("" for nothing). `here` is what remedies may name: python, port."""
    code, facts = finding.code, finding.facts
    title = t(f"check.{finding.check.partition('.')[0]}", lang)
    if code == "error":
        notice = explain(facts["error"], lang)
        line, remedy = sentences((notice.opening, notice.body), lang), notice.hint
    else:
        between = "、" if lang == "zh" else ", "
        line = t(f"doctor.{code}", lang, **here | _words(facts, between, lang))
        told = f"remedy.{code}" in texts(lang)
        remedy = t(f"remedy.{code}", lang, **here | _words(facts, " ", lang)) if told else ""  # lists are for commands
    return Line(finding.check, finding.state, facts, title, line, remedy.strip())


def _words(facts: Mapping[str, Any], between: str, lang: Lang) -> dict[str, Any]:
    """The facts with those that are codes or lists put into words."""
    words = {name: _listed(value, between, lang) if isinstance(value, list) else value for name, value in facts.items()}
    if "source" in facts:
        words["source"] = t(f"models.source_{facts['source']}", lang)
    if "proxy" in facts and "address" in facts:
        way = t("doctor.way_proxy" if facts["proxy"] else "doctor.way_direct", lang, proxy=facts["proxy"])
        words["way"] = way
    if "kind" in facts and f"reason.{facts['kind']}" in texts(lang):
        words["reason"] = t(f"reason.{facts['kind']}", lang)
    return words


def _listed(values: Sequence[Any], between: str, lang: Lang) -> str:
    """Names one after the other; programs with what they hold; a plan's reasons or remedies as sentences."""
    if values and isinstance(values[0], Mapping) and "code" in values[0]:
        return sentences(plan_notes(values, lang), lang)
    names = (f"{one['name']} {bytes_text(one['bytes'])}" if isinstance(one, Mapping) else str(one) for one in values)
    return between.join(names)


# -- the page of a terminal -------------------------------------------------------------------------------------------


def report(lines: Sequence[Line], lang: Lang, colour: bool) -> Iterator[str]:
    """Everything that was looked at, then the problems and the notes once more, with what to do about them."""
    states = {state: t(f"doctor.state_{state}", lang) for state in COLOURS}
    first = max(width(word) for word in states.values()) + 2
    second = max(width(one.title) for one in lines) + 2
    for one in lines:
        head = _painted(states[one.state], one.state, colour) + " " * (first - width(states[one.state]))
        head += one.title + " " * (second - width(one.title))
        rows = wrapped(one.line, COLUMNS - first - second)
        yield head + rows[0]
        yield from (" " * (first + second) + row for row in rows[1:])
    yield ""
    counts = {state: [one for one in lines if one.state == state] for state in COLOURS}
    many = {state: len(those) for state, those in counts.items()}
    key = "doctor.sum_ok" if not many["problem"] else "doctor.sum"
    yield t(key, lang, problems=many["problem"], notes=many["note"], checks=len(lines))
    told: dict[tuple[State, str, str], list[str]] = {}
    for one in (*counts["problem"], *(one for one in counts["note"] if one.remedy)):
        told.setdefault((one.state, one.title, one.remedy), []).append(one.line)
    for (state, title, remedy), found in told.items():
        yield ""
        yield _painted(f"{states[state]} · {title}", state, colour)
        yield from (f"  {row}" for line in found for row in wrapped(line, COLUMNS - 2))
        advice, *commands = remedy.split("\n")
        yield from (("  → " if not number else "    ") + row for number, row in enumerate(wrapped(advice, COLUMNS - 4)))
        yield from (f"      {command}" for command in commands)


def _painted(text: str, state: State, colour: bool) -> str:
    return f"{COLOURS[state]}{text}\x1b[0m" if colour else text


def wrapped(text: str, columns: int) -> list[str]:
    """The text in rows of so many columns: broken at spaces, and between hanzi, but not before what closes a phrase."""
    rows, row = [], ""
    for piece in _pieces(text):
        if row and width(row + piece.rstrip()) > columns:
            rows.append(row.rstrip())
            row = ""
        row += piece if row else piece.lstrip()
    return [*rows, row.rstrip()]


def _pieces(text: str) -> Iterator[str]:
    """What may not be broken: words with the space behind them, single hanzi with the marks around them."""
    piece = ""
    for char in text:
        wide = width(char) == 2
        closing, opened = char in "，。；：、？！）》”", piece[-1:] in ("（", "《", "“")
        ends = piece.endswith(" ") or wide or (piece and width(piece[-1]) == 2)
        if piece and ends and not closing and not opened and not (char == " "):
            yield piece
            piece = ""
        piece += char
    yield piece
