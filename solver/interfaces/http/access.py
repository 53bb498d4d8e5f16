"""Access control: bearer tokens with roles, of which only hashes are stored."""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from solver.errors import SpecError, Violation, ViolationKind, unknown_field, wrong_type
from solver.interfaces.files.documents import read_document
from solver.interfaces.http.problem_details import RequestRefused

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_HASH = re.compile("[0-9a-f]{64}")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="solver"'}


class Role(enum.IntEnum):
    """What a caller may do; each role includes those before it."""

    READ = 1
    """Look at load, decisions and alerts, and ask what-if questions."""
    ROUTE = 2
    """Take and give back capacity."""
    OPERATE = 3
    """Change capacity, drain models and override assignments."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Parameters
    ----------
    name : str
        As in the file of tokens.
    role : Role
        What it may do.
    """

    name: str
    role: Role


LOCAL_OPERATOR = Caller("local", Role.OPERATE)
"""The caller of a service on the loopback interface that has no tokens."""


class Access:
    """Tells callers by their tokens.

    Parameters
    ----------
    hashes : iterable of (str, Caller), optional
        SHA-256 of each token, in hexadecimal digits. None: every caller on this machine is an operator.
    """

    def __init__(self, hashes: Iterable[tuple[str, Caller]] | None = None) -> None:
        self._callers = None if hashes is None else dict(hashes)

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return self._callers is None

    def caller(self, authorization: bytes | None) -> Caller:
        """Return who sends this header, or refuse with status 401."""
        if self._callers is None:
            return LOCAL_OPERATOR
        scheme, _, token = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise RequestRefused(401, "a bearer token is required", headers=_CHALLENGE)
        # The lookup is by hash: how long it takes says nothing about the tokens themselves.
        found = self._callers.get(_hashed(token.strip()))
        if found is None:
            raise RequestRefused(401, "the bearer token is not known", headers=_CHALLENGE)
        return found


def require(caller: Caller, role: Role) -> None:
    """Refuse with status 403 a caller whose role is too small."""
    if caller.role < role:
        needed, own = role.name.lower(), caller.role.name.lower()
        raise RequestRefused(403, f"this needs the role {needed}; the token of {caller.name!r} has {own}")


def read_tokens(path: Path) -> Access:
    """Return the access a file of tokens gives: a list of ``{name, role, sha256}`` in YAML or JSON.

    Raises
    ------
    SpecError
        One line per violation.
    """
    entries = read_document(path)
    if not isinstance(entries, list) or not entries:
        raise SpecError(
            Violation(str(path), "expected a list of tokens, at least one", kind=ViolationKind.TYPE)
        )
    problems: list[Violation] = []
    hashes: dict[str, Caller] = {}
    for i, entry in enumerate(entries):
        found = _entry_problems(f"{path}: [{i}]", entry)
        if not found and entry["sha256"] in hashes:
            found = [
                Violation(f"{path}: [{i}].sha256", "expected each token once", kind=ViolationKind.DUPLICATE)
            ]
        problems += found
        if not found:
            hashes[entry["sha256"]] = Caller(entry["name"], Role[entry["role"].upper()])
    if problems:
        raise SpecError(*problems)
    return Access(hashes.items())


def add_token(path: Path, name: str, role: str) -> str:
    """Add a new token to a file, made where there is none; return the token, which is stored nowhere else."""
    token = f"solver_{secrets.token_urlsafe(32)}"
    digest = _hashed(token.encode())
    line = f"- {{name: {_quoted(name)}, role: {role}, sha256: {digest}}}\n"
    problems = _entry_problems("", {"name": name, "role": role, "sha256": digest})
    if problems:
        raise SpecError(*problems)
    before = ""
    if path.exists():
        read_tokens(path)  # a file that is broken already is not made longer
        before = path.read_text(encoding="utf-8")
        if not before.lstrip().startswith(("-", "#")):
            raise SpecError(f"{path}: expected a YAML list with one token a line, to add one")
        before = before if before.endswith("\n") else before + "\n"
    else:
        path.touch(mode=0o600)
    path.write_text(before + line, encoding="utf-8")
    return token


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _hashed(token: bytes) -> str:
    """Return the hash that stands for a token; tokens are random, so that one round of SHA-256 suffices."""
    return hashlib.sha256(token).hexdigest()


def _entry_problems(path: str, entry: Any) -> list[Violation]:
    if not isinstance(entry, dict):
        return [wrong_type(path, "expected name, role and sha256", entry)]
    problems = [unknown_field(f"{path}.{key}") for key in entry if key not in ("name", "role", "sha256")]
    if not isinstance(entry.get("name"), str) or not entry["name"].isprintable() or not entry["name"]:
        problems.append(Violation(f"{path}.name", "expected text", entry.get("name")))
    if str(entry.get("role")).upper() not in Role.__members__:
        roles = ", ".join(role.name.lower() for role in Role)
        problems.append(Violation(f"{path}.role", f"expected one of {roles}", entry.get("role")))
    if not isinstance(entry.get("sha256"), str) or not _HASH.fullmatch(entry["sha256"]):
        # The value is not repeated: it may be a token that was put here by mistake.
        problems.append(Violation(f"{path}.sha256", "expected 64 lower-case hexadecimal digits of a SHA-256"))
    return problems
