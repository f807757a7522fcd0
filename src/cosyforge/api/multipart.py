"""A multipart upload, straight from the socket to the store: no temporary copy, hashed and counted on the way."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from cosyforge.errors import InvalidParameter, OutOfSpace, PlatformError
from cosyforge.registry.files import Space
from cosyforge.store.artifacts import ArtifactStore, ArtifactWriter

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FIELD_BYTES = 64 << 10
_MAX_FIELDS_BYTES = 1 << 20
_MAX_PARTS = 1000
_MAX_FILE_NAME = 255
_WRITE_BYTES = 1 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass
class UploadedPart:
    """A file that has arrived whole, not yet committed. problem: why its bytes were dropped."""

    file_name: str
    writer: ArtifactWriter
    problem: PlatformError | None = None


@dataclass
class Upload:
    """What one request carried, in order. other_files: names of fields whose files nobody asked for."""

    files: list[UploadedPart] = field(default_factory=list)
    fields: dict[str, list[str]] = field(default_factory=dict)
    other_files: list[str] = field(default_factory=list)

    def discard(self) -> None:
        """Leave nothing behind of files that were not committed."""
        for part in self.files:
            part.writer.discard()

    def first(self, name: str, default: str) -> str:
        return self.fields.get(name, [default])[0]


async def receive_upload(
    content_type: str, stream: AsyncIterator[bytes], store: ArtifactStore, space: Space, file_field: str
) -> Upload:
    """Take in a whole body. The caller commits the files it wants and discards the upload in any case.

    A file that is too large, or has no place any more, is marked and its bytes are dropped; the others go on.

    Raises: InvalidParameter when it is not multipart or breaks off; then, as with any other error, nothing is left
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidParameter("The body must be multipart/form-data with a boundary.")
    receiver = _Receiver(store, space, file_field)
    try:
        parser = MultipartParser(boundary, receiver.callbacks())
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

    def __init__(self, store: ArtifactStore, space: Space, file_field: str) -> None:
        self.upload = Upload()
        self._store = store
        self._space = space
        self._file_field = file_field
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._headers: dict[str, bytes] = {}
        self._name = ""
        self._value: bytearray | None = None
        self._file: UploadedPart | None = None
        self._num_parts = 0
        self._fields_bytes = 0
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
        if self._num_parts > _MAX_PARTS:
            raise InvalidParameter(f"An upload may have at most {_MAX_PARTS} parts.")
        self._headers, self._value, self._file = {}, None, None

    def _header_end(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options:
            self._value = bytearray()
        elif self._name == self._file_field:
            self._begin_file(options[b"filename"].decode("utf-8", "replace"))
        else:
            self.upload.other_files.append(self._name)

    def _begin_file(self, given_name: str) -> None:
        self._file = UploadedPart(_safe_name(given_name), self._store.create())
        self.upload.files.append(self._file)
        self._attempt(self._file, b"")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._attempt(self._file, data[start:end])
        elif self._value is not None:
            self._value += data[start:end]
            self._fields_bytes += end - start
            if len(self._value) > _MAX_FIELD_BYTES or self._fields_bytes > _MAX_FIELDS_BYTES:
                raise InvalidParameter(
                    f"The field {self._name} is too long: at most {_MAX_FIELD_BYTES} bytes, "
                    f"and {_MAX_FIELDS_BYTES} bytes for all fields."
                )

    def _attempt(self, file: UploadedPart, piece: bytes) -> None:
        """Write, unless the file has failed already or fails now: then its bytes go."""
        if file.problem is not None:
            return
        try:
            self._space.check(file.file_name, file.writer.size + len(piece))
            file.writer.write(piece)
        except (InvalidParameter, OutOfSpace) as error:
            file.problem = error
            file.writer.discard()

    def _part_end(self) -> None:
        if self._file is not None and self._file.problem is None:
            self._end_file(self._file)
        elif self._value is not None:
            text = self._value.decode("utf-8", "replace")
            if "\0" in text:
                raise InvalidParameter(f"The field {self._name} may not have NUL characters.")
            self.upload.fields.setdefault(self._name, []).append(text)

    def _end_file(self, file: UploadedPart) -> None:
        """To the disk now, so that an upload of many files does not hold them all open."""
        try:
            file.writer.finish()
        except OutOfSpace as error:
            file.problem = error
            file.writer.discard()
        else:
            self._space = self._space.with_file(file.writer.size)

    def _end(self) -> None:
        self._has_ended = True


def _safe_name(given: str) -> str:
    """The last part of a path, without control characters, no longer than a file system allows."""
    name = _CONTROL.sub("_", given.replace("\\", "/").rpartition("/")[2])
    if len(name) > _MAX_FILE_NAME:
        stem, dot, ending = name.rpartition(".")
        keep = min(len(ending), 20)
        name = stem[: _MAX_FILE_NAME - keep - 1] + dot + ending[:keep] if dot else name[:_MAX_FILE_NAME]
    return name or "unnamed"
