"""Music under the speech: the `bgm` of a `<speak>` element, looped for as long as the speech lasts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

from cosyforge.audio.voice_effects import limit_peaks

Samples = npt.NDArray[np.float32]

MUSIC_RATE_HZ = 16_000
FADE_IN_S, FADE_OUT_S = 0.05, 0.8
_JOIN_S = 0.02
_PIECE = 1600


class Background:
    """Mixes music into speech that comes in pieces; the result does not depend on how the speech was cut.

    The music begins with a short fade. When the speech is over, `finish` gives the last 0.8 s in which it fades away.
    Speech keeps its level; where the sum passes 0.85 its peaks are bent softly, so nothing clips.
    """

    def __init__(
        self, samples: Samples, sample_rate_hz: int, volume: int = 50, *, from_hz: int = MUSIC_RATE_HZ
    ) -> None:
        """One background for one `<speak>` element.

        Shapes: samples (L,), L at least one
        Units: sample_rate_hz is that of the speech, from_hz that of the music; volume 100 is the music as it was
        recorded, 50 half its amplitude, 0 silence
        Raises: ValueError when there is no music, or for a volume outside 0 to 100
        """
        if samples.ndim != 1 or not samples.size:
            raise ValueError(f"background music must be one channel with samples in it, got shape {samples.shape}")
        if not 0 <= volume <= 100:
            raise ValueError(f"volume {volume} is not between 0 and 100")
        self._loop = _without_seam(np.asarray(samples, dtype=np.float32), round(_JOIN_S * from_hz))
        self._position = 0
        same = from_hz == sample_rate_hz
        self._resampler = None if same else soxr.ResampleStream(from_hz, sample_rate_hz, 1, dtype="float32")
        self._ready = np.zeros(0, dtype=np.float32)
        self._gain = np.float32(volume / 100)
        self._num_given = 0
        self._fade_in = round(FADE_IN_S * sample_rate_hz)
        self._fade_out = round(FADE_OUT_S * sample_rate_hz)

    def push(self, samples: Samples) -> Samples:
        """The speech with the music under it.

        Shapes: (L,) -> (L,)
        """
        if self._gain == 0.0:
            return samples
        return limit_peaks(samples + self._music(samples.size))

    def finish(self) -> Samples:
        """The music alone, fading away; nothing when no speech came or it is silent."""
        if self._gain == 0.0 or not self._num_given:
            return np.zeros(0, dtype=np.float32)
        curve = (0.5 + 0.5 * np.cos(np.pi * (np.arange(self._fade_out) + 0.5) / self._fade_out)).astype(np.float32)
        return limit_peaks(self._music(self._fade_out) * curve)

    def _music(self, size: int) -> Samples:
        pieces, num_ready = [self._ready], self._ready.size
        while num_ready < size:
            pieces.append(self._next_piece())
            num_ready += pieces[-1].size
        ready = np.concatenate(pieces)
        self._ready = ready[size:]
        rise = np.clip((self._num_given + np.arange(size) + 0.5) / self._fade_in, 0.0, 1.0).astype(np.float32)
        self._num_given += size
        return ready[:size] * rise * self._gain

    def _next_piece(self) -> Samples:
        """Always as much of the loop, so that the resampler's output never depends on what was asked for."""
        index = (self._position + np.arange(_PIECE)) % self._loop.size
        self._position = (self._position + _PIECE) % self._loop.size
        piece = self._loop[index]
        if self._resampler is None:
            return piece
        return np.asarray(self._resampler.resample_chunk(piece, last=False), dtype=np.float32)


def _without_seam(samples: Samples, join: int) -> Samples:
    """Lay the end over the beginning, so that the loop has no click where it starts again."""
    join = min(join, samples.size // 4)
    if not join:
        return samples
    rise = ((np.arange(join) + 0.5) / join).astype(np.float32)
    body = samples[:-join].copy()
    body[:join] = body[:join] * rise + samples[-join:] * (1.0 - rise)
    return body
