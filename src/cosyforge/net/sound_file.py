"""What the bytes of a fetched sound are, told by the bytes themselves, never by a name or a header."""

from __future__ import annotations

import struct

from cosyforge.errors import InvalidParameter

SAMPLE_RATE_HZ, NUM_CHANNELS, NUM_BITS = 16_000, 1, 16
_WANTED = "a WAV of 16 kHz, mono, 16-bit PCM is needed"
_PCM, _EXTENSIBLE = 1, 0xFFFE
_PCM_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")

_BEGINNINGS = (
    (b"ID3", "MP3"),
    (b"\xff\xfb", "MP3"),
    (b"\xff\xf3", "MP3"),
    (b"\xff\xf2", "MP3"),
    (b"OggS", "an Ogg file"),
    (b"fLaC", "FLAC"),
    (b"FORM", "AIFF"),
    (b"RF64", "RF64"),
    (b"PK\x03\x04", "a ZIP file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF"),
    (b"\x7fELF", "a program"),
    (b"<", "a web page or XML"),
    (b"{", "JSON"),
)


def checked_wav(received: bytes) -> bytes:
    """The same sound as the plainest WAV there is: its header is ours, so nothing else of the file gets any further.

    Raises: InvalidParameter that says what was found instead
    """
    if received[:4] != b"RIFF" or received[8:12] != b"WAVE":
        raise InvalidParameter(f"{_WANTED}, found {_name(received)}")
    chunks = _chunks(received)
    layout, samples = chunks.get(b"fmt ", b""), chunks.get(b"data", b"")
    if len(layout) < 16:
        raise InvalidParameter(f"{_WANTED}, found a WAV without a format")
    kind, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", layout[:16])
    is_pcm = kind == _PCM or (kind == _EXTENSIBLE and layout[24:26] == b"\x01\x00" and layout[26:40] == _PCM_GUID_TAIL)
    if (is_pcm, channels, rate_hz, bits) != (True, NUM_CHANNELS, SAMPLE_RATE_HZ, NUM_BITS):
        coding = "PCM" if is_pcm else f"coding {kind}"
        raise InvalidParameter(f"{_WANTED}, found {rate_hz} Hz, {channels} channels, {bits}-bit, {coding}")
    samples = samples[: len(samples) // 2 * 2]
    if not samples:
        raise InvalidParameter(f"{_WANTED}, found a WAV without samples")
    header = struct.pack("<IHHIIHH", 16, _PCM, NUM_CHANNELS, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * 2, 2, NUM_BITS)
    length = struct.pack("<I", len(samples))
    return b"RIFF" + struct.pack("<I", 36 + len(samples)) + b"WAVEfmt " + header + b"data" + length + samples


def _name(received: bytes) -> str:
    if not received:
        return "nothing"
    start = received.lstrip()[:16]
    return next((name for beginning, name in _BEGINNINGS if start.startswith(beginning)), "something else")


def _chunks(received: bytes) -> dict[bytes, bytes]:
    """The first chunk of each name; data that ends early is what is there, as recorders leave it."""
    chunks: dict[bytes, bytes] = {}
    place = 12
    while place + 8 <= len(received):
        name, size = struct.unpack_from("<4sI", received, place)
        chunks.setdefault(name, received[place + 8 : place + 8 + size])
        if name == b"data" and b"fmt " in chunks:
            break
        place += 8 + size + size % 2
    return chunks
