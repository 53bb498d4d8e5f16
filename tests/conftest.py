"""Settings of all tests."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

from hypothesis import settings

# The wall time of one example says nothing on a busy machine.
settings.register_profile("without-deadline", deadline=None)
settings.load_profile("without-deadline")

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "solver" / "engines" / "kernels"


def pytest_configure() -> None:
    """Compile the kernels anew where their sources have changed: outdated ones would be left out in silence."""
    built = [path for path in KERNELS.glob("_kernels.*") if path.suffix in (".so", ".dll")]
    sources = [*KERNELS.glob("*.c"), *KERNELS.glob("*.h")]
    if built and max(path.stat().st_mtime for path in sources) > built[0].stat().st_mtime:
        subprocess.run([sys.executable, "hatch_build.py", str(KERNELS)], cwd=ROOT, check=False)


def pytest_collection_finish() -> None:
    """Set aside what was imported: every replay collects garbage, which would walk through it for 0.3 s."""
    gc.collect()
    gc.freeze()
