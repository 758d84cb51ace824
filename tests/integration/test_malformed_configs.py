"""Five hundred malformed configurations: ``check`` answers each with 0 or 2 and a place, and ``run`` ends what it accepts.

``SECATEURS_MALFORMED`` names a file of results to go on from; ``pytest -m slow -n 0 -s`` shows the progress.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.malformed_configs import MISTAKES, ODDITIES, malformed
from tests.paths import REPOSITORY
from tests.results_file import known


def test_a_number_draws_one_configuration() -> None:
    assert malformed(7) == malformed(7) != malformed(8)
    assert malformed(7) != malformed(7, seed=1)


def test_every_kind_of_mistake_is_drawn() -> None:
    left = {*MISTAKES, *ODDITIES}
    for number in range(500):
        drawn = malformed(number).name
        left = {kind for kind in left if kind not in drawn}
        if not left:
            return
    pytest.fail(f"not drawn: {sorted(left)}")


def test_a_line_that_a_kill_cut_off_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert known(path, "trial") == {}
    path.write_text('{"trial": "0/1", "verdict": "refused"}\n{"trial": "0/2", "ver')
    assert list(known(path, "trial")) == ["0/1"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_check_answers_whatever_a_configuration_holds(tmp_path: Path) -> None:
    results = os.environ.get("SECATEURS_MALFORMED", str(tmp_path / "results.jsonl"))
    command = [sys.executable, "-m", "tests.integration.malformed_trials", results]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0
    assert len(known(Path(results), "trial")) >= 500
