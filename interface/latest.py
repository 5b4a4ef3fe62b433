"""One stream to each page: who goes to another conversation is shown that, by the stream that is there already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, TypeVar

T = TypeVar("T")


class Latest:
    """A page's stream goes on with what was asked for last.

    Two streams that draw into one place would need to be ended in time, by the page as well: what is late of the
    earlier one lies over the later one for good. Gradio's `cancels` would do it by name, and hits the later one too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[str, Callable[[], Any]] = {}
        """What each page that has a stream is to be shown."""

    def only(self, page: str | None, show: Callable[[], Generator[T, None, None]], nothing: T) -> Iterator[T]:
        """What `show` yields; or `nothing`, where another call for the same page is under way and goes on with it."""
        if page is None:  # no page of a browser
            yield from show()
            return
        with self._lock:
            is_under_way = page in self._wanted
            self._wanted[page] = show
        if is_under_way:
            yield nothing
            return
        shown = None
        try:
            while (show := self._next(page, shown)) is not None:
                with closing(show()) as stream:
                    for one in stream:
                        if self._wanted[page] is not show:
                            break
                        yield one
                shown = show
        except BaseException:  # the page is gone, or cannot be shown anything
            with self._lock:
                del self._wanted[page]
            raise

    def _next(self, page: str, shown: Callable[[], Any] | None) -> Callable[[], Any] | None:
        """What the page's stream is to go on with; None, and the page has none any more, if it has shown that."""
        with self._lock:
            if self._wanted[page] is not shown:
                return self._wanted[page]
            del self._wanted[page]
            return None
