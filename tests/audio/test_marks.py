import io
import json

import av
import numpy as np
import pytest

from cosyforge.audio.encode import make_encoder
from cosyforge.audio.marks import id3_tag, mark_json, wav_list

MARK = (("Label", "1"), ("ContentProducer", "Köln 公司"), ("ProduceID", "x" * 300))


def file_of(format: str, streaming: bool, mark=MARK) -> bytes:
    encoder = make_encoder(format, 24000, 32, streaming, mark)
    tone = 0.3 * np.sin(np.arange(24000) / 10).astype(np.float32)
    return encoder.encode(tone) + encoder.finish()


def read_mark(data: bytes) -> dict[str, str] | None:
    with av.open(io.BytesIO(data)) as container:
        found = {**container.metadata, **container.streams.audio[0].metadata}
        num_samples = sum(frame.samples for frame in container.decode(audio=0))
    assert num_samples > 23000
    value = found.get("AIGC") or found.get("comment", "").removeprefix("AIGC=")
    return json.loads(value) if value else None


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("format", ["wav", "mp3", "opus", "aac", "flac"])
def test_the_mark_can_be_read_back_and_the_sound_is_the_same(format, streaming):
    assert read_mark(file_of(format, streaming)) == dict(MARK)
    assert read_mark(file_of(format, streaming, mark=())) is None


def test_pcm_has_no_place_for_a_mark():
    assert file_of("pcm", True) == file_of("pcm", True, mark=())


def test_no_names_write_nothing():
    assert (mark_json(()), id3_tag(()), wav_list(())) == ("", b"", b"")


@pytest.mark.parametrize("value", ["even", "odd"])
def test_a_chunk_of_a_wav_file_has_an_even_size(value):
    chunk = wav_list([("Label", value)])
    assert len(chunk) % 2 == 0
    assert int.from_bytes(chunk[4:8], "little") == len(chunk) - 8
