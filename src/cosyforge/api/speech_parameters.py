"""The parameters of a request to speak, from the wire's names and defaults to a checked SynthesisRequest.

HTTP and WebSocket share this; both say what is wrong in the words that clients know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cosyforge.billing.characters import count_characters
from cosyforge.errors import InvalidParameter
from cosyforge.synthesis.request import SynthesisRequest

FORMATS = ("mp3", "pcm", "wav", "opus")
SAMPLE_RATES_HZ = (8000, 16000, 22050, 24000, 44100, 48000)
MAX_TEXT_CHARACTERS = 20_000
MAX_INSTRUCTION_CHARACTERS = 100

BAD_VOICE = "[tts:]Engine return error code: 418"
BAD_INSTRUCTION = "[tts:]Engine return error code: 428"
NO_VOICE = "Request voice is invalid!"
NO_TEXT = "Please ensure input text is valid."


def parse_parameters(values: Mapping[str, Any], *, request_id: str, streaming: bool) -> SynthesisRequest:
    """Check everything but the text; unknown parameters are ignored.

    Raises: InvalidParameter naming the parameter
    """
    voice = values.get("voice")
    if not isinstance(voice, str) or not voice:
        raise InvalidParameter(NO_VOICE)
    return SynthesisRequest(
        voice=voice,
        format=_format(values.get("format")),
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
    )


def check_voice(request: SynthesisRequest, *, is_base: bool, base_voices: set[str]) -> None:
    """A fine-tuned model has one voice and takes no instruction; the base has its presets.

    Raises: InvalidParameter with the codes that clients know
    """
    if not is_base and request.instruction:
        raise InvalidParameter(BAD_INSTRUCTION)
    if request.voice not in (base_voices if is_base else {"default"}):
        raise InvalidParameter(BAD_VOICE)


def is_ssml(text: str, enable_ssml: bool) -> bool:
    """With SSML on, text without markup is still plain text: an official client always turns it on."""
    return enable_ssml and text.lstrip().startswith("<speak")


def _format(value: Any) -> str:
    if value in (None, "", "Default"):  # "Default" is what an official client sends for no choice
        return "mp3"
    if value not in FORMATS:
        raise InvalidParameter(f"format must be one of {', '.join(FORMATS)} (got {value}).")
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
