"""The bits section of a report: a row per layer, and a text on speed and size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.output.numbers import format_bytes, format_count
from search.report.view import Row


def bit_rows(report: Mapping[str, Any]) -> list[Row]:
    """Return a row per quantized layer and addition."""
    rows = []
    for entry in report.get("bits") or []:
        weights, bits = int(entry.get("weights") or 0), entry.get("weight_bits")
        stored = format_bytes(-(-weights * int(bits) // 8)) if bits is not None else "-"
        macs = format_count(entry["macs"]) if entry.get("macs") else "-"
        cells = (
            _bits(bits, "-"),
            _bits(entry.get("activation_bits"), "float"),
            format_count(weights) if weights else "-",
            stored,
            macs,
        )
        rows.append(Row(str(entry.get("name", "")), cells))
    return rows


def _bits(value: object, missing: str) -> str:
    return missing if value is None else str(value)


def deployment_text(report: Mapping[str, Any]) -> str:
    """Return a text that says which layers run faster in which program, and which are only smaller."""
    text = (
        "The files hold integers of these bits, so they are smaller everywhere. PyTorch unpacks them and computes in float: "
        "smaller, not faster. "
    )
    found = report.get("deployment")
    if found is None:
        return text + "Programs that compute in 8-bit integers run layers faster that have 8-bit weights and inputs."
    total = found["integer_layers"] + found["float_layers"]
    return text + (
        f"ONNX Runtime {found['version']} computes {found['integer_layers']} of {total} layers in 8-bit integers on the "
        "CPU that exported the network: those may be faster where it has instructions for that. The others it unpacks and "
        "computes in float: smaller, not faster. Fewer than 8 bits are faster only on hardware that computes in them."
    )
