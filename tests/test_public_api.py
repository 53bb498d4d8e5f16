from __future__ import annotations

import subprocess
import sys

import pytest

import solver


def test_all_is_the_public_names_sorted() -> None:
    homes = {name for names in solver._HOMES.values() for name in names}
    assert set(solver.__all__) == homes <= set(dir(solver))
    assert list(solver.__all__) == sorted(solver.__all__, key=lambda name: (not name.isupper(), name))


def test_every_public_name_is_documented() -> None:
    assert all(getattr(solver, name).__doc__ for name in solver.__all__)


def test_every_public_name_loads_when_it_is_used_and_other_names_do_not_exist() -> None:
    assert all(getattr(solver, name) is not None for name in solver.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = solver.nothing  # type: ignore[attr-defined]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, solver; print(sorted({'numpy', 'pydantic', 'pandas', 'scipy', 'rich'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert printed.stdout.strip() == "[]"
