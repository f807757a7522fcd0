"""The inaudible mark that says that a machine made the audio, as metadata of each kind of file.

GB 45438-2025 wants one metadata item named AIGC whose value is a JSON object (Label, ContentProducer, ProduceID,
ContentPropagator, PropagateID). WAV carries it as a comment of its INFO list, MP3 and AAC as an ID3v2 text frame, Ogg
and FLAC as a Vorbis comment. PCM has no place for it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable

MARK_NAME = "AIGC"

Pairs = Iterable[tuple[str, str]]


def mark_json(pairs: Pairs) -> str:
    """The mark's value; names in the order given, an empty string for no names."""
    fields = dict(pairs)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) if fields else ""


def id3_tag(pairs: Pairs) -> bytes:
    """An ID3v2.4 tag with one user-defined text frame (TXXX), or nothing without names.

    Source: id3.org, ID3 tag version 2.4.0, sections 3.1, 4 and 4.2.6
    """
    value = mark_json(pairs)
    if not value:
        return b""
    utf8 = b"\x03"
    body = utf8 + MARK_NAME.encode() + b"\x00" + value.encode()
    frame = b"TXXX" + _seven_bits(len(body)) + b"\x00\x00" + body
    return b"ID3\x04\x00\x00" + _seven_bits(len(frame)) + frame


def wav_list(pairs: Pairs) -> bytes:
    """A LIST chunk of type INFO with one comment (ICMT), or nothing without names.

    Source: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0, chapter 3
    """
    value = mark_json(pairs)
    if not value:
        return b""
    text = f"{MARK_NAME}={value}".encode() + b"\x00"
    padded = text + b"\x00" * (len(text) % 2)
    info = b"INFO" + struct.pack("<4sI", b"ICMT", len(text)) + padded
    return struct.pack("<4sI", b"LIST", len(info)) + info


def _seven_bits(number: int) -> bytes:
    """A size in ID3's way: four bytes of seven bits each."""
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))
