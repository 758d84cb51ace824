"""Callers use interfaces: they probe no object for names, and no object for a class of this project outside its own folder.

Counted by syntax: ``hasattr``, ``getattr`` with a literal name, ``isinstance`` (and ``issubclass``) against a class that is
defined in another folder of this project, and run-time Protocols.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.paths import REPOSITORY

PACKAGES = ("spaces", "evaluators", "search")
MOST = 15
ALLOWED: dict[str, str] = {
    "spaces/execution/batch.py: getattr(batch, '_fields', ())": (
        "a container of somebody's batch: named tuples have no class of their own, and fields are what tells them from tuples"
    ),
    "spaces/channels/configuration.py: getattr(config, 'validate', lambda: None)": (
        "the configuration of somebody's network, which may check itself or not"
    ),
    "spaces/fusion/nodes.py: getattr(target, '__name__', '')": (
        "any callable that torch.fx recorded in somebody's network; not every callable has a name"
    ),
    "spaces/fusion/record.py: hasattr(owner, name)": (
        "somebody's network, for which a name is sought that no attribute, method or module of it has"
    ),
    "spaces/fusion/record.py: hasattr(traced, module)": (
        "a traced network of somebody's, in which a name from a file must not replace anything"
    ),
    "evaluators/tasks/settings.py: isinstance(settings, Task)": (
        "the argument of a person's program, which may give a task itself in place of the settings of one"
    ),
    "evaluators/tasks/loader_task.py: getattr(dataset, 'classes', None)": (
        "a person's data set; torchvision's have the names of their classes, others need not"
    ),
    "search/config/loading.py: isinstance(self.task, Task)": (
        "the field of a configuration that holds either a person's own task or the settings of one"
    ),
    "evaluators/training/hardware.py: hasattr(torch.cpu, 'get_capabilities')": (
        "the torch.cpu module, which has the function from some version of torch on"
    ),
    "search/executors/ray_pool.py: isinstance(cause, SecateursError)": (
        "any exception from a worker; a user's mistake is shown whole"
    ),
    "search/options.py: hasattr(kind, '__pydantic_config__')": (
        "any type in an annotation; pydantic's own mark tells a block of options from a plain value"
    ),
    "search/options.py: isinstance(mark, LimitText)": "a mark of an annotation, of which pydantic and others have their own",
    "search/options.py: isinstance(mark, Registered)": "a mark of an annotation, of which pydantic and others have their own",
    "search/study/dashboard.py: isinstance(where, StorageUrl)": (
        "a path or a URL; a path is opened as it is, and a URL from a folder needs consent"
    ),
    "search/trust/lists/timm.py: getattr(model, 'num_classes', None)": (
        "a network of timm, whose classes have no base class in common that says num_classes"
    ),
}
"""Every probe that stays: ``file: the probe``, with what the object is and why no interface can say it."""


def modules() -> dict[str, Path]:
    """Return the path of every module of the packages, by dotted name."""
    paths = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return dict(zip(names, paths, strict=True))


def classes_imported(tree: ast.Module, folder: Path, known: dict[str, Path]) -> set[str]:
    """Return the names of classes of this project that a module imports from other folders."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in known and known[node.module].parent != folder:
            found |= {alias.asname or alias.name for alias in node.names if alias.name[:1].isupper()}
    return found


def probes() -> Iterator[str]:
    """Yield ``file: probe`` for every probe in the packages."""
    known = modules()
    for path in known.values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        foreign = classes_imported(tree, path.parent, known)
        name = str(path.relative_to(REPOSITORY))
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            called, arguments = node.func.id, node.args
            literal = len(arguments) > 1 and isinstance(arguments[1], ast.Constant) and isinstance(arguments[1].value, str)
            if called == "hasattr" or (called == "getattr" and literal):
                yield f"{name}: {ast.unparse(node)}"
            elif called in ("isinstance", "issubclass"):
                tested = {part.id for part in ast.walk(arguments[1]) if isinstance(part, ast.Name)}
                if tested & foreign:
                    yield f"{name}: {ast.unparse(node)}"


def test_there_are_few_probes_and_each_is_explained() -> None:
    found = list(probes())
    assert sorted(set(found) - set(ALLOWED)) == []
    assert sorted(set(ALLOWED) - set(found)) == []
    assert len(found) <= MOST


def test_there_is_no_protocol_at_run_time() -> None:
    for name, path in modules().items():
        assert "runtime_checkable" not in path.read_text(encoding="utf-8"), name


def test_a_probe_would_be_found(tmp_path: Path) -> None:
    tree = ast.parse("from spaces.base import SearchSpace\nisinstance(x, SearchSpace | None)")
    assert classes_imported(tree, tmp_path, modules()) == {"SearchSpace"}
