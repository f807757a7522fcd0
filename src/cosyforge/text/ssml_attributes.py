"""What each SSML tag allows, said once; and the attributes of `<speak>`, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cosyforge.text.say_as import SAY_AS

EFFECTS = ("robot", "lolita", "lowpass", "echo", "eq", "lpfilter", "hpfilter")
HIGHEST_SAMPLE_RATE_HZ = 48_000
MAX_ADDRESS_CHARACTERS = 2048
DEFAULT_VOLUME = 50

RULES = {
    "speak": "Allowed on <speak>: voice, rate, pitch, volume, effect, effectValue, bgm, backgroundMusicVolume.",
    "break": '<break time="…"/> takes 50ms to 10000ms or 1s to 10s, whole numbers; it is empty.',
    "sub": '<sub alias="…"> holds text only.',
    "phoneme": '<phoneme alphabet="py" or "cmu" ph="symbols with spaces between"> holds text only.',
    "soundEvent": '<soundEvent src="http(s)://…"/> names a WAV of 16 kHz, mono, 16-bit, 2 MB at most; it is empty.',
    "say-as": f'<say-as interpret-as="…"> takes {", ".join(SAY_AS)}; it holds text only.',
}

_KNOWN = ("voice", "rate", "pitch", "volume", "effect", "effectValue", "bgm", "backgroundMusicVolume")
_HARMLESS = ("version", "xmlns", "xml:lang")


@dataclass(frozen=True)
class Place:
    """Where something stands in the text; both count from 1."""

    line: int
    column: int


START = Place(1, 1)


@dataclass(frozen=True)
class SpeakAttributes:
    """What one `<speak>` asks for; None: the request's.

    effect: its name and numbers, as `audio.voice_effects.make_effect` takes them
    background: the address of the music; background_volume 0 to 100
    """

    voice: str | None = None
    rate: float | None = None
    pitch: float | None = None
    volume: int | None = None
    effect: tuple[str, tuple[float, ...]] | None = None
    background: str | None = None
    background_volume: int = DEFAULT_VOLUME


def read_speak(attributes: dict[str, str], voice: str | None, sample_rate_hz: int | None) -> SpeakAttributes:
    """Raises: ValueError that says which attribute is wrong and what it may be"""
    for key in attributes:
        if key not in (*_KNOWN, *_HARMLESS):
            raise ValueError(f"unknown attribute {key[:40]} of <speak>. {RULES['speak']}")
    asked = attributes.get("voice")
    if voice is not None and asked not in (None, "default", voice):
        raise ValueError(f'voice="{asked[:40]}" of <speak> must be default or the voice of the request')  # type: ignore[index]
    return SpeakAttributes(
        voice=asked,
        rate=_factor(attributes, "rate"),
        pitch=_factor(attributes, "pitch"),
        volume=_percent(attributes, "volume"),
        effect=_effect(attributes, sample_rate_hz or HIGHEST_SAMPLE_RATE_HZ),
        background=_background(attributes),
        background_volume=_background_volume(attributes),
    )


def web_address(written: str) -> str:
    """An address as far as its form can be told here; whoever fetches it looks closer.

    Raises: ValueError
    """
    address = written.strip()
    if not re.match(r"https?://[^\s/]", address, re.IGNORECASE):
        raise ValueError(f'"{address[:60]}" must begin with http:// or https:// and name a host')
    if len(address) > MAX_ADDRESS_CHARACTERS:
        raise ValueError(f"the address is longer than {MAX_ADDRESS_CHARACTERS} characters")
    return address


def _factor(attributes: dict[str, str], name: str) -> float | None:
    return _number(attributes, name, r"\d{1,3}(?:\.\d{1,6})?", 0.5, 2.0, "a number between 0.5 and 2")


def _percent(attributes: dict[str, str], name: str) -> int | None:
    value = _number(attributes, name, r"\d{1,3}", 0, 100, "a whole number between 0 and 100")
    return None if value is None else int(value)


def _number(attributes: dict[str, str], name: str, form: str, least: float, most: float, rule: str) -> float | None:
    written = attributes.get(name)
    if written is None:
        return None
    if not re.fullmatch(form, written.strip(), re.ASCII) or not least <= float(written) <= most:
        raise ValueError(f'{name}="{written[:40]}" of <speak> must be {rule}')
    return float(written)


def _background(attributes: dict[str, str]) -> str | None:
    if "bgm" not in attributes:
        return None
    try:
        return web_address(attributes["bgm"])
    except ValueError as error:
        raise ValueError(f"bgm of <speak>: {error}; it is a WAV of 16 kHz, mono, 16-bit") from error


def _background_volume(attributes: dict[str, str]) -> int:
    volume = _percent(attributes, "backgroundMusicVolume")
    if volume is not None and "bgm" not in attributes:
        raise ValueError("backgroundMusicVolume of <speak> goes with bgm, which is missing")
    return DEFAULT_VOLUME if volume is None else volume


def _effect(attributes: dict[str, str], sample_rate_hz: int) -> tuple[str, tuple[float, ...]] | None:
    name, value = attributes.get("effect"), attributes.get("effectValue")
    if name is None:
        if value is not None:
            raise ValueError("effectValue of <speak> goes with effect, which is missing")
        return None
    if name not in EFFECTS:
        raise ValueError(f'effect="{name[:40]}" of <speak> must be one of {", ".join(EFFECTS)}')
    if name == "eq":
        return name, _gains(value or "")
    if name in ("lpfilter", "hpfilter"):
        return name, (_cutoff(name, value or "", sample_rate_hz),)
    if value is not None:
        raise ValueError(f"the effect {name} takes no effectValue; eq, lpfilter and hpfilter do")
    return name, ()


def _gains(value: str) -> tuple[float, ...]:
    gains = re.split(r"[\s,]+", value.strip())
    if len(gains) != 8 or not all(
        re.fullmatch(r"[+-]?\d{1,2}", gain, re.ASCII) and abs(int(gain)) <= 20 for gain in gains
    ):
        raise ValueError(
            "the effect eq needs effectValue with eight whole numbers between -20 and 20, separated by spaces, for 40, "
            f'100, 200, 400, 800, 1600, 4000 and 12000 Hz (got "{value[:60]}")'
        )
    return tuple(float(gain) for gain in gains)


def _cutoff(name: str, value: str, sample_rate_hz: int) -> float:
    if re.fullmatch(r"\d{1,5}(?:\.\d{1,3})?", value.strip(), re.ASCII) and 0 < float(value) <= sample_rate_hz / 2:
        return float(value)
    raise ValueError(
        f"the effect {name} needs effectValue with a cut-off above 0 and at most {sample_rate_hz // 2} Hz, half the "
        f'sample rate (got "{value[:60]}")'
    )
