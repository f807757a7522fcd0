"""A multipart upload, straight from the socket to the store: no temporary copy, hashed and counted on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from cosyforge.errors import InvalidParameter
from cosyforge.store.artifacts import ArtifactStore, ArtifactWriter

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FIELD_BYTES = 64 << 10
_MAX_FIELDS = 1000
_WRITE_BYTES = 1 << 20


@dataclass
class UploadedPart:
    """A file that has arrived whole, not yet committed. too_large: its bytes were dropped."""

    field_name: str
    file_name: str
    writer: ArtifactWriter
    too_large: bool = False


@dataclass
class Upload:
    """What one request carried, in order."""

    files: list[UploadedPart] = field(default_factory=list)
    fields: dict[str, list[str]] = field(default_factory=dict)

    def discard(self) -> None:
        """Leave nothing behind of files that were not committed."""
        for part in self.files:
            part.writer.discard()

    def first(self, name: str, default: str) -> str:
        return self.fields.get(name, [default])[0]


async def receive_upload(
    content_type: str, stream: AsyncIterator[bytes], store: ArtifactStore, max_file_bytes: int
) -> Upload:
    """Take in a whole body. The caller commits the files it wants and discards the upload in any case.

    Raises: InvalidParameter when it is not multipart or breaks off; then, as with any other error, nothing is left
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidParameter("The body must be multipart/form-data with a boundary.")
    receiver = _Receiver(store, max_file_bytes)
    parser = MultipartParser(boundary, receiver.callbacks())
    try:
        pending = bytearray()
        async for piece in stream:
            pending += piece
            if len(pending) >= _WRITE_BYTES:
                # hashing and writing must not hold up the other connections
                await run_in_threadpool(parser.write, bytes(pending))
                pending.clear()
        await run_in_threadpool(parser.write, bytes(pending))
        receiver.require_end()
    except MultipartParseError as error:
        receiver.upload.discard()
        raise InvalidParameter(f"The body is not valid multipart/form-data: {error}") from error
    except BaseException:
        receiver.upload.discard()
        raise
    return receiver.upload


class _Receiver:
    """Turns the parser's callbacks into an Upload."""

    def __init__(self, store: ArtifactStore, max_file_bytes: int) -> None:
        self.upload = Upload()
        self._store = store
        self._max_file_bytes = max_file_bytes
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._headers: dict[str, bytes] = {}
        self._name = ""
        self._value = bytearray()
        self._file: UploadedPart | None = None
        self._num_parts = 0
        self._has_ended = False

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def require_end(self) -> None:
        if not self._has_ended:
            raise InvalidParameter("The upload broke off before its last boundary; please send it again.")

    def _part_begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MAX_FIELDS:
            raise InvalidParameter(f"An upload may have at most {_MAX_FIELDS} parts.")
        self._headers, self._value, self._file = {}, bytearray(), None

    def _header_end(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" in options:
            file_name = options[b"filename"].decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
            self._file = UploadedPart(self._name, file_name or "unnamed", self._store.create())
            self.upload.files.append(self._file)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._value += data[start:end]
            if len(self._value) > _MAX_FIELD_BYTES:
                raise InvalidParameter(f"The field {self._name} is longer than {_MAX_FIELD_BYTES} bytes.")
        elif self._file.too_large or self._file.writer.size + end - start > self._max_file_bytes:
            if not self._file.too_large:
                self._file.too_large = True
                self._file.writer.discard()
        else:
            self._file.writer.write(data[start:end])

    def _part_end(self) -> None:
        if self._file is None:
            self.upload.fields.setdefault(self._name, []).append(self._value.decode("utf-8", "replace"))

    def _end(self) -> None:
        self._has_ended = True
