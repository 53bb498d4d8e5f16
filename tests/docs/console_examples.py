"""The console examples of the documentation: found, run for real, compared, and rewritten on demand.

A fenced ``console`` block holds commands after ``$`` and what they print. Those that start with ``solver`` are
run, file by file and in order, in a folder that holds a copy of ``data/`` and of ``docs/examples/``, on a terminal
80 columns wide; so is ``cat FILE``. ``$ echo $?`` after a command states its exit code, 0 by default. A line
``...`` stands for any number of lines that are left out.

Run as a script, it rewrites what the examples no longer show truly, those with left out lines aside::

    python -m tests.docs.console_examples
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from solver.interfaces.entry import main
from tests.forked import FORKED

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_BLOCK = re.compile(r"^(?P<indent> *)```console\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_MILLISECONDS = re.compile(r"[\d,.]+ ms\b")
_ENGINE = re.compile(
    r"(?<=<time>, )\w+$|^\w+(?=: proved that)"
)  # which engine is fastest for a size may change; the answer may not
_ELAPSED = re.compile(r'("(?:elapsed_ms|engine)": )[^,\n]+')


@dataclass(frozen=True)
class Example:
    """One command of a page, with what the page says it prints and returns."""

    page: Path
    line: int
    command: str
    shown: tuple[str, ...]
    exit_code: int

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: $ {self.command}"


def examples(page: Path) -> list[Example]:
    """Return the commands of a page that can be run, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start("body")) + 1
        for number, command, shown in _commands(block["body"]):
            if _runs(command):
                found.append(Example(page, first + number, command, shown, 0))
            elif command == "echo $?" and found:
                last = found[-1]
                found[-1] = Example(last.page, last.line, last.command, last.shown, int(shown[0]))
    return found


def _runs(command: str) -> bool:
    return command.split(maxsplit=1)[0] in {"solver", "cat"}


def _commands(body: str) -> list[tuple[int, str, tuple[str, ...]]]:
    """Return (line in the block, command, lines shown) of each command."""
    parts: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(body.splitlines()):
        if line.startswith("$ "):
            parts.append((number, line[2:], []))
        elif parts:
            parts[-1][2].append(line)
    return [(number, command, tuple(shown)) for number, command, shown in parts]


def workspace(folder: Path) -> Path:
    """Fill a folder with the files that the examples read, and return it."""
    shutil.copytree(ROOT / "data", folder / "data")
    shutil.copytree(ROOT / "docs" / "examples", folder, dirs_exist_ok=True)
    return folder


def run(command: str, folder: Path) -> tuple[list[str], int]:
    """Run a command as a user would, on 80 columns, and return the lines that it printed and its exit code."""
    words = shlex.split(command)
    if words[0] != "solver":
        done = subprocess.run(words, cwd=folder, capture_output=True, encoding="utf-8", check=False)
        return printed(done.stdout + done.stderr), done.returncode
    with tempfile.NamedTemporaryFile() as output:
        process = FORKED.Process(target=_solver, args=(words, str(folder), output.name))
        process.start()
        process.join()
        assert process.exitcode is not None
        return printed(Path(output.name).read_text(encoding="utf-8")), process.exitcode


def _solver(words: list[str], folder: str, output: str) -> None:
    """Be the command: what it prints goes to a file, by the descriptors that it would have of a shell."""
    os.chdir(folder)
    os.environ["COLUMNS"] = "80"
    with Path(output).open("wb", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            assert isinstance(stream, io.TextIOWrapper)
            os.dup2(file.fileno(), stream.fileno())
            stream.reconfigure(encoding="utf-8")
    sys.argv = words
    sys.exit(main())


def printed(text: str) -> list[str]:
    """Return the lines of an output without trailing blanks and without the empty lines at its ends."""
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def comparable(line: str) -> str:
    """Return a line with what may differ from run to run taken out: times, and the engine that was fastest."""
    line = _ELAPSED.sub(r"\1<any>", _MILLISECONDS.sub("<time>", line.rstrip()))
    return _ENGINE.sub("<engine>", line)


def difference(shown: tuple[str, ...], real: list[str]) -> str | None:
    """Return the first line that is shown but was not printed there, or printed but not shown."""
    position, skipping = 0, False
    for line in shown:
        if line.strip() == "...":
            skipping = True
            continue
        while skipping and position < len(real) and comparable(real[position]) != comparable(line):
            position += 1
        if position == len(real) or comparable(real[position]) != comparable(line):
            instead = real[position] if position < len(real) else "nothing more"
            return f"shown: {line!r}\nprinted: {instead!r}"
        position, skipping = position + 1, False
    return None if skipping or position == len(real) else f"printed, but not shown: {real[position]!r}"


def rewrite(page: Path) -> bool:
    """Replace what a page shows by what its commands print; return whether anything changed."""
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = workspace(Path(name))

        def renewed(block: re.Match[str]) -> str:
            lines: list[str] = []
            for _, command, shown in _commands(block["body"]):
                kept = list(shown)
                if _runs(command):
                    real, last_code = run(command, folder)
                    if "..." not in shown and difference(shown, real) is not None:
                        kept = real
                elif command == "echo $?":
                    kept = [str(last_code)]
                lines += [f"$ {command}", *kept]
            return f"{block['indent']}```console\n" + "\n".join(lines) + f"\n{block['indent']}```"

        new = _BLOCK.sub(renewed, text)
    page.write_text(new, encoding="utf-8")
    return new != text


if __name__ == "__main__":
    for changed in filter(rewrite, PAGES):
        sys.stdout.write(f"rewrote {changed.relative_to(ROOT)}\n")
