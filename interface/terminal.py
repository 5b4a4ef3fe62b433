"""The commands that answer in a terminal: chat, plan, models. Words go to the reader, errors to launch.py."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TextIO

from engines.acquire import Progress
from engines.base import GenerationSettings, Message, Usage
from engines.errors import AppError
from engines.job import Delta, Job, Loading
from engines.library import Library
from engines.memory import DeviceMemory, MemoryPlan
from engines.probe import device_memory
from engines.runner import Runner
from engines.worker import Worker
from interface.i18n import Lang, bytes_text, t
from interface.messages import explain, left_out, need_parts, plan_dict, plan_notes, progress_text

# -- chat -------------------------------------------------------------------------------------------------------------


def chat(library: Library, lang: Lang) -> int:
    """A conversation in the terminal. Piped input is one question, and nothing but its answer is printed."""
    config = library.config
    model = config.models.model
    if library.spec(model).demo and library.folder(model) is None and not config.models.offline:
        get(library, model, lang, sys.stderr)
    runner = Runner(library, config.limits, lambda: Worker(config.data / "logs" / "engine.log"))
    try:
        talk = _Talk(library, runner, lang, quiet=not sys.stdin.isatty())
        return talk.interactive() if sys.stdin.isatty() else talk.piped(sys.stdin.read())
    finally:
        runner.close()


# What a model writes must not steer the terminal: C0 and C1 but for tabs and line ends.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Talk:
    """One conversation in memory."""

    def __init__(self, library: Library, runner: Runner, lang: Lang, quiet: bool) -> None:
        self._runner, self._lang, self._quiet = runner, lang, quiet
        self._spec = library.spec(library.config.models.model)
        self._settings = GenerationSettings.of(self._spec.defaults)
        self._system = ""
        self._turns: list[Message] = []
        self._shown = ""

    def piped(self, question: str) -> int:
        """Answers one question. An error is for launch.py to word."""
        if question.strip():
            self._answer(question.rstrip("\n"))
        return 0

    def interactive(self) -> int:
        """Asks and answers until /exit or Ctrl-D. Ctrl-C ends an answer, or clears the line."""
        import contextlib

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  line editing and recall for input()
        print(t("terminal.hint", self._lang, title=self._spec.title))
        while True:
            try:
                text = input(f"\n{t('terminal.you', self._lang)}> ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                print()
                return 0
            if text.startswith("/"):
                if not self._command(text):
                    return 0
            elif text.strip():
                try:
                    self._answer(text)
                except AppError as error:
                    print(explain(error, self._lang).line, file=sys.stderr)

    def _command(self, line: str) -> bool:
        """Does what a /command says; False when it says to leave."""
        name, _, rest = line.partition(" ")
        match name:
            case "/exit" | "/quit":
                return False
            case "/clear":
                self._turns = []
                print(t("terminal.cleared", self._lang))
            case "/system":
                self._system = rest.strip()
                print(t("terminal.system_set" if self._system else "terminal.system_default", self._lang))
            case _:
                print(t("terminal.unknown_command", self._lang, command=name))
        return True

    def _answer(self, question: str) -> None:
        turns = [*self._turns, Message.of("user", question)]
        system = [Message.of("system", self._system)] if self._system else []
        job = self._runner.submit(self._spec.id, [*system, *turns], self._settings)
        try:
            usage = self._shown_to_the_end(job)
        finally:
            self._status("")
            if job.text:
                print()
            # Also one that failed: the next answer is to know what was said.
            self._turns = [*turns, Message.of("assistant", job.text)] if job.text else self._turns
        for notice in (left_out(usage, self._lang), self._cut(usage)):
            if notice:
                print(notice, file=sys.stderr)

    def _shown_to_the_end(self, job: Job) -> Usage:
        events = iter(job)
        while True:
            try:
                event = next(events)
                if isinstance(event, Delta):
                    self._status("")
                    print(_CONTROL.sub("", event.text), end="", flush=True)
                elif isinstance(event, Loading):
                    self._status(t("terminal.loading", self._lang, title=self._spec.title))
                elif isinstance(event, Usage):
                    return event
            except KeyboardInterrupt:
                job.cancel()
                # A generator that was interrupted is finished: the rest is read by a new one.
                events = (one for one in job.watch() if isinstance(one, Usage))

    def _cut(self, usage: Usage) -> str:
        return t("chat.length_reached", self._lang) if usage.reason == "length" else ""

    def _status(self, line: str) -> None:
        """A line that the answer overwrites."""
        if line != self._shown and not self._quiet and sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        self._shown = line


# -- plan and models --------------------------------------------------------------------------------------------------


def plan(
    library: Library, model: str, memory: int | None, total: int | None, context: int | None, explained: bool,
    as_json: bool, lang: Lang,
) -> int:  # fmt: skip
    """Prints what the guard says, here or of a card described by `memory` and `total`; 0 to load, 3 not to.

    `explained` adds what was measured on this machine, from which the next plans start.
    """
    device = _described(memory, total) if memory is not None or total is not None else None
    planned = library.plan(model, (), device, context)
    if as_json:
        words = {"reasons": plan_notes(planned.reasons, lang), "remedies": plan_notes(planned.remedies, lang)}
        print(json.dumps(plan_dict(planned) | words, ensure_ascii=False, indent=2))
    else:
        for line in (*_plan_lines(planned, lang), *(_learned(library, planned, lang) if explained else ())):
            print(line)
    return 0 if planned.verdict == "load" else 3


def _plan_lines(plan: MemoryPlan, lang: Lang) -> Iterator[str]:
    device, need, settings = plan.device, plan.need, plan.settings
    yield f"{plan.model}: {t(f'plan.verdict_{plan.verdict}', lang)}"
    yield t("plan.device", lang, name=device.name, free=device.free, total=device.total)
    for name, size in (*need_parts(need), ("total", need.total)):
        if size:
            yield f"  {bytes_text(size):>10}  {t(f'plan.{name}', lang)}"
    yield t("plan.settings", lang, dtype=settings.dtype, device=settings.device, context=settings.context)
    if settings.max_tiles:
        facts = asdict(settings) | {"ratio": f"{settings.kv_ratio(device.free):.3f}"}
        yield t("plan.settings_vision", lang, **facts)
    yield from (f"- {line}" for line in plan_notes((*plan.reasons, *plan.remedies), lang))
    if plan.forced:
        yield f"- {t('plan.forced', lang)}"


def _learned(library: Library, plan: MemoryPlan, lang: Lang) -> Iterator[str]:
    """What loads of the model took on this device before."""
    seen = library.measured(plan.model, plan.device.name)
    for backend, one in seen.items():
        yield t(
            "plan.learned", lang,
            backend=backend, planned=one.planned, held=one.held, context=max(0, one.context),
        )  # fmt: skip
    if not seen:
        yield t("plan.learned_nothing", lang)


def _described(memory: int | None, total: int | None) -> DeviceMemory:
    """A card that is not here, beside this machine's main memory."""
    here = device_memory()
    whole = max(total or 0, memory or 0)
    return DeviceMemory("--memory", "cuda", whole, whole if memory is None else memory, here.host_total, here.host_free)


