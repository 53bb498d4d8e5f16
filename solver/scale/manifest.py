"""The manifest of a plan in files: written last, so that a folder with a manifest is a complete plan."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from solver.errors import SpecError, Violation
from solver.scale.assignment_files import WrittenPiece
from solver.scale.certificate import PlanCertificate
from solver.scale.storage import plan_folder, replace_text

if TYPE_CHECKING:
    from pathlib import Path

    from solver.scale.storage import PlanFolder

MANIFEST = "manifest.json"
"""Name of the manifest in the plan's folder."""

_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A plan in files.

    Parameters
    ----------
    request : dict
        What was asked: files and their fingerprints, columns, models and their slots, penalty, sense, seed.
    certificate : PlanCertificate
        What is proven.
    prices : tuple of float
        Shadow prices at which it is, in the sense of maximisation; see ``docs/formulation.md``.
    files : tuple of WrittenPiece
        The assignments, in the order of the agents.
    versions : dict of str to str
        What wrote it.
    contents : tuple of str
        Checksums of the numbers that each file answers for, as they were read.
    """

    request: dict[str, Any]
    certificate: PlanCertificate
    prices: tuple[float, ...]
    files: tuple[WrittenPiece, ...]
    versions: dict[str, str]
    contents: tuple[str, ...] = ()


def write_manifest(folder: PlanFolder, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all.

    Raises
    ------
    SpecError
        When it cannot be written.
    """
    document = {"schema": _SCHEMA, **asdict(manifest)}
    replace_text(folder, MANIFEST, json.dumps(document, indent=1) + "\n")


def read_manifest(folder: str | Path) -> Manifest:
    """Return the manifest of a plan's folder.

    Raises
    ------
    SpecError
        When there is none, or it is none.
    """
    place = plan_folder(folder)
    path = place.path(MANIFEST)
    try:
        document = json.loads(place.read(MANIFEST))
        if document.pop("schema") != _SCHEMA:
            raise SpecError(Violation(path, f"expected schema {_SCHEMA}"))
        certificate = document.pop("certificate")
        certificate |= {name: tuple(certificate[name]) for name in ("load", "violations")}
        certificate["usage"] = tuple(map(tuple, certificate["usage"]))
        if certificate.get("units") is not None:
            certificate["units"] = tuple(certificate["units"])
        return Manifest(
            certificate=PlanCertificate(**certificate),
            files=tuple(WrittenPiece(**one) for one in document.pop("files")),
            prices=tuple(map(float, document.pop("prices"))),
            contents=tuple(map(str, document.pop("contents", ()))),
            **document,
        )
    except OSError as error:
        rule = f"expected the manifest of a complete plan: {error.strerror or error}"
        raise SpecError(Violation(path, rule)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(Violation(path, "not the manifest of a plan in files")) from None
