from __future__ import annotations

import solver


def test_all_is_the_public_names_sorted() -> None:
    public = {name for name in vars(solver) if not name.startswith("_")}
    rooms = {"clock", "engines", "errors", "interfaces", "load", "problem", "solution"}
    assert set(solver.__all__) == public - rooms
    assert list(solver.__all__) == sorted(solver.__all__, key=lambda name: (not name.isupper(), name))


def test_every_public_name_is_documented() -> None:
    assert all(getattr(solver, name).__doc__ for name in solver.__all__)
