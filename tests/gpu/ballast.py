"""Holds memory of the card so that others find it small. Reads lines, each a number of GiB to leave free, and answers.

Ends when its stdin does. Usage: python ballast.py
"""

from __future__ import annotations

import os
import sys

os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # what is let go is to be free at once

import torch

PIECE = 64 * 2**20
held = [torch.zeros(1, device="cuda")]


def spare(wanted: float) -> int:
    return int(torch.cuda.mem_get_info()[0] - wanted)


for line in sys.stdin:
    wanted = float(line) * 2**30
    while spare(wanted) < 0 and len(held) > 1:
        held.pop()
    while (left := spare(wanted)) > 2**21:
        held.append(torch.empty(min(left, PIECE if left < 2**30 else 2**30), dtype=torch.uint8, device="cuda"))
    print("holds", flush=True)
