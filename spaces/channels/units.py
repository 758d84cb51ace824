"""Kinds of units: what leaves a network as one."""

from __future__ import annotations

from typing import Literal

UnitName = Literal["channels", "heads", "kv_groups"]
CHANNELS: UnitName = "channels"
"""A channel: its row in the weights that write it, its column in those that read it."""
HEADS: UnitName = "heads"
"""An attention head: its rows of q, k and v, and its columns of the output projection."""
KV_GROUPS: UnitName = "kv_groups"
"""A head of keys and values with all the queries that it answers, and what these write."""
