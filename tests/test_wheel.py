from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

LISTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "solver"]
ROOT = Path(__file__).parents[1]
LOOK = (
    "import solver; from solver.engines import kernels;"
    "print(kernels.available(), solver.assign([[2, 1]], [1, 1]).objective)"
)


@pytest.mark.parametrize("pure", [True, False], ids=["pure", "compiled"])
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path, pure: bool) -> None:
    if not pure and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if key != "SOLVER_PURE"}
    built = environment | ({"SOLVER_PURE": "1"} if pure else {})
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=built)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("py3-none-any.whl") == pure
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(LISTED, cwd=ROOT, check=True, capture_output=True, text=True)
    library = set() if pure else {"solver/engines/kernels/_kernels.so"}
    assert names == set(tracked.stdout.split()) | library
    assert {"solver/py.typed", "solver/load/store/scripts/01_time.lua"} <= names
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    environment["PYTHONPATH"] = str(tmp_path / "installed")
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOOK],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(not pure), "2.0"]


@pytest.mark.parametrize("pure", [True, False], ids=["pure", "compiled"])
def test_a_wheel_works_in_an_empty_environment_without_a_compiler(tmp_path: Path, pure: bool) -> None:
    """Built here, installed by pip where no program but Python can be found.

    The pure wheel is built without a compiler as well. Dependencies are those of this environment; with
    ``WHEEL_DEPENDENCIES=1`` pip installs them from the index.
    """
    if not pure and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler")
    environment = {
        key: value for key, value in os.environ.items() if key not in ("SOLVER_PURE", "SOLVER_KERNELS", "CC")
    }
    bare = environment | {"PATH": str(tmp_path / "nothing")}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env=bare if pure else environment,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("py3-none-any.whl") == pure
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True, env=environment)
    (python,) = (*place.glob("bin/python"), *place.glob("Scripts/python.exe"))
    alone = os.environ.get("WHEEL_DEPENDENCIES") != "1"
    options = ["--no-deps", "--no-index"] if alone else []
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        *options,
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True, env=bare)
    if alone:  # a path in a .pth file adds the dependencies, and no editable installation of this project
        (packages,) = place.glob("**/site-packages")
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    done = subprocess.run(
        [str(python), "-I", "-c", LOOK], env=bare, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(not pure), "2.0"]
