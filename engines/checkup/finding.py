"""What a check found; and checks that run beside each other, none of which can hold up the others."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

State = Literal["ok", "note", "problem"]

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` names what was looked at and stays the same from version to version, with what sets one of several apart
    after a dot. `code` names its sentence, and what to do about it; facts are plain values, without any secret."""

    check: str
    state: State
    code: str
    facts: Mapping[str, Any] = field(default_factory=dict)


Check = Callable[[], Finding | Sequence[Finding]]


def ok(check: str, code: str, **facts: Any) -> Finding:
    return Finding(check, "ok", code, facts)


def note(check: str, code: str, **facts: Any) -> Finding:
    """Works, but a person may want to know."""
    return Finding(check, "note", code, facts)


def problem(check: str, code: str, **facts: Any) -> Finding:
    """Something does not work, and there is something to do about it."""
    return Finding(check, "problem", code, facts)


def failed(check: str, error: Any) -> Finding:
    """A problem that an error of the app (AppError, ConfigError) has words for already."""
    return problem(check, "error", error={"code": error.code, "facts": dict(error.facts)})


def side_by_side(calls: Sequence[Callable[[], T]], seconds: float) -> list[T | Exception]:
    """What each call returned or raised, in their order; a TimeoutError for those that took longer than `seconds`.

    Those are left to themselves: a name server may let a look-up hang for half a minute.
    """
    results: list[T | Exception] = [TimeoutError()] * len(calls)

    def run(place: int, call: Callable[[], T]) -> None:
        try:
            results[place] = call()
        except Exception as error:
            log.warning("a check failed", exc_info=True)
            results[place] = error

    threads = [threading.Thread(target=run, args=pair, name="check", daemon=True) for pair in enumerate(calls)]
    end = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return list(results)
