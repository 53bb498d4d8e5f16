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
        """Compile in place (an editable installation loads it from there) and include the result."""
        if self.target_name != "wheel":
            return
        library = compile_kernels(Path(self.root))
        if library is None or version == "editable":
            return
        build_data["force_include"][str(library)] = str(KERNELS / library.name)
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"


def compile_kernels(root: Path, extra: tuple[str, ...] = ()) -> Path | None:
    """Compile the kernels below ``root``; None without a compiler, with ``SOLVER_PURE=1`` or where it fails."""
    library = root / KERNELS / f"_kernels{'.dll' if os.name == 'nt' else '.so'}"
    library.unlink(missing_ok=True)
    if os.environ.get("SOLVER_PURE") == "1":
        return None
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        sys.stderr.write("no C compiler: the package works without its kernels, in numpy\n")
        return None
    sources = sorted(str(path) for path in (root / KERNELS).glob("*.c"))
    # Written beside the target and renamed, so that a running process never loads half a file.
    part = library.with_suffix(f".{os.getpid()}.part")
    command = [*compiler.split(), *FLAGS, *extra, *sources, "-o", str(part), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the compiler named by the user
    if done.returncode != 0:
        part.unlink(missing_ok=True)
        sys.stderr.write(f"kernels not compiled, the package works in numpy: {done.stderr.strip()[-2000:]}\n")
        return None
    part.replace(library)
    return library
