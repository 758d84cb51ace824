"""The numbers of the evaluation benchmark as text."""

from __future__ import annotations

from typing import Any

Numbers = dict[str, Any]
PARTS = ("build", "recalibrate", "score", "rest")


def table(numbers: Numbers) -> str:
    """Return the parts that are there as text."""
    lines = []
    for name, row in numbers.get("build", {}).items():
        lines.append(f"\n(a) building a candidate, {name}, {row['masks']} masks")
        lines += [_times(way, row[way]) for way in ("ours", "theirs", "compensated")]
        parts = ", ".join(f"{part.replace('_', ' ')} {value:.1f}" for part, value in row["theirs_parts_cpu_ms"].items())
        lines.append(f"  theirs / ours: {_clocks(row['ratio'])} (aim 10); outputs differ by {row['max_output_difference']:.1g}")
        lines.append(f"  of theirs, in ms of CPU: {parts}")
    for name, row in numbers.get("evaluate", {}).items():
        rates = ", ".join(f"{way} {rate:.3g}" for way, rate in row["candidates_per_second"].items())
        lines.append(f"\n(b) evaluating a candidate, {name}, {row['images']} images; per second of CPU: {rates}")
        rows = row | {"compensated": row["compensated"]["ours"]}
        lines += [_times(way, rows[way]) for way in ("ours", "compensated", "theirs", "bare", "bare_contiguous")]
        lines.append(f"  theirs / ours: {_clocks(row['theirs_to_ours'])}; top-1 differs by {row['max_top1_difference']:.2g}")
        lines.append(f"  ours / bare: {_clocks(row['ours_to_bare'])} (aim 1.2)")
        lines.append(f"  compensated / bare: {_clocks(row['compensated_to_bare'])} (aim 1.2)")
        for way, times in (("ours", row), ("compensated", row["compensated"])):
            parts = ", ".join(f"{part} {times[part]['cpu_ms']['median']:.1f}" for part in PARTS)
            lines.append(f"  of {way}, in ms of CPU: {parts}")
    for name, forms in numbers.get("compare", {}).items():
        for form, row in forms.items():
            lines.append(f"\ncomparing candidates of a step, {name}, {form}, {row['images']} images")
            lines += [_times(way, row[way]) for way in ("ours", "solve", "without_solving", "bare")]
            lines.append(f"  without solving / bare: {_clocks(row['without_solving_to_bare'])} (aim 1.2)")
    if found := numbers.get("search"):
        plan = found["plan"]
        lines.append(
            f"\n(c) search, ResNet-20 ({100 * found['dense_top1']:.1f} % dense) to 40 % of the MACs: "
            f"{plan['population']} x {plan['generations']} candidates of {plan['search_images']} images"
        )
        for pair in found["seeds"]:
            for way in ("everything", "racing"):
                one = pair[way]
                lines.append(
                    f"  seed {one['seed']} {way:>10}: {one['wall_s']:6.1f} s, CPU {one['cpu_s']:6.1f} s, "
                    f"{one['images']:7d} images, {100 * one['share_in_full']:3.0f} % in full, "
                    f"best {100 * one['best_top1']:.2f} %"
                )
        changes = ", ".join(f"{100 * pair['top1_change']:+.2f}" for pair in found["seeds"])
        lines.append(f"  best top-1 with racing against everything, in points: {changes}")
        lines.append("  everything / racing: " + ", ".join(f"{n} {v:.2f}" for n, v in found["mean_ratio"].items()) + " (aim 3)")
    return "\n".join(lines)


def _times(way: str, clocks: Numbers) -> str:
    cells = [f"{clocks[c]['median']:9.2f} [{clocks[c]['q25']:.2f}, {clocks[c]['q75']:.2f}]" for c in ("wall_ms", "cpu_ms")]
    return f"  {way:>16}: {cells[0]} ms, CPU {cells[1]} ms"


def _clocks(ratio: dict[str, float]) -> str:
    return f"{ratio['wall']:.2f} (CPU {ratio['cpu']:.2f})"
