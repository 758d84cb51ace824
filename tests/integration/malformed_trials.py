"""Trials of malformed configurations: ``check`` answers with 0 or 2 and a place, and what it accepts runs to its end.

    python -m tests.integration.malformed_trials RESULTS --cases 500 [--seed 0] [--only 17]

A line of JSON per configuration is added to RESULTS; what stands there already is not tried again. Each is tried in a
process of its own, forked from this one, with bounds on time and memory.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from search.stages import STAGES
from tests.integration.malformed_configs import FILES, SMALL, malformed, unharmed
from tests.paths import CONFIGS, REPOSITORY
from tests.results_file import known

STAGE = rf"[0-9]+-({'|'.join(STAGES)})"
PLACE = re.compile(rf"\b{STAGE}\b|line [0-9]+|\b(task|data|model|execution|stages|storage|name|seed)\b|c\.yaml: 1 error")
SECONDS, MEMORY = 150, 6 * 2**30
"""Bounds of a trial: seconds of one core, and bytes of memory beyond what this process has."""

FEW = {name: 3 * value for name, value in SMALL.items() if name in ("epochs", "population", "generations", "evaluations")}
FEW |= {
    "population": 64,
    "candidates": 6,
    "steps": 6,
    "budgets": 6,
    "count": 4,
    "samples": 300,
    "points": 4,
    "repetitions": 60,
    "most_rounds": 8,
}
"""Numbers up to which a configuration is run; beyond, only checked."""


def make_files(folder: Path) -> None:
    """Make the files that configurations name."""
    (folder / "empty.pt").touch()
    (folder / "text.pt").write_text("no weights\n" * 50)
    (folder / "a_folder").mkdir()
    (folder / "code.pt").write_bytes(b"cos\nsystem\n(S'touch RAN'\ntR.")
    (folder / "cut.safetensors").write_bytes((400).to_bytes(8, "little") + b'{"a": {"dtype": "F32"')
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    assert {"empty.pt", "text.pt", "a_folder", "code.pt", "cut.safetensors", "picture.png"} <= set(FILES)


def call(*arguments: str) -> tuple[int, str, str]:
    """Return the exit code and what was written to either stream by the program, run in this process."""
    from search.__main__ import main

    streams = [Path(name).open("w+", encoding="utf-8", errors="backslashreplace") for name in (".out", ".err")]  # noqa: SIM115
    before = sys.stdout, sys.stderr, sys.argv
    sys.stdout, sys.stderr = streams
    sys.argv = ["search", *arguments]
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if end.code is not None else 0
    except BaseException:
        code = 1
        traceback.print_exc(file=streams[1])
    finally:
        sys.stdout, sys.stderr, sys.argv = before
        texts = []
        for stream in streams:
            stream.flush()
            stream.seek(0)
            texts.append(stream.read())
            stream.close()
    return code, texts[0], texts[1]


def few(value: Any) -> bool:
    """Return True if a configuration, as plain data, takes seconds in this process."""
    if isinstance(value, list):
        return all(map(few, value))
    if not isinstance(value, dict):
        return True
    return all(
        few(inner) and not (isinstance(inner, int | float) and inner > FEW.get(key, inner)) for key, inner in value.items()
    )


def tried(content: bytes, small: bool) -> dict[str, Any]:
    """Return what became of a configuration in the working folder: ``verdict``, ``message`` and, if any, ``complaint``."""
    Path("c.yaml").write_bytes(content)
    code, out, err = call("check", "c.yaml", *([] if small else ["--no-model"]))
    if "Traceback" in out + err:
        return {"verdict": "traceback", "message": err[-2000:], "complaint": "check shows a traceback"}
    if code == 2:
        where = err.replace("c.yaml:", "", 1) if "1 error" not in err else err
        complaint = "" if PLACE.search(where) and len(err) > 30 else "the message names no place"
        return {"verdict": "refused", "message": err[:600], "complaint": complaint}
    if code != 0 or not out.endswith("ok\n"):
        return {"verdict": f"exit {code}", "message": (out + err)[-600:], "complaint": f"check ended with {code}"}
    from search.config.loading import load
    from search.report.figures import pictures

    config = load("c.yaml").canonical()
    # Ray's object store asks for more addresses than the bound on memory leaves.
    if not small or not few(config) or config["execution"]["executor"] != "serial":
        return {"verdict": "accepted", "message": "", "complaint": ""}
    pictures.draw = lambda report: []  # Drawing takes most of the time, and no option of a configuration changes it.
    code, out, err = call("run", "c.yaml")
    if code != 0 or "Traceback" in out + err:
        return {"verdict": f"run ends with {code}", "message": err[-1200:], "complaint": "check accepts what run fails on"}
    return {"verdict": "accepted and run", "message": "", "complaint": ""}


def in_a_process(content: bytes, small: bool) -> dict[str, Any]:
    """Return what :func:`tried` returns, from a process of its own with bounds."""
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder))
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _child(Path(folder), content, small)
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() - began > 6 * SECONDS:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.02)
        answer = Path(folder) / "answer.json"
        lost = {"verdict": "killed", "message": "", "complaint": f"no answer within {SECONDS} s of one core and {MEMORY} bytes"}
        found = json.loads(answer.read_text()) if answer.exists() else lost
        load_modules(found.pop("modules", ()))
        if (Path(folder) / "RAN").exists():
            found["complaint"] = "code in a file ran"
        return {**found, "seconds": round(time.monotonic() - began, 2)}


def _child(folder: Path, content: bytes, small: bool) -> None:
    try:
        os.chdir(folder)
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        before = set(sys.modules)
        found = tried(content, small)
        found["modules"] = [name for name in sys.modules if name not in before]
        Path("answer.new").write_text(json.dumps(found))
        Path("answer.new").rename("answer.json")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def trials(cases: int, seed: int) -> dict[str, Any]:
    """Return the configurations to try, by name: all shipped ones unharmed, then the malformed ones."""
    found: dict[str, Any] = {f"unharmed {number}": unharmed(number) for number in range(len(CONFIGS))}
    return found | {f"{seed}/{number}": malformed(number, seed) for number in range(cases)}


def main() -> None:
    """Try what is not tried yet; exit with 1 if there are complaints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="Try this one alone, and show what came of it.")
    given = parser.parse_args()
    sys.path.append(str(REPOSITORY))
    wanted = trials(given.cases, given.seed)
    load_modules(["torch", "optuna", "search.pipeline.repeat", "search.pipeline.rehearsal"])
    if given.only is not None:
        one = wanted[given.only]
        print(one.content.decode(errors="replace")[:4000])
        print(json.dumps({"name": one.name, **in_a_process(one.content, one.small)}, indent=1))
        return
    done = known(given.results, "trial")
    with given.results.open("a") as file:
        for count, (trial, one) in enumerate(wanted.items(), 1):
            if trial in done:
                continue
            row = {"trial": trial, "name": one.name, **in_a_process(one.content, one.small)}
            if trial.startswith("unharmed") and "accepted" not in row["verdict"]:
                row["complaint"] = row["complaint"] or "nothing was wrong"
            done[trial] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            mark = f" COMPLAINT: {row['complaint']}" if row["complaint"] else ""
            print(f"{count}/{len(wanted)} {trial} {row['name']}: {row['verdict']}, {row['seconds']} s{mark}", flush=True)
    rows = [done[trial] for trial in wanted]
    verdicts = sorted({row["verdict"] for row in rows})
    print("; ".join(f"{sum(row['verdict'] == verdict for row in rows)} {verdict}" for verdict in verdicts))
    complaints = [row for row in rows if row["complaint"]]
    for row in complaints:
        print(f"{row['trial']} {row['name']}: {row['complaint']}\n{row['message']}")
    sys.exit(1 if complaints else 0)


def load_modules(names: Iterable[str]) -> None:
    """Import what a trial has imported, so that the processes forked later begin with that."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in names:
            if name not in sys.modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)


if __name__ == "__main__":
    main()
