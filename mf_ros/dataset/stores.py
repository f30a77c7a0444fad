"""Where rows are written: a Lance table or a Parquet file, with the same promises.

The processes that read recordings write pieces that nobody sees. The one process that started them commits the pieces
of one recording after the other, so that a recording is in the data set with all of its rows or with none.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any, Dict, Iterator, List, Protocol, Sequence, Tuple, Union

from mf_ros.bags.whole_file import write_whole
from mf_ros.dataset.dataset import DESCRIPTION, META_KEY, PARQUET, TABLE, Dataset
from mf_ros.dataset.manifest import TableBag
from mf_ros.dataset.row import DatasetError, Row
from mf_ros.dataset.schema import SCHEMA, to_table
from mf_ros.errors import require_package

pa = require_package("pyarrow", extra="fleet")

MANIFEST = "manifest.jsonl"

_OF_BAG = ("bag_id", "robot_id", "site", "day")
_BATCH_ROWS = 16
_BATCH_BYTES = 64_000_000
# Versions of the table that readers may still open by their number.
_KEPT_VERSIONS = timedelta(hours=1)

Batches = Iterator[Any]
Pieces = Tuple[str, ...]
"""What one process wrote, as text that another understands."""


class Store(Protocol):
    """Rows on disk.

    Attributes:
        path: of the data set.
        manifest: path of the manifest.
        workshop: folder for what exists only while an extraction runs.
    """

    path: Path
    manifest: Path
    workshop: Path

    def create(self, description: Dict[str, Any]) -> None:
        """Make an empty data set."""

    def recover(self) -> Dict[str, TableBag]:
        """Clear away what a run left that was killed; returns the recordings that have rows, by id."""

    def write(self, bag_id: str, batches: Batches) -> Pieces:
        """Write the rows of a recording without showing them; from any process."""

    def discard(self, pieces: Pieces) -> None:
        """Delete what was written and is not wanted; from any process."""

    def commit(self, pieces: Pieces) -> None:
        """Make what was written part of the data set."""

    def finish(self) -> None:
        """Leave everything tidy; nobody writes any more."""


def open_store(path: Path) -> Store:
    """The store of a data set: a Parquet file if its name ends so, else a folder with a Lance table."""
    path = path.expanduser().absolute()
    return ParquetStore(path) if path.suffix == PARQUET else LanceStore(path)


def batches(rows: Iterator[Row]) -> Batches:
    """Rows as record batches of at most 16 rows and about 64 MB."""
    waiting: List[Row] = []
    size = 0
    for row in rows:
        waiting.append(row)
        size += row_bytes(row)
        if len(waiting) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield from to_table(waiting).to_batches()
            waiting, size = [], 0
    if waiting:
        yield from to_table(waiting).to_batches()


def row_bytes(row: Row) -> int:
    """About how many bytes a row takes: its image, 22 for each point, 64 for each pose, and its texts."""
    points = sum(len(sweep) for sweep in row.sweeps if sweep is not None)
    poses = sum(1 + len(edge.poses) for edge in row.edges)
    texts = [row.image_format, row.camera_frame, *(name for edge in row.edges for name in (edge.parent, edge.child))]
    return len(row.image) + 22 * points + 64 * poses + sum(map(len, texts))


class LanceStore:
    """A folder with a Lance table; a recording is one commit."""

    def __init__(self, path: Path) -> None:
        self.path, self.manifest, self.workshop = path, path / MANIFEST, path / ".extract"
        self._table = str(path / TABLE)

    def create(self, description: Dict[str, Any]) -> None:
        lance = _lance()
        with _writing(self.path):
            if Path(self._table).exists():
                if lance.dataset(self._table).count_rows():
                    raise DatasetError(f"{self.path} has rows and no {DESCRIPTION}: name another folder with --out.")
            else:
                lance.write_dataset(SCHEMA.empty_table(), self._table, schema=SCHEMA, mode="create")
            # What makes it a data set comes last.
            write_whole(self.path / DESCRIPTION, json.dumps(description, indent=1) + "\n")

    def recover(self) -> Dict[str, TableBag]:
        with _writing(self.path):
            shutil.rmtree(self.workshop, ignore_errors=True)
            self._tidy()
        return _bags_in(Dataset(self.path).columns(_OF_BAG))

    def write(self, bag_id: str, batches: Batches) -> Pieces:
        fragment = require_package("lance.fragment", extra="fleet")
        reader = pa.RecordBatchReader.from_batches(SCHEMA, batches)
        pieces = fragment.write_fragments(reader, self._table, schema=SCHEMA, mode="append")
        return tuple(json.dumps(piece.to_json()) for piece in pieces)

    def discard(self, pieces: Pieces) -> None:
        for piece in self._fragments(pieces):
            for file in piece.files:
                (Path(self._table) / "data" / Path(file.path).name).unlink(missing_ok=True)

    def commit(self, pieces: Pieces) -> None:
        lance = _lance()
        with _writing(self.path):
            append = lance.LanceOperation.Append(self._fragments(pieces))
            lance.LanceDataset.commit(self._table, append, read_version=lance.dataset(self._table).version)

    def finish(self) -> None:
        with _writing(self.path):
            shutil.rmtree(self.workshop, ignore_errors=True)
            self._tidy()

    def _tidy(self) -> None:
        """Delete files that no commit names, and the long list of versions that one commit a recording leaves."""
        _lance().dataset(self._table).cleanup_old_versions(older_than=_KEPT_VERSIONS, delete_unverified=True)

    @staticmethod
    def _fragments(pieces: Pieces) -> List[Any]:
        return [_lance().FragmentMetadata.from_json(piece) for piece in pieces]


class ParquetStore:
    """One Parquet file, with its manifest beside it; recordings wait as parts in a folder and are added at the end.

    A part that was committed counts as in the data set: the next run adds it when this one is killed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.manifest = path, path.with_name(f"{path.name}.{MANIFEST}")
        self.workshop = path.with_name(f".{path.name}.extract")

    def create(self, description: Dict[str, Any]) -> None:
        schema = SCHEMA.with_metadata({META_KEY: json.dumps(description)})
        with _writing(self.path):
            # Parts in it would be of a data set that is gone.
            shutil.rmtree(self.workshop, ignore_errors=True)
            self.workshop.mkdir()
            temporary = self.workshop / "empty.tmp"
            with _parquet().ParquetWriter(temporary, schema):
                pass
            temporary.replace(self.path)

    def recover(self) -> Dict[str, TableBag]:
        held = _bags_in(Dataset(self.path).columns(_OF_BAG))
        with _writing(self.path):
            self.workshop.mkdir(exist_ok=True)
            for path in sorted(self.workshop.iterdir()):
                part = _part_bags(path) if path.suffix == PARQUET else {}
                if not part or part.keys() & held.keys():
                    path.unlink()
                held = {**part, **held}
        return held

    def write(self, bag_id: str, batches: Batches) -> Pieces:
        first = next(batches, None)
        if first is None:
            return ()
        path = self.workshop / f"{bag_id}.tmp"
        with _writer(path, SCHEMA) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
        return (path.name,)

    def discard(self, pieces: Pieces) -> None:
        for piece in pieces:
            (self.workshop / piece).unlink(missing_ok=True)

    def commit(self, pieces: Pieces) -> None:
        with _writing(self.path):
            for piece in pieces:
                path = self.workshop / piece
                path.replace(path.with_suffix(PARQUET))

    def finish(self) -> None:
        parts = sorted(self.workshop.glob(f"*{PARQUET}"))
        with _writing(self.path):
            if parts:
                temporary = self.workshop / "whole.tmp"
                schema = _parquet().read_schema(self.path)
                with _writer(temporary, schema) as writer:
                    for path in (self.path, *parts):
                        with _parquet().ParquetFile(path) as file:
                            for group in range(file.num_row_groups):
                                writer.write_table(file.read_row_group(group).cast(schema))
                temporary.replace(self.path)
            shutil.rmtree(self.workshop, ignore_errors=True)


def _writer(path: Path, schema: Any) -> Any:
    # Points and pictures hardly repeat a value.
    return _parquet().ParquetWriter(path, schema, compression="zstd", use_dictionary=False)


def _part_bags(path: Path) -> Dict[str, TableBag]:
    """The recordings in a part; nothing when it cannot be read."""
    try:
        return _bags_in(_parquet().read_table(path, columns=list(_OF_BAG)))
    except (pa.ArrowException, OSError, KeyError):
        return {}


def _bags_in(table: Any) -> Dict[str, TableBag]:
    cells = (table.column(name).to_pylist() for name in _OF_BAG)
    counts = Counter(zip(*cells, strict=True))
    return {bag_id: TableBag(robot, site, day, rows) for (bag_id, robot, site, day), rows in counts.items()}


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns what the libraries raise into one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, RuntimeError) as error:
        raise DatasetError(f"{path} cannot be written: {first_line(error)}") from error


def first_line(error: Union[BaseException, str]) -> str:
    """The first line of what a library says, of bounded length."""
    lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:1000]


def _lance() -> Any:
    return require_package("lance", extra="fleet")


def _parquet() -> Any:
    return require_package("pyarrow.parquet", extra="fleet")
