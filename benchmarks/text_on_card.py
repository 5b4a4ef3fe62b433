"""InternLM2-Chat-1.8B on a card: our engine beside plain transformers and LMDeploy's TurboMind. Prints a table.

On a checkpoint of random weights at the full size, made if there is none: speed is the real model's, words are noise.
Every contender runs in a process of its own, once a round, one after the other; figures are medians over the rounds.
The peers read the same weights in the layout that transformers and LMDeploy know without the folder's own code.
Usage: python -m benchmarks.text_on_card [--rounds 3] [--folder DIR] [--tokens 512] [--device cpu] [--json FILE]
With --device cpu it runs through on a tiny model, to see that it does; those figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONTENDERS = {"ours": "published", "rounded": "published", "plain": "native", "turbomind": "native"}
"""Each one's layout."""
WANTED = {"plain": "at least 10", "turbomind": "above 1"}
NAMES = {
    "ours": "ours",
    "rounded": "ours, 4-bit weights",
    "plain": "`generate` with TextIteratorStreamer",
    "turbomind": "TurboMind's pipeline",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--folder", type=Path, help="keeps the checkpoints between runs; 8 GB")
    arguments.add_argument("--tokens", type=int, default=512)
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(given.folder or Path(folder), given.rounds, given.tokens, given.device)
    print(report(measured))
    if given.json:
        given.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def measure(folder: Path, rounds: int, tokens: int, device: str) -> dict[str, Any]:
    if not (folder / "native" / "config.json").exists():
        say("making the checkpoints …")
        child("make", folder, device, tokens)
    runs: dict[str, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for name, layout in CONTENDERS.items():
            if name == "turbomind" and (device == "cpu" or not installed("lmdeploy")):
                continue
            say(f"round {number + 1} of {rounds}: {name} …")
            runs.setdefault(name, []).append(child(name, folder / layout, device, tokens))
    roof = child("roof", folder / "published", device, tokens)
    return {
        "machine": machine(roof["device"]),
        "rounds": rounds,
        "tokens": tokens,
        "roof": roof,
        "way": runs["ours"][0]["way"],
        "runs": runs,
    }


def report(measured: dict[str, Any]) -> str:
    middle = {name: median(runs) for name, runs in measured["runs"].items()}
    ours, roof = middle["ours"], measured["roof"]
    most = roof["copy"] / roof["bytes"]
    peers = [name for name in middle if name in WANTED]
    lines = [
        measured["machine"],
        f"200-token prompt, {measured['tokens']} new tokens, batch 1, sampled (temperature 0.8, top-p 0.8), bfloat16; "
        f"medians of {measured['rounds']} interleaved rounds. Decoded by {measured['way']}.",
        "",
        "| ratio | wanted | seen |",
        "|---|---|---|",
        *(f"| tokens/s, ours : {NAMES[one]} | {WANTED[one]} | {ratio(ours, middle[one], 'rate')} |" for one in peers),
        f"| tokens/s, ours : bandwidth roof of {most:.0f} ({roof['copy'] / 1e12:.2f} TB/s copied, "
        f"{roof['bytes'] / 1e9:.2f} GB read a token) | at least 0.5 | {ours['rate'] / most:.2f} |",
        *(
            f"| first token after 3,000 tokens, ours : {NAMES[one]} | {'at most 1.1' if one == 'turbomind' else ''} | "
            f"{ratio(ours, middle[one], 'first 3000')} |"
            for one in peers
        ),
        f"| tokens/s, ours with 4-bit weights : ours | | {ratio(middle['rounded'], ours, 'rate')} |",
        f"| first token, turn 20 : turn 2 | about 1 | {ours['turn 20'] / ours['turn 2']:.2f} |",
        "",
        "| | " + " | ".join(NAMES[one] for one in middle) + " |",
        "|---|" + "---|" * len(middle),
        *(
            f"| {label} | {' | '.join(shown(one, key, digits) for one in middle.values())} |"
            for label, key, digits in (
                ("tokens/s", "rate", 1), ("first token after 200 tokens, s", "first 200", 3),
                ("first token after 3,000 tokens, s", "first 3000", 3), ("process start to first token, s", "start", 1),
                ("first token at turn 2, s", "turn 2", 3), ("at turn 20, s", "turn 20", 3),
                ("CPU seconds for 1,000 tokens", "cpu", 2),
            )
        ),
    ]  # fmt: skip
    return "\n".join(lines)


def shown(figures: dict[str, float], key: str, digits: int) -> str:
    return f"{figures[key]:.{digits}f}" if key in figures else ""


def ratio(ours: dict[str, float], theirs: dict[str, float], key: str) -> str:
    return f"{ours[key] / theirs[key]:.2f}"


def median(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[-1] if name != "way"}


def machine(device: str) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lmdeploy") if installed(name))
    return f"{datetime.now(UTC).date()} · {device} · Python {platform.python_version()}, {versions}"


def installed(name: str) -> bool:
    return find_spec(name) is not None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def child(name: str, folder: Path, device: str, tokens: int) -> dict[str, Any]:
    """Runs one contender in a fresh interpreter; what it measured. What it says besides goes to the terminal."""
    more = (str(folder), device, str(tokens), str(time.time()))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.text_on_card_child", name, *more],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    say(line := done.stdout.splitlines()[-1])
    return dict(json.loads(line))


if __name__ == "__main__":
    main()
