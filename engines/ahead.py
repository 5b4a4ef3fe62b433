"""What makes the imports of a load shorter, and what a load on a card can begin while they last, which is seconds.

That only brings forward what would be done anyway: where it cannot be, it is done later, and fails where it is noticed.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def collector_paused() -> Iterator[None]:
    """Imports make half a million objects that stay: looking through them again and again takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def start_card() -> threading.Thread:
    """Makes the context of the first visible card, in a thread; torch takes over what it finds."""
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # as torch does, before the driver reads it
    return _started(_retain_context)


def start_kernels(written_in_triton: bool) -> list[threading.Thread]:
    """What the first product and Triton's first kernel would wait for, in threads. torch has been imported."""
    if written_in_triton:
        with suppress(Exception):
            # Not in a thread: of modules that two threads import at once, one may see another half made.
            import triton.runtime.cache  # noqa: F401
    return [_started(_first_product), *([_started(_key_of_triton)] if written_in_triton else [])]


def _started(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        with suppress(Exception):
            work()

    thread = threading.Thread(target=run, name="ahead", daemon=True)
    thread.start()
    return thread


def _first_product() -> None:
    """cuBLAS takes its handle and its workspace, which later products find: the thread gives them back at its end."""
    import torch

    some = torch.ones(8, 8, dtype=torch.bfloat16, device="cuda")
    some.mm(some)


def _key_of_triton() -> None:
    """Before Triton finds a kernel in its cache it hashes its own library, over 400 MB, once a process."""
    from triton.runtime.cache import triton_key

    triton_key()


def _retain_context() -> bool:
    """Whether there is a context now. ctypes lets other threads run while the driver works."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    device, context = ctypes.c_int(), ctypes.c_void_p()
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGet(ctypes.byref(device), 0) == 0
        and driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    )
