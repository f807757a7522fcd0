"""A spectrogram as the bytes of a small picture for a page; no drawing library is needed.

For pictures with axes and titles, side by side on one scale, see `spectrogram.py`.
"""

from __future__ import annotations

import io

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.stream import VideoStream

from cosyforge.audio.mel import MEL_SAMPLE_RATE_HZ, mel_spectrogram
from cosyforge.audio.resample import resample

PICTURE_MIME = "image/webp"

_PX_PER_FRAME, _PX_PER_BIN = 3, 2
_MOST_FRAMES = 500
"""Ten seconds; of longer clips the frames are thinned out."""
_RANGE = 8.0
"""Natural-log units below the loudest value that are shown, about 70 dB."""
_QUALITY = "55"

_COLOURS = np.array(
    [
        [0, 0, 4],
        [40, 11, 84],
        [101, 21, 110],
        [159, 42, 99],
        [212, 72, 66],
        [245, 125, 21],
        [250, 193, 39],
        [252, 255, 164],
    ]
)
"""From silent to loud; darker is always quieter, for eyes that tell no colours, too."""


def spectrogram_webp(samples: npt.NDArray[np.float32], sample_rate_hz: int) -> bytes:
    """Draw the log-mel spectrogram of a clip, low frequencies at the bottom, 50 frames to the second.

    Shapes: samples (L,)
    Raises: ValueError when the clip is shorter than 30 ms
    """
    wav = torch.from_numpy(resample(samples, sample_rate_hz, MEL_SAMPLE_RATE_HZ))
    mel = mel_spectrogram(wav[None])[0].numpy()
    mel = mel[:, :: -(-mel.shape[1] // _MOST_FRAMES)]
    level = np.clip((mel - mel.max()) / _RANGE + 1.0, 0.0, 1.0)
    pixels = level[::-1].repeat(_PX_PER_BIN, axis=0).repeat(_PX_PER_FRAME, axis=1)
    pixels = pixels[:, : pixels.shape[1] // 2 * 2]  # the codec halves the colours
    return _webp(_coloured(pixels))


def _coloured(level: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Shapes: level (H, W) in 0 .. 1 -> (H, W, 3)"""
    marks = np.linspace(0.0, 1.0, len(_COLOURS))
    channels = [np.interp(level, marks, _COLOURS[:, channel]) for channel in range(3)]
    return np.ascontiguousarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def _webp(pixels: npt.NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format="webp") as container:
        stream = container.add_stream("libwebp", rate=1, options={"quality": _QUALITY})
        assert isinstance(stream, VideoStream), "libwebp codes pictures"
        stream.height, stream.width, stream.pix_fmt = pixels.shape[0], pixels.shape[1], "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return sink.getvalue()
