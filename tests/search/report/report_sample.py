"""A report as a run would leave it, with made-up but plausible numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def network(top1: float | None, macs: float, loss: float = 0.3) -> dict[str, Any]:
    return {
        "top1": top1,
        "loss": loss,
        "metrics": {},
        "parameters": int(macs / 150),
        "macs": int(macs),
        "size_bytes": int(macs / 37),
        "bit_operations": int(macs * 1024),
        "latency_ms": None,
    }


def sample(trials: int = 200, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(trials):
        share = float(rng.uniform(0.2, 0.6))
        best = 0.94 - 0.35 * np.exp(-6 * share)
        top1 = float(best - rng.exponential(0.05) * np.exp(-number / trials))
        rows.append(
            {
                "trial": number,
                "fingerprint": f"{number:016x}",
                "fidelity": 1.0 if number % 3 == 0 else 0.25,
                "state": "complete",
                "feasible": share <= 0.4,
                "metrics": {"top1": top1, "macs": share * 3.1e7, "parameters": share * 2.7e5},
            }
        )
    full = [row for row in rows if row["fidelity"] == 1.0 and row["feasible"]]
    front = [
        {
            "trial": row["trial"],
            "fingerprint": row["fingerprint"],
            "top1": row["metrics"]["top1"],
            "macs": row["metrics"]["macs"],
        }
        for row in full
        if not any(
            other["metrics"]["top1"] > row["metrics"]["top1"] and other["metrics"]["macs"] < row["metrics"]["macs"]
            for other in full
        )
    ]
    chosen = max(full, key=lambda row: row["metrics"]["top1"])
    names = ["stem.0", *(f"stage{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1, 2)), "stage2.0.conv2"]
    layers = [
        {"name": name, "channels": 16 * (1 + index // 4), "kept": 5 + 3 * (index % 4)} for index, name in enumerate(names)
    ]
    epochs = [
        {
            "epoch": epoch + 1,
            "loss": 1.2 / (epoch + 1),
            "search_loss": 1.1 / (epoch + 1) + 0.1,
            "search_score": 0.93 - 0.3 / (epoch + 1),
            "lr": 0.1,
            "seconds": 2.0,
        }
        for epoch in range(8)
    ]
    search = {
        "stage": "2-search",
        "objectives": {"top1": "maximize"},
        "target": {"macs": 0.4 * 3.1e7},
        "target_met": True,
        "chosen": chosen["trial"],
        "pareto": front,
        "trials": rows,
        "failed": 0,
        "ended_by": "algorithm",
        "asynchronous": False,
        "fingerprint": chosen["fingerprint"],
        "metrics": chosen["metrics"],
        "layers": layers,
        "frozen": [],
    }
    before = {"top1": 0.78, "macs": 1.2e7}
    kept = [{**layer, "chosen": layer["kept"] / layer["channels"], "retained": 0.9} for layer in layers]
    return {
        "name": "fashion-mnist-resnet20-genetic",
        "seed": 0,
        "target": {"macs": "<= 40%"},
        "failures": [],
        "target_met": True,
        "reference": network(0.9382, 3.1e7),
        "result": network(0.9361, 0.3987 * 3.1e7, 0.33),
        "pareto": front,
        "baselines": {
            "uniform": {**network(0.9289, 0.3999 * 3.1e7), "before_retraining": before},
            "global_magnitude": {**network(0.9318, 0.3991 * 3.1e7), "before_retraining": {"top1": 0.84, "macs": 1.22e7}},
            "random": {**network(0.9301, 0.3991 * 3.1e7), "before_retraining": {"top1": 0.85, "macs": 1.21e7}},
            "dense_same_training": network(0.9394, 3.1e7),
        },
        "searches": [search],
        "test_samples": 10_000,
        "stages": [
            {"name": "train", "seconds": 140.2, "baseline_seconds": {}},
            {"name": "sparse_training", "seconds": 71.3, "baseline_seconds": {"dense_same_training": 70.0}},
            {"name": "search", "seconds": 95.9, "baseline_seconds": {"uniform": 1.2, "random": 80.0}},
            {"name": "retrain", "seconds": 82.0, "baseline_seconds": {"uniform": 81.0, "random": 80.0}},
            {"name": "export", "seconds": 3.4, "baseline_seconds": {}},
        ],
        "equivalence_max_abs_error": 2.4e-6,
        "layers": layers,
        "frozen": [{"name": "classifier", "size": 10, "reason": "network output <must stay>", "macs_share": 0.0002}],
        "retention": {
            "result": {"chosen": 0.62, "retained": 0.914, "layers": kept},
            "uniform": {"chosen": 0.41, "retained": 0.8, "layers": [{**layer, "retained": 0.7} for layer in kept]},
        },
        "output_changes": [{"stage": "1-sparse_training", "max_abs_change": 3.1e-15}],
        "histories": [
            {"stage": "0-train", "variant": "result", "epochs": epochs},
            {"stage": "1-sparse_training", "variant": "result", "epochs": epochs[3:]},
            {"stage": "3-retrain", "variant": "result", "epochs": epochs},
        ],
    }


def write_run(folder: Path, report: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "config.yaml").write_text("name: fashion-mnist-resnet20-genetic\nseed: 0\n")
    (folder / "environment.json").write_text(json.dumps({"python": "3.11.9", "versions": {"torch": "2.15.0", "absent": None}}))
    return folder


def full_sample() -> dict[str, Any]:
    """Return a report that every figure applies to."""
    report, rng = sample(trials=30), np.random.default_rng(0)
    kinds = ("adam", "fisher", "hutchinson")
    report["searches"][0]["sensitivity"] = {
        "kind": "hutchinson",
        "samples": 64,
        "rows": [
            {
                "decision": f"conv{index}.weight",
                "bits": 2,
                "predicted": {kind: float(rng.exponential(1e-3)) for kind in kinds},
                "measured": float(rng.exponential(1e-3)),
                "standard_error": 1e-4,
            }
            for index in range(6)
        ],
        "correlations": [{"first": kind, "second": "measured", "over": "all", "value": 0.5} for kind in kinds],
        "negative": [],
    }
    report["resolved"] = [
        {"name": f"run-macs-{share}pct", "target": {"macs": f"<= {share}%"}, "target_met": True, "result": network(top1, share)}
        for share, top1 in ((10, 0.85), (20, 0.91), (30, 0.90))
    ]
    report["participation"] = [
        {
            "stage": "1-sparse_training",
            "layers": ["conv0", "conv1", "conv2"],
            "steps": [0, 1, 2],
            "quantiles": [0.0, 0.25, 0.5, 0.75, 1.0],
            "values": np.sort(rng.uniform(size=(3, 3, 5)), axis=2).tolist(),
        }
    ]
    report["modules"] = [{"name": f"block.{index}", "before": 100, "after": 40 + index} for index in range(4)]
    report["bits"] = [
        {"name": f"conv{index}", "weight_bits": 2 + index, "activation_bits": 8, "weights": 100, "macs": 1e6}
        for index in range(4)
    ]
    report["depth"] = [{"name": f"block{index}", "macs_share": 0.1 + index / 20, "kept": index != 1} for index in range(4)]
    return report
