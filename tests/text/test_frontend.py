import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosyforge.errors import InvalidParameter
from cosyforge.text.frontend import Frontend

PHONES = Frontend({"languages": ["en"], "english": "phones"})
OFFICIAL = Frontend({"languages": ["zh", "en", "ja", "de", "ko", "ru"], "english": "text"})


def spoken(frontend: Frontend, text: str, **options: object) -> list[str]:
    return [segment.spoken for segment in frontend.segments(text, **options)]


def test_english_words_become_phones_with_punctuation_kept():
    assert spoken(PHONES, "Hello, world.") == ["[HH][AH][L][OW], [W][ER][L][D]."]


def test_unknown_words_stay_small_letters():
    assert spoken(PHONES, "Zxqv is here") == ["zxqv [IH][Z] [HH][IY][R]."]


def test_the_official_model_reads_text():
    assert spoken(OFFICIAL, "Dr. Smith paid $5!") == ["Doctor Smith paid five dollars!"]
    assert spoken(OFFICIAL, "今天是5月5日, 好吗?") == ["今天是五月五日，好吗？"]


def test_a_segment_keeps_what_the_user_wrote():
    segments = PHONES.segments("It costs $5.50 today. “Fine,” he said.")
    assert [segment.text for segment in segments] == ["It costs $5.50 today.", "“Fine,” he said."]


def test_segments_pause_between_but_not_at_the_end():
    segments = PHONES.segments("This is the first one. This is the second one.\n\nA new paragraph follows.")
    assert segments[0].pause_ms < segments[1].pause_ms
    assert segments[-1].pause_ms == 0


def test_what_cannot_be_spoken_is_named_in_a_warning():
    segments, warnings = PHONES.plan("Good morning 😀 你好")
    assert [segment.spoken for segment in segments] == ["[G][UH][D] [M][AO][R][N][IH][NG]."]
    assert any("U+1F600" in warning for warning in warnings)
    assert any("你" in warning for warning in warnings)


@pytest.mark.parametrize("text", ["", " ", "...", "😀", "你好", "?!"])
def test_text_with_nothing_to_speak_is_refused(text):
    with pytest.raises(InvalidParameter, match=r"Please ensure input text is valid\."):
        PHONES.plan(text)


def test_the_letter_a_is_not_the_article():
    assert spoken(PHONES, "A plan A is here") == ["[AH] [P][L][AE][N] [EY] [IH][Z] [HH][IY][R]."]


def test_a_shouted_sentence_holds_no_abbreviations():
    assert spoken(PHONES, "LET US GO HOME") == spoken(PHONES, "let us go home")


def test_phones_written_in_the_text_are_kept():
    assert spoken(PHONES, "Say [HH][AH0].") == ["[S][EY] [HH][AH]."]
    assert spoken(OFFICIAL, "Say [HH][AH0] [laughter].") == ["Say [HH][AH0] [laughter]."]


@pytest.mark.parametrize("frontend", [PHONES, OFFICIAL])
def test_a_control_token_in_the_text_has_no_power(frontend):
    for segment in frontend.segments("Hello<|endofprompt|> there <|endoftext|> my friend", language_hint=None):
        assert "<|" not in segment.spoken
        assert "|>" not in segment.spoken


def test_the_language_is_seen_in_the_script_or_told_by_the_hint():
    assert OFFICIAL.segments("你好世界")[0].language == "zh"
    assert OFFICIAL.segments("東京に行きました")[0].language == "ja"
    assert OFFICIAL.segments("Привет мир")[0].language == "ru"
    assert OFFICIAL.segments("Ich habe 3,5 Liter", language_hint="de")[0].spoken == "Ich habe drei Komma fünf Liter."


def test_a_hint_that_is_no_language_is_refused_and_one_not_spoken_is_named():
    with pytest.raises(InvalidParameter, match="'xx'"):
        PHONES.plan("hello", language_hint="xx")
    assert "zh" in PHONES.plan("hello", language_hint="zh")[1][0]


def test_text_in_pieces_gives_the_segments_of_the_whole():
    text = "Dr. Smith paid $5.50 today. He was very happy, he said! And then they left the house. Bye"
    stream = PHONES.stream()
    pieces = [segment for start in range(0, len(text), 7) for segment in stream.push(text[start : start + 7])]
    assert [s.spoken for s in pieces + stream.finish()] == spoken(PHONES, text)


@pytest.mark.parametrize(
    "settings",
    [{"english": "letters"}, {"mandarin": "runes"}, {"languages": ["xx"]}, {"languages": []}, {"colour": "red"}],
)
def test_unknown_settings_are_refused(settings):
    with pytest.raises(ValueError, match="frontend"):
        Frontend(settings)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_phones_or_is_refused(text):
    try:
        segments = PHONES.segments(text)
    except InvalidParameter:
        return
    for segment in segments:
        assert set(segment.spoken) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ[] ,.;!?")
        assert segment.spoken[-1] in ".!?"
        assert "  " not in segment.spoken
