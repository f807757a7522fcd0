"""Sound files come in as one float channel, go out as 16-bit WAV; broken ones are named. Rates change without harm."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cosyforge.audio.resample import resample
from cosyforge.audio.wav import read_wav, write_wav
from cosyforge.errors import InvalidParameter


def sine(hz: float, sample_rate_hz: int, duration_s: float = 0.5) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(sample_rate_hz * duration_s)) / sample_rate_hz)).astype(
        np.float32
    )


def test_what_is_written_is_read_to_half_a_step(tmp_path: Path) -> None:
    samples = sine(440, 24000)
    write_wav(tmp_path / "a.wav", samples, 24000)
    read, sample_rate_hz = read_wav(tmp_path / "a.wav")
    assert sample_rate_hz == 24000
    assert read.dtype == np.float32
    # full scale is 32767 going out and 32768 coming in
    np.testing.assert_allclose(read, samples, atol=0.5 / 32768 + 0.5 / 32767)


def test_the_file_is_sixteen_bit_mono_wav(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([0.0, 1.0, -1.0, 7.0, -7.0], dtype=np.float32), 16000)
    content = (tmp_path / "a.wav").read_bytes()
    assert content[:4] == b"RIFF"
    assert struct.unpack_from("<HHIIHH", content, 20) == (1, 1, 16000, 32000, 2, 16)
    assert np.frombuffer(content[-10:], "<i2").tolist() == [0, 32767, -32767, 32767, -32767]


def test_bytes_are_read_like_a_file(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", sine(440, 16000), 16000)
    from_file, _ = read_wav(tmp_path / "a.wav")
    from_bytes, _ = read_wav((tmp_path / "a.wav").read_bytes())
    np.testing.assert_array_equal(from_file, from_bytes)


def test_channels_become_their_mean(tmp_path: Path) -> None:
    left, right = sine(300, 24000), sine(500, 24000)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], axis=1), 24000, subtype="FLOAT")
    samples, _ = read_wav(tmp_path / "s.wav")
    np.testing.assert_allclose(samples, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize(("kind", "subtype"), [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")])
def test_other_formats_are_read_too(kind: str, subtype: str) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, sine(440, 24000), 24000, format=kind, subtype=subtype)
    samples, sample_rate_hz = read_wav(stream.getvalue())
    assert sample_rate_hz == 24000
    assert abs(float(np.abs(samples[4000:8000]).max()) - 0.5) < 0.05


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as audio"),
        (b"RIFF not really", "cannot be read as audio"),
        (b"<html>404</html>" * 10, "cannot be read as audio"),
    ],
)
def test_what_is_no_sound_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(InvalidParameter, match=rf"a\.wav: {message}"):
        read_wav(tmp_path / "a.wav")
    with pytest.raises(InvalidParameter, match=message):
        read_wav(content)


def test_headerless_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"\0" * 100)
    with pytest.raises(InvalidParameter, match=r"a\.raw: cannot be read"):
        read_wav(tmp_path / "a.raw")
    with pytest.raises(InvalidParameter, match=r"b\.wav: no such audio file"):
        read_wav(tmp_path / "b.wav")


def test_empty_and_not_finite_sound_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, dtype=np.float32), 24000)
    with pytest.raises(InvalidParameter, match="holds no samples"):
        read_wav(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 24000, subtype="FLOAT")
    with pytest.raises(InvalidParameter, match="NaN"):
        read_wav(tmp_path / "nan.wav")
    with pytest.raises(ValueError, match="NaN"):
        write_wav(tmp_path / "out.wav", np.array([np.nan], dtype=np.float32), 24000)
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize(("from_hz", "to_hz"), [(44100, 16000), (44100, 24000), (16000, 24000), (24000, 8000)])
def test_resampling_keeps_the_tone_and_the_duration(from_hz: int, to_hz: int) -> None:
    out = resample(sine(1000, from_hz), from_hz, to_hz)
    assert abs(len(out) - to_hz / 2) <= 1
    middle = slice(to_hz // 10, to_hz // 3)
    np.testing.assert_allclose(out[middle], sine(1000, to_hz)[middle], atol=2e-3)


def test_resampling_removes_what_the_new_rate_cannot_hold() -> None:
    out = resample(sine(9000, 24000), 24000, 16000)
    assert float(np.abs(out[2000:6000]).max()) < 1e-3


def test_the_same_rate_changes_nothing_and_wrong_input_is_refused() -> None:
    samples = sine(440, 16000)
    np.testing.assert_array_equal(resample(samples, 16000, 16000), samples)
    with pytest.raises(ValueError, match="positive"):
        resample(samples, 0, 16000)
    with pytest.raises(ValueError, match="one channel"):
        resample(samples[None], 16000, 24000)
