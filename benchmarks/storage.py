"""Which storage a run's studies are kept in by default: trials recorded per second, and what a dashboard takes to load.

    python -m benchmarks.storage [--trials 1000] [--layers 30]

Each trial is one of a search over `--layers` channel masks, with its note. Rows: Optuna's own journal file, SQLite and (where
a server can be started) PostgreSQL as Optuna writes them, and the same three as `search.study.storage` opens them; each alone,
and with a dashboard that reads the whole study again and again beside it. CPU seconds stand beside wall-clock rates, since the
former bear a busy machine. Then the dashboard's answer for the whole study. A table is printed, JSON is written.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial
from torch import nn

from search.config.storage_url import StorageUrl
from search.run.run_storage import Answer, RunStorage
from search.study.dashboard import application
from search.study.database import Database
from search.study.problem import Objective, Problem, Target
from search.study.storage import open_journal
from search.study.study import Study
from search.study.trial import Proposal, Trial
from spaces.base import SearchSpace
from spaces.candidate import Candidate, Value
from spaces.domains import Domain, Mask

RESULTS = Path(__file__).parent / "results" / "storage.json"
NAME = "benchmark/2-search"
CHANNELS = 32


class Masks(SearchSpace[None]):
    """Keep-masks of many layers, over no network."""

    def __init__(self, layers: int) -> None:
        self._domains: dict[str, Domain] = {
            f"stage{layer // 6}.block{layer % 6}.conv": Mask(CHANNELS) for layer in range(layers)
        }

    @property
    def domains(self) -> Mapping[str, Domain]:
        return self._domains

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        raise NotImplementedError

    def convert(self, prepared: nn.Module) -> nn.Module:
        raise NotImplementedError

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        raise NotImplementedError

    def describe(self, candidate: Candidate) -> dict[str, Value]:
        return {name: str(mask).count("1") / CHANNELS for name, mask in candidate.values.items()}


def make_trials(space: Masks, count: int) -> list[Trial]:
    """Return ``count`` measured trials."""
    rng = np.random.default_rng(0)
    trials = []
    for number in range(count):
        candidate = space.sample(rng)
        macs = float(sum(str(mask).count("1") for mask in candidate.values.values()))
        costs = {"macs": macs * 1e4, "parameters": macs * 1e2, "size_bytes": macs * 4e2, "bit_operations": macs * 1e7}
        trials.append(Trial(number, Proposal(candidate), "complete", {"top1": float(rng.random()), "loss": 0.1, **costs}, 0.5))
    return trials


def problem_of(space: Masks) -> Problem:
    """Return accuracy against MACs."""
    objectives = [Objective("top1", "maximize"), Objective("macs", "minimize")]
    return Problem(space, objectives, [Target("macs", len(space.domains) * CHANNELS * 5e3)], {})


class AsOptunaWrites(RunStorage):
    """Records trials by Optuna's own call, claims nothing and waits for nothing."""

    def claim(self, study: optuna.Study) -> None: ...

    def record(self, study: optuna.Study, trial: FrozenTrial) -> None:
        study.add_trial(trial)

    def patiently(self, operation: Callable[[], Answer]) -> Answer:
        return operation()


class OptunasJournal(optuna.storages.JournalStorage, AsOptunaWrites):
    """Optuna's journal."""


class OptunasTables(optuna.storages.RDBStorage, AsOptunaWrites):
    """Optuna's tables."""


def record(storage: RunStorage, space: Masks, trials: list[Trial]) -> dict[str, float]:
    """Record all trials and return how many there were per second."""
    study = Study(storage, NAME, problem_of(space), {"macs": 1e7, "parameters": 1e5, "size_bytes": 4e5})
    wall, cpu = time.perf_counter(), time.process_time()
    for trial in trials:
        study.add(trial)
    found = {
        "per_second": len(trials) / (time.perf_counter() - wall),
        "per_cpu_second": len(trials) / (time.process_time() - cpu),
    }
    if study.trials() != trials:
        raise RuntimeError("the trials did not come back as they were")
    return found


