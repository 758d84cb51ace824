"""Executors: where trials are evaluated."""

EXECUTORS = {"serial": "search.executors.serial:SerialExecutor"}
