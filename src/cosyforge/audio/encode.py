"""Samples to the bytes of a file, while they come: PCM, WAV, MP3 and Ogg-Opus, one channel.

The pieces that an encoder gives out concatenate to one file. Streamed, they come as soon as they can and headers cannot
know the length; otherwise everything comes at the end with exact headers.
"""

from __future__ import annotations

import io
import struct
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt
import soxr
from av.audio.stream import AudioStream

Samples = npt.NDArray[np.float32]

FORMATS = ("pcm", "wav", "mp3", "opus")
SAMPLE_RATES_HZ = (8000, 16000, 22050, 24000, 44100, 48000)
MIN_OPUS_KBPS, MAX_OPUS_KBPS = 6, 510

_MP3_KBPS = {8000: 32, 16000: 48, 22050: 64, 24000: 64, 44100: 128, 48000: 128}
_OPUS_RATE_HZ = {22050: 24000, 44100: 48000}
_MAX_OPUS_MONO_KBPS = 256
"""libopus takes no more for one channel; the service's range goes on to 510."""

_UNKNOWN_SIZE = 0xFFFFFFFF


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


def make_encoder(format: str, sample_rate_hz: int, bit_rate_kbps: int = 32, streaming: bool = False) -> Encoder:
    """Make the encoder of one request.

    Units: bit_rate_kbps counts for opus alone
    Raises: ValueError for a format, rate or bit rate that is not served
    """
    if sample_rate_hz not in SAMPLE_RATES_HZ:
        raise ValueError(f"sample rate {sample_rate_hz} Hz is not one of {', '.join(map(str, SAMPLE_RATES_HZ))}")
    if format == "pcm":
        return PcmEncoder()
    if format == "wav":
        return WavEncoder(sample_rate_hz, streaming)
    if format == "mp3":
        return Mp3Encoder(sample_rate_hz, streaming)
    if format == "opus":
        return OpusEncoder(sample_rate_hz, bit_rate_kbps, streaming)
    raise ValueError(f"audio format {format!r} is not one of {', '.join(FORMATS)}")


def opus_rate_hz(sample_rate_hz: int) -> int:
    """Name the rate at which Opus codes a sound of this rate; feeding that one saves a conversion."""
    return _OPUS_RATE_HZ.get(sample_rate_hz, sample_rate_hz)


def to_pcm16(samples: Samples) -> bytes:
    """Write 16-bit little-endian PCM; what exceeds [-1, 1] is clipped."""
    return np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()


class PcmEncoder:
    """16-bit little-endian samples without any header."""

    def encode(self, samples: Samples) -> bytes:
        return to_pcm16(samples)

    def finish(self) -> bytes:
        return b""


class WavEncoder:
    """RIFF WAVE; streamed, the two sizes are the greatest number there is, which players take for "until the end"."""

    def __init__(self, sample_rate_hz: int, streaming: bool) -> None:
        self._sample_rate_hz = sample_rate_hz
        self._streaming = streaming
        self._header_sent = False
        self._pcm = bytearray()

    def encode(self, samples: Samples) -> bytes:
        if not self._streaming:
            self._pcm += to_pcm16(samples)
            return b""
        header = b"" if self._header_sent else _wav_header(self._sample_rate_hz, None)
        self._header_sent = True
        return header + to_pcm16(samples)

    def finish(self) -> bytes:
        if self._streaming:
            return b"" if self._header_sent else _wav_header(self._sample_rate_hz, None)
        return _wav_header(self._sample_rate_hz, len(self._pcm)) + bytes(self._pcm)


def _wav_header(sample_rate_hz: int, num_bytes: int | None) -> bytes:
    riff_size = _UNKNOWN_SIZE if num_bytes is None else num_bytes + 36
    data_size = _UNKNOWN_SIZE if num_bytes is None else num_bytes
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate_hz, sample_rate_hz * 2, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", riff_size, b"WAVE") + form + struct.pack("<4sI", b"data", data_size)


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
        self, container: str, codec: str, rate_hz: int, kbps: int, sink: _Pipe | io.BytesIO, muxing: dict[str, str],
        coding: dict[str, str],
    ) -> None:  # fmt: skip
        self._sink = sink
        options = {"fflags": "+bitexact", "flush_packets": "1"} | muxing
        self._container = av.open(sink, "w", format=container, container_options=options)
        stream = self._container.add_stream(codec, rate=rate_hz, options=coding, layout="mono")
        assert isinstance(stream, AudioStream), f"{codec} is no audio codec"
        stream.bit_rate = kbps * 1000
        self._stream = stream
        self._rate_hz = rate_hz
        self._num_samples = 0

    def encode(self, samples: Samples) -> bytes:
        if samples.size:
            pcm = np.frombuffer(to_pcm16(samples), dtype=np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.sample_rate = self._rate_hz
            frame.pts = self._num_samples
            self._num_samples += samples.size
            self._container.mux(self._stream.encode(frame))
        return self._sink.take() if isinstance(self._sink, _Pipe) else b""

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take() if isinstance(self._sink, _Pipe) else self._sink.getvalue()


class Mp3Encoder:
    """MP3; streamed, there is no length table at the start, so that nothing must be written back."""

    def __init__(self, sample_rate_hz: int, streaming: bool) -> None:
        muxing = {"id3v2_version": "0"} | ({"write_xing": "0"} if streaming else {})
        kbps = _MP3_KBPS[sample_rate_hz]
        self._encoder = _AvEncoder("mp3", "libmp3lame", sample_rate_hz, kbps, _sink(streaming), muxing, {})

    def encode(self, samples: Samples) -> bytes:
        return self._encoder.encode(samples)

    def finish(self) -> bytes:
        return self._encoder.finish()


class OpusEncoder:
    """Opus in Ogg, one page per 20 ms when streamed. Rates that Opus does not know are brought to the next one up."""

    def __init__(self, sample_rate_hz: int, bit_rate_kbps: int, streaming: bool) -> None:
        if not MIN_OPUS_KBPS <= bit_rate_kbps <= MAX_OPUS_KBPS:
            raise ValueError(f"bit rate {bit_rate_kbps} kbps is not between {MIN_OPUS_KBPS} and {MAX_OPUS_KBPS}")
        rate_hz = opus_rate_hz(sample_rate_hz)
        same = rate_hz == sample_rate_hz
        self._resampler = None if same else soxr.ResampleStream(sample_rate_hz, rate_hz, 1, dtype="float32")
        muxing = {"page_duration": "20000"} if streaming else {}
        coding = {"frame_duration": "20", "application": "audio"}
        kbps = min(bit_rate_kbps, _MAX_OPUS_MONO_KBPS)
        self._encoder = _AvEncoder("ogg", "libopus", rate_hz, kbps, _sink(streaming), muxing, coding)

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
