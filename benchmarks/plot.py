"""Draws the speeds that benchmarks.embedded and benchmarks.text_on_card wrote with --json; matplotlib lives in .bench/.

Usage: python -m benchmarks.plot, after results were written to docs/figures/embedded.json and text_on_card.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"
HOME = FIGURES.parent.parent / ".bench"
PYTHON = HOME / "bin" / "python"
OURS, THEIRS = "#1f6f5c", "#b9b2a3"


def main() -> None:
    if Path(sys.prefix) != HOME:
        if not PYTHON.exists():
            venv.create(HOME, with_pip=True)
        subprocess.run([PYTHON, "-m", "pip", "install", "-q", "matplotlib==3.11.2"], check=True)
        sys.exit(subprocess.run([PYTHON, "-m", "benchmarks.plot"], cwd=FIGURES.parent.parent, check=False).returncode)
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same figures give the same file.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "figures", "font.family": "sans-serif"}
    draw("embedded", "SmolLM2-135M on 2 cores, tokens a second", embedded())
    draw("text_on_card", "InternLM2-Chat-1.8B on an H200, tokens a second", on_card())


def embedded() -> dict[str, float]:
    measured = read("embedded")
    names = {"ours": "ours", "openvino": "OpenVINO GenAI", "plain": "plain transformers"}
    bars = {label: measured[name]["rate"] for name, label in names.items() if name in measured}
    busy = {
        f"{label}, one core taken": measured[f"{name}, busy"]["rate"]
        for name, label in names.items()
        if name in measured
    }
    return bars | busy


def on_card() -> dict[str, float]:
    measured = read("text_on_card")
    names = {
        "ours": "ours", "rounded": "ours, 4-bit weights", "turbomind": "LMDeploy's TurboMind",
        "plain": "generate with a streamer",
    }  # fmt: skip
    bars = {
        label: statistics.median(run["rate"] for run in measured["runs"][name])
        for name, label in names.items() if name in measured["runs"]
    }  # fmt: skip
    return {"what the bandwidth allows": measured["roof"]["copy"] / measured["roof"]["bytes"]} | bars


def read(name: str) -> dict[str, Any]:
    return dict(json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8")))


def draw(name: str, title: str, bars: dict[str, float]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.42 * len(bars) + 0.7))
    labels = list(reversed(bars))
    drawn = axes.barh(
        labels, [bars[one] for one in labels], color=[OURS if one.startswith("ours") else THEIRS for one in labels]
    )
    axes.bar_label(drawn, fmt="%.0f", padding=4)
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.xaxis.set_visible(False)
    axes.tick_params(left=False)
    figure.tight_layout()
    figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
