import gzip
import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from cosyforge.audio.wav import read_wav
from cosyforge.errors import InvalidMarkup, InvalidParameter
from cosyforge.net.allow_list import AllowList
from cosyforge.net.guarded_fetch import GuardedFetch
from cosyforge.net.sound_file import checked_wav
from cosyforge.net.sounds import MAX_EVENT_BYTES, MAX_SOUNDS, SoundLimits, Sounds
from cosyforge.synthesis.request import SynthesisRequest
from web_server import response, wav

SSML = SynthesisRequest(enable_ssml=True, sample_rate_hz=16_000)


@pytest.fixture
def sounds(web, tmp_path):
    web.answers["/music.wav"] = response(wav(16_000))
    web.answers["/bell.wav"] = response(wav(800))
    return Sounds(GuardedFetch(AllowList([web.address])), tmp_path / "sounds")


def test_every_sound_is_fetched_once_and_goes_with_the_request(web, sounds, tmp_path):
    bell = f'<soundEvent src="{web.url("/bell.wav")}"/>'
    text = f'<speak bgm="{web.url("/music.wav")}">a{bell}b{bell}</speak><speak>c{bell}</speak>'
    request = sounds.attach(SSML, text)
    assert [url for url, _ in request.attachments] == [web.url("/music.wav"), web.url("/bell.wav")]
    assert len(web.asked) == 2
    assert [read_wav(path)[0].size for _, path in request.attachments] == [16_000, 800]
    assert SynthesisRequest.from_json({**vars(request)}) == request
    sounds.release(request)
    sounds.release(request)
    assert list((tmp_path / "sounds").iterdir()) == []


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (SynthesisRequest(), '<speak><soundEvent src="http://127.0.0.1/"/></speak>'),
        (SSML, "plain"),
        (SSML, "<speak>x<break/></speak>"),
    ],
)
def test_without_sounds_nothing_happens(sounds, tmp_path, request_, text):
    assert sounds.attach(request_, text) is request_
    sounds.release(request_)
    assert not (tmp_path / "sounds").exists()


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/page", b"<html></html>", "found a web page"),
        ("/stereo", wav(channels=2), "found 16000 Hz, 2 channels"),
        ("/fast", wav(rate_hz=44_100), "found 44100 Hz"),
        ("/large", wav(MAX_EVENT_BYTES // 2), "larger than 2000000 bytes"),
    ],
)
def test_a_sound_that_cannot_be_had_is_told_with_its_place(web, sounds, tmp_path, path, body, reason):
    web.answers[path] = response(body)
    text = f'<speak>a<soundEvent src="{web.url("/bell.wav")}"/>\n<soundEvent src="{web.url(path)}"/></speak>'
    with pytest.raises(InvalidMarkup, match=reason) as refused:
        sounds.attach(SSML, text)
    assert (refused.value.fields["line"], refused.value.fields["column"]) == (2, 1)
    assert list((tmp_path / "sounds").iterdir()) == []


def test_an_address_that_is_not_allowed_is_told_so_and_no_more(sounds):
    with pytest.raises(InvalidMarkup) as refused:
        sounds.attach(SSML, '<speak bgm="http://169.254.169.254/latest">x</speak>')
    assert refused.value.message == "SSML line 1, column 1: bgm of <speak>: address not allowed"


def test_music_may_be_larger_than_an_event_and_has_a_limit_of_its_own(web, tmp_path):
    web.answers["/long"] = response(wav(MAX_EVENT_BYTES))
    fetch = GuardedFetch(AllowList([web.address]))
    text = f'<speak bgm="{web.url("/long")}">x</speak>'
    large = Sounds(fetch, tmp_path / "large")
    large.release(large.attach(SSML, text))
    with pytest.raises(InvalidMarkup, match="larger than 3000000 bytes"):
        Sounds(fetch, tmp_path / "small", SoundLimits(background_bytes=3_000_000)).attach(SSML, text)


