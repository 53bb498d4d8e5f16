"""Opening files: regular ones only, of a bounded size, decompressed, in the encoding they are in."""

from __future__ import annotations

import codecs
import errno
import gzip
import io
import os
import re
import stat
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solver.errors import MissingExtraError, SpecError, Violation, wrong_type
from solver.problem.values import describe, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_MB = 1_000_000
_PIECE_BYTES = 1 << 20
"""Bytes read or decompressed at a time."""

_FRAME_PIECE_BYTES = 1024
"""Compressed bytes of a Zstandard frame taken at a time: three of them may stand for 128 kB."""

_BOMB_BYTES = 50 * _MB
"""Decompressed size from which the compression ratio is checked."""

_BOMB_RATIO = 200
"""Compression ratio above which a file is refused. Tables reach ten, columns of one value a hundred."""

_COMPRESSED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_URL = re.compile(r"(https?|ftp|s3|gs):/")
_SIMILAR_NAMES = 1000
"""Names of a folder among which a similar one is looked for."""

_SEPARATOR_NAMES = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "\\t": "\t"}

READING_FIELDS = ("encoding", "separator", "decimal", "sheet")
"""Options of a table that problem files may give beside its path."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read, and what came up while reading them.

    Parameters
    ----------
    encoding : str, optional
        Of text that has no byte order mark; None: UTF-8.
    separator : str, optional
        Between the fields of CSV, one character; None: found in the file.
    decimal : {".", ","}, optional
        Decimal mark of numbers in CSV; None: found in the file.
    sheet : str, optional
        Sheet of an Excel workbook; None: the first.
    max_mb : float
        Size in megabytes, decompressed, above which a file is refused.
    notes : list of str
        Receives what a reader decided by itself: separators found, columns skipped.
    files : list of Path
        Receives every file opened.
    places : list of callable
        Receives what puts file and line in front of a violation of the problem that was read.
    """

    encoding: str | None = None
    separator: str | None = None
    decimal: str | None = None
    sheet: str | None = None
    max_mb: float = 1000.0
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    places: list[Callable[[Violation], Violation]] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Record what a reader decided by itself, once."""
        if text not in self.notes:
            self.notes.append(text)

    def checked(self, path: str = "") -> Reading:
        """Return these options with separators by their character.

        Parameters
        ----------
        path : str
            What stands in front of the name of an option in an error.

        Raises
        ------
        SpecError
            One line per option that cannot be.
        """
        lines: list[Violation] = []

        def wrong(name: str, rule: str, value: object) -> None:
            lines.append(Violation(f"{path}{name}", f"expected {rule}", value))

        separator = _SEPARATOR_NAMES.get(self.separator or "", self.separator)
        if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
            names = ", ".join(name for name in _SEPARATOR_NAMES if name.isalpha())
            wrong("separator", f"one character, or {names}", self.separator)
        if self.decimal not in (None, ".", ","):
            wrong("decimal", "'.' or ','", self.decimal)
        if self.decimal == "," == separator:
            wrong("decimal", "another mark than the separator", self.decimal)
        if self.encoding is not None and not _is_text_encoding(self.encoding):
            wrong("encoding", "the name of an encoding, such as cp1252", self.encoding)
        if not self.max_mb > 0:
            wrong("max_file_mb", "a number > 0", self.max_mb)
        if lines:
            raise SpecError(*lines)
        return replace(self, separator=separator)

    def updated(self, part: str, given: Mapping[str, Any]) -> Reading:
        """Return these options, replaced by those that a problem file gives for one of its tables.

        Raises
        ------
        SpecError
            One line per option that is no text or cannot be.
        """
        chosen = {name: given[name] for name in READING_FIELDS if name in given}
        lines = [
            wrong_type(f"{part}.{name}", "expected text", value)
            for name, value in chosen.items()
            if not isinstance(value, str)
        ]
        if lines:
            raise SpecError(*lines)
        return replace(self, **chosen).checked(f"{part}.")


def _is_text_encoding(name: str) -> bool:
    try:
        return isinstance(b"abcd".decode(name), str)  # nothing at all is decoded without a look at the name
    except LookupError:
        return False
    except ValueError:  # an encoding in which these bytes are nothing, which a file may still be in
        return True


def content_suffix(path: Path) -> str:
    """Return the ending of what is in a file, in lower case: ``.csv`` for ``scores.csv.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _COMPRESSED else suffix


def open_file(path: Path, reading: Reading) -> Any:
    """Return a regular file that is no larger than allowed, open for reading bytes.

    Raises
    ------
    SpecError
        When there is none, it is something else (a folder, a pipe, a device), it cannot be read, or it is
        too large.
    """
    if "\0" in str(path):
        msg = f"{describe(str(path))}: expected the path of a file, which holds no NUL"
        raise SpecError(msg)
    try:
        # A pipe without a writer would block; the opened file is checked afterwards, so it cannot be swapped.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise SpecError(f"{_shown(path)}: {_reason(path, error)}") from None
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        kind = next((name for test, name in _FILE_KINDS if test(facts.st_mode)), "something else")
        hint = "" if stat.S_ISDIR(facts.st_mode) else "; write its content to a file first"
        msg = f"{_shown(path)}: expected a file, got {kind}{hint}"
        raise SpecError(msg)
    if facts.st_size > reading.max_mb * _MB:
        os.close(descriptor)
        raise SpecError(too_large(path, reading, f"{facts.st_size / _MB:,.0f} MB"))
    reading.files.append(path)
    return os.fdopen(descriptor, "rb")


_FILE_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"), (stat.S_ISSOCK, "a socket"),
)  # fmt: skip


