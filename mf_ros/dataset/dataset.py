"""A data set on disk, read row by row: a folder with a Lance table, or one Parquet file of the same columns."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Dict, List, Mapping, Protocol, Sequence, Tuple, Union

from mf_ros.core.config import Config
from mf_ros.core.documents import bounded_text
from mf_ros.core.settings import config_from_mapping
from mf_ros.dataset.row import SPLITS, DatasetError, Row
from mf_ros.dataset.schema import FORMAT, SCHEMA, row_of
from mf_ros.errors import ConfigError, require_package

pa = require_package("pyarrow", extra="fleet")

DESCRIPTION = "dataset.json"
TABLE = "samples.lance"
PARQUET = ".parquet"
META_KEY = b"mf_ros"
"""Under this key a Parquet file holds what ``dataset.json`` holds."""

_LARGEST_DESCRIPTION = 16_000_000


@dataclass(frozen=True)
class Description:
    """What holds for a whole data set.

    Attributes:
        settings: with which its frames were brought together; ``lidar``, ``projection`` and ``output`` of them are what
            the robot uses, so training uses them as well.
        split: how rows were shared out, as plain values.
        extractor_version: of the program that began it.
        extraction: which frames became rows and how they are stored, as plain values.
    """

    settings: Config
    split: Mapping[str, Any]
    extractor_version: str
    extraction: Mapping[str, Any] = field(default_factory=dict)


class Table(Protocol):
    """A table of ``SCHEMA``, wherever it is stored.

    Attributes:
        names: of its columns.
    """

    names: List[str]

    def __len__(self) -> int: ...

    def columns(self, names: Sequence[str]) -> Any:
        """These columns of all rows, as an Arrow table."""

    def take(self, index: int) -> Any:
        """One row, as an Arrow table of ``SCHEMA``."""


class Dataset:
    """A data set, open for reading; cheap to pickle, so that it can go to the processes that prepare samples.

    Args:
        path: of the folder or the Parquet file.

    Raises:
        DatasetError: there is none, it cannot be read, or another version of this program wrote it.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = Path(path)
        self.description = read_description(self.path)
        len(self._table)  # opens it, so that whoever names a damaged one hears of it now

    def __getstate__(self) -> Dict[str, Any]:
        return {"path": self.path, "description": self.description}

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def _table(self) -> Table:
        return _open(self.path)

    def columns(self, names: Sequence[str]) -> Any:
        """Some columns of all rows in the order of the table, as an Arrow table that is not kept."""
        return self._table.columns(names)

    def indices(self, split: str) -> Tuple[int, ...]:
        """Where the rows of a split are, sorted by recording and time, so that their order does not depend on the
        order in which recordings were added.

        Raises:
            DatasetError: there is no such split.
        """
        if split not in SPLITS:
            raise DatasetError(f"There is no split '{split}': it is one of {', '.join(SPLITS)}.")
        table = self.columns(("split", "bag_id", "stamp_ns"))
        splits, bags, stamps = (column.to_pylist() for column in table.columns)
        return tuple(sorted((i for i, name in enumerate(splits) if name == split), key=lambda i: (bags[i], stamps[i])))

    def row(self, index: int) -> Row:
        """The row at a place in the table.

        Raises:
            DatasetError: it is damaged.
        """
        return row_of(self._table.take(index), 0)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over which rows it holds, with which split; the same whatever order they were added in."""
        table = self.columns(("sample_id", "split", "extractor_version"))
        cells = zip(*(column.to_pylist() for column in table.columns), strict=True)
        digest = hashlib.sha256()
        for cell in sorted(cells):
            digest.update("\t".join(map(str, cell)).encode() + b"\n")
        return digest.hexdigest()


def is_dataset(path: Union[str, Path]) -> bool:
    """Whether a path looks like a data set, without opening it."""
    path = Path(path)
    return (path / DESCRIPTION).is_file() or (path.suffix == PARQUET and path.is_file())


def read_description(path: Path) -> Description:
    """What is said of a data set as a whole.

    Raises:
        DatasetError: there is none, or it cannot be used.
    """
    if path.suffix == PARQUET and path.is_file():
        parquet = require_package("pyarrow.parquet", extra="fleet")
        try:
            text = (parquet.read_schema(path).metadata or {}).get(META_KEY, b"").decode()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path} cannot be read as a Parquet file: {_first_line(error)}") from error
        where = str(path)
    elif (path / DESCRIPTION).is_file():
        where = str(path / DESCRIPTION)
        try:
            text = bounded_text(path / DESCRIPTION, _LARGEST_DESCRIPTION, "the description of a data set", DatasetError)
        except OSError as error:
            raise DatasetError(f"{where} cannot be read: {error.strerror or error}.") from error
    else:
        raise DatasetError(f"{path} is no data set: name the folder or the .parquet file that mf-ros extract wrote.")
    return parse_description(text, where)


def parse_description(text: str, where: str) -> Description:
    """The description in a text of ``dataset.json``.

    Raises:
        DatasetError: it cannot be used.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} holds no description of a data set: {_first_line(error)}.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DatasetError(f"{where} is not of a data set of this version of mf_ros: extract the bags anew.")
    try:
        settings = config_from_mapping(document.get("settings") or {})
    except ConfigError as error:
        raise DatasetError(f"{where}: {error}") from error
    split, extraction = (
        value if isinstance(value, dict) else {} for value in (document.get("split"), document.get("extraction"))
    )
    return Description(settings, split, str(document.get("extractor_version")), extraction)


def _open(path: Path) -> Table:
    table: Table = _ParquetTable(path) if path.suffix == PARQUET else _LanceTable(path / TABLE)
    missing = [name for name in SCHEMA.names if name not in table.names]
    if missing:
        raise DatasetError(f"{path} lacks the columns {', '.join(missing[:5])}: extract the bags anew.")
    return table


class _LanceTable:
    def __init__(self, path: Path) -> None:
        lance = require_package("lance", extra="fleet")
        try:
            self._lance = lance.dataset(str(path))
        except (ValueError, OSError, RuntimeError) as error:
            raise DatasetError(f"{path} cannot be opened as a Lance table: {_first_line(error)}") from error
        self.names: List[str] = self._lance.schema.names

    def __len__(self) -> int:
        return int(self._lance.count_rows())

    def columns(self, names: Sequence[str]) -> Any:
        return _read(lambda: self._lance.to_table(columns=list(names)))

    def take(self, index: int) -> Any:
        return _read(lambda: self._lance.take([index], columns=SCHEMA.names))


class _ParquetTable:
    """Row groups are small, and the last one read is kept, because samples are often read in order."""

    def __init__(self, path: Path) -> None:
        parquet = require_package("pyarrow.parquet", extra="fleet")
        try:
            self._file = parquet.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{path} cannot be opened as a Parquet file: {_first_line(error)}") from error
        self.names: List[str] = self._file.schema_arrow.names
        counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._ends = list(accumulate(counts))
        self._group = lru_cache(maxsize=2)(lambda group: _read(lambda: self._file.read_row_group(group)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def columns(self, names: Sequence[str]) -> Any:
        return _read(lambda: self._file.read(columns=list(names)))

    def take(self, index: int) -> Any:
        group = bisect_right(self._ends, index)
        if not 0 <= index < len(self):
            raise DatasetError(f"There is no row {index}: the data set has {len(self)}.")
        first = self._ends[group - 1] if group else 0
        return self._group(group).slice(index - first, 1)


def _read(reading: Any) -> Any:
    try:
        return reading()
    except (pa.ArrowException, OSError, ValueError, RuntimeError) as error:
        raise DatasetError(f"The data set is damaged: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
