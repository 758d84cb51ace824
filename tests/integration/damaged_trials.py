"""Trials of damaged run folders: no traceback, and never another result without a word on the damaged file.

    python -m tests.integration.damaged_trials RESULTS --cases 200 [--seed 0] [--only 17]

A line of JSON per folder is added to RESULTS; what stands there already is not tried again. All are tried in this process, on
copies of a few runs of seconds that are made first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.integration.damaged_folders import Folders, damage
from tests.results_file import known


def tried(folders: Folders, number: int, seed: int) -> dict[str, Any]:
    """Return the row of one trial."""
    one, began = damage(folders, number, seed), time.process_time()
    outcome = one.outcome(folders, folders.home / "case")
    row = {"trial": f"{seed}/{number}", "name": one.name, "verdict": outcome.words, "complaint": outcome.wrong}
    return {**row, "seconds": round(time.process_time() - began, 2)}


def main() -> None:
    """Try what is not tried yet; exit with 1 if there are complaints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="Try this one alone, and show what came of it.")
    given = parser.parse_args()
    done = known(given.results, "trial")
    with tempfile.TemporaryDirectory() as home, given.results.open("a") as file:
        folders = Folders(Path(home))
        if given.only is not None:
            print(json.dumps(tried(folders, given.only, given.seed), indent=1))
            return
        for number in range(given.cases):
            if f"{given.seed}/{number}" in done:
                continue
            row = tried(folders, number, given.seed)
            done[row["trial"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            mark = f" COMPLAINT: {row['complaint']}" if row["complaint"] else ""
            print(f"{number + 1}/{given.cases} {row['name']}: {row['verdict']}, {row['seconds']} s{mark}", flush=True)
    rows = [done[f"{given.seed}/{number}"] for number in range(given.cases)]
    print("; ".join(f"{count} {verdict}" for verdict, count in sorted(Counter(row["verdict"] for row in rows).items())))
    complaints = [row for row in rows if row["complaint"]]
    for row in complaints:
        print(f"{row['trial']} {row['name']}: {row['complaint']}")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