def _shown(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 255 else f"{text[:100]}...{text[-50:]}"


def too_large(path: Path, reading: Reading, size: str) -> str:
    """Return that a file is larger than allowed, and what to do."""
    return (
        f"{_shown(path)}: expected at most {reading.max_mb:,g} MB, got {size}; --max-file-mb raises the limit"
    )


def _reason(path: Path, error: OSError) -> str:
    """Return why a file cannot be opened, in words."""
    if error.errno == errno.ENOENT:
        if path.is_symlink():
            return "a symbolic link to a file that does not exist"
        if str(path) == "-":
            return "no such file; standard input is not read, write it to a file first"
        if _URL.match(str(path)):
            return "no such file; download it first"
        return f"no such file{_similar(path)}"
    if error.errno == errno.ELOOP:
        return "cannot be read: symbolic links that lead in a circle"
    if error.errno == errno.ENXIO:
        return "expected a file, got a socket"
    return f"cannot be read: {error.strerror or error}"


def _similar(path: Path) -> str:
    """Return the name in the same folder that a misspelt one may mean."""
    try:
        names = [entry.name for entry, _ in zip(os.scandir(path.parent), range(_SIMILAR_NAMES), strict=False)]
    except OSError:
        return f"; there is no folder {_shown(path.parent)} either"
    return did_you_mean(path.name, names)


def read_bytes(path: Path, reading: Reading) -> bytes:
    """Return what is in a file, decompressed.

    Raises
    ------
    SpecError
        When it cannot be opened, is too large, or its compression is broken.
    MissingExtraError
        For zstandard where it is not installed.
    """
    with open_file(path, reading) as file:
        data: bytes = file.read()
    suffix = path.suffix.lower()
    kind = next((name for name, magic in _COMPRESSED.items() if data.startswith(magic)), None)
    if kind is None:
        if suffix in _COMPRESSED:
            msg = f"{_shown(path)}: expected {suffix[1:]} data, got something else"
            raise SpecError(msg)
        return data
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in _gunzipped(data) if kind == ".gz" else _unzstd(data):
            size += len(piece)
            if size > reading.max_mb * _MB:
                raise SpecError(too_large(path, reading, "more in decompressed form"))
            if size > _BOMB_BYTES and size > _BOMB_RATIO * len(data):
                msg = (
                    f"{_shown(path)}: expected a table, got {len(data):,} bytes that grow more than {_BOMB_RATIO} "
                    "times when decompressed; decompress it first if that is meant"
                )
                raise SpecError(msg)
            pieces.append(piece)
    except (zlib.error, OSError, EOFError, _BrokenDataError) as error:
        msg = f"{_shown(path)}: broken {kind[1:]} data: {error}"
        raise SpecError(msg) from None
    return b"".join(pieces)


def _gunzipped(data: bytes) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


class _BrokenDataError(Exception):
    """Compressed data that cannot be decompressed."""


def _unzstd(data: bytes) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        package = "zstandard"
        raise MissingExtraError(package, "zstd") from None
    rest = data
    while rest:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            for start in range(0, len(rest), _FRAME_PIECE_BYTES):
                yield frame.decompress(rest[start : start + _FRAME_PIECE_BYTES])
                if frame.eof:
                    break
        except zstandard.ZstdError as error:
            raise _BrokenDataError(str(error)) from None
        if not frame.eof:
            msg = "it ends too early"
            raise _BrokenDataError(msg)
        rest = frame.unused_data + rest[start + _FRAME_PIECE_BYTES :]


def read_text(path: Path, reading: Reading | None = None) -> str:
    """Return a file's text, without a byte order mark.

    Raises
    ------
    SpecError
        When it cannot be read, or is not text in the encoding expected, with the line and a way out.
    """
    reading = Reading() if reading is None else reading
    data = read_bytes(path, reading)
    marked = next((name for mark, name in _BOMS if data.startswith(mark)), None)
    encoding = marked or reading.encoding or "utf-8"
    if marked == "utf-8-sig":  # whose codec would count positions from behind the mark
        data, encoding = data[len(codecs.BOM_UTF8) :], "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise SpecError(_undecodable(path, data, encoding, error)) from None
    except ValueError as error:
        msg = f"{_shown(path)}: cannot be decoded as {encoding}: {error}"
        raise SpecError(msg) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        hint = _unmarked(data)
        msg = f"{_shown(path)}:{line}: expected text, got a NUL character{hint or '; is it a binary file?'}"
        raise SpecError(msg)
    return text


def _unmarked(data: bytes) -> str:
    """Return the encoding to try where every other byte is zero: UTF-16 without its mark."""
    head = data[: min(len(data), 400) // 2 * 2]
    for name, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if zeros and zeros.count(0) > 0.7 * len(zeros):
            return f"; it looks like UTF-16: try --encoding {name}"
    return ""


def _undecodable(path: Path, data: bytes, encoding: str, error: UnicodeDecodeError) -> str:
    line = data.count(b"\n", 0, error.start) + 1
    if data.startswith(b"PK\x03\x04"):
        return f"{_shown(path)}: expected text, got a ZIP archive; an Excel workbook ends in .xlsx"
    byte = f"byte 0x{data[error.start]:02x}"
    if encoding not in ("utf-8", "utf-8-sig"):
        return f"{_shown(path)}:{line}: expected {encoding} text, got {byte}"
    hint = _unmarked(data)
    if not hint:
        start, end = data.rfind(b"\n", 0, error.start) + 1, data.find(b"\n", error.start)
        word = data[max(start, error.start - 12) : min(len(data) if end < 0 else end, error.start + 8)]
        read = word.decode("cp1252", "replace").strip()
        hint = f"; with --encoding cp1252 (Windows) or latin-1 it reads {describe(read)}"
    return f"{_shown(path)}:{line}: expected UTF-8 text, got {byte}{hint}"