def test_the_number_of_sounds_is_limited(web, sounds):
    events = "".join(f'<soundEvent src="{web.url("/bell.wav")}?{number}"/>' for number in range(MAX_SOUNDS + 1))
    with pytest.raises(InvalidMarkup, match=f"more than {MAX_SOUNDS} different sounds"):
        sounds.attach(SSML, f"<speak>{events}</speak>")
    assert web.asked == []


@pytest.mark.parametrize(
    ("ssml", "reason"),
    [
        ('<speak voice="alto">x</speak>', "voice"),
        ('<speak effect="lpfilter" effectValue="8001">x</speak>', "at most 8000 Hz"),
        ("<speak>x", "mismatched tag"),
    ],
)
def test_markup_is_checked_before_anything_is_fetched(sounds, ssml, reason):
    with pytest.raises(InvalidMarkup, match=reason):
        sounds.attach(SSML, ssml)


def test_what_a_crash_left_goes_at_the_next_start(sounds, web, tmp_path):
    sounds.attach(SSML, f'<speak bgm="{web.url("/music.wav")}">x</speak>')
    assert len(list((tmp_path / "sounds").iterdir())) == 1
    Sounds(GuardedFetch(), tmp_path / "sounds")
    assert list((tmp_path / "sounds").iterdir()) == []


def test_release_deletes_no_file_of_others(sounds, tmp_path):
    other = tmp_path / "other.wav"
    other.write_bytes(b"x")
    sounds.release(SynthesisRequest(attachments=(("http://a.example/", str(other)),)))
    assert other.exists()


# ---- what a sound is


def test_the_samples_stay_and_the_header_is_ours():
    received = io.BytesIO()
    given = np.arange(-800, 800, dtype=np.int16)
    soundfile.write(received, given, 16_000, format="WAV", subtype="PCM_16")
    with_list = received.getvalue()[:12] + b"LIST\x03\x00\x00\x00abc\x00" + received.getvalue()[12:]
    for file in (received.getvalue(), with_list, with_list + b"trailing"):
        clean = checked_wav(file)
        assert len(clean) == 44 + 2 * given.size
        assert np.array_equal(soundfile.read(io.BytesIO(clean), dtype="int16")[0], given)


def test_an_extensible_header_and_an_unknown_length_are_read():
    plain = wav(10)
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    layout = struct.pack("<HHIIHH", 0xFFFE, 1, 16_000, 32_000, 2, 16) + struct.pack("<HHI", 22, 16, 4) + guid
    extensible = b"RIFF\x00\x00\x00\x00WAVEfmt " + struct.pack("<I", 40) + layout + b"data\xff\xff\xff\xff" + plain[44:]
    assert checked_wav(extensible) == checked_wav(plain)


@pytest.mark.parametrize(
    ("received", "found"),
    [
        (b"", "found nothing"),
        (b"ID3\x04" + bytes(100), "found MP3"),
        (b"OggS" + bytes(100), "found an Ogg file"),
        (b"\n <!DOCTYPE html>", "found a web page"),
        (gzip.compress(wav()), "found a gzip file"),
        (b"root:x:0:0", "found something else"),
        (b"RIFF\x00\x00\x00\x00AVI ", "found something else"),
        (b"RIFF\x00\x00\x00\x00WAVE", "without a format"),
        (wav(0), "without samples"),
        (wav(bits=8), "8-bit"),
        (wav(bits=24), "24-bit"),
        (wav(rate_hz=8000), "8000 Hz"),
        (wav(kind=3, bits=32), "coding 3"),
        (wav(kind=0x11), "coding 17"),
        (wav()[:40], "without samples"),
    ],
)
def test_other_files_are_refused_by_what_they_are(received, found):
    with pytest.raises(InvalidParameter, match=found):
        checked_wav(received)


def test_the_platform_side_needs_no_torch():
    command = "import sys, cosyforge.net.sounds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
