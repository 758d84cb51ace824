"""Kinds of units: what leaves a network as one."""

from __future__ import annotations

from typing import Literal

UnitName = Literal["channels", "heads", "kv_groups", "qk_width", "v_width"]
CHANNELS: UnitName = "channels"
"""A channel: its row in the weights that write it, its column in those that read it."""
HEADS: UnitName = "heads"
"""An attention head: its rows of q, k and v, and its columns of the output projection."""
KV_GROUPS: UnitName = "kv_groups"
"""A head of keys and values with all the queries that it answers, and what these write."""
QK_WIDTH: UnitName = "qk_width"
"""A place within all heads of queries and keys, and of values where code has one number for both widths."""
V_WIDTH: UnitName = "v_width"
"""A place within all heads of values: its rows of v, and its columns of the output projection."""
WIDTHS: tuple[UnitName, ...] = (QK_WIDTH, V_WIDTH)
"""The kinds that are a place within every head."""
