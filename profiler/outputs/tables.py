# SPDX-License-Identifier: Apache-2.0
"""Captures in DuckDB (an extra): Parquet files, and SQL on two tables.

``exchanges`` has a row for each exchange (``schema.Row``), ``messages`` one for each line
(``schema.Record``). Both are filled from JSON lines files in a temporary directory, because DuckDB
reads those faster than it accepts rows.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from profiler.errors import OutputError, ProfilerError
from profiler.exchanges.pair import Exchanges
from profiler.outputs.csv import row
from profiler.schema import Record, Row, sql_types

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_OBJECT_MAX = 16 * 1024 * 1024  # DuckDB's default


class MissingExtraError(ProfilerError):
    """A library that only some commands need is not installed."""


class QueryError(ProfilerError):
    """DuckDB rejected the SQL, or failed to run it."""


class Database:
    """The tables of a capture, in memory. Raises OutputError, MissingExtraError."""

    def __init__(self, connection: DuckDBPyConnection, directory: Path) -> None:
        self._connection = connection
        self._directory = directory

    def load(self, records: Iterable[Record]) -> Exchanges:
        """Fill both tables; return the exchanges."""
        with _Lines(self._directory / "messages") as messages:
            exchanges = Exchanges(messages.each(records))
        with _Lines(self._directory / "exchanges") as rows:
            for exchange in exchanges:
                rows.write(row(exchange))
        self._view("messages", sql_types(Record), messages.longest)
        self._view("exchanges", sql_types(Row), rows.longest)
        return exchanges

    def query(self, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Return the names of the columns and the rows. Raises QueryError."""
        with _query_errors():
            result = self._connection.execute(sql)
            names = [column[0] for column in result.description or ()]
        return names, self._rows(result)

    def parquet(self) -> bytes:
        """Return the exchanges as a Parquet file. Raises QueryError."""
        path = self._directory / "exchanges.parquet"
        name = str(path).replace("'", "''")
        with _query_errors():
            self._connection.execute(
                f"COPY (FROM exchanges) TO '{name}' (FORMAT parquet, COMPRESSION zstd)"
            )
        return path.read_bytes()

    def _view(self, name: str, columns: dict[str, str], longest: int) -> None:
        typed = ", ".join(f"{column}: '{sql_type}'" for column, sql_type in columns.items())
        path = str(self._directory / name).replace("'", "''")
        with _query_errors():
            self._connection.execute(
                f"CREATE VIEW {name} AS FROM read_json('{path}', columns={{{typed}}}, "
                "format='newline_delimited', "
                f"maximum_object_size={max(_OBJECT_MAX, longest + 1)})"
            )

    def _rows(self, result: DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
        while True:
            with _query_errors():
                rows = result.fetchmany(1000)
            if not rows:
                return
            yield from rows


@contextmanager
def database() -> Iterator[Database]:
    """Open an empty database. Raises MissingExtraError."""
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtraError(
            "this needs DuckDB, which is not installed: pip install 'http-profiler[query]'"
        ) from error
    with tempfile.TemporaryDirectory(prefix="http-profiler-") as directory:
        # DuckDB must not download extensions: all that is needed is built in.
        connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        with connection:
            yield Database(connection, Path(directory))


class _Lines:
    """A file of JSON lines for DuckDB to read."""

    def __init__(self, path: Path) -> None:
        self.longest = 0
        self._path = path

    def __enter__(self) -> _Lines:
        self._file: BinaryIO = self._path.open("wb")
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def write(self, line: Record | Row) -> None:
        data = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        self.longest = max(self.longest, len(data))
        try:
            self._file.write(data)
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror}; "
                "free space there, or name another directory with TMPDIR"
            ) from error

    def each(self, records: Iterable[Record]) -> Iterator[Record]:
        """Write records as they pass."""
        for record in records:
            self.write(record)
            yield record


@contextmanager
def _query_errors() -> Iterator[None]:
    duckdb = sys.modules["duckdb"]
    try:
        yield
    except duckdb.Error as error:
        first = str(error).strip().splitlines()[0]
        raise QueryError(f"DuckDB: {first}") from error
    except (OverflowError, ValueError) as error:
        raise QueryError(
            f"DuckDB: a value of the result is out of range ({error}); cast it to VARCHAR"
        ) from error
