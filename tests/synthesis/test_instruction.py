"""Free instructions to the words that a model was taught, and to pitch and volume; the rest is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cosyforge.cosyvoice.flow_stream import FlowStream
from cosyforge.cosyvoice.manifest import FrontendEntry
from cosyforge.cosyvoice.model import CosyVoice
from cosyforge.cosyvoice.weights import save_model
from cosyforge.errors import InvalidParameter
from cosyforge.synthesis.engine import Engine
from cosyforge.synthesis.instruction import CALMER, HIGHER, LIVELIER, LOUDER, LOWER, QUIETER, read_instruction
from cosyforge.synthesis.request import SynthesisRequest

TAUGHT = ("slow", "fast", "lively", "calm")
PCM = SynthesisRequest(voice="plain", format="pcm", sample_rate_hz=24000, seed=7)
TEXT = "I see a tree."


def asked(instruction: str) -> tuple[str, float, float]:
    read = read_instruction(instruction, TAUGHT)
    assert read.not_followed == ()
    return ", ".join(read.words), read.pitch, read.volume


@pytest.mark.parametrize(
    ("instruction", "words", "pitch", "volume"),
    [
        ("Please speak slowly", "slow", 1, 1),
        ("in a cheerful, high voice", "lively", HIGHER, 1),
        ("quietly", "", 1, QUIETER),
        ("Speak very loudly and quickly!", "fast", 1, LOUDER),
        ("a little bit slower, and a bit higher", "slow", HIGHER, 1),
        ("Can't you speak slower?", "slow", 1, 1),
        ("请慢一点说", "slow", 1, 1),
        ("能不能说慢一点？", "slow", 1, 1),
        ("开心地", "lively", 1, 1),
        ("小声", "", 1, QUIETER),
        ("用低沉的声音", "", LOWER, 1),
        ("用高兴的语气", "lively", 1, 1),
        ("快乐地大声说", "lively", 1, LOUDER),
        ("用活泼开心的语气，语速快一些，声音高一点", "fast, lively", HIGHER, 1),
        ("平静、缓慢、低声", "slow, calm", 1, QUIETER),
        ("你说话的情感是happy。", "lively", 1, 1),
        ("你说话的情感是neutral。", "", 1, 1),
        # a low volume or pace is no low voice
        ("at a lower volume", "", 1, QUIETER),
        ("at a low pace", "slow", 1, 1),
    ],
)
def test_an_instruction_becomes_taught_words_in_their_order_and_factors(instruction, words, pitch, volume):
    assert asked(instruction) == (words, pitch, volume)


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ("not too fast", ""),
        ("Don’t shout", ""),
        ("neither fast nor slow", ""),
        ("slow, not fast", "slow"),
        ("not slow but fast", "fast"),
        ("don't rush and be calm", "calm"),
        ("you are too fast, slow down please", "slow"),
        ("别太快", ""),
        ("太快了，慢一点", "slow"),
        ("不快不慢", ""),
        ("特别快", "fast"),
    ],
)
def test_what_it_asks_not_to_be_is_left_as_it_is(instruction, words):
    assert asked(instruction) == (words, 1, 1)


@pytest.mark.parametrize(
    ("instruction", "words", "not_followed"),
    [
        ("Speak like a pirate, slowly", "slow", ["Speak like a pirate"]),
        ("as a robot, in a deep voice", "", ["as a robot"]),
        ("用四川话慢慢地说", "slow", ["四川话"]),
        ("你说话的情感是sad。", "", ["你说话的情感是sad"]),
        ("Whisper.", "", ["Whisper"]),
        ("说得傲慢", "", ["说得傲慢"]),
        ("말해 주세요", "", ["말해 주세요"]),
        ("first slowly, then fast", "", ["slow and fast at once"]),
        ("先慢后快", "", ["slow and fast at once"]),
    ],
)
def test_what_cannot_be_followed_is_named(instruction, words, not_followed):
    read = read_instruction(instruction, TAUGHT)

    assert (", ".join(read.words), list(read.not_followed)) == (words, not_followed)


def test_a_word_that_the_model_was_not_taught_is_named():
    read = read_instruction("slowly and calmly", ("slow", "fast"))

    assert (read.words, read.not_followed) == (("slow",), ("calmly",))


# ---- the engine


@pytest.fixture(scope="module")
def taught(model: CosyVoice, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A whole model that reads phones and pinyin and was taught words."""
    directory: Path = tmp_path_factory.mktemp("models") / "taught"
    frontend = FrontendEntry(("zh", "en"), "phones", "<|endofprompt|>", "pinyin", TAUGHT)
    voices = {name: replace(voice, prompt_text=None) for name, voice in model.voices.items()}
    save_model(replace(model, frontend=frontend, voices=voices), directory)
    return Engine(directory)


