"""Samples to the bytes of a file, while they come: PCM, WAV, MP3, Ogg-Opus, AAC and FLAC, one channel.

The pieces that an encoder gives out concatenate to one file. Streamed, they come as soon as they can and headers cannot
know the length; otherwise everything comes at the end with exact headers.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt
import soxr
from av.audio.stream import AudioStream

from cosyforge.audio.marks import MARK_NAME, mark_json, wav_list
from cosyforge.audio.mp3 import Mp3Encoder
from cosyforge.audio.pcm import to_int16, to_pcm16

Samples = npt.NDArray[np.float32]

FORMATS = ("pcm", "wav", "mp3", "opus", "aac", "flac")
SAMPLE_RATES_HZ = (8000, 16000, 22050, 24000, 44100, 48000)
MIN_OPUS_KBPS, MAX_OPUS_KBPS = 6, 510

_AAC_KBPS = {8000: 32, 16000: 48, 22050: 64, 24000: 64, 44100: 96, 48000: 96}
_OPUS_RATE_HZ = {22050: 24000, 44100: 48000}
_MAX_OPUS_MONO_KBPS = 256
"""libopus takes no more for one channel; the service's range goes on to 510."""

_UNKNOWN_SIZE = 0xFFFFFFFF

Pairs = Iterable[tuple[str, str]]


class Encoder(Protocol):
    """Bytes of one file, piece by piece."""

    def encode(self, samples: Samples) -> bytes:
        """Take more samples; give what can be written already, perhaps nothing.

        Shapes: samples (L,) in [-1, 1]; what exceeds it is clipped
        """
        ...

    def finish(self) -> bytes:
        """Give the rest; nothing may follow."""
        ...


def make_encoder(
    format: str, sample_rate_hz: int, bit_rate_kbps: int = 32, streaming: bool = False, mark: Pairs = ()
) -> Encoder:
    """Make the encoder of one request.

    mark: names and values that say that a machine made the audio; kept as metadata wherever the format has a place
    Units: bit_rate_kbps counts for opus alone
    Raises: ValueError for a format, rate or bit rate that is not served
    """
    if sample_rate_hz not in SAMPLE_RATES_HZ:
        raise ValueError(f"sample rate {sample_rate_hz} Hz is not one of {', '.join(map(str, SAMPLE_RATES_HZ))}")
    if format == "pcm":
        return PcmEncoder()
    if format == "wav":
        return WavEncoder(sample_rate_hz, streaming, mark)
    if format == "mp3":
        return Mp3Encoder(sample_rate_hz, streaming, mark)
    if format == "opus":
        return OpusEncoder(sample_rate_hz, bit_rate_kbps, streaming, mark)
    if format == "aac":
        coding = {"aac_coder": "twoloop"}
        return _AvEncoder("adts", "aac", sample_rate_hz, streaming, mark, _AAC_KBPS[sample_rate_hz], coding=coding)
    if format == "flac":
        return _AvEncoder("flac", "flac", sample_rate_hz, streaming, mark, sample_format="s16")
    raise ValueError(f"audio format {format!r} is not one of {', '.join(FORMATS)}")


def opus_rate_hz(sample_rate_hz: int) -> int:
    """Name the rate at which Opus codes a sound of this rate; feeding that one saves a conversion."""
    return _OPUS_RATE_HZ.get(sample_rate_hz, sample_rate_hz)


class PcmEncoder:
    """16-bit little-endian samples without any header."""

    def encode(self, samples: Samples) -> bytes:
        return to_pcm16(samples)

    def finish(self) -> bytes:
        return b""


class WavEncoder:
    """RIFF WAVE; streamed, the two sizes are the greatest number there is, which players take for "until the end"."""

    def __init__(self, sample_rate_hz: int, streaming: bool, mark: Pairs = ()) -> None:
        self._sample_rate_hz = sample_rate_hz
        self._streaming = streaming
        self._mark = wav_list(mark)
        self._header_sent = False
        self._pcm = bytearray()

    def encode(self, samples: Samples) -> bytes:
        if not self._streaming:
            self._pcm += to_pcm16(samples)
            return b""
        header = b"" if self._header_sent else self._header(None)
        self._header_sent = True
        return header + to_pcm16(samples)

    def finish(self) -> bytes:
        if self._streaming:
            return b"" if self._header_sent else self._header(None)
        return self._header(len(self._pcm)) + bytes(self._pcm)

    def _header(self, num_bytes: int | None) -> bytes:
        rate_hz, mark = self._sample_rate_hz, self._mark
        riff_size = _UNKNOWN_SIZE if num_bytes is None else num_bytes + 36 + len(mark)
        data_size = _UNKNOWN_SIZE if num_bytes is None else num_bytes
        form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate_hz, rate_hz * 2, 2, 16)
        return (
            struct.pack("<4sI4s", b"RIFF", riff_size, b"WAVE") + form + mark + struct.pack("<4sI", b"data", data_size)
        )


