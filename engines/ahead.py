"""What a load on a card can begin while its libraries are being imported, which takes seconds.

It only brings forward what would be done anyway: where it cannot be, it is done later, and fails where it is noticed.
"""

from __future__ import annotations

import ctypes
import os
import threading


def start_card() -> threading.Thread:
    """Makes the context of the first visible card, in a thread; torch takes over what it finds."""
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # as torch does, before the driver reads it
    thread = threading.Thread(target=_retain_context, name="card", daemon=True)
    thread.start()
    return thread


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