def read_forever(target: str, is_journal: bool) -> None:
    """Read the whole study again and again, as a dashboard does; the body of a process of its own."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    while True:
        try:
            storage: Any
            if is_journal:
                storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(target))
            else:
                storage = optuna.storages.RDBStorage(target, skip_table_creation=True)
            while True:
                storage.get_all_trials(storage.get_study_id_from_name(NAME), deepcopy=False)
                time.sleep(0.5)
        except Exception:
            time.sleep(0.2)


@contextmanager
def reader(target: str, is_journal: bool, wanted: bool) -> Iterator[None]:
    """Have the study read by another process."""
    process = multiprocessing.get_context("spawn").Process(target=read_forever, args=(target, is_journal), daemon=True)
    if wanted:
        process.start()
        time.sleep(10.0)
    try:
        yield
    finally:
        if wanted:
            process.kill()
            process.join()


def storages(folder: Path, postgresql: str | None) -> dict[str, tuple[str, bool, Callable[[str], RunStorage]]]:
    """Return, by name: where it is, whether it is a journal, and what opens it."""

    def ours(url: str) -> RunStorage:
        return Database(StorageUrl(url), "benchmark", str(folder), print)

    def journal(path: str) -> RunStorage:
        return OptunasJournal(optuna.storages.journal.JournalFileBackend(path))

    found: dict[str, tuple[str, bool, Callable[[str], RunStorage]]] = {
        "journal, Optuna's": (str(folder / "optuna.journal"), True, journal),
        "journal (default)": (str(folder / "ours.journal"), True, lambda path: open_journal(Path(path))),
        "SQLite, Optuna's": (f"sqlite:///{folder / 'optuna.db'}", False, OptunasTables),
        "SQLite, WAL": (f"sqlite:///{folder / 'ours.db'}", False, ours),
    }
    if postgresql is not None:
        found["PostgreSQL, Optuna's"] = (postgresql, False, OptunasTables)
        found["PostgreSQL"] = (postgresql, False, ours)
    return found


def dashboard(path: Path, space: Masks, trials: list[Trial]) -> dict[str, float]:
    """Return what the dashboard's answers for a whole study take."""
    study = Study(open_journal(path), NAME, problem_of(space), {"macs": 1e7})
    for trial in trials:
        study.add(trial)
    start = time.process_time()
    app = application(path)
    found = {"trials": float(len(trials)), "open_cpu_seconds": time.process_time() - start}
    for key, query in (("load", ""), ("refresh", f"after={len(trials)}")):
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies/0", "QUERY_STRING": query, "SERVER_NAME": "localhost"}
        start = time.process_time()
        body = b"".join(app({**environ, "wsgi.url_scheme": "http", "SERVER_PORT": "80"}, lambda *answer: None))
        found[f"{key}_cpu_seconds"] = time.process_time() - start
        found[f"{key}_megabytes"] = len(body) / 1e6
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slow-trials", type=int, default=100, help="for databases as Optuna writes them")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--dashboard-trials", type=int, default=3000)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Masks(arguments.layers)
    trials = make_trials(space, max(arguments.trials, arguments.dashboard_trials))
    rows = []
    server = start_server()
    for watched in (False, True):
        with tempfile.TemporaryDirectory() as name:
            for label, (target, is_journal, connect) in storages(Path(name), server and server.url()).items():
                if server is not None and "PostgreSQL" in label:
                    server.execute("DROP SCHEMA public CASCADE")
                    server.execute("CREATE SCHEMA public")
                slow = "Optuna's" in label and not is_journal
                some = trials[: arguments.slow_trials if slow else arguments.trials]
                storage = connect(target)
                with reader(target, is_journal, watched):
                    rows.append({"storage": label, "dashboard": watched, "trials": len(some), **record(storage, space, some)})
                if hasattr(storage, "engine"):
                    storage.engine.dispose()
                row = rows[-1]
                beside = "with a dashboard" if watched else "alone"
                print(f"{label:22} {beside:17} {row['per_second']:8.0f}/s  {row['per_cpu_second']:8.0f}/CPU s", flush=True)
    if server is not None:
        server.close()
    with tempfile.TemporaryDirectory() as name:
        page = dashboard(Path(name) / "study.journal", space, trials[: arguments.dashboard_trials])
    print("dashboard:", ", ".join(f"{key} {value:.3g}" for key, value in page.items()))
    RESULTS.write_text(json.dumps({"layers": arguments.layers, "recording": rows, "dashboard": page}, indent=1) + "\n")


def start_server() -> Any:
    """Return a running PostgreSQL server, None where none can be started."""
    from tests.postgres_server import PostgresServer, why_not

    if why_not():
        print(f"PostgreSQL is left out: {why_not()}")
        return None
    return PostgresServer()


if __name__ == "__main__":
    main()
