from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

LISTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "solver"]
ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(LISTED, cwd=ROOT, check=True, capture_output=True, text=True)
    assert names == set(tracked.stdout.split())
    assert {"solver/py.typed", "solver/load/redis_script.lua"} <= names