def models(library: Library, lang: Lang) -> int:
    """Lists the catalogue: each model, whether it is here, its size, and what the guard says."""
    rows = [tuple(t(f"list.{name}", lang) for name in ("id", "state", "size", "plan"))]
    for spec in library.catalogue.models:
        state = t("models.ready" if library.folder(spec.id) else "models.absent", lang)
        planned = library.plan(spec.id)
        words = f"{t(f'plan.verdict_{planned.verdict}', lang)} ({bytes_text(planned.need.total)})"
        demo = f" ({t('models.demo', lang)})" if spec.demo else ""
        rows.append((spec.id + demo, state, bytes_text(spec.download), words))
    widths = [max(width(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths, strict=True)).rstrip())
    return 0


def get(library: Library, model: str, lang: Lang, out: TextIO | None = None) -> int:
    """Downloads a model, with a line of progress; at once if it is here. Ctrl-C keeps what has come."""
    spec = library.spec(model)
    if library.folder(model) is None:
        print(t("app.fetching", lang, title=spec.title, size=spec.download), file=out, flush=True)
        with _interruptible() as interrupted:
            library.acquire(model, _ProgressLine(lang), lambda: bool(interrupted))
    print(t("models.done", lang, title=spec.title), file=out)
    return 0


class _ProgressLine:
    """Progress as one line that is overwritten, or, where there is no terminal, a line now and then."""

    def __init__(self, lang: Lang) -> None:
        self._lang = lang
        self._said = 0.0
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        terminal = sys.stderr.isatty()
        now = time.monotonic()
        if progress.stage == self._stage and now - self._said < (0.2 if terminal else 5):
            return
        self._said, self._stage = now, progress.stage
        line = progress_text(progress, self._lang)
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM fill the list in place of ending the program, so that the transfer ends in order."""
    import signal

    seen: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: seen.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def width(text: str) -> int:
    """Columns in a terminal: a hanzi takes two."""
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
