"""An uploaded file that may be an archive: read within limits, from memory, and never by a name as a path."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any, BinaryIO

from engines.errors import ImportRejected

LIST = "conversations.json"
MAX_FILE = 512 * 2**20
MAX_JSON = 128 * 2**20
MAX_UNPACKED = 2 * 2**30
MAX_MEMBERS = 20_000
"""Bytes and files: far above what years of talking come to, far below what would hurt."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a file holds: its JSON, and its images by their place in the archive."""

    json: bytes
    image: Callable[[str], bytes]


@contextmanager
def opened(stream: BinaryIO) -> Iterator[Source]:
    """Raises ImportRejected for what is too large, unsafe or holds no list; what zipfile raises is the caller's."""
    if not zipfile.is_zipfile(stream):
        stream.seek(0)
        yield Source(_limited(stream, MAX_JSON), lambda place: _missing(place))
        return
    with zipfile.ZipFile(stream) as archive:
        members = {one.filename: one for one in archive.infolist()}
        if len(archive.infolist()) > MAX_MEMBERS or sum(one.file_size for one in members.values()) > MAX_UNPACKED:
            raise ImportRejected(reason="too_large", limit=MAX_UNPACKED)
        for place in members:
            name = PureWindowsPath(place)  # which knows both kinds of slash
            if ".." in name.parts or name.root or name.drive:
                raise ImportRejected(reason="unsafe_name", where=place)
        if LIST not in members:
            raise ImportRejected(reason="not_conversations")

        def member(place: str, limit: int) -> bytes:
            with archive.open(members[place]) as part:
                return _limited(part, limit)

        yield Source(
            member(LIST, MAX_JSON),
            lambda place: member(place, MAX_FILE) if place in members else _missing(place),
        )


def _limited(stream: Any, limit: int) -> bytes:
    data: bytes = stream.read(limit + 1)  # whatever size it claims
    if len(data) > limit:
        raise ImportRejected(reason="too_large", limit=limit)
    return data


def _missing(place: str) -> bytes:
    raise ImportRejected(reason="image_missing", where=place)