class _Pipe:
    """What FFmpeg writes into: it can be emptied, not rewound."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken


def _sink(streaming: bool) -> _Pipe | io.BytesIO:
    """Streamed bytes leave at once; otherwise the container may go back and complete its header."""
    return _Pipe() if streaming else io.BytesIO()


class _AvEncoder:
    """One codec in one container through PyAV; reproducible, so the same samples give the same bytes."""

    def __init__(
        self,
        container: str,
        codec: str,
        rate_hz: int,
        streaming: bool,
        mark: Pairs,
        kbps: int | None = None,
        *,
        muxing: dict[str, str] | None = None,
        coding: dict[str, str] | None = None,
        sample_format: str | None = None,
    ) -> None:
        self._sink = _sink(streaming)
        marking = {"write_id3v2": "1"} if container == "adts" else {}
        options = {"fflags": "+bitexact", "flush_packets": "1"} | marking | (muxing or {})
        self._container = av.open(self._sink, "w", format=container, container_options=options)
        stream = self._container.add_stream(codec, rate=rate_hz, options=coding or {}, layout="mono")
        assert isinstance(stream, AudioStream), f"{codec} is no audio codec"
        if kbps is not None:
            stream.bit_rate = kbps * 1000
        if sample_format is not None:
            stream.codec_context.format = sample_format
        value = mark_json(mark)
        if value:
            # Ogg keeps comments per stream, the others per file
            (stream if container == "ogg" else self._container).metadata[MARK_NAME] = value
        self._stream = stream
        self._rate_hz = rate_hz
        self._num_samples = 0

    def encode(self, samples: Samples) -> bytes:
        if samples.size:
            frame = av.AudioFrame.from_ndarray(to_int16(samples).reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate = self._rate_hz
            frame.pts = self._num_samples
            self._num_samples += samples.size
            self._container.mux(self._stream.encode(frame))
        return self._sink.take() if isinstance(self._sink, _Pipe) else b""

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take() if isinstance(self._sink, _Pipe) else self._sink.getvalue()


class OpusEncoder:
    """Opus in Ogg, one page per 20 ms when streamed. Rates that Opus does not know are brought to the next one up."""

    def __init__(self, sample_rate_hz: int, bit_rate_kbps: int, streaming: bool, mark: Pairs = ()) -> None:
        if not MIN_OPUS_KBPS <= bit_rate_kbps <= MAX_OPUS_KBPS:
            raise ValueError(f"bit rate {bit_rate_kbps} kbps is not between {MIN_OPUS_KBPS} and {MAX_OPUS_KBPS}")
        rate_hz = opus_rate_hz(sample_rate_hz)
        same = rate_hz == sample_rate_hz
        self._resampler = None if same else soxr.ResampleStream(sample_rate_hz, rate_hz, 1, dtype="float32")
        muxing = {"page_duration": "20000"} if streaming else {}
        coding = {"frame_duration": "20", "application": "audio"}
        kbps = min(bit_rate_kbps, _MAX_OPUS_MONO_KBPS)
        self._encoder = _AvEncoder("ogg", "libopus", rate_hz, streaming, mark, kbps, muxing=muxing, coding=coding)

    def encode(self, samples: Samples) -> bytes:
        return self._encoder.encode(self._resampled(samples, last=False))

    def finish(self) -> bytes:
        rest = b""
        if self._resampler is not None:
            rest = self._encoder.encode(self._resampled(np.zeros(0, dtype=np.float32), last=True))
        return rest + self._encoder.finish()

    def _resampled(self, samples: Samples, *, last: bool) -> Samples:
        if self._resampler is None:
            return samples
        return np.asarray(self._resampler.resample_chunk(np.ascontiguousarray(samples), last=last), dtype=np.float32)
