"""MCAP files, chunk by chunk, so that a missing index, a cut-off end or a corrupt chunk costs only what is lost."""

from __future__ import annotations

import heapq
import logging
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any, Collection, Dict, FrozenSet, Iterator, List, Optional, Tuple

from mf_ros.bags.source import (
    MAX_LOG_NS,
    BagPath,
    Channel,
    RawMessage,
    normalized_type,
    note_impossible_time,
)
from mf_ros.errors import BagError, require_package

mcap_records = require_package("mcap.records", extra="bags")
mcap_stream = require_package("mcap.data_stream", extra="bags")
zstandard = require_package("zstandard", extra="bags")
lz4_frame = require_package("lz4.frame", extra="bags")

_log = logging.getLogger(__name__)

MCAP_MAGIC = b"\x89MCAP0\r\n"

# Opcodes of the MCAP specification.
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _CHUNK_INDEX, _STATISTICS, _DATA_END = 2, 3, 4, 5, 6, 8, 11, 15
_FRAME = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_CHUNK_HEAD = struct.Struct("<QQQII")
_FOOTER_SIZE = _FRAME.size + 20 + len(MCAP_MAGIC)

_MAX_CHUNK_BYTES = 2**30
_MAX_HELD_BYTES = 2**29
_LOOSE_BLOCK_BYTES = 2**22
# UnicodeDecodeError is a ValueError; lz4 raises RuntimeError.
_UNREADABLE = (
    struct.error,
    ValueError,
    OverflowError,
    MemoryError,
    RuntimeError,
    zstandard.ZstdError,
    require_package("mcap.exceptions", extra="bags").McapError,
)


class _DamagedError(Exception):
    """A record does not fit in the bytes that should hold it."""


@dataclass
class _Block:
    """A part of the file that is loaded at once: a chunk, or a run of messages outside chunks."""

    offset: int
    length: int
    start_ns: int
    end_ns: int
    chunk: bool
    partial: bool = False
    ids: Optional[FrozenSet[int]] = None


