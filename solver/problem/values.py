"""The base class of every value a user writes: frozen, strictly validated, with errors in this package's format."""

from __future__ import annotations

import difflib
import itertools
import math
import operator
import re
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)

from solver.errors import SpecError, Violation, ViolationKind, cut, describe, missing_value, unknown_field
from solver.problem.instance import MAX_CAPACITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "Count",
    "Flag",
    "Fraction",
    "Frozen",
    "Identifier",
    "NonNegative",
    "PenaltyValue",
    "Real",
    "Text",
    "describe",
    "did_you_mean",
    "number_hint",
    "unknown_name",
    "violations_of",
]

_SHOWN_CHARACTERS = 60
"""Characters of an offending value that an error repeats."""

_COMPARED_NAMES = 2_000
"""Known names that a misspelt one is compared with."""

_HINTED_FIELDS = 20
"""Unknown fields that are compared with the known ones."""

_THOUSANDS = re.compile(
    r"[+-]?\d{1,3}(?:,\d{3})+\.\d+|[+-]?\d{1,3}(?:,\d{3}){2,}|[+-]?\d{1,3}(?:['\s\u00a0\u202f_]\d{3})+(?:\.\d+)?"
)
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_WITH_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
"""A number with a decimal comma."""

_IN_BRACKETS = re.compile(r"\(\d+(\.\d+)?\)")
"""A negative number as accountants write it."""

_PART = re.compile(r"[<>~≈≤≥]\s*\d+(\.\d+)?|\d+(\.\d+)?\s*(\*+|†|[^\W\d_][^\W\d]*)|\d+/\d+")
_DIGITS = {ord(minus): "-" for minus in "−–—‑"} | {
    zero + digit: str(digit) for zero in (0xFF10, 0x660, 0x6F0, 0x966) for digit in range(10)
}
_CURRENCY = re.compile("[$€£¥]")
_NO_VALUES = frozenset({"na", "n/a", "n.a.", "nan", "null", "none", "nil", "-", "--", "?", "missing", "#n/a"})


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or nothing.

    >>> did_you_mean("capabilites", ["capabilities", "capacity"])
    "; did you mean 'capabilities'?"
    """
    text = str(name)
    if len(text) > _SHOWN_CHARACTERS:
        return ""
    close = difflib.get_close_matches(text, list(itertools.islice(known, _COMPARED_NAMES)), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_name(path: str, rule: str, name: object, known: Iterable[str]) -> Violation:
    """Return the violation of a name that is not among those known, with the closest of them as a hint."""
    return Violation(path, rule, name, kind=ViolationKind.UNKNOWN, hint=did_you_mean(name, known))


def number_hint(value: object) -> str:
    """Return how to write a number that was given as text, or nothing.

    >>> number_hint("95%"), number_hint("1,234.5")
    ('; write 0.95, without the percent sign', '; write 1234.5, without separators of thousands')
    """
    text = value.strip() if isinstance(value, str) else ""
    if not text or len(text) > _SHOWN_CHARACTERS:
        return ""
    if text.lower() in _NO_VALUES:
        return "; leave the cell empty where there is no value"
    if _plain_number(text) is not None and "_" not in text:
        if not text.isascii() or text != value:
            return f"; write {text.translate(_DIGITS)}, in plain digits and without blanks"
        return "; it is text, or its decimal mark is not that of the table"
    if (plain := text.translate(_DIGITS)) != text and _plain_number(plain) is not None:
        return f"; write {plain}, with a plain minus sign"
    if _IN_BRACKETS.fullmatch(text):
        return f"; write -{text[1:-1]}"
    if _PART.fullmatch(text):
        return "; write the number alone, without unit, sign or fraction"
    if text.endswith("%"):
        share = _plain_number(text[:-1].strip())
        return "" if share is None else f"; write {share / 100:.12g}, without the percent sign"
    if _THOUSANDS.fullmatch(text):
        plain = re.sub(r"[^0-9.+-]", "", text)
        return f"; write {plain}, without separators of thousands"
    if _EITHER.fullmatch(text):
        return "; for a decimal comma say --decimal , and else leave out the separator of thousands"
    if _WITH_DECIMAL_COMMA.fullmatch(text):
        return "; a decimal comma is read with --decimal , (decimal: ',' in a problem file)"
    if _CURRENCY.match(text) or _CURRENCY.match(text[-1]):
        return "; write it without the sign of a currency"
    return ""


def _plain_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _identifier(value: object) -> object:
    """Take whole numbers as ids too: ``id: 17`` in YAML is the id '17'."""
    number = _index(value)
    return value if number is None else str(number)


def _count(value: object) -> object:
    """Take 8.0 and numpy integers as the whole numbers they are; leave all else to the strict rule."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    number = _index(value)
    return value if number is None else number


