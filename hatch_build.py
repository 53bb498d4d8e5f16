"""Build hook: compiles the C kernels where a compiler is at hand, and builds a pure wheel where none is.

The kernels are one shared library loaded with ctypes: it links against nothing of Python, so that one wheel per
platform serves every Python version. ``SOLVER_PURE=1`` skips them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("solver") / "engines" / "kernels"
# -O3 unrolls the lanes of the passes before they can be vectorised; contraction would change results.
FLAGS = [
    "-std=gnu11",
    "-O2",
    "-ftree-vectorize",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
]
FLAGS += ["-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=default"]


class KernelHook(BuildHookInterface):
    """Adds the compiled library to the wheel, tagged for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into the wheel, or in place for an editable installation."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        if version == "editable":
            compile_kernels(root, root / KERNELS)
            return
        self._folder = tempfile.TemporaryDirectory()
        library = compile_kernels(root, Path(self._folder.name))
        if library is None:
            return
        build_data["force_include"][str(library)] = str(KERNELS / library.name)
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"


def compile_kernels(root: Path, folder: Path, extra: tuple[str, ...] = ()) -> Path | None:
    """Compile the kernels of ``root`` into a folder; None without a compiler, with ``SOLVER_PURE=1`` or if it fails."""
    library = folder / f"_kernels{'.dll' if os.name == 'nt' else '.so'}"
    problem = None
    if os.environ.get("SOLVER_PURE") != "1":
        problem = _compile(root, library, extra)
        if problem is None:
            return library
        sys.stderr.write(f"no compiled kernels, the package works in numpy: {problem}\n")
    library.unlink(missing_ok=True)  # an older one may be of other sources
    return None


def _compile(root: Path, library: Path, extra: tuple[str, ...]) -> str | None:
    """Compile; return what went wrong, or None."""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return "no C compiler found"
    sources = sorted(str(path) for path in (root / KERNELS).glob("*.c"))
    # Written beside the target and renamed, so that a running process never loads half a file.
    part = library.with_suffix(f".{os.getpid()}.part")
    command = [*compiler.split(), *FLAGS, *extra, *sources, "-o", str(part), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the user names it
    except OSError as error:
        return f"{compiler}: {error}"
    if done.returncode != 0:
        part.unlink(missing_ok=True)
        return done.stderr.strip()[-2000:]
    part.replace(library)
    return None


if __name__ == "__main__":  # python hatch_build.py FOLDER [FLAG ...], for sanitizers and by hand
    built = compile_kernels(Path(__file__).parent, Path(sys.argv[1]), tuple(sys.argv[2:]))
    sys.exit(built is None)
