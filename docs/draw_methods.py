"""Pictures of docs/methods.md, drawn from the code's own formulas.

``PYTHONPATH=. python docs/draw_methods.py`` writes docs/methods_*.svg.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from spaces.sparsifiers.participation import Participation, PrunedLayer
from spaces.sparsifiers.penalty_function import make_penalty_function
from spaces.sparsifiers.scaling_factor import penalty_slope

WIDTH, HEIGHT, LEFT, TOP = 640, 250, 56, 34
COLORS = ("#0072b2", "#d55e00", "#009e74", "#8c8c8c")
Curve = tuple[str, Sequence[float], Sequence[float]]


def text(x: float, y: float, words: str, anchor: str = "start", size: int = 12, color: str = "#222") -> str:
    """Return an SVG text element."""
    style = f'font-family="sans-serif" font-size="{size}" fill="{color}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{html.escape(words)}</text>'


def picture(parts: Sequence[str], width: int = WIDTH, height: int = HEIGHT) -> str:
    """Return an SVG document on white."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>\n"])


def plot(title: str, across: str, up: str, curves: Sequence[Curve]) -> str:
    """Return a line plot of curves, each a label, abscissas and ordinates."""
    xs, ys = np.concatenate([c[1] for c in curves]), np.concatenate([c[2] for c in curves])
    low, high = float(min(ys.min(), 0.0)), float(ys.max())
    first, last = float(xs.min()), float(xs.max())
    right, bottom = WIDTH - 20, HEIGHT - 42

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - first) / (last - first) * (right - LEFT), bottom - (y - low) / (high - low) * (bottom - TOP)

    parts = [text(LEFT, 20, title, size=14), text((LEFT + right) / 2, HEIGHT - 8, across, "middle"), text(8, TOP - 2, up)]
    for value in (low, 0.0, high):
        _, y = place(first, value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(text(LEFT - 6, y + 4, f"{value:.3g}", "end", 11))
    for value, anchor in ((first, "start"), (last, "end")):
        parts.append(text(place(value, low)[0], bottom + 16, f"{value:.5g}", anchor, 11))
    for number, ((label, abscissas, ordinates), color) in enumerate(zip(curves, COLORS, strict=False)):
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(abscissas, ordinates, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(text(right, TOP + 14 + 16 * number, label, "end", 12, color))
    return picture(parts)


def loop(boxes: Sequence[str], back: str) -> str:
    """Return a row of boxes with arrows, the last of which leads back to the second under the words ``back``."""
    size, gap, parts = 112, 20, []
    for number, words in enumerate(boxes):
        x = 10 + number * (size + gap)
        parts.append(f'<rect x="{x}" y="30" width="{size}" height="80" rx="6" fill="#eef4f9" stroke="#0072b2"/>')
        lines = words.split("|")
        parts += [text(x + size / 2, 74 - 8 * len(lines) + 16 * n, line, "middle", 12) for n, line in enumerate(lines)]
        if number:
            parts.append(f'<path d="M{x - gap} 70 h{gap - 6} m-5 -4 l6 4 l-6 4" fill="none" stroke="#222"/>')
    end, start = 10 + (len(boxes) - 0.5) * (size + gap) - gap / 2, 10 + 1.5 * (size + gap) - gap / 2
    parts.append(f'<path d="M{end} 112 v22 H{start} v-20 m-4 6 l4 -6 l4 6" fill="none" stroke="#222"/>')
    parts.append(text((start + end) / 2, 152, back, "middle", 12))
    return picture(parts, 10 + len(boxes) * (size + gap), 165)


def probabilities() -> str:
    """Return the probabilities of 16 groups, half of which are pruned, over the updates."""
    found = Participation([PrunedLayer("a", 0, 16, 8)], make_penalty_function("exponential", 0.05, 0.25))
    history = [found.p.copy()]
    while not found.done:
        found.update(np.arange(16.0), len(history))
        history.append(found.p.copy())
    steps = np.arange(len(history))
    shown = [(f"rank {rank}", steps, np.stack(history)[:, rank]) for rank in (0, 4, 7, 15)]
    return plot("p of 16 groups at R = 0.5, A = 0.05, u = 0.25: ranks among survivors", "update, each t steps", "p", shown)


def fading() -> str:
    """Return the weight of a cut filter under weight decay and momentum alone, and under the forced factor."""
    steps = np.arange(0, 20_001, 100)
    weight, momentum, plain = 1.0, 0.0, []
    for step in range(20_001):
        if step % 100 == 0:
            plain.append(weight)
        momentum = 0.98 * momentum + 5e-4 * weight
        weight -= 5e-3 * momentum
    forced = np.where(steps <= 10_000, (1e-7) ** (np.minimum(steps, 10_000) / 10_000), 0.0)
    words = ("weight decay 5e-4, momentum 0.98, lr 5e-3 (source)", "forced factor, decay 0.5 (ours)")
    return plot("weight of a cut filter", "step", "w / w at the cut", [(words[0], steps, plain), (words[1], steps, forced)])


def slopes() -> str:
    """Return the slopes of the penalties on a scaling factor."""
    gamma = np.linspace(0.001, 1.0, 200)
    factors = torch.from_numpy(gamma)
    curves: list[Curve] = [
        (f"L1/2, eps {epsilon:g}", gamma, penalty_slope(factors, "l1_half", epsilon).numpy()) for epsilon in (1e-2, 5e-2)
    ]
    return plot(
        "slope of the penalty: L1/2 presses small factors more", "gamma", "dR / dgamma", [*curves, ("L1", gamma, 0 * gamma + 1)]
    )


def merged() -> str:
    """Return two activations in a row, and the one that takes their place."""
    x = np.linspace(-2.0, 1.0, 100)
    leaky = [np.where(x >= 0.0, x, slope * x) for slope in (0.5, 0.6)]
    both = np.where(x >= 0.0, x, 0.5 * 0.6 * x)
    curves = [("LeakyReLU 0.5", x, leaky[0]), ("PReLU 0.6", x, leaky[1]), ("one after the other: PReLU 0.3", x, both)]
    return plot("connected activations are one", "x", "f(x)", curves)


def main() -> None:
    """Write all pictures beside this file."""
    steps = [
        "8 bits|everywhere",
        "n candidates:|random layers|lowered",
        "Omega of each|by Adam's v on|calibration set",
        "sort, take|the smallest",
        "train it",
    ]
    pictures = {
        "progressive": loop(steps, "until the size is met"),
        "probabilistic": probabilities(),
        "gradient_flow": fading(),
        "sparse_learning": slopes(),
        "merging": merged(),
    }
    for name, content in pictures.items():
        Path(__file__).with_name(f"methods_{name}.svg").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