def _index(value: object) -> int | None:
    """Return a whole number, or None for truth values and for whatever is none: arrays claim to be, until asked."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__index__"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _real(value: object) -> object:
    """Take numpy numbers as the numbers they are; leave all else to the strict rule."""
    if isinstance(value, bool | int | float | str):
        return value
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def _penalty(value: object) -> object:
    """Read the ways to write an infinite penalty in files whose numbers are finite."""
    if isinstance(value, str) and value.strip().lower() in {"inf", ".inf", "infinite", "infinity"}:
        return math.inf
    if isinstance(value, float) and math.isnan(value):
        msg = "expected a number >= 0, 'infinite' or null"
        raise ValueError(msg)
    return _real(value)


Text = Annotated[str, Field(strict=True, min_length=1)]
"""Text with at least one character."""

Identifier = Annotated[
    str,
    Field(strict=True, min_length=1),
    BeforeValidator(_identifier),
    WithJsonSchema({"type": ["string", "integer"], "minLength": 1}),
]
"""An id: text, or a whole number taken as its digits."""

Count = Annotated[int, Field(strict=True, ge=0, le=MAX_CAPACITY), BeforeValidator(_count)]
"""A whole number from 0 to 2**53; 8.0 counts as 8, 8.5 and true are refused."""

Real = Annotated[float, Field(strict=True), BeforeValidator(_real)]
"""A finite number; text and booleans are refused."""

NonNegative = Annotated[Real, Field(ge=0)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Flag = Annotated[bool, Field(strict=True)]

PenaltyValue = Annotated[
    float,
    Field(strict=True, ge=0, allow_inf_nan=True),
    BeforeValidator(_penalty),
    PlainSerializer(lambda value: "infinite" if value == math.inf else value, when_used="unless-none"),
]
"""A number >= 0 that may be infinite, written ``.inf`` in YAML and ``"infinite"`` in JSON."""


class Frozen(BaseModel):
    """A value that cannot change, with no unknown fields and no NaN.

    Direct construction and ``model_validate`` raise :class:`~solver.errors.SpecError` with one line per
    violation, ``path: rule, value``, where pydantic would raise its own error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise SpecError(*violations_of(error, type(self))) from None

    # Tells pydantic that validation need not go through this method: nested values report to the outermost.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return a checked value from a mapping (or instance).

        Raises
        ------
        SpecError
            One line per violation.
        """
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise SpecError(*violations_of(error, cls)) from None


def violations_of(
    error: ValidationError, schema: type[BaseModel] | None = None, *, prefix: Sequence[str | int] = ()
) -> list[Violation]:
    """Return the violations of a pydantic error, in input order.

    Parameters
    ----------
    error : pydantic.ValidationError
        What validation found.
    schema : type of pydantic.BaseModel, optional
        What was validated, for "did you mean" on unknown fields.
    prefix : sequence of str or int
        Where the validated value sits in something larger.
    """
    lines: list[Violation] = []
    for detail in error.errors(include_url=False):
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, SpecError):  # its lines carry their own paths
            lines.extend(cause.violations)
            continue
        path = _path((*prefix, *detail["loc"]))
        if len(lines) > _HINTED_FIELDS and detail["type"] == "extra_forbidden":
            lines.append(unknown_field(path))
        else:
            lines.append(_violation(path, detail, schema))
    return lines


def _path(location: Sequence[str | int]) -> str:
    path = ""
    for step in location:
        if step == "[key]":
            continue
        path += f"[{step}]" if isinstance(step, int) else (f".{cut(step)}" if path else cut(step))
    return path


_SIGNS = {"greater_than_equal": ">=", "greater_than": ">", "less_than_equal": "<=", "less_than": "<"}
_RULES = {
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "string_too_short": "expected text that is not empty",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a mapping of names to values",
    "mapping_type": "expected a mapping of names to values",
    "model_type": "expected a mapping of field names to values",
    "model_attributes_type": "expected a mapping of field names to values",
}


def _violation(path: str, detail: Mapping[str, Any], schema: type[BaseModel] | None) -> Violation:
    """Return what one error of pydantic says, in the words of this package."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "missing":
        return missing_value(path)
    if kind == "extra_forbidden":
        *location, name = detail["loc"]
        hint = did_you_mean(name, _fields_at(schema, location))
        return unknown_field(path, hint)
    if kind == "literal_error":
        return unknown_name(
            path, f"expected {context['expected']}", value, re.findall("'([^']*)'", context["expected"])
        )
    if kind == "value_error":
        return Violation(path, str(context["error"]), value)
    if kind in _SIGNS:
        return Violation(path, f"expected {_SIGNS[kind]} {next(iter(context.values()))}", value)
    if kind == "too_short":
        return Violation(path, f"expected at least {context['min_length']} in the list", value)
    if kind == "string_too_long":
        return Violation(path, f"expected at most {context['max_length']:,} characters", value)
    message: str = detail["msg"]
    rule = _RULES.get(kind, message[:1].lower() + message[1:])
    return Violation(path, rule, value, kind=ViolationKind.TYPE if kind in _RULES else ViolationKind.VALUE)


def _fields_at(schema: type[BaseModel] | None, location: Sequence[str | int]) -> list[str]:
    """Return the field names known at a location inside a schema."""
    for step in location:
        if schema is None:
            return []
        if isinstance(step, str):
            field = schema.model_fields.get(step)
            schema = None if field is None else _model_in(field.annotation)
    return [] if schema is None else list(schema.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first pydantic model named in an annotation such as ``tuple[Model, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
