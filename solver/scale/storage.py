"""Where batches and plans are: paths of this machine, or URLs such as ``s3://bucket/folder`` by Arrow's file systems.

Credentials, regions and endpoints of object stores are taken from the environment, as their own tools do.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from solver.errors import MissingExtraError, SpecError, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FOLDED_URL = re.compile(r"^([a-z][a-z0-9+.-]+):/(?=[^/])")
"""A URL that was a ``Path`` in between, which folds its two slashes."""


def arrow() -> tuple[Any, Any]:
    """Return the modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises
    ------
    MissingExtraError
        When they are not installed.
    """
    try:
        import pyarrow as pa  # an extra, and heavy
        import pyarrow.compute
        import pyarrow.fs
        import pyarrow.parquet as pq
    except ImportError:
        package = "pyarrow"
        raise MissingExtraError(package, "parquet") from None
    return pa, pq


def full_location(given: str | Path) -> str:
    """Return an absolute path, or a URL as it is; one that was folded by ``Path`` gets its slashes back."""
    text = _FOLDED_URL.sub(r"\1://", str(given))
    return text if is_url(text) else str(Path(text).absolute())


def is_url(location: str) -> bool:
    """Whether a location is a URL rather than a path of this machine."""
    return "://" in location


def open_input(location: str) -> Any:
    """Return an Arrow file that can be read at any place.

    Raises
    ------
    OSError
        And ``pyarrow.ArrowException``, where it cannot be opened.
    """
    pa, _ = arrow()
    if not is_url(location):
        return pa.OSFile(location)
    files, inner = _file_system(location)
    return files.open_input_file(inner)


def files_matching(pattern: str) -> list[str]:
    """Return the files that a name, a folder or a pattern stands for, sorted; none where there are none.

    Raises
    ------
    SpecError
        For a URL of a kind that Arrow does not know, or a store that does not answer.
    """
    if is_url(pattern):
        return _urls_matching(pattern)
    path = Path(pattern)
    if path.is_dir():
        return sorted(str(one) for one in path.glob("*.parquet"))
    return [pattern] if path.is_file() else sorted(glob.glob(pattern))  # noqa: PTH207 - may be absolute


def _urls_matching(pattern: str) -> list[str]:
    pa, _ = arrow()
    try:
        if not any(sign in pattern for sign in "*?["):
            files, inner = _file_system(pattern)
            found = files.get_file_info(inner)
            if found.type != pa.fs.FileType.Directory:
                return [pattern] if found.is_file else []
            pattern = f"{pattern.rstrip('/')}/*.parquet"
        folder, _, name = pattern.rpartition("/")
        files, inner = _file_system(folder)
        inside = files.get_file_info(pa.fs.FileSelector(inner, allow_not_found=True))
    except (pa.ArrowException, OSError) as error:
        raise SpecError(Violation(pattern, f"cannot be read: {_first_line(error)}")) from None
    return sorted(
        f"{folder}/{one.base_name}"
        for one in inside
        if one.is_file and fnmatch.fnmatchcase(one.base_name, name)
    )


def _file_system(url: str) -> tuple[Any, str]:
    pa, _ = arrow()
    files, inner = pa.fs.FileSystem.from_uri(url)
    return files, inner


def _first_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror).splitlines()[0]
    return (str(error).splitlines() or ["no reason given"])[0]


class PlanFolder(Protocol):
    """A folder whose files are whole under their names, or not there."""

    location: str

    def check_writable(self) -> None:
        """Try to write where that leaves nothing behind, so that a long job does not learn it in the end.

        Raises
        ------
        SpecError
            Where that fails.
        """
        ...

    def make(self) -> None:
        """Create it if need be.

        Raises
        ------
        SpecError
            Where it cannot be created.
        """
        ...

    def names(self) -> list[str]:
        """Return the names of its files and folders, sorted; none where it does not exist.

        Raises
        ------
        SpecError
            When it is a file, or cannot be read.
        """
        ...

    def read(self, name: str) -> bytes:
        """Return what a file holds.

        Raises
        ------
        OSError
            Where there is no such file.
        """
        ...

    def open(self, name: str) -> Any:
        """Return an Arrow file to read; errors as :func:`open_input`."""
        ...

    def writing(self, name: str, complete: Callable[[Any], None] | None = None) -> Any:
        """Return a context manager with an Arrow output stream; the file has its name when it ends without an error.

        ``complete`` is called with an Arrow file to read when the file is whole and has no name yet.

        Raises
        ------
        SpecError
            When it cannot be written.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        ...

    def path(self, name: str) -> str:
        """Return the location of a file."""
        ...


