"""Whatever libsndfile reads (WAV, FLAC, MP3, OGG) becomes one float channel; out goes a 16-bit WAV."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from cosyforge.errors import InvalidParameter


def read_wav(source: str | Path | bytes) -> tuple[npt.NDArray[np.float32], int]:
    """Read a sound file or its bytes; several channels become their mean.

    Shapes: -> samples (L,), at least one
    Units: samples in [-1, 1] as far as the file keeps to it; the rate in Hz
    Raises: InvalidParameter naming the file when it is missing, is no sound file, is empty or holds NaN or infinity
    """
    name = f"audio of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise InvalidParameter(f"{name}: no such audio file")
    try:
        frames, sample_rate_hz = soundfile.read(
            io.BytesIO(source) if isinstance(source, bytes) else str(source), dtype="float32", always_2d=True
        )
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless names such as x.raw
        raise InvalidParameter(f"{name}: cannot be read as audio ({error}); give WAV, FLAC, MP3 or OGG") from error
    samples = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float64).astype(np.float32)
    if samples.size == 0:
        raise InvalidParameter(f"{name}: holds no samples")
    if not np.isfinite(samples).all():
        raise InvalidParameter(f"{name}: holds samples that are NaN or infinite; export it again")
    return np.ascontiguousarray(samples), int(sample_rate_hz)


def write_wav(path: str | Path, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> None:
    """Write one channel as 16-bit WAV; what exceeds [-1, 1] is clipped.

    Shapes: samples (L,)
    Raises: ValueError when samples are not one channel or not finite; OSError when the place cannot be written
    """
    if samples.ndim != 1:
        raise ValueError(f"{path}: write_wav takes one channel (samples,), got shape {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: samples hold NaN or infinity, nothing written")
    pcm = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2")
    with Path(path).open("wb") as stream:
        soundfile.write(stream, pcm, sample_rate_hz, format="WAV", subtype="PCM_16")
