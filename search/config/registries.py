"""Registered blocks: fields of a configuration that name a member of a registry, with its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

from search.config.block import Block, Limit, ScoreLimit, parse_limit, parse_score_limit
from spaces.errors import SecateursError
from spaces.registry import UnknownNameError, is_import_path, lookup, members, resolve, resolve_named

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


@dataclass(frozen=True)
class Registered:
    """Registry in which pydantic looks up a :class:`~search.config.block.Block`.

    Attributes:
        module: Module of the registry.
        registry: Name of the registry, a literal dict of that module.
        kind: Noun for its members in error messages.
        base: Import path of the class that members derive from.
        otherwise: Words on what to write for something else at an import path; empty for none.
    """

    module: str
    registry: str
    kind: str
    base: str
    otherwise: str = ""

    @property
    def members(self) -> dict[str, str]:
        """Import path of every member, by name; those of plug-ins come last."""
        return members(getattr(import_module(self.module), self.registry), self.kind)

    def find(self, name: str) -> Any:
        """Return the class registered as ``name``, or the one at the import path ``name``.

        Raises:
            UnknownNameError: There is none, or something else is at the import path.
        """
        if is_import_path(name):
            return self._own(name)
        return lookup(getattr(import_module(self.module), self.registry), name, self.kind)

    def _own(self, path: str) -> Any:
        """Return a person's own class at an import path."""
        found, wanted = resolve_named(path), f"{'an' if self.kind[0] in 'aeiou' else 'a'} {self.kind}"
        if not isinstance(found, type) or not issubclass(found, resolve(self.base)):
            raise UnknownNameError(
                f"{path!r}: expected {wanted}, a class that derives from {self.base}, got {found!r:.80}{self.otherwise}"
            )
        try:
            described = is_dataclass(found.Settings)  # type: ignore[attr-defined]
        except AttributeError:
            described = False
        if not described:
            raise UnknownNameError(f"{path!r}: expected {wanted} with a dataclass Settings, which its options are read by")
        return found

    def parse(self, value: object) -> Block:
        """Return the block written as ``{name: NAME, option: value}``, ``{NAME: {option: value}}`` or ``NAME``.

        Raises:
            ValueError: ``value`` has none of the three forms, names nothing, or its settings are wrong (pydantic keeps
                the place of each mistake).
        """
        if isinstance(value, Block):
            return value
        name, options = self._split(value)
        try:
            settings = self.find(name).Settings
        except SecateursError as error:
            raise ValueError(str(error)) from None
        from pydantic import TypeAdapter

        return Block(name, TypeAdapter(settings).validate_python(options))

    def _split(self, value: object) -> tuple[str, dict[str, Any]]:
        if isinstance(value, str):
            return value, {}
        if isinstance(value, Mapping):
            if isinstance(value.get("name"), str):
                return value["name"], {key: option for key, option in value.items() if key != "name"}
            if len(value) == 1:
                ((name, options),) = value.items()
                if isinstance(name, str) and (options is None or isinstance(options, Mapping)):
                    return name, dict(options or {})
        forms = f"the name of a {self.kind}, {{name: NAME, option: value}} or {{NAME: {{option: value}}}}"
        raise ValueError(f"expected {forms}, got {value!r}")

    def build(self, block: Block, *arguments: Any) -> Any:
        """Return an instance of the class named by ``block``, made from ``arguments`` and the block's settings."""
        return self.find(block.name)(*arguments, block.settings)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _validated_by(self.parse)


@dataclass(frozen=True)
class LimitText:
    """Mark for pydantic: limits on costs are written as text or as a number, those on scores as text."""

    def parse(self, value: object) -> Limit | ScoreLimit:
        """Return the limit; see :func:`.block.parse_limit` and :func:`.block.parse_score_limit`."""
        if isinstance(value, Limit | ScoreLimit):
            return value
        if (score_limit := parse_score_limit(value)) is not None:
            return score_limit
        if not isinstance(value, str | int | float):
            raise ValueError(f'expected "<= 40%" (of the reference) or a number, got {value!r}')
        return parse_limit(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _validated_by(self.parse)


def _validated_by(parse: Callable[[object], Any]) -> CoreSchema:
    from pydantic_core import core_schema

    return core_schema.no_info_plain_validator_function(parse)


SPACE = Registered("spaces", "SPACES", "space", "spaces.base:SearchSpace")
SPARSIFIER = Registered("spaces.sparsifiers", "SPARSIFIERS", "sparsifier", "spaces.sparsifiers.base:Sparsifier")
DATASET = Registered(
    "evaluators",
    "DATASETS",
    "data set",
    "evaluators.tasks.data:DataSet",
    "; a function that returns torch data sets is written as {factory: ..., arguments: {...}}",
)
EVALUATOR = Registered("evaluators", "EVALUATORS", "evaluator", "evaluators.base:Evaluator")
ALGORITHM = Registered("search.algorithms", "ALGORITHMS", "algorithm", "search.algorithms.base:Algorithm")
EXECUTOR = Registered("search.executors", "EXECUTORS", "executor", "search.executors.base:Executor")
TRACKER = Registered("search.tracking", "TRACKERS", "tracker", "search.tracking.base:Tracker")
STAGE = Registered("search.stages", "STAGES", "stage", "search.stages.base:Stage")

SpaceBlock = Annotated[Block, SPACE]
SparsifierBlock = Annotated[Block, SPARSIFIER]
EvaluatorBlock = Annotated[Block, EVALUATOR]
AlgorithmBlock = Annotated[Block, ALGORITHM]
TrackerBlock = Annotated[Block, TRACKER]
LimitField = Annotated[Limit | ScoreLimit, LimitText()]
