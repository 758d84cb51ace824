"""What the README shows in Python runs as it stands there."""

from __future__ import annotations

import re

from tests.paths import REPOSITORY

README = REPOSITORY / "README.md"


def test_the_objects_one_at_a_time() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (block,) = [block for block in blocks if "hessian_traces" in block]
    found: dict[str, object] = {}
    exec(compile(block, str(README), "exec"), found)
    trials = found["trials"]
    assert isinstance(trials, list)
    assert len(trials) >= 16
    assert any(trial.metrics["macs"] <= found["half"] for trial in trials)
    assert set(found["traces"].by_name) == set(found["weights"])


def test_every_name_that_it_imports_is_there() -> None:
    for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL):
        imports = [line for line in block.splitlines() if re.match(r"(from|import) ", line)]
        exec("\n".join(imports), {})
