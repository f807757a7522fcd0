"""The parameters of a request to speak, from the wire's names and defaults to a checked SynthesisRequest.

HTTP and WebSocket share this; both say what is wrong in the words that clients know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cosyforge.billing.characters import count_characters
from cosyforge.errors import InvalidParameter
from cosyforge.synthesis.request import SynthesisRequest

FORMATS = ("mp3", "pcm", "wav", "opus")
SAMPLE_RATES_HZ = (8000, 16000, 22050, 24000, 44100, 48000)
MAX_TEXT_CHARACTERS = 20_000
"""Counted characters of one request over HTTP, and of one continue-task."""
MAX_INSTRUCTION_CHARACTERS = 100
MAX_HOT_FIXES = 1000
MAX_AIGC_VALUE = 1024
AIGC_PRODUCER = "CosyForge"

BAD_VOICE = "[tts:]Engine return error code: 418"
BAD_INSTRUCTION = "[tts:]Engine return error code: 428"
NO_VOICE = "Request voice is invalid!"
NO_TEXT = "Please ensure input text is valid."

_MARKUP = re.compile(r"\s*<speak[\s/>]")


def parse_parameters(
    values: Mapping[str, Any],
    *,
    request_id: str,
    streaming: bool,
    account: str = "",
    formats: tuple[str, ...] = FORMATS,
) -> SynthesisRequest:
    """Check everything but the text; unknown parameters are ignored.

    account: who is named in the hidden mark when the request names nobody
    Raises: InvalidParameter naming the parameter
    """
    voice = values.get("voice")
    if not isinstance(voice, str) or not voice:
        raise InvalidParameter(NO_VOICE)
    return SynthesisRequest(
        voice=voice,
        format=_format(values.get("format"), formats),
        sample_rate_hz=_sample_rate(values.get("sample_rate")),
        volume=_integer(values, "volume", 50, 0, 100),
        rate=_number(values, "rate", 1.0, 0.5, 2.0),
        pitch=_number(values, "pitch", 1.0, 0.5, 2.0),
        bit_rate_kbps=_integer(values, "bit_rate", 32, 6, 510),
        seed=_integer(values, "seed", 0, 0, 65535),
        enable_ssml=_flag(values, "enable_ssml"),
        instruction=_instruction(values.get("instruction")),
        language_hint=_language_hint(values.get("language_hints")),
        request_id=request_id,
        streaming=streaming,
        word_timestamps=_flag(values, "word_timestamp_enabled"),
        pronunciations=_hot_fix(values.get("hot_fix"), "pronunciation"),
        replacements=_hot_fix(values.get("hot_fix"), "replace"),
        markdown_filter=_flag(values, "enable_markdown_filter"),
        aigc=_aigc(values, request_id, account),
    )


def resolve_voice(request: SynthesisRequest, base_voices: Mapping[str, str] | None) -> SynthesisRequest:
    """The request with the model's own name for its voice. A fine-tuned model has one voice and takes no instruction.

    base_voices: every id that the base answers to -> its name in the model; None for a fine-tuned model
    Raises: InvalidParameter with the codes that clients know
    """
    if base_voices is None:
        if request.instruction:
            raise InvalidParameter(BAD_INSTRUCTION)
        base_voices = {"default": "default"}
    voice = base_voices.get(request.voice)
    if voice is None:
        raise InvalidParameter(BAD_VOICE)
    return replace(request, voice=voice)


def check_length(num_characters: int, most: int = MAX_TEXT_CHARACTERS, what: str = "text") -> None:
    """Raises: InvalidParameter naming the limit"""
    if num_characters > most:
        raise InvalidParameter(f"{what} has {num_characters} characters; at most {most} can be spoken at once.")


def is_ssml(text: str, enable_ssml: bool) -> bool:
    """With SSML on, text without markup is still plain text: an official client always turns it on."""
    return enable_ssml and _MARKUP.match(text) is not None


def _format(value: Any, formats: tuple[str, ...]) -> str:
    if value in (None, "", "Default"):  # "Default" is what an official client sends for no choice
        return "mp3"
    if value not in formats:
        raise InvalidParameter(f"format must be one of {', '.join(formats)} (got {value}).")
    return str(value)


def _sample_rate(value: Any) -> int:
    if value in (None, 0):  # likewise
        return 22050
    if isinstance(value, bool) or value not in SAMPLE_RATES_HZ:
        raise InvalidParameter(f"sample_rate must be one of {', '.join(map(str, SAMPLE_RATES_HZ))} (got {value}).")
    return int(value)


def _integer(values: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = values.get(name)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise InvalidParameter(f"{name} must be an integer in [{least}, {most}] (got {value}).")
    return value


def _number(values: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = values.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not least <= value <= most:
        raise InvalidParameter(f"{name} must be a number in [{least}, {most}] (got {value}).")
    return float(value)


def _flag(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidParameter(f"{name} must be true or false (got {value}).")
    return bool(value)


def _instruction(value: Any) -> str | None:
    """An empty instruction is none."""
    if value in (None, ""):
        return None
    if not isinstance(value, str) or count_characters(value) > MAX_INSTRUCTION_CHARACTERS:
        raise InvalidParameter(BAD_INSTRUCTION)
    return value


def _language_hint(value: Any) -> str | None:
    """Only the first hint counts."""
    if value in (None, []):
        return None
    if not isinstance(value, list) or not all(isinstance(hint, str) for hint in value):
        raise InvalidParameter(f"language_hints must be a list of language codes (got {value}).")
    return str(value[0])


def _hot_fix(value: Any, part: str) -> tuple[tuple[str, str], ...]:
    """`{"pronunciation": [{"word": "pin1 yin1"}], "replace": [{"a": "b"}]}`, either part or none."""
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise InvalidParameter("hot_fix must be an object with the lists pronunciation and replace.")
    entries = value.get(part)
    if entries is None:
        return ()
    name = f"hot_fix.{part}"
    if not isinstance(entries, list):
        raise InvalidParameter(f'{name} must be a list of objects such as {{"written": "spoken"}}.')
    pairs: list[tuple[str, str]] = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not entry or not all(_is_pair(*pair) for pair in entry.items()):
            raise InvalidParameter(
                f'{name}[{index}] must be an object such as {{"written": "spoken"}}, both not empty.'
            )
        pairs += entry.items()
    if len(pairs) > MAX_HOT_FIXES:
        raise InvalidParameter(f"{name} has {len(pairs)} entries; at most {MAX_HOT_FIXES} are taken.")
    return tuple(pairs)


def _is_pair(written: Any, spoken: Any) -> bool:
    return isinstance(written, str) and isinstance(spoken, str) and bool(written.strip()) and bool(spoken.strip())


def _aigc(values: Mapping[str, Any], request_id: str, account: str) -> tuple[tuple[str, str], ...]:
    """The hidden mark's fields by their names in GB 45438-2025, Appendix E; Label 1: made by a machine."""
    propagator = _short_text(values, "aigc_propagator", account)
    propagate_id = _short_text(values, "aigc_propagate_id", request_id)
    if not _flag(values, "enable_aigc_tag"):
        return ()
    return (
        ("Label", "1"),
        ("ContentProducer", AIGC_PRODUCER),
        ("ProduceID", request_id),
        ("ContentPropagator", propagator),
        ("PropagateID", propagate_id),
    )


def _short_text(values: Mapping[str, Any], name: str, default: str) -> str:
    value = values.get(name)
    if value in (None, ""):
        return default
    if not isinstance(value, str) or len(value) > MAX_AIGC_VALUE:
        raise InvalidParameter(f"{name} must be a text of at most {MAX_AIGC_VALUE} characters.")
    return value
