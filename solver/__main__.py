"""``python -m solver``: the command line."""

from __future__ import annotations

from solver.interfaces.entry import main

raise SystemExit(main())
