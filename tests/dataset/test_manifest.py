"""data.jsonl: every broken rule is found, with its line."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from dataset_packages import rows

from cosyforge.dataset.manifest import Sample, read_manifest
from cosyforge.dataset.report import ERROR, WARNING, Problem


def read(tmp_path: Path, content: bytes) -> tuple[list[Sample], list[Problem]]:
    (tmp_path / "data.jsonl").write_bytes(content)
    return read_manifest(tmp_path)


def rules(problems: list[Problem]) -> list[tuple[int | None, str]]:
    return [(problem.line, problem.rule) for problem in problems]


def test_the_documents_own_example_is_clean(tmp_path: Path) -> None:
    content = b'{"wav_fn": "train/100001.wav", "text": "Hello."}\n{"wav_fn": "train/100002.wav", "text": "I see."}\n'

    samples, problems = read(tmp_path, content)

    assert problems == []
    assert [(s.line, s.wav_fn, s.text) for s in samples] == [
        (1, "train/100001.wav", "Hello."),
        (2, "train/100002.wav", "I see."),
    ]
    assert samples[0].path == tmp_path / "train/100001.wav"


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_tolerated(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + rows(("train/1.wav", "One.")).replace(b"\n", b"\r\n") + b"\r\n  \n"
    content += rows(("train/2.wav", "Two."))

    samples, problems = read(tmp_path, content)

    assert problems == []
    assert [(sample.line, sample.text) for sample in samples] == [(1, "One."), (4, "Two.")]


def test_every_broken_line_is_reported_with_its_number(tmp_path: Path) -> None:
    lines = [
        b'{"wav_fn": "train/1.wav", "text": "Fine."}',
        b"not json",
        b'["train/1.wav", "Hi."]',
        b'{"wav_fn": "train/2.wav"}',
        b'{"text": "Hi."}',
        b'{"wav_fn": 7, "text": null}',
        b'{"wav_fn": "a/1.wav", "text": "Hi."}',
        b'{"wav_fn": "train/../1.wav", "text": "Hi."}',
        b'{"wav_fn": "/train/1.wav", "text": "Hi."}',
        b'{"wav_fn": "train\\\\1.wav", "text": "Hi."}',
        b'{"wav_fn": "train/1.mp3", "text": "   "}',
        b'{"wav_fn": "train/1.wav", "text": "\xff"}',
        b'{"wav_fn": "train/1.wav", "wav_fn": "train/2.wav", "text": "Hi."}',
        b"[" * 100_000,
        b'{"wav_fn": "train/1.wav", "text": "Hi.", "n": 1' + b"0" * 5000 + b"}",
        b'{"wav_fn": "train/' + b"x" * 300 + b'.wav", "text": "Hi."}',
        b'{"wav_fn": "train/\\u0000.wav", "text": "Hi."}',
    ]

    samples, problems = read(tmp_path, b"\n".join(lines))

    assert [sample.line for sample in samples] == [1]
    assert rules(problems) == [
        (2, "not-json"),
        (3, "not-an-object"),
        (4, "missing-key"),
        (5, "missing-key"),
        (6, "wrong-type"),
        (6, "wrong-type"),
        (7, "not-in-train"),
        (8, "bad-path"),
        (9, "not-in-train"),
        (10, "bad-path"),
        (11, "not-wav"),
        (11, "empty-text"),
        (12, "not-utf8"),
        (13, "not-json"),
        (14, "not-json"),
        (15, "not-json"),
        (16, "bad-path"),
        (17, "bad-path"),
    ]
    assert all(problem.severity == ERROR for problem in problems)


def test_a_problem_says_what_where_and_what_to_do(tmp_path: Path) -> None:
    _, problems = read(tmp_path, b"\n\n" + rows(("a/1.wav", "Hi.")))

    assert str(problems[0]).startswith('data.jsonl line 3: wav_fn must start with train/ (got "a/1.wav"); ')


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('<speak>Hello <break time="1s"/></speak>', "markup-ssml"),
        ("Hello <strong>you</strong>", "markup-ssml"),
        ("Tom &amp; Jerry", "markup-ssml"),
        ("Be happy.<|endofprompt|>Hello.", "markup-control-token"),
        (r"The root is $\sqrt{2}$.", "markup-latex"),
        (r"\(a+b\)", "markup-latex"),
        ("$$x = 1$$", "markup-latex"),
        ("Let $n$ be even.", "markup-latex"),
        ("[laughter] That is funny.", "markup-annotation"),
        ("Nice 😀", "special-character"),
        ("Wow 👍🏽 great", "special-character"),
        ("★ Welcome ★", "special-character"),
        ("left → right", "special-character"),
        ("• first point", "special-character"),
        ("Hello\tyou", "control-character"),
        ("Hello\nyou", "control-character"),
        ("zero\u200bwidth", "control-character"),
        ("half \ud83d pair", "control-character"),
        ("private \ue000 use", "control-character"),
        ("...?!", "unspeakable-text"),
    ],
)
def test_a_text_must_be_what_is_spoken(text: str, rule: str, tmp_path: Path) -> None:
    content = json.dumps({"wav_fn": "train/1.wav", "text": text}).encode()

    samples, problems = read(tmp_path, content)

    assert samples == []
    assert rules(problems) == [(1, rule)]


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5, not $10!",
        "3 < 5 and 7 > 2, isn't it?",
        "Room 101 is at 25°C, about 77℉, and 50㎡ large.",
        "我家有 2 台 iPhone，价格是￥5999。",
        "½ + ¼ = ¾ (really) — “yes”…",
        "Müller & Söhne™, Straße №7",
        "今日は、いい天気ですね。",
        "می‌خواهم بروم",
        "He said [1] and left.",
        "C:\\ is a drive",
    ],
)
def test_ordinary_writing_is_left_alone(text: str, tmp_path: Path) -> None:
    samples, problems = read(tmp_path, rows(("train/1.wav", text)))

    assert problems == []
    assert samples[0].text == text


def test_repetitions_and_unknown_keys_are_warned_of(tmp_path: Path) -> None:
    content = rows(("train/1.wav", "One."), ("train/1.wav", "Two."), ("train/3.wav", "One."))
    content += b'{"wav_fn": "train/4.wav", "text": "Four.", "speaker": "x"}'

    samples, problems = read(tmp_path, content)

    assert len(samples) == 4
    assert sorted(rules(problems)) == [(2, "duplicate-clip"), (3, "duplicate-text"), (4, "unknown-key")]
    assert all(problem.severity == WARNING for problem in problems)


def test_a_decomposed_name_meets_the_unpacked_file(tmp_path: Path) -> None:
    samples, _ = read(tmp_path, rows((unicodedata.normalize("NFD", "train/é.wav"), "Hi.")))

    assert samples[0].wav_fn == unicodedata.normalize("NFC", "train/é.wav")


@pytest.mark.parametrize(
    ("content", "rule"), [(b"", "no-samples"), (b"\n \n", "no-samples"), (b"\xff\xfe{", "not-utf8")]
)
def test_a_manifest_without_a_readable_line_is_refused(content: bytes, rule: str, tmp_path: Path) -> None:
    samples, problems = read(tmp_path, content)

    assert samples == []
    assert rules(problems) == [(None, rule)]
