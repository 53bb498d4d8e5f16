"""Agents one at a time (:class:`Agent`) and by the million (:class:`AgentTable`), as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Self, overload

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from solver.errors import SpecError, Violation, repeated_value, wrong_type
from solver.problem.numbers import LARGEST
from solver.problem.values import Count, Frozen, Identifier, PenaltyValue, Real, Text, violations_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_NAMED_ROWS = 20
"""Offending rows spelled out for each rule."""


class Agent(Frozen):
    """One unit of work to be assigned to a model.

    Parameters
    ----------
    id : str
        Unique in its problem. A whole number counts as its digits.
    task_type : str, optional
        What the work is, such as ``"coding"``; brings the required capabilities of that type.
    required_capabilities : sequence of str, optional
        Capabilities the score counts with the weight ``required``. Given, they replace those of the task
        type; an empty list means none.
    preferred_capabilities : sequence of str
        Capabilities the score counts with the weight ``preferred``.
    min_context_tokens : int
        Context window wanted, in tokens. A smaller one lowers the score in proportion.
    requires_context, requires_tools, requires_vision : bool
        Hard: only models with that context window (``min_context_tokens``), tool calling, or image input
        are eligible. A model that does not state the fact does not meet it.
    allowed_models : sequence of str, optional
        Hard: ids of the only models eligible.
    forbidden_models : sequence of str
        Hard: ids of models that are not eligible.
    allowed_regions, allowed_providers : sequence of str, optional
        Hard: the only regions or providers eligible.
    priority : float
        Greater than 0; multiplies the agent's score, and higher is served first when not all fit.
    input_tokens, output_tokens : int
        Expected size of the work, for cost and latency.
    min_score : float, optional
        Models with a lower quality are not eligible; overrides the objective's ``min_score``.
    tenant : str, optional
        On whose account the work is done.
    resources : mapping of str to float
        Units taken of further resources of its model, by name; 0 of those that are not named.
    unassigned_penalty : float, optional
        What leaving it out costs, times its priority, in place of the objective's ``unassigned_penalty``.
    copies : int
        Different models it needs, such as the judges of a panel.
    count : int
        Equal agents that this one stands for.
    """

    id: Identifier
    task_type: Text | None = None
    required_capabilities: tuple[Text, ...] | None = None
    preferred_capabilities: tuple[Text, ...] = ()
    min_context_tokens: Count = 0
    requires_context: Annotated[bool, Field(strict=True)] = False
    requires_tools: Annotated[bool, Field(strict=True)] = False
    requires_vision: Annotated[bool, Field(strict=True)] = False
    allowed_models: tuple[Identifier, ...] | None = None
    forbidden_models: tuple[Identifier, ...] = ()
    allowed_regions: tuple[Text, ...] | None = None
    allowed_providers: tuple[Text, ...] | None = None
    priority: Annotated[Real, Field(gt=0, le=LARGEST)] = 1.0
    input_tokens: Count = 0
    output_tokens: Count = 0
    min_score: Real | None = None
    tenant: Text | None = None
    resources: dict[Text, Annotated[Real, Field(ge=0)]] = Field(default_factory=dict)
    unassigned_penalty: PenaltyValue | None = None
    copies: Annotated[Count, Field(ge=1)] = 1
    count: Annotated[Count, Field(ge=1)] = 1


_AGENTS = TypeAdapter(list[Agent])


@dataclass(frozen=True, slots=True)
class Profile:
    """What many agents have in common: everything of an :class:`Agent` that comes in few variants.

    Scores and eligibility are computed once per profile and gathered, so a million agents of a dozen
    profiles cost a dozen. The fields mean what they mean in :class:`Agent`.
    """

    task_type: str | None = None
    required_capabilities: tuple[str, ...] | None = None
    preferred_capabilities: tuple[str, ...] = ()
    requires_context: bool = False
    requires_tools: bool = False
    requires_vision: bool = False
    allowed_models: tuple[str, ...] | None = None
    forbidden_models: tuple[str, ...] = ()
    allowed_regions: tuple[str, ...] | None = None
    allowed_providers: tuple[str, ...] | None = None


PROFILE_FIELDS = tuple(entry.name for entry in fields(Profile))
"""The fields of :class:`Agent` that a profile holds, in its order."""


def _constant(value: Any, n: int, dtype: Any) -> NDArray[Any]:
    """Return an (n,) read-only array of one value that takes no memory."""
    return np.broadcast_to(np.asarray(value, dtype=dtype), (n,))


@dataclass(frozen=True, kw_only=True, eq=False)
class AgentTable(Sequence[Agent]):
    """Agents as columns: what a :class:`~solver.problem.spec.Problem` holds, given objects or a million rows.

    A sequence of :class:`Agent`, each made on demand. Build it with :meth:`from_agents` or
    :func:`solver.problem.agent_columns.agent_table`, which check what they are given.

    Parameters
    ----------
    ids : (n,) object
        Unique ids, str.
    profiles : tuple of Profile
        The distinct profiles.
    profile : (n,) int32
        Index into ``profiles``.
    min_context_tokens, input_tokens, output_tokens : (n,) int64
        As in :class:`Agent`.
    priority : (n,) float64
        Greater than 0.
    min_score : (n,) float64
        NaN where the agent names none.
    tenants : tuple of str or None
        The distinct tenants, None among them where agents have none.
    tenant : (n,) int32
        Index into ``tenants``.
    resources : mapping of str to (n,) float64
        Units taken of each resource that some agent takes any of.
    unassigned_penalty : (n,) float64 or None
        NaN where the agent states none; None where all do not.
    copies, multiplicity : (n,) int64 or None
        ``copies`` and ``count`` of each agent; None where all are 1. (``count`` is a method of sequences.)
    """

    ids: NDArray[np.object_]
    profiles: tuple[Profile, ...]
    profile: NDArray[np.int32]
    min_context_tokens: NDArray[np.int64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    priority: NDArray[np.float64]
    min_score: NDArray[np.float64]
    tenants: tuple[str | None, ...] = (None,)
    tenant: NDArray[np.int32] = field(kw_only=True)
    resources: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    unassigned_penalty: NDArray[np.float64] | None = None
    copies: NDArray[np.int64] | None = None
    multiplicity: NDArray[np.int64] | None = None

    @classmethod
    def of_ids(cls, ids: Iterable[str], profile: Profile | None = None) -> Self:
        """Return agents of which only the id is known, all with the same profile."""
        names = _id_array(list(ids))
        n = len(names)
        return cls(
            ids=names,
            profiles=(profile or Profile(),),
            profile=_constant(0, n, np.int32),
            min_context_tokens=_constant(0, n, np.int64),
            input_tokens=_constant(0, n, np.int64),
            output_tokens=_constant(0, n, np.int64),
            priority=_constant(1.0, n, np.float64),
            min_score=_constant(np.nan, n, np.float64),
            tenant=_constant(0, n, np.int32),
        )

    @classmethod
    def from_agents(cls, agents: Iterable[Agent | dict[str, Any]]) -> Self:
        """Return the table of agents given one by one, as objects or mappings. O(n).

        Raises
        ------
        SpecError
            One line per violation, ``agents[3].priority: expected > 0, got -5``.
        """
        try:
            given = list(agents)
        except (TypeError, RuntimeError):
            rule = "expected a sequence of agents"
            raise SpecError(wrong_type("agents", rule, agents)) from None
        try:
            checked = _AGENTS.validate_python(given)
        except ValidationError as error:
            lines = violations_of(error, Agent, prefix=("agents",))
            raise SpecError(*lines, *_duplicates(_raw_ids(given))) from None
        if doubled := _duplicates([agent.id for agent in checked]):
            raise SpecError(*doubled)
        profiles: dict[tuple[Any, ...], int] = {}
        tenants: dict[str | None, int] = {}
        codes = [profiles.setdefault(key, len(profiles)) for key in map(attrgetter(*PROFILE_FIELDS), checked)]
        owners = [tenants.setdefault(agent.tenant, len(tenants)) for agent in checked]

        def column(field: str, kind: type[np.generic] = np.int64) -> NDArray[Any]:
            return np.array(list(map(attrgetter(field), checked)), kind)

        used = dict.fromkeys(name for agent in checked for name, units in agent.resources.items() if units)
        return cls(
            ids=_id_array([agent.id for agent in checked]),
            profiles=tuple(Profile(*key) for key in profiles),
            profile=np.array(codes, np.int32),
            min_context_tokens=column("min_context_tokens"),
            input_tokens=column("input_tokens"),
            output_tokens=column("output_tokens"),
            priority=column("priority", np.float64),
            min_score=column("min_score", np.float64),  # None becomes NaN
            tenants=tuple(tenants) or (None,),
            tenant=np.array(owners, np.int32),
            resources={
                name: np.array([agent.resources.get(name, 0.0) for agent in checked], np.float64)
                for name in used
            },
            unassigned_penalty=none_if_all_nan(column("unassigned_penalty", np.float64)),
            copies=none_if_all_one([agent.copies for agent in checked]),
            multiplicity=none_if_all_one([agent.count for agent in checked]),
        )

    @classmethod
    def read(cls, value: object) -> AgentTable:
        """Return ``value`` itself when it is a table, else the table of the agents it lists.

        Raises
        ------
        SpecError
            One line per violation.
        """
        if isinstance(value, AgentTable):
            return value
        if isinstance(value, str | bytes | dict) or not isinstance(value, Iterable):
            msg = wrong_type("agents", "expected a list of agents", value)
            raise SpecError(msg)
        return cls.from_agents(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda table: [agent.model_dump(exclude_defaults=True) for agent in table]
            ),
        )

    @cached_property
    def positions(self) -> dict[str, int]:
        """Row of each id. Built on first use, O(n)."""
        return dict(zip(self.ids.tolist(), range(len(self.ids)), strict=True))

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Agent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Agent]: ...
    def __getitem__(self, index: int | slice) -> Agent | Sequence[Agent]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        profile = self.profiles[self.profile[index]]
        min_score = float(self.min_score[index])
        return Agent(
            id=self.ids[index],
            **{name: getattr(profile, name) for name in PROFILE_FIELDS},
            min_context_tokens=int(self.min_context_tokens[index]),
            input_tokens=int(self.input_tokens[index]),
            output_tokens=int(self.output_tokens[index]),
            priority=float(self.priority[index]),
            min_score=None if np.isnan(min_score) else min_score,
            tenant=self.tenants[self.tenant[index]],
            resources={name: float(taken[index]) for name, taken in self.resources.items() if taken[index]},
            unassigned_penalty=None
            if self.unassigned_penalty is None or np.isnan(self.unassigned_penalty[index])
            else float(self.unassigned_penalty[index]),
            copies=1 if self.copies is None else int(self.copies[index]),
            count=1 if self.multiplicity is None else int(self.multiplicity[index]),
        )

    def __iter__(self) -> Iterator[Agent]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AgentTable):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # holds arrays

    def __repr__(self) -> str:
        return f"AgentTable({len(self)} agents, {len(self.profiles)} profiles)"


def none_if_all_nan(numbers: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return numbers as an array, or None where all are NaN."""
    array = np.asarray(numbers, np.float64)
    return None if np.isnan(array).all() else array


def none_if_all_one(numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return numbers as an array, or None where all are 1."""
    array = np.asarray(numbers, np.int64)
    return array if (array != 1).any() else None


def _id_array(ids: list[str]) -> NDArray[np.object_]:
    array = np.empty(len(ids), dtype=object)
    array[:] = ids
    return array


def _raw_ids(given: list[Any]) -> list[Any]:
    """Return the ids of agents that may be invalid, None where there is none."""
    return [entry.get("id") if isinstance(entry, dict) else getattr(entry, "id", None) for entry in given]


def _duplicates(ids: list[Any]) -> list[Violation]:
    """Return one line per id that repeats an earlier one. O(n)."""
    first: dict[Any, int] = {}
    again = [
        i for i, name in enumerate(ids) if isinstance(name, str | int) and first.setdefault(name, i) != i
    ]
    lines = [
        repeated_value(f"agents[{i}].id", "expected unique ids", ids[i], first=f"agents[{first[ids[i]]}]")
        for i in again[:_MAX_NAMED_ROWS]
    ]
    if len(again) > _MAX_NAMED_ROWS:
        lines.append(Violation("agents", f"{len(again) - _MAX_NAMED_ROWS} more repeated ids"))
    return lines
