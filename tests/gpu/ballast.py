"""Holds all memory of the card but so many GiB until its stdin closes: the rest then behaves as a small card.

Usage: python ballast.py GIB. Prints a line when it holds.
"""

from __future__ import annotations

import sys

import torch

wanted = float(sys.argv[1]) * 2**30
held = [torch.zeros(1, device="cuda")]
while (spare := torch.cuda.mem_get_info()[0] - wanted) > 2**21:
    held.append(torch.empty(int(min(spare, 8 * 2**30)), dtype=torch.uint8, device="cuda"))
print("holds", flush=True)
sys.stdin.read()