class McapSource:
    """An MCAP file with a `Source`'s interface; a file without a usable index is scanned once when it is opened.

    Raises:
        BagError: the file is not MCAP, or holds nothing that can be read.
    """

    def __init__(self, path: BagPath) -> None:
        self.name = str(path.name)
        self.channels: List[Channel] = []
        self.start_ns = self.end_ns = 0
        self.damage: List[str] = []
        self._blocks: List[_Block] = []
        self._reported: Dict[int, str] = {}
        self._schemas: Dict[int, Any] = {}
        self._records: Dict[int, Any] = {}
        self._counts: Dict[int, int] = {}
        self._file: IO[bytes] = path.open("rb")
        try:
            self._size = self._file.seek(0, 2)
            if self._read(0, len(MCAP_MAGIC)) != MCAP_MAGIC:
                raise BagError(f"{path} is not an MCAP file: it does not begin with MCAP's magic bytes.")
            if not self._read_index():
                self._scan()
            self._make_channels()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def messages(
        self, ids: Collection[int], start_ns: Optional[int] = None, stop_ns: Optional[int] = None
    ) -> Iterator[RawMessage]:
        """Messages of the channels in log order; a corrupt chunk is left out and noted in ``damage``."""
        wanted = frozenset(ids)
        first, last = (start_ns if start_ns is not None else 0), (stop_ns if stop_ns is not None else 2**64)
        blocks = [
            block
            for block in self._blocks
            if block.end_ns >= first and block.start_ns < last and (block.ids is None or block.ids & wanted)
        ]
        blocks.sort(key=lambda block: (block.start_ns, block.offset))
        # Chunks may overlap in time: a message waits until no chunk to come can hold an earlier one.
        waiting: List[Tuple[int, int, int, int, bytes]] = []
        held = 0
        following = 0
        while waiting or following < len(blocks):
            more = following < len(blocks)
            if waiting and (not more or waiting[0][0] < blocks[following].start_ns or held > _MAX_HELD_BYTES):
                log_ns, _, _, channel, data = heapq.heappop(waiting)
                held -= len(data)
                yield log_ns, channel, data
                continue
            block = blocks[following]
            following += 1
            for position, (log_ns, channel, data) in enumerate(self._block_messages(block, wanted)):
                if first <= log_ns < last:
                    heapq.heappush(waiting, (log_ns, block.offset, position, channel, data))
                    held += len(data)

    def _block_messages(self, block: _Block, wanted: FrozenSet[int]) -> List[RawMessage]:
        """The wanted messages of a block; whatever precedes a defect counts."""
        found: List[RawMessage] = []
        try:
            buffer = self._load(block)
            for opcode, begin, end in _frames(buffer, block.partial):
                if opcode == _MESSAGE:
                    channel, _, log_ns, _ = _message_head(buffer, begin, end)
                    if channel in wanted:
                        found.append((log_ns, channel, bytes(buffer[begin + _MESSAGE_HEAD.size : end])))
        except (_DamagedError, *_UNREADABLE) as error:
            self._report(block, error)
        return found

    def _report(self, block: _Block, error: Exception) -> None:
        if block.offset not in self._reported:
            seconds = max(block.end_ns - block.start_ns, 0) / 1e9
            note = f"{self.name} has a corrupt chunk at byte {block.offset} ({seconds:.2f} s of it skipped)"
            self._reported[block.offset] = note
            self.damage.append(note)
            _log.warning("%s: %s", note, error)

    def _read(self, offset: int, length: int) -> bytes:
        """The bytes at an offset, fewer at the end of the file, none outside it."""
        if not 0 <= offset < self._size:
            return b""
        self._file.seek(offset)
        return self._file.read(max(min(length, self._size - offset), 0))

    def _load(self, block: _Block) -> memoryview:
        data = self._read(block.offset, block.length)
        if len(data) != block.length:
            raise _DamagedError("the file ends before it")
        return memoryview(_decompressed(data, block.partial) if block.chunk else data)

    def _read_index(self) -> bool:
        """Take channels and chunks from the summary at the end; False when there is none to rely on."""
        footer = self._read(self._size - _FOOTER_SIZE, _FOOTER_SIZE)
        if len(footer) != _FOOTER_SIZE or not footer.endswith(MCAP_MAGIC) or footer[0] != _FOOTER:
            return False
        (begin,) = struct.unpack_from("<Q", footer, _FRAME.size)
        if not len(MCAP_MAGIC) <= begin <= self._size - _FOOTER_SIZE:
            return False
        summary = self._read(begin, self._size - _FOOTER_SIZE - begin)
        statistics = None
        try:
            for opcode, start, end in _frames(memoryview(summary), partial=False):
                body = summary[start:end]
                if opcode == _CHUNK_INDEX:
                    self._blocks.append(self._indexed_block(body))
                elif opcode == _STATISTICS:
                    statistics = mcap_records.Statistics.read(_stream(body))
                else:
                    self._note_definition(opcode, body)
        except (_DamagedError, *_UNREADABLE):
            statistics = None
        channels = self._records.values()
        defined = all(channel.schema_id in self._schemas or not channel.schema_id for channel in channels)
        complete = bool(self._blocks) or (statistics is not None and not statistics.message_count)
        # With a time that cannot be, the index does not tell when the recording begins and ends.
        latest = max((block.end_ns for block in self._blocks), default=0)
        sound = statistics is not None and max(latest, statistics.message_end_time) <= MAX_LOG_NS
        if statistics is None or not (sound and defined and complete) or (self._blocks and not self._records):
            self._forget()
            return False
        self._counts = dict(statistics.channel_message_counts)
        self.start_ns, self.end_ns = statistics.message_start_time, statistics.message_end_time
        return True

    def _indexed_block(self, body: bytes) -> _Block:
        index = mcap_records.ChunkIndex.read(_stream(body))
        begin, length = index.chunk_start_offset + _FRAME.size, index.chunk_length - _FRAME.size
        if length < 0 or begin + length > self._size:
            raise _DamagedError("the index points outside the file")
        ids = frozenset(index.message_index_offsets) or None
        return _Block(begin, length, index.message_start_time, index.message_end_time, chunk=True, ids=ids)

    def _forget(self) -> None:
        self._blocks, self._schemas, self._records, self._counts = [], {}, {}, {}

    def _scan(self) -> None:
        """Walk the records from the beginning, as far as they go."""
        offset = len(MCAP_MAGIC)
        loose: Optional[_Block] = None
        while True:
            frame = self._read(offset, _FRAME.size)
            opcode, length = _FRAME.unpack(frame) if len(frame) == _FRAME.size else (0, 0)
            begin, remaining = offset + _FRAME.size, self._size - offset - _FRAME.size
            if opcode in (_DATA_END, _FOOTER):
                break
            cut = opcode == 0 or length > remaining
            if cut and opcode != _CHUNK:
                break
            if opcode == _CHUNK:
                self._scan_chunk(_Block(begin, min(length, remaining), 0, 0, chunk=True, partial=cut))
                if cut:
                    break
            elif opcode == _MESSAGE:
                loose = self._scan_message(loose, offset, length)
            elif opcode in (_SCHEMA, _CHANNEL):
                self._scan_definition(opcode, begin, length)
            offset = begin + length
        if opcode not in (_DATA_END, _FOOTER):
            self.damage.append(f"{self.name} is cut off or corrupt after byte {offset} of {self._size}")
        times = [(block.start_ns, block.end_ns) for block in self._blocks]
        if times:
            self.start_ns, self.end_ns = min(t[0] for t in times), max(t[1] for t in times)

    def _scan_chunk(self, block: _Block) -> None:
        times: List[int] = []
        ids = set()
        try:
            buffer = self._load(block)
            for opcode, begin, end in _frames(buffer, block.partial):
                if opcode == _MESSAGE:
                    channel, _, log_ns, _ = _message_head(buffer, begin, end)
                    if log_ns > MAX_LOG_NS:
                        note_impossible_time(self)
                        continue
                    times.append(log_ns)
                    ids.add(channel)
                    self._counts[channel] = self._counts.get(channel, 0) + 1
                else:
                    self._note_definition(opcode, bytes(buffer[begin:end]))
        except (_DamagedError, *_UNREADABLE) as error:
            if not block.partial:
                self._report(block, error)
        if times:
            block.start_ns, block.end_ns, block.ids = min(times), max(times), frozenset(ids)
            self._blocks.append(block)

    def _scan_message(self, loose: Optional[_Block], offset: int, length: int) -> Optional[_Block]:
        """Add a message outside chunks to the run it continues."""
        head = self._read(offset + _FRAME.size, min(length, _MESSAGE_HEAD.size))
        if len(head) < _MESSAGE_HEAD.size:
            return loose
        channel, _, log_ns, _ = _MESSAGE_HEAD.unpack(head)
        if log_ns > MAX_LOG_NS:
            note_impossible_time(self)
            return loose
        self._counts[channel] = self._counts.get(channel, 0) + 1
        size = _FRAME.size + length
        if loose is None or loose.offset + loose.length != offset or loose.length > _LOOSE_BLOCK_BYTES:
            loose = _Block(offset, size, log_ns, log_ns, chunk=False, ids=frozenset((channel,)))
            self._blocks.append(loose)
            return loose
        loose.length += size
        loose.start_ns, loose.end_ns = min(loose.start_ns, log_ns), max(loose.end_ns, log_ns)
        loose.ids = frozenset((channel, *(loose.ids or ())))
        return loose

    def _scan_definition(self, opcode: int, begin: int, length: int) -> None:
        try:
            self._note_definition(opcode, self._read(begin, length))
        except _UNREADABLE as error:
            _log.warning("%s: record at byte %d cannot be read: %s", self.name, begin, error)

    def _note_definition(self, opcode: int, body: bytes) -> None:
        if opcode == _SCHEMA:
            schema = mcap_records.Schema.read(_stream(body))
            self._schemas[schema.id] = schema
        elif opcode == _CHANNEL:
            channel = mcap_records.Channel.read(_stream(body))
            self._records[channel.id] = channel

    def _make_channels(self) -> None:
        for number, record in sorted(self._records.items()):
            schema = self._schemas.get(record.schema_id)
            name = normalized_type(schema.name) if schema is not None else "unknown"
            text = schema.data.decode("utf-8", "replace") if schema is not None else ""
            definition = (schema.encoding, text) if schema is not None else ("", "")
            count = self._counts.get(number, 0)
            self.channels.append(Channel(number, record.topic, name, record.message_encoding, definition, count))


