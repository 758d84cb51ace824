"""Executors: where trials are evaluated."""

EXECUTORS = {"serial": "search.executors.serial:SerialExecutor", "ray": "search.executors.ray:RayExecutor"}