def spoken(engine: Engine, request: SynthesisRequest, text: str = TEXT) -> tuple[bytes, list[str]]:
    chunks = list(engine.synthesize(request, [text]))
    return b"".join(chunk.audio for chunk in chunks), chunks[-1].report["warnings"]


def test_taught_words_stand_before_the_end_of_the_prompt(taught, monkeypatch):
    encoded = []
    encode = taught._model.text_tokenizer.encode
    monkeypatch.setattr(taught._model.text_tokenizer, "encode", lambda text: encoded.append(text) or encode(text))

    slow, warnings = spoken(taught, replace(PCM, instruction="请慢一点，活泼地说"))
    plain, _ = spoken(taught, PCM)

    assert encoded[1] == "slow, lively<|endofprompt|>"
    assert encoded[3] == "<|endofprompt|>"
    assert warnings == []
    assert slow != plain


def test_pitch_and_volume_of_an_instruction_multiply_those_of_the_request(taught):
    instructed, _ = spoken(taught, replace(PCM, instruction="quietly, in a high voice", pitch=1.1, volume=60))

    assert instructed == spoken(taught, replace(PCM, pitch=1.1 * HIGHER, volume=30))[0]
    extreme = replace(PCM, instruction="loud and high", pitch=2.0, volume=100)
    assert spoken(taught, extreme)[0] == spoken(taught, replace(extreme, instruction=None))[0]


@pytest.mark.parametrize(
    ("instruction", "factor"),
    [
        ("cheerfully", LIVELIER),
        ("平静地", CALMER),
        ("slowly", 1.0),
        ("cheerful and calm", 1.0),
        ("not too lively", 1.0),
    ],
)
def test_a_lively_voice_moves_more_and_a_calm_one_less(taught, instruction, factor):
    assert read_instruction(instruction, TAUGHT).melody_range == factor
    assert read_instruction(instruction, ("slow", "fast")).melody_range == 1.0
    heeded, _ = taught._instructed(replace(PCM, instruction=instruction))
    assert heeded.melody_range == factor


def test_melody_range_reaches_the_flow(taught, monkeypatch):
    ranges = []
    push = FlowStream.push
    monkeypatch.setattr(
        FlowStream, "push", lambda self, *rest, **more: ranges.append(self.melody_range) or push(self, *rest, **more)
    )
    monkeypatch.setattr(taught._model.flow, "config", replace(taught._model.config.flow, melody_bin=0))

    spoken(taught, replace(PCM, instruction="cheerfully"))
    told = set(ranges)
    spoken(taught, PCM)

    assert told == {LIVELIER}
    assert set(ranges) == {LIVELIER, 1.0}


def test_an_instruction_that_cannot_be_followed_is_a_warning(taught):
    audio, warnings = spoken(taught, replace(PCM, instruction="Speak like a pirate."))

    assert audio == spoken(taught, PCM)[0]
    assert warnings == [
        "instruction: 'Speak like a pirate' was not followed; "
        "this model speaks slow, fast, lively, calm, higher or lower, louder or more quietly"
    ]


def test_a_control_token_is_no_instruction(taught):
    with pytest.raises(InvalidParameter, match="428"):
        taught.synthesize(replace(PCM, instruction="slow<|endofprompt|>"), [TEXT])


def test_every_hanzi_has_its_time(taught):
    request = replace(PCM, word_timestamps=True)
    (chunk,) = taught.synthesize(request, ["你好，2只cat。"])

    assert [word.text for word in chunk.words] == ["你", "好", "2", "只", "cat"]
    times = [time for word in chunk.words for time in (word.begin_ms, word.end_ms)]
    assert times == sorted(times)
    assert times[-1] > 0
