"""The computer without its card: main memory, what the system allows a process, the clock."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from engines.checkup.finding import Finding, note, ok, problem
from engines.memory import GIB, OtherProgram

ROOM = 2 * GIB
"""Of main memory: about what the app and the embedded model take, with something left for the rest."""
SHARED = 64 * 2**20
"""What a container gets of /dev/shm unless more is asked for."""
FILES, FEW_FILES = 1024, 256
"""How many files a process can usually have open; and how few cannot do, for pages and downloads hold some each."""
DAY = 86400.0


def memory(total: int, free: int, swap: int, margin: int, programs: Sequence[OtherProgram]) -> Finding:
    """Main memory and who holds it. `margin` is what loads leave alone."""
    named = [{"name": one.name, "pid": one.pid, "bytes": one.bytes} for one in programs]
    facts = {"total": total, "free": free, "swap": swap, "programs": named}
    if free < margin:
        return problem("memory", "memory_full", **facts)
    return note("memory", "memory_low", **facts) if free < ROOM else ok("memory", "memory_ok", **facts)


def shared_memory(folder: Path) -> list[Finding]:
    """The memory in which engines that are several processes meet (/dev/shm); nothing where there is none."""
    try:
        of = os.statvfs(folder)
    except (OSError, AttributeError):
        return []
    total, free = of.f_blocks * of.f_frsize, of.f_bavail * of.f_frsize
    facts = {"total": total, "free": free, "folder": str(folder)}
    small = free < SHARED or total <= SHARED
    return [note("shared_memory", "shm_small", **facts) if small else ok("shared_memory", "shm_ok", **facts)]


def open_files(limit: int | None) -> list[Finding]:
    """How many files this process may have open; None where the system does not tell."""
    if limit is None:
        return []
    if limit < FEW_FILES:
        return [problem("open_files", "files_few", limit=limit, usual=FILES)]
    return [note("open_files", "files_less", limit=limit, usual=FILES)] if limit < FILES else []


def open_files_limit() -> int | None:
    """The limit of this process; a system without one counts as not telling."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def clock(now: float, files: Iterable[Path]) -> Finding:
    """Whether the clock is behind the app's own files: then no certificate is valid, and no hub can be asked."""
    newest = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    shown = datetime.fromtimestamp(now).astimezone()
    facts = {"now": f"{shown:%Y-%m-%d %H:%M %Z}"}
    if now < newest - DAY:
        return problem("clock", "clock_behind", newest=f"{datetime.fromtimestamp(newest):%Y-%m-%d}", **facts)
    return ok("clock", "clock_ok", **facts)
