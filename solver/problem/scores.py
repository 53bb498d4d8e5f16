"""Given scores: a matrix, or a long table of (agent, model, score), held as codes and numbers."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic_core import CoreSchema, core_schema

from solver.errors import (
    SpecError,
    Violation,
    missing_value,
    repeated_value,
    unknown_field,
    wrong_type,
)
from solver.problem.numbers import readable, wrong_shape
from solver.problem.values import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from solver.problem.agents import AgentTable

_MAX_NAMED_ROWS = 20
"""Offending entries spelled out for each rule."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreTable:
    """Scores that the caller computed.

    Parameters
    ----------
    values : (a, b) or (k,) float64
        A matrix, ``-inf`` where a pair is forbidden, or the scores of k pairs.
    agent_ids, model_ids : tuple of str, optional
        What rows and columns (or codes) stand for. None: a matrix in the problem's own order.
    agent_codes, model_codes : (k,) int64, optional
        Which agent and model each of the k pairs joins; None for a matrix.
    """

    values: NDArray[np.float64]
    agent_ids: tuple[str, ...] | None = None
    model_ids: tuple[str, ...] | None = None
    agent_codes: NDArray[np.int64] | None = None
    model_codes: NDArray[np.int64] | None = None

    @classmethod
    def from_long(cls, agents: Sequence[Any], models: Sequence[Any], scores: ArrayLike) -> Self:
        """Return the table of k pairs given as three equally long columns. O(k).

        Ids are kept in order of first appearance.
        """
        agent_ids, agent_codes = encode(agents)
        model_ids, model_codes = encode(models)
        return cls(
            values=np.asarray(scores, dtype=np.float64),
            agent_ids=agent_ids,
            model_ids=model_ids,
            agent_codes=agent_codes,
            model_codes=model_codes,
        )

    @classmethod
    def read(cls, value: object) -> ScoreTable:
        """Return the table itself, or the one written in plain values.

        A matrix in the problem's own order (``None`` forbids a pair); ``{agents, models, values}``, a
        matrix with its row and column ids; or a list of ``{agent, model, score}``.

        Raises
        ------
        SpecError
            One line per violation.
        """
        if isinstance(value, ScoreTable):
            return value
        if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            return cls._from_records(value)
        if isinstance(value, dict):
            return cls._from_labelled(value)
        try:
            matrix = readable(value)
            if matrix is None:
                raise TypeError
            if matrix.dtype == object:
                given = matrix.ravel().tolist()
                if any(isinstance(entry, str | bool) for entry in given):
                    raise TypeError
                forbidden = [-np.inf if entry is None else entry for entry in given]
                matrix = np.array(forbidden, dtype=np.float64).reshape(matrix.shape)
            if matrix.dtype.kind not in "iuf":
                raise TypeError
            matrix = matrix.astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            expected = "a rectangular matrix of numbers or a list of {agent, model, score}"
            msg = Violation("scores", f"expected {expected}", value)
            raise SpecError(msg) from None
        if matrix.ndim != 2:
            msg = wrong_shape("scores", "(agents, models)", matrix.shape)
            raise SpecError(msg)
        return cls(values=matrix)

    @classmethod
    def _from_labelled(cls, value: dict[Any, Any]) -> ScoreTable:
        lines = [unknown_field(f"scores.{name}") for name in value.keys() - {"agents", "models", "values"}]
        if "values" not in value:
            lines.append(missing_value("scores.values"))
        labels: dict[str, tuple[str, ...] | None] = {}
        for name in ("agents", "models"):
            ids = value.get(name)
            if ids is not None and (isinstance(ids, str) or not isinstance(ids, list | tuple)):
                lines.append(wrong_type(f"scores.{name}", "expected a list of ids", ids))
                continue
            lines.extend(
                Violation(f"scores.{name}[{k}]", "expected an id", one)
                for k, one in enumerate(ids or ())
                if not _is_id(one)
            )
            labels[name] = None if ids is None else tuple(map(str, ids))
            lines.extend(_repeated(f"scores.{name}", labels[name] or ()))
        if lines:
            raise SpecError(*lines)
        matrix = cls.read(value["values"])
        return cls(values=matrix.values, agent_ids=labels["agents"], model_ids=labels["models"])

    @classmethod
    def _from_records(cls, records: Sequence[Any]) -> Self:
        wanted = {"agent", "model", "score"}
        lines: list[Violation] = []
        for k, record in enumerate(records):
            if not isinstance(record, dict):
                lines.append(Violation(f"scores[{k}]", "expected {agent, model, score}", record))
                continue
            lines.extend(missing_value(f"scores[{k}].{name}") for name in sorted(wanted - record.keys()))
            lines.extend(
                unknown_field(f"scores[{k}].{describe(name)[1:-1]}")
                for name in sorted(record.keys() - wanted, key=str)
            )
            lines.extend(
                Violation(f"scores[{k}].{name}", "expected an id", record[name])
                for name in ("agent", "model")
                if name in record and not _is_id(record[name])
            )
            score = record.get("score", 0.0)
            if isinstance(score, bool) or not isinstance(score, int | float | np.number):
                lines.append(Violation(f"scores[{k}].score", "expected a number", score))
        if lines:
            raise SpecError(*lines)
        try:
            scores = np.array([record["score"] for record in records], dtype=np.float64)
        except OverflowError:
            k = next(k for k, record in enumerate(records) if abs(record["score"]) > sys.float_info.max)
            msg = Violation(f"scores[{k}].score", "expected a finite number", records[k]["score"])
            raise SpecError(msg) from None
        return cls.from_long(
            [record["agent"] for record in records], [record["model"] for record in records], scores
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.read,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda table: table.to_plain()),
        )

    def dense(
        self, agents: AgentTable, model_ids: Sequence[str], *, missing_score: float | None = None
    ) -> NDArray[np.float64]:
        """Return the (n, m) float64 scores in the order of agents and models; not to be written to.

        Parameters
        ----------
        agents : AgentTable
            All ids of the table are among its ids, or the table has none.
        model_ids : sequence of str
            Likewise.
        missing_score : float, optional
            Score of pairs that the table does not name. None: such pairs are forbidden, ``-inf``.
        """
        missing = -np.inf if missing_score is None else missing_score
        n, m = len(agents), len(model_ids)
        rows = _places(self.agent_ids, agents.ids.tolist())
        columns = _places(self.model_ids, model_ids)
        if self.agent_codes is not None and self.model_codes is not None:
            assert rows is not None
            assert columns is not None
            score = np.full((n, m), missing)
            score[rows[self.agent_codes], columns[self.model_codes]] = self.values
            return score
        if rows is None and columns is None:
            return self.values
        score = np.full((n, m), missing)
        score[
            np.ix_(np.arange(n) if rows is None else rows, np.arange(m) if columns is None else columns)
        ] = self.values
        return score

    def to_plain(self) -> Any:
        """Return lists and mappings that :meth:`read` takes back."""
        if self.agent_codes is None or self.model_codes is None:
            rows = [[None if value == -np.inf else value for value in row] for row in self.values.tolist()]
            if self.agent_ids is None and self.model_ids is None:
                return rows
            return {"agents": self.agent_ids, "models": self.model_ids, "values": rows}
        assert self.agent_ids is not None
        assert self.model_ids is not None
        return [
            {"agent": self.agent_ids[i], "model": self.model_ids[j], "score": value}
            for i, j, value in zip(
                self.agent_codes.tolist(), self.model_codes.tolist(), self.values.tolist(), strict=True
            )
        ]


def _is_id(value: object) -> bool:
    """Return whether a value names an agent or a model: text, or a whole number taken as its digits."""
    return (
        bool(value) if isinstance(value, str) else hasattr(value, "__index__") and not isinstance(value, bool)
    )


def _repeated(path: str, ids: Sequence[str]) -> list[Violation]:
    """Return one line per id that comes more than once."""
    counted = Counter(ids)
    return [repeated_value(path, "expected unique ids", name) for name, times in counted.items() if times > 1]


def _places(ids: Sequence[str] | None, order: Sequence[str]) -> NDArray[np.int64] | None:
    """Return where each id stands in ``order``; None when it is that order already."""
    if ids is None:
        return None
    places = dict(zip(order, range(len(order)), strict=True))
    return np.fromiter(map(places.__getitem__, ids), np.int64, len(ids))


def encode(values: Iterable[Any]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the distinct values as text, in order of first appearance, and each value's place. O(k)."""
    texts = [value if type(value) is str else str(value) for value in values]
    places = {value: place for place, value in enumerate(dict.fromkeys(texts))}
    return tuple(places), np.fromiter(map(places.__getitem__, texts), np.int64, len(texts))
