import subprocess
import sys

import pytest

from cosyforge.text.frontend import Frontend
from cosyforge.text.language import LanguageFinder

ALL = ("zh", "en", "fr", "de", "ja", "ko", "ru", "pt", "th", "id", "vi", "it", "es", "ms")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("你好，世界", "zh"),
        ("こんにちは", "ja"),
        ("안녕하세요", "ko"),
        ("Привет, мир", "ru"),
        ("สวัสดีครับ", "th"),
        ("The house is very large today", "en"),
        ("Das Haus ist heute sehr groß", "de"),
        ("La maison est très grande aujourd'hui", "fr"),
        ("La casa es muy grande y bonita hoy", "es"),
        ("Ngôi nhà hôm nay rất lớn", "vi"),
    ],
)
def test_the_language_is_seen_in_the_script_or_the_words(text, language):
    assert LanguageFinder(ALL).find(text) == language


def test_a_hint_decides_where_letters_are_shared():
    assert LanguageFinder(ALL, "fr").find("Hello my dear friend") == "fr"
    assert LanguageFinder(ALL, "ja").find("東京") == "ja"
    assert LanguageFinder(ALL, "fr").find("你好") == "zh"


def test_a_sentence_that_shows_no_language_is_in_that_of_the_one_before():
    finder = LanguageFinder(ALL)
    assert [finder.find(text) for text in ("Das Haus ist heute sehr groß", "OK", "2026", "東京")] == [
        "de",
        "de",
        "de",
        "zh",
    ]
    finder = LanguageFinder(ALL)
    assert [finder.find(text) for text in ("東京に行きました", "東京", "5%")] == ["ja", "ja", "ja"]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("我在用Python写Web服务", "zh"),
        ("The word 你好 means hello", "en"),
        ("iPhone 15 Pro发布了", "zh"),
        ("-5°C", "zh"),
    ],
)
def test_mixed_sentences_are_in_the_language_of_most_words(text, language):
    assert LanguageFinder(("zh", "en")).find(text) == language


def test_the_large_detector_is_not_loaded_for_models_with_one_latin_language():
    code = (
        "import sys; from cosyforge.text.frontend import Frontend; "
        "Frontend({'languages': ['zh', 'en', 'ja']}).segments('Hello my friend. 你好'); "
        "print('lingua' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_segments_of_one_text_may_be_in_several_languages():
    frontend = Frontend({"languages": list(ALL), "english": "text"})
    segments = frontend.segments(
        "Das Haus ist heute sehr groß und hat 3 Türen. 它有3扇门。 It has 3 beautiful old doors."
    )
    assert [(segment.language, segment.words) for segment in segments] == [
        ("de", "Das Haus ist heute sehr groß und hat drei Türen."),
        ("zh", "它有三扇门。"),
        ("en", "It has three beautiful old doors."),
    ]
