"""Configurations in run folders of somebody else: nothing of theirs is imported, opened or written without a person's word."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from search.cli import app
from search.config.document import to_yaml
from search.trust.known_code import remember_code
from spaces.errors import SecateursError

TRAINING = {"epochs": 1}
SEARCH: dict[str, Any] = {
    "space": "channel_mask",
    "algorithm": {"name": "random", "evaluations": 4},
    "evaluate": ["accuracy", "cost"],
    "objectives": {"top1": "maximize"},
}
MODEL: dict[str, Any] = {"factory": "spaces.networks.digits_cnn", "arguments": {"width": 4}}
DATA: dict[str, Any] = {"name": "digits", "search_size": 100}

_seen: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None:
        if event == "import" and str(arguments[0]).startswith("theirs"):
            _seen.append(str(arguments[0]))
        elif event in ("pickle.find_class", "socket.connect", "os.system", "subprocess.Popen"):
            _seen.append(event)


@pytest.fixture(scope="module", autouse=True)
def audit_hook() -> None:
    import_module("search.trust.factories")  # Libraries that are imported for the first time look at the machine.
    sys.addaudithook(_audit)  # It stays for the life of the process, and sees nothing outside of `audited`.


@pytest.fixture
def audited() -> Iterator[list[str]]:
    """Return what is imported of the package, connected to, started or unpickled during the test."""
    global _seen
    _seen = []
    yield _seen
    _seen = None


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the file that appears once the code of somebody else ran."""
    mark = tmp_path / "RAN"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("")
    (tmp_path / "theirs" / "nets.py").write_text(
        f"from os import system\nfrom spaces.networks import digits_cnn\nopen({str(mark)!r}, 'w').close()\n"
        "def net(**arguments): return digits_cnn(**arguments)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield mark
    for name in [name for name in sys.modules if name.startswith("theirs")]:
        del sys.modules[name]


def config(model: dict[str, Any] = MODEL, data: dict[str, Any] = DATA, *stages: Any, **rest: Any) -> dict[str, Any]:
    return {"name": "r", "task": {"model": model, "data": data}, "stages": list(stages) or [{"train": TRAINING}], **rest}


def search(**changes: Any) -> dict[str, Any]:
    return config(MODEL, DATA, {"search": {**SEARCH, **changes}})


def run_folder(folder: Path, data: dict[str, Any]) -> Path:
    """Return the configuration in a run folder that holds nothing else of a run but its identity."""
    folder.mkdir()
    (folder / "environment.json").write_text('{"format": 2, "run_id": "abc"}')
    path = folder / "config.yaml"
    path.write_text(to_yaml(data))
    return path


def check(path: Path, *arguments: str) -> str:
    """Return the output of ``check --no-model``, or its error."""
    result = CliRunner().invoke(app, ["check", "--no-model", str(path), *arguments])
    if result.exception is None:
        return result.output
    assert isinstance(result.exception, SecateursError), result.exception
    return str(result.exception)


THEIRS = "theirs.nets.net"
NAMED: dict[str, dict[str, Any]] = {
    "a factory": config({"factory": THEIRS}),
    "a factory with a colon": config({"factory": "theirs.nets:net"}),
    "a task": {"name": "r", "task": {"class": "theirs.nets.Task"}, "stages": [{"train": TRAINING}]},
    "data": config(MODEL, {"name": THEIRS}),
    "a stage": config(MODEL, DATA, {THEIRS: {}}),
    "a stage without settings": config(MODEL, DATA, THEIRS),
    "a sparsifier": config(MODEL, DATA, {"sparse_training": {"sparsifier": {"name": THEIRS}, **TRAINING}}, {"search": SEARCH}),
    "a space": search(space={THEIRS: {}}),
    "an algorithm": search(algorithm={"name": THEIRS}),
    "an evaluator": search(evaluate=["accuracy", THEIRS]),
    "a latency backend": search(evaluate=["accuracy", "cost", {"latency": {"backend": THEIRS}}]),
    "an executor": config(execution={"executor": THEIRS}),
}


@pytest.mark.parametrize("name", NAMED)
def test_code_of_their_own_is_named_with_the_remedy_before_it_is_imported(
    name: str, tmp_path: Path, theirs: Path, audited: list[str]
) -> None:
    told = check(run_folder(tmp_path / "r", NAMED[name]))
    assert "theirs.nets" in told
    assert "--trust theirs.nets" in told
    assert audited == []
    assert not theirs.exists()


@pytest.mark.parametrize("trust", [["--trust", "theirs"], ["--trust", "other", "--trust", "theirs.nets"]])
def test_trusted_code_is_run(trust: list[str], tmp_path: Path, theirs: Path) -> None:
    assert check(run_folder(tmp_path / "r", NAMED["a factory"]), *trust).endswith("ok\n")
    assert theirs.exists()


@pytest.mark.parametrize("trust", ["their", "theirs.net", "theirs.nets.ne", "nets"])
def test_trust_is_by_whole_components(trust: str, tmp_path: Path, theirs: Path, audited: list[str]) -> None:
    assert "--trust theirs.nets" in check(run_folder(tmp_path / "r", NAMED["a factory"]), "--trust", trust)
    assert audited == []


def test_what_a_trusted_module_has_from_elsewhere_is_not_trusted_with_it(tmp_path: Path, theirs: Path) -> None:
    path = run_folder(tmp_path / "r", config({"factory": "theirs.nets.system", "arguments": {"command": "true"}}))
    assert "theirs.nets only has system from elsewhere" in check(path, "--trust", "theirs")


@pytest.mark.parametrize("command", ["check", "inspect", "run", "report", "dashboard"])
def test_every_command_takes_it_and_refuses_what_is_no_dotted_path(command: str, tmp_path: Path) -> None:
    path = run_folder(tmp_path / "r", NAMED["a factory"])
    place = path.parent if command in ("report", "dashboard") else path
    result = CliRunner().invoke(app, [command, str(place), "--trust", "a/b"])
    assert "expected dotted paths" in str(result.exception)


@pytest.mark.parametrize("model", [MODEL, {"factory": "torchvision.models.resnet18", "arguments": {"num_classes": 10}}])
def test_what_closed_lists_have_needs_no_word(model: dict[str, Any], tmp_path: Path, audited: list[str]) -> None:
    assert check(run_folder(tmp_path / "r", config(model))).endswith("ok\n")
    assert audited == []


BEYOND: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "weights": (
        config({"factory": "torchvision.models.resnet18", "arguments": {"weights": "DEFAULT"}}),
        "task.model.arguments.weights",
        ["task.model.arguments={num_classes: 10}"],
    ),
    "a storage": (config(storage="postgresql://evil.example/${HOME}"), "storage: ", ["storage=sqlite:///mine.db"]),
    "a cluster": (
        config(execution={"executor": "ray", "address": "evil.example:6379"}),
        "execution.address: ",
        ["execution.address=10.0.0.1:6379"],
    ),
    "a tracker": (
        config(execution={"trackers": [{"name": "mlflow", "uri": "http://evil.example"}]}),
        "execution.trackers: ",
        ["execution.trackers=[tensorboard]"],
    ),
    "a file": (
        search(evaluate=["accuracy", "cost", {"latency": {"cache": "/root/.profile"}}]),
        "stages.0.search.evaluate.2.latency.cache: ",
        ["stages.0.search.evaluate.2.latency.cache=times.json"],
    ),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_reaches_beyond_the_folder_is_refused_until_it_is_repeated(name: str, tmp_path: Path, audited: list[str]) -> None:
    data, place, overrides = BEYOND[name]
    path = run_folder(tmp_path / "r", data)
    assert place in check(path)
    assert check(path, *overrides).endswith("ok\n")
    assert audited == []


def test_code_that_a_person_names_in_an_override_is_the_person_s_own(tmp_path: Path, theirs: Path) -> None:
    path = run_folder(tmp_path / "r", config({"factory": "os.getcwd"}))
    assert check(path, f"task.model.factory={THEIRS}").endswith("ok\n")


def test_a_run_that_was_begun_here_is_known_as_long_as_it_names_the_same_code(tmp_path: Path, theirs: Path) -> None:
    data = NAMED["a factory"]
    path = run_folder(tmp_path / "r", data)
    remember_code("abc", data)
    assert check(path).endswith("ok\n")
    path.write_text(to_yaml(config({"factory": "theirs.nets.other"})))
    assert "--trust theirs.nets" in check(path)
    (path.parent / "environment.json").write_text('{"format": 2, "run_id": "abd"}')
    path.write_text(to_yaml(data))
    assert "--trust theirs.nets" in check(path)


def test_a_configuration_elsewhere_is_a_person_s_own_program(tmp_path: Path, theirs: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(NAMED["a factory"]))
    assert check(path).endswith("ok\n")
