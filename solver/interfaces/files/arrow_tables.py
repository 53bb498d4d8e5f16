"""Parquet tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from solver.errors import MissingExtraError, SpecError
from solver.interfaces.files.columns import ColumnKinds, Table
from solver.interfaces.files.headers import named_columns
from solver.interfaces.files.sources import open_file, too_large
from solver.problem.column_values import Coded

if TYPE_CHECKING:
    from pathlib import Path

    from solver.interfaces.files.sources import Reading

PARQUET_SUFFIXES = (".parquet", ".pq")
"""File endings of Parquet."""

_MB = 1_000_000


def read_parquet(path: Path, reading: Reading, kinds: ColumnKinds, first_name: str | None) -> Table:
    """Return the columns of a Parquet file.

    Raises
    ------
    SpecError
        When it cannot be read, is broken, or would take more memory than allowed.
    MissingExtraError
        Without pyarrow.
    """
    try:
        import pyarrow as pa  # an extra, and heavy
        import pyarrow.parquet as pq
    except ImportError:
        package = "pyarrow"
        raise MissingExtraError(package, "parquet") from None
    with open_file(path, reading) as file:
        try:
            parquet = pq.ParquetFile(file)
            facts = parquet.metadata
            size = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
            size = max(size, facts.num_rows * facts.num_columns)
            if size > reading.max_mb * _MB:
                raise SpecError(too_large(path, reading, f"{size / _MB:,.0f} MB"))
            table = parquet.read()
            table.validate(full=True)  # text that is not UTF-8, codes that lead nowhere
        except (pa.ArrowException, OSError) as error:
            reason = (str(error).splitlines() or ["it is broken"])[0]
            msg = f"{path}: not a readable Parquet file: {reason}"
            raise SpecError(msg) from None
    names = named_columns(
        table.column_names,
        lambda position: table.column(position).drop_null().to_pylist(),
        where=str(path),
        reading=reading,
        first_name=first_name,
    )
    columns = {name: _column(table.column(position), pa, name, kinds) for position, name in names.items()}
    return Table(columns, table.num_rows, lambda row: f"{path} row {row + 1}" if row >= 0 else str(path))


def _column(column: Any, pa: Any, name: str, kinds: ColumnKinds) -> Any:
    """Return an Arrow column as numpy: codes where asked, else numbers with a mask, else objects."""
    kind = column.type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif kinds.is_text(name) and pa.types.is_temporal(kind):
        column = column.cast(pa.string())  # a date as an id keeps its text
    kind = column.type
    if pa.types.is_null(kind):
        return [None] * len(column)
    if pa.types.is_dictionary(kind) or (kinds.is_coded(name) and not pa.types.is_nested(kind)):
        encoded = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
        encoded = encoded.unify_dictionaries().combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], type=encoded.type)
        codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        return Coded(codes, encoded.dictionary.to_pylist())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        missing = column.is_null().to_numpy() if column.null_count else None
        values = (
            column.fill_null(False if pa.types.is_boolean(kind) else 0) if column.null_count else column
        ).to_numpy()
        return values if missing is None else np.ma.array(values, mask=missing)
    return column.to_pylist() if pa.types.is_nested(kind) else column.to_numpy()