def plan_folder(location: str | Path) -> PlanFolder:
    """Return a folder by its path or URL.

    Raises
    ------
    SpecError
        For a URL of a kind that Arrow does not know.
    """
    text = full_location(location)
    return _UrlFolder(text) if is_url(text) else _LocalFolder(text)


def replace_text(folder: PlanFolder, name: str, text: str) -> None:
    """Write a file that is whole under its name at any moment.

    Raises
    ------
    SpecError
        When it cannot be written.
    """
    with folder.writing(name) as stream:
        stream.write(text.encode())


class _LocalFolder:
    """A folder of this machine: files are written under another name, then renamed."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._folder = Path(location)

    def check_writable(self) -> None:
        there = next(one for one in (self._folder, *self._folder.parents) if one.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise _unwritable(self.location, error) from None

    def make(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.location, error) from None

    def names(self) -> list[str]:
        if self._folder.exists() and not self._folder.is_dir():
            raise SpecError(Violation(self.location, "expected a folder for the plan", shown="a file"))
        try:
            return sorted(one.name for one in self._folder.iterdir()) if self._folder.exists() else []
        except OSError as error:
            raise SpecError(Violation(self.location, f"cannot be read: {_first_line(error)}")) from None

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def open(self, name: str) -> Any:
        return open_input(self.path(name))

    @contextmanager
    def writing(self, name: str, complete: Callable[[Any], None] | None = None) -> Iterator[Any]:
        pa, _ = arrow()
        temporary = self._folder / f".{name}.{os.getpid()}.unfinished"
        try:
            with pa.OSFile(str(temporary), "wb") as stream:
                yield stream
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if complete is not None:
                with pa.OSFile(str(temporary)) as whole:
                    complete(whole)
            temporary.replace(self._folder / name)
        except OSError as error:
            raise _unwritable(self.path(name), error) from None
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def path(self, name: str) -> str:
        return str(self._folder / name)


class _UrlFolder:
    """A folder of an object store: a file is held in memory until it is whole, then stored at once."""

    def __init__(self, location: str) -> None:
        pa, _ = arrow()
        self.location = location.rstrip("/")
        try:
            self._files, self._inner = _file_system(self.location)
        except (pa.ArrowException, OSError) as error:
            raise SpecError(Violation(location, f"cannot be reached: {_first_line(error)}")) from None

    def check_writable(self) -> None:
        pass  # an object cannot be tried without being stored

    def make(self) -> None:
        pa, _ = arrow()
        try:
            self._files.create_dir(self._inner, recursive=True)
        except (pa.ArrowException, OSError) as error:
            raise _unwritable(self.location, error) from None

    def names(self) -> list[str]:
        pa, _ = arrow()
        try:
            if self._files.get_file_info(self._inner).is_file:
                raise SpecError(Violation(self.location, "expected a folder for the plan", shown="a file"))
            inside = self._files.get_file_info(pa.fs.FileSelector(self._inner, allow_not_found=True))
        except (pa.ArrowException, OSError) as error:
            raise SpecError(Violation(self.location, f"cannot be read: {_first_line(error)}")) from None
        return sorted(one.base_name for one in inside)

    def read(self, name: str) -> bytes:
        with self._files.open_input_file(f"{self._inner}/{name}") as file:
            return bytes(file.read())

    def open(self, name: str) -> Any:
        return self._files.open_input_file(f"{self._inner}/{name}")

    @contextmanager
    def writing(self, name: str, complete: Callable[[Any], None] | None = None) -> Iterator[Any]:
        pa, _ = arrow()
        stream = pa.BufferOutputStream()
        yield stream
        whole = stream.getvalue()
        if complete is not None:
            complete(pa.BufferReader(whole))
        try:
            with self._files.open_output_stream(f"{self._inner}/{name}") as file:
                file.write(whole)
        except (pa.ArrowException, OSError) as error:
            raise _unwritable(self.path(name), error) from None

    def remove(self, name: str) -> None:
        if self._files.get_file_info(f"{self._inner}/{name}").is_file:
            self._files.delete_file(f"{self._inner}/{name}")

    def path(self, name: str) -> str:
        return f"{self.location}/{name}"


def _unwritable(location: str, error: Exception) -> SpecError:
    return SpecError(Violation(location, f"cannot be written: {_first_line(error)}"))
