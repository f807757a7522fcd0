import pytest

from cosyforge.api.speech import fix_wav_sizes
from cosyforge.api.speech_parameters import check_voice, is_ssml, parse_parameters
from cosyforge.errors import InvalidParameter
from fakes import wav_header


def _parse(**values):
    return parse_parameters({"voice": "default", **values}, request_id="r", streaming=False)


def test_defaults_are_those_of_the_api():
    request = _parse()
    assert (request.format, request.sample_rate_hz, request.volume) == ("mp3", 22050, 50)
    assert (request.rate, request.pitch, request.bit_rate_kbps, request.seed) == (1.0, 1.0, 32, 0)
    assert (request.enable_ssml, request.instruction, request.language_hint) == (False, None, None)


def test_what_an_official_client_sends_for_no_choice_means_the_default():
    request = _parse(format="Default", sample_rate=0, type=0, text_type="PlainText")
    assert (request.format, request.sample_rate_hz) == ("mp3", 22050)


@pytest.mark.parametrize("format", ["mp3", "pcm", "wav", "opus"])
@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 24000, 44100, 48000])
def test_every_format_and_rate(format, sample_rate):
    request = _parse(format=format, sample_rate=sample_rate)
    assert (request.format, request.sample_rate_hz) == (format, sample_rate)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "flac"),
        ("sample_rate", 11025),
        ("sample_rate", "24000"),
        ("sample_rate", True),
        ("volume", -1),
        ("volume", 101),
        ("volume", 50.5),
        ("volume", True),
        ("rate", 0.49),
        ("rate", 2.01),
        ("rate", "fast"),
        ("rate", float("nan")),
        ("pitch", 0),
        ("pitch", 3),
        ("bit_rate", 5),
        ("bit_rate", 511),
        ("seed", -1),
        ("seed", 65536),
        ("enable_ssml", "yes"),
        ("language_hints", "zh"),
        ("language_hints", [1]),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(InvalidParameter, match=name):
        _parse(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("volume", 0), ("volume", 100), ("rate", 0.5), ("rate", 2), ("pitch", 2.0), ("seed", 65535), ("bit_rate", 6)],
)
def test_the_ends_of_the_ranges_are_allowed(name, value):
    _parse(**{name: value})


def test_only_the_first_language_hint_counts():
    assert _parse(language_hints=["en", "zh"]).language_hint == "en"


@pytest.mark.parametrize("voice", [None, "", 7])
def test_a_voice_is_needed(voice):
    with pytest.raises(InvalidParameter, match="Request voice is invalid!"):
        _parse(voice=voice)


class TestVoices:
    base_voices = frozenset({"alto"})

    def _check(self, *, is_base, **values):
        check_voice(_parse(**values), is_base=is_base, base_voices=set(self.base_voices))

    def test_a_tuned_model_has_the_default_voice_alone(self):
        self._check(is_base=False)
        with pytest.raises(InvalidParameter, match="418"):
            self._check(is_base=False, voice="alto")

    def test_the_base_has_its_presets_alone(self):
        self._check(is_base=True, voice="alto")
        with pytest.raises(InvalidParameter, match="418"):
            self._check(is_base=True)

    def test_a_tuned_model_takes_no_instruction_but_an_empty_one_is_none(self):
        self._check(is_base=False, instruction="")
        with pytest.raises(InvalidParameter, match="428"):
            self._check(is_base=False, instruction="Speak slowly.")

    def test_the_base_takes_an_instruction_of_at_most_100_characters(self):
        self._check(is_base=True, voice="alto", instruction="慢" * 50)
        with pytest.raises(InvalidParameter, match="428"):
            self._check(is_base=True, voice="alto", instruction="慢" * 51)


def test_text_without_markup_is_plain_even_with_ssml_on():
    assert is_ssml(" <speak>hi</speak>", True)
    assert not is_ssml("a < b & c", True)
    assert not is_ssml("<speak>hi</speak>", False)


def test_a_streamed_wav_gets_its_true_sizes(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(0x7FFFFF00, 24000) + b"12345678")
    fix_wav_sizes(path)
    assert path.read_bytes() == wav_header(8, 24000) + b"12345678"


def test_chunks_before_the_sound_are_skipped(tmp_path):
    path = tmp_path / "a.wav"
    header = wav_header(0, 24000)
    path.write_bytes(header[:36] + b"LIST\x03\0\0\0abc\0" + header[36:] + b"12345678")
    fix_wav_sizes(path)
    assert path.read_bytes()[-16:] == b"data\x08\x00\x00\x00" + b"12345678"
    assert int.from_bytes(path.read_bytes()[4:8], "little") == len(path.read_bytes()) - 8


def test_a_file_without_sound_is_an_error(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(0, 24000)[:36])
    with pytest.raises(ValueError, match="no data chunk"):
        fix_wav_sizes(path)
