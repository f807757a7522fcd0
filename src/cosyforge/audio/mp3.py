"""MP3 with its delay written down, so that a decoder gives back exactly the samples that went in.

An MP3 encoder puts silence before the sound and fills the last frame. Players that care learn both from a first frame
without sound (`Info`), which we write ourselves: streamed it tells the delay, and of the length nothing, because nobody
knows it yet. Streamed or not, the frames behind it are the same.
Source: Xing and LAME tag as documented by the LAME project; ISO/IEC 11172-3 and 13818-3 for the frame header
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import av
import numpy as np
import numpy.typing as npt
from av.audio.codeccontext import AudioCodecContext

from cosyforge.audio.marks import id3_tag
from cosyforge.audio.pcm import to_int16

Samples = npt.NDArray[np.float32]

KBPS = {8000: 32, 16000: 48, 22050: 64, 24000: 64, 44100: 128, 48000: 128}

ENCODER_DELAY = 576
"""Samples of silence that LAME puts first; the decoder adds 529 of its own."""

_TOTAL_DELAY = ENCODER_DELAY + 529
_LONGEST_REST_S = 0.02
"""More silence than this at the end of a streamed file is worth leaving out the last frame's few samples of sound."""

# per MPEG version (bits of the header): sample rates by index, kbit/s by index
_MPEG1, _MPEG2, _MPEG25 = 3, 2, 0
_RATES = {_MPEG1: (44100, 48000, 32000), _MPEG2: (22050, 24000, 16000), _MPEG25: (11025, 12000, 8000)}
_KBPS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)

_HAS_FRAMES, _HAS_BYTES = 1, 2


def frame_samples(sample_rate_hz: int) -> int:
    """How many samples one frame holds."""
    return 1152 if sample_rate_hz >= 32000 else 576


class Mp3Encoder:
    """One channel at a constant bit rate."""

    def __init__(self, sample_rate_hz: int, streaming: bool, mark: Iterable[tuple[str, str]] = ()) -> None:
        self._rate_hz = sample_rate_hz
        self._streaming = streaming
        self._frame = frame_samples(sample_rate_hz)
        codec = av.CodecContext.create("libmp3lame", "w")
        assert isinstance(codec, AudioCodecContext)
        codec.sample_rate = sample_rate_hz
        codec.bit_rate = KBPS[sample_rate_hz] * 1000
        codec.format = "s16p"
        codec.layout = "mono"
        codec.open()
        self._codec = codec
        self._pending = np.zeros(0, dtype=np.int16)
        self._num_samples = 0
        self._frames: list[bytes] = []
        self._num_given = 0
        self._tag = id3_tag(mark)

    def encode(self, samples: Samples) -> bytes:
        self._num_samples += samples.size
        pending = np.concatenate([self._pending, to_int16(samples)])
        end = pending.size // self._frame * self._frame
        for start in range(0, end, self._frame):
            self._code(pending[start : start + self._frame])
        self._pending = pending[end:]
        return self._given(len(self._frames)) if self._streaming else b""

    def finish(self) -> bytes:
        if self._pending.size:
            self._code(self._pending)
        self._frames += [bytes(packet) for packet in self._codec.encode(None)]
        wanted = -(-(self._num_samples + _TOTAL_DELAY) // self._frame) if self._num_samples else 0
        assert len(self._frames) >= wanted, "the encoder flushes all frames that hold sound"
        rest = wanted * self._frame - _TOTAL_DELAY - self._num_samples
        lost = self._frame - rest
        limit = _LONGEST_REST_S * self._rate_hz
        if self._streaming:
            return self._given(max(wanted - (rest > limit >= lost), self._num_given))
        if min(rest, lost) > limit:
            # a frame of 72 ms (8 kHz): the streamed file has to keep this silence, so the whole one does, too
            self._num_samples += rest
        return self._tag + self._info_frame(wanted) + b"".join(self._frames[:wanted])

    def _code(self, pcm: npt.NDArray[np.int16]) -> None:
        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16p", layout="mono")
        frame.sample_rate = self._rate_hz
        self._frames += [bytes(packet) for packet in self._codec.encode(frame)]

    def _given(self, end: int) -> bytes:
        """Frames that have not been given yet, up to one; the first of them bring the head along."""
        head = self._tag + self._info_frame(None) if self._num_given == 0 and end > 0 else b""
        frames = self._frames[self._num_given : end]
        self._num_given = end
        return head + b"".join(frames)

    def _info_frame(self, num_frames: int | None) -> bytes:
        """The frame without sound that names delay and filling; None leaves both sizes out."""
        header, size, side_info = _frame_header(self._rate_hz)
        flags, sizes, filling = 0, b"", 0
        if num_frames is not None:
            flags = _HAS_FRAMES | _HAS_BYTES
            num_bytes = size + sum(len(frame) for frame in self._frames[:num_frames])
            sizes = struct.pack(">II", num_frames, num_bytes)
            filling = max(0, num_frames * self._frame - ENCODER_DELAY - self._num_samples)
        # version, method "constant", lowpass, peak, two gains, flags, bit rate, then 12 bits of delay and 12 of filling
        lame = b"LAME3.100" + bytes([0x01, 0]) + bytes(8) + bytes([0, KBPS[self._rate_hz]])
        lame += (ENCODER_DELAY << 12 | filling).to_bytes(3, "big") + bytes(12)
        body = header + bytes(side_info) + b"Info" + struct.pack(">I", flags) + sizes + lame
        return body.ljust(size, b"\x00")


def _frame_header(sample_rate_hz: int) -> tuple[bytes, int, int]:
    """Header of a mono frame without checksum -> its four bytes, the frame's size, the size of its side information."""
    version = next(version for version, rates in _RATES.items() if sample_rate_hz in rates)
    rate_index = _RATES[version].index(sample_rate_hz)
    kbps = KBPS[sample_rate_hz]
    kbps_index = (_KBPS_MPEG1 if version == _MPEG1 else _KBPS_MPEG2).index(kbps)
    layer3, unprotected, mono = 1, 1, 3
    word = 0x7FF << 21 | version << 19 | layer3 << 17 | unprotected << 16 | kbps_index << 12 | rate_index << 10
    header = (word | mono << 6).to_bytes(4, "big")
    size = frame_samples(sample_rate_hz) // 8 * kbps * 1000 // sample_rate_hz
    return header, size, 17 if version == _MPEG1 else 9
