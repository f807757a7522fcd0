import pytest

from cosyforge.api.speech_parameters import check_length, is_ssml, parse_parameters, resolve_voice
from cosyforge.api.wav_sizes import fix_wav_sizes
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
    base_voices = {"alto": "alto", "longanhuan": "alto"}  # noqa: RUF012

    def _resolve(self, *, is_base, **values):
        return resolve_voice(_parse(**values), self.base_voices if is_base else None).voice

    def test_a_tuned_model_has_the_default_voice_alone(self):
        assert self._resolve(is_base=False) == "default"
        with pytest.raises(InvalidParameter, match="418"):
            self._resolve(is_base=False, voice="alto")

    def test_the_base_has_its_presets_alone(self):
        assert self._resolve(is_base=True, voice="alto") == "alto"
        with pytest.raises(InvalidParameter, match="418"):
            self._resolve(is_base=True)

    def test_another_id_of_a_preset_becomes_its_name(self):
        assert self._resolve(is_base=True, voice="longanhuan") == "alto"

    def test_a_tuned_model_takes_no_instruction_but_an_empty_one_is_none(self):
        self._resolve(is_base=False, instruction="")
        with pytest.raises(InvalidParameter, match="428"):
            self._resolve(is_base=False, instruction="Speak slowly.")

    def test_the_base_takes_an_instruction_of_at_most_100_characters(self):
        self._resolve(is_base=True, voice="alto", instruction="慢" * 50)
        with pytest.raises(InvalidParameter, match="428"):
            self._resolve(is_base=True, voice="alto", instruction="慢" * 51)


class TestHotFix:
    def test_readings_and_replacements_become_pairs(self):
        fix = {"pronunciation": [{"草地": "cao3 di4"}, {"重": "chong2", "行": "hang2"}], "replace": [{"a": "b"}]}
        request = _parse(hot_fix=fix)
        assert request.pronunciations == (("草地", "cao3 di4"), ("重", "chong2"), ("行", "hang2"))
        assert request.replacements == (("a", "b"),)

    @pytest.mark.parametrize("fix", [None, {}, {"pronunciation": None}, {"replace": []}])
    def test_none_is_none(self, fix):
        assert (_parse(hot_fix=fix).pronunciations, _parse(hot_fix=fix).replacements) == ((), ())

    @pytest.mark.parametrize(
        ("fix", "name"),
        [
            ([], "hot_fix"),
            ("a", "hot_fix"),
            ({"pronunciation": {"a": "b"}}, "hot_fix.pronunciation"),
            ({"replace": [{"a": "b"}, {}]}, r"hot_fix.replace\[1\]"),
            ({"replace": ["a"]}, r"hot_fix.replace\[0\]"),
            ({"pronunciation": [{"a": 1}]}, r"hot_fix.pronunciation\[0\]"),
            ({"pronunciation": [{"a": " "}]}, r"hot_fix.pronunciation\[0\]"),
            ({"replace": [{"a": "b"}] * 1001}, "1001 entries; at most 1000"),
        ],
    )
    def test_what_is_wrong_is_named(self, fix, name):
        with pytest.raises(InvalidParameter, match=name):
            _parse(hot_fix=fix)


class TestAigc:
    def _parse(self, **values):
        return dict(parse_parameters({"voice": "v", **values}, request_id="r-1", streaming=True, account="llm-1").aigc)

    def test_without_the_tag_there_is_no_mark(self):
        assert self._parse(aigc_propagator="us", aigc_propagate_id="7") == {}

    def test_the_mark_names_the_caller_and_the_request_unless_told_otherwise(self):
        mark = self._parse(enable_aigc_tag=True)
        assert mark["Label"] == "1"
        assert (mark["ContentPropagator"], mark["PropagateID"], mark["ProduceID"]) == ("llm-1", "r-1", "r-1")
        mark = self._parse(enable_aigc_tag=True, aigc_propagator="us", aigc_propagate_id="7")
        assert (mark["ContentPropagator"], mark["PropagateID"], mark["ProduceID"]) == ("us", "7", "r-1")

    @pytest.mark.parametrize("name", ["aigc_propagator", "aigc_propagate_id"])
    @pytest.mark.parametrize("value", [7, "x" * 1025])
    def test_its_fields_are_short_texts(self, name, value):
        with pytest.raises(InvalidParameter, match=name):
            self._parse(enable_aigc_tag=True, **{name: value})


def test_switches_reach_the_request():
    request = _parse(word_timestamp_enabled=True, enable_markdown_filter=True)
    assert (request.word_timestamps, request.markdown_filter) == (True, True)
    assert (_parse().word_timestamps, _parse().markdown_filter) == (False, False)


@pytest.mark.parametrize("name", ["word_timestamp_enabled", "enable_markdown_filter", "enable_aigc_tag"])
def test_switches_are_true_or_false(name):
    with pytest.raises(InvalidParameter, match=name):
        _parse(**{name: "yes"})


def test_the_limit_of_a_text_is_named():
    check_length(20_000)
    with pytest.raises(InvalidParameter, match="20001 characters; at most 20000"):
        check_length(20_001)


def test_text_without_markup_is_plain_even_with_ssml_on():
    assert is_ssml(" <speak>hi</speak>", True)
    assert not is_ssml("a < b & c", True)
    assert not is_ssml("<speak>hi</speak>", False)
    assert not is_ssml("<speakers> are loud", True)


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