def _stream(body: bytes) -> Any:
    return mcap_stream.ReadDataStream(BytesIO(body))


def _frames(buffer: memoryview, partial: bool) -> Iterator[Tuple[int, int, int]]:
    """Opcode, begin and end of each record's body; a cut-off last record ends a partial buffer and damages another."""
    position, size = 0, len(buffer)
    while position < size:
        begin = position + _FRAME.size
        opcode, length = _FRAME.unpack_from(buffer, position) if begin <= size else (0, 0)
        if begin + length > size:
            if partial:
                return
            raise _DamagedError(f"a record of {length} bytes does not fit in the {size - position} left")
        yield opcode, begin, begin + length
        position = begin + length


def _message_head(buffer: memoryview, begin: int, end: int) -> Tuple[int, int, int, int]:
    if end - begin < _MESSAGE_HEAD.size:
        raise _DamagedError("a message is shorter than its header")
    channel, sequence, log_ns, publish_ns = _MESSAGE_HEAD.unpack_from(buffer, begin)
    return channel, sequence, log_ns, publish_ns


def _decompressed(chunk: bytes, partial: bool) -> bytes:
    """Records inside a chunk record's body; of a partial one, those that are there."""
    _, _, size, crc, name_length = _CHUNK_HEAD.unpack_from(chunk)
    name_end = _CHUNK_HEAD.size + name_length
    if size > _MAX_CHUNK_BYTES or name_end + 8 > len(chunk):
        raise _DamagedError(f"a chunk of {size} bytes is not plausible")
    compression = chunk[_CHUNK_HEAD.size : name_end].decode()
    (length,) = struct.unpack_from("<Q", chunk, name_end)
    data = chunk[name_end + 8 : name_end + 8 + length]
    if compression == "":
        records = data
    elif compression == "lz4":
        records = lz4_frame.LZ4FrameDecompressor().decompress(data, max_length=size)
    elif compression == "zstd":
        records = _zstd_beginning(data, size) if partial else _zstd(data, size)
    else:
        raise _DamagedError(f"compression {compression!r} is not known")
    if not partial and len(records) != size:
        raise _DamagedError(f"it holds {len(records)} bytes instead of {size}")
    if not partial and crc and zlib.crc32(records) != crc:
        raise _DamagedError("its checksum does not match")
    return records


def _zstd(data: bytes, size: int) -> bytes:
    if zstandard.frame_content_size(data) > size:
        raise _DamagedError("its compressed data hold more than it says")
    records: bytes = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    return records


def _zstd_beginning(data: bytes, size: int) -> bytes:
    """Up to ``size`` bytes; a stream that breaks off gives what precedes the break."""
    parts: List[bytes] = []
    reader = zstandard.ZstdDecompressor().stream_reader(BytesIO(data))
    left = size
    while left > 0:
        part = reader.read(min(left, 2**20))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
