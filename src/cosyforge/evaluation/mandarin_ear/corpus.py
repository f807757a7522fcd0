"""What the Mandarin recogniser learns from: sentences and rows of syllables by voices that are invented here, then spoilt.

No voice that the built-in model knows is used: every voice is a file of formants, pitch and breath drawn at random and read by
espeak-ng like one of its own. The sound is spoilt in the ways that synthetic speech and recordings are: smeared through a mel and
Griffin-Lim, with disturbed phases, smoothed spectra, other colours, rooms, noise and levels.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr
import torch

from cosyforge.dataset import espeak
from cosyforge.dataset.mandarin_sentences import mandarin_sentences
from cosyforge.dataset.synthetic import ESPEAK_MANDARIN, spoken_pinyin
from cosyforge.evaluation.mandarin_ear.ear import FRAME_HZ, RATE_HZ
from cosyforge.evaluation.mandarin_ear.sounds import UNITS, sounds_of, split_tone, with_third_tone_sandhi
from cosyforge.evaluation.sentences import EVERYDAY_ZH
from cosyforge.evaluation.slaney import slaney_filters
from cosyforge.text.mandarin import pinyin_syllables

Samples = npt.NDArray[np.float32]

NO_LABEL = 255
_SYLLABLE = re.compile("[a-zü]+[1-5]")
_FURTHER = "fo shei dei zhei dia lo kei den".split()
"""Syllables that are another reading of hanzi: 佛 谁 得 这 and the like."""
_UNIT_INDEX = {name: index for index, name in enumerate(UNITS)}


@dataclass(frozen=True)
class Spoken:
    """One clip at 16 kHz with the label of every frame of 20 ms: index into UNITS, and tone 0 to 4 or NO_LABEL."""

    samples: Samples
    unit: npt.NDArray[np.uint8]
    tone: npt.NDArray[np.uint8]
    syllables: tuple[str, ...]


def legal_syllables() -> list[str]:
    """Syllables without tone that some hanzi of the everyday set (GB 2312) is read as; ü is written ü."""
    found = set(_FURTHER)
    for high in range(0xB0, 0xF8):
        for low in range(0xA1, 0xFF):
            try:
                hanzi = bytes((high, low)).decode("gb2312")
            except UnicodeDecodeError:
                continue
            found |= {split_tone(syllable)[0] for syllable in pinyin_syllables(hanzi)}
    return sorted(base for base in found if sounds_of(base) is not None)


def plan_texts(count: int, bases: Sequence[str], seed: int) -> list[str]:
    """What is said, in pinyin with marks: sentences, phrases in a row, and syllables in a row that make no sense at all.

    The sentences that figures are quoted for are left out.
    """
    from pypinyin.phrases_dict import phrases_dict

    rng = random.Random(seed)
    known = set(bases)
    measured = set(EVERYDAY_ZH)
    texts = []
    for sentence in mandarin_sentences(count, phrases_dict.keys(), seed=seed):
        spoken = spoken_pinyin(sentence, pinyin_syllables)
        is_known = all(split_tone(syllable)[0] in known for syllable in _SYLLABLE.findall(spoken))
        if rng.random() < 0.35 or not is_known or sentence in measured:
            spoken = _syllables_in_a_row(bases, rng)
        texts.append(spoken)
    return texts


def _syllables_in_a_row(bases: Sequence[str], rng: random.Random) -> str:
    pieces = []
    for _ in range(rng.randint(4, 16)):
        pieces.append(f"{rng.choice(bases)}{rng.choices((1, 2, 3, 4, 5), (4, 4, 4, 4, 1))[0]}")
        if rng.random() < 0.08:
            pieces.append(",")
    return " ".join([*pieces, "."])


def invent_voice(rng: random.Random) -> str:
    """A voice file for espeak-ng: a vocal tract of random length and shape, pitch, breath and roughness."""
    is_high = rng.random() < 0.5
    size = rng.uniform(1.02, 1.28) if is_high else rng.uniform(0.88, 1.1)
    low = rng.uniform(130, 230) if is_high else rng.uniform(65, 125)
    lines = [
        f"name ear\nlanguage {ESPEAK_MANDARIN}\nphonemes cmn\ndictionary cmn\nwords 1",
        f"pitch {low:.0f} {low * rng.uniform(1.25, 1.75):.0f}",
    ]
    for formant in range(6):
        frequency = 100 * size * rng.uniform(0.92, 1.08) if formant else 100.0
        lines.append(
            f"formant {formant} {frequency:.0f} {rng.uniform(55, 125):.0f} {rng.uniform(65, 190):.0f} "
            f"{rng.uniform(-60, 60) if formant else 0:.0f}"
        )
    lines.append(f"flutter {rng.randint(0, 6)}\nroughness {rng.randint(0, 4)}")
    lines.append(f"voicing {rng.randint(75, 135)}\nconsonants {rng.randint(60, 150)} {rng.randint(60, 150)}")
    if rng.random() < 0.35:
        breath = " ".join(str(rng.randint(0, 6)) for _ in range(8))
        lines.append(f"breath {breath}")
    if rng.random() < 0.3:
        lines.append(f"klatt {rng.randint(1, 5)}")
    if rng.random() < 0.3:
        lines.append(f"tone 600 {rng.randint(90, 190)} 1200 {rng.randint(80, 160)} 2500 {rng.randint(60, 140)}")
    return "\n".join(lines) + "\n"


def speak_invented(voice: str, text: str, words_per_minute: int, pitch: int, pitch_range: int, factor: float) -> Spoken:
    """Let espeak-ng read pinyin with a voice file; factor above 1 makes the vocal tract shorter and the pitch higher.

    Raises: FileNotFoundError saying what to install; ValueError for a voice file that is refused or says nothing
    """
    samples, rate_hz, sounds = espeak.speak_with_file(
        voice, text, words_per_minute=round(words_per_minute / factor), pitch=pitch, pitch_range=pitch_range
    )
    if not len(samples):
        raise ValueError(f"espeak-ng said nothing for {text!r}")
    return label(samples, rate_hz, sounds, text, factor)


def label(samples: Samples, rate_hz: int, sounds: Sequence[espeak.Sound], text: str, factor: float = 1.0) -> Spoken:
    """Resample to 16 kHz, vocal tract scaled by factor, and name every frame."""
    resized = soxr.resample(samples, rate_hz * factor, RATE_HZ, quality="HQ").astype(np.float32)
    num_frames = len(resized) // (RATE_HZ // FRAME_HZ)
    written = _written(text)
    unit = np.zeros(num_frames, np.uint8)
    tone = np.full(num_frames, NO_LABEL, np.uint8)
    scale = FRAME_HZ / (rate_hz * factor)
    ends = [sound.start * scale for sound in sounds[1:]] + [float(num_frames)]
    start = sounds[0].start * scale if sounds else 0.0
    for index, (sound, end) in enumerate(zip(sounds, ends, strict=True)):
        if sound.ipa and 0 <= sound.word < len(written):
            base, tone_number = split_tone(written[sound.word])
            initial, final = sounds_of(base) or ("", base)
            is_first = index == 0 or sounds[index - 1].word != sound.word or not sounds[index - 1].ipa
            is_last = index + 1 == len(sounds) or sounds[index + 1].word != sound.word or not sounds[index + 1].ipa
            split = end
            if not (initial and is_first):
                split = start
            elif is_last:
                # one sound for both: a glide and its vowel
                split = start + (end - start) * 0.25
            # a frame belongs to what is at its middle
            first, middle, last = round(start), round(split), round(end)
            if initial:
                unit[first:middle] = _UNIT_INDEX[initial]
            unit[middle:last] = _UNIT_INDEX[final]
            tone[middle:last] = tone_number - 1
        start = end
    return Spoken(resized, unit, tone, tuple(written))


def _written(text: str) -> list[str]:
    """The syllables of a text as they are said: espeak-ng changes third tones before third tones, marks stop that."""
    said: list[str] = []
    for stretch in re.split("[,.?!;]", text):
        said += with_third_tone_sandhi(_SYLLABLE.findall(stretch))
    return said


def draw_clip(text: str, rng: random.Random) -> Spoken:
    """A text said once by a new voice in its own tempo and melody."""
    return speak_invented(
        invent_voice(rng),
        text,
        words_per_minute=round(rng.triangular(95, 230, 150)),
        pitch=round(rng.triangular(20, 85, 50)),
        pitch_range=round(rng.triangular(22, 99, 55)),
        factor=rng.uniform(0.9, 1.12),
    )


# how sound is spoilt ---------------------------------------------------------------------------------------------------------


def spoil(samples: Samples, rng: np.random.Generator) -> Samples:
    """A clip at 16 kHz as a vocoder, a room, a microphone and a line might leave it; the times stay."""
    kind = rng.random()
    if kind < 0.3:
        samples = _through_mel(samples, rng)
    elif kind < 0.5:
        samples = _disturbed(samples, rng)
    if rng.random() < 0.6:
        samples = _coloured(samples, rng)
    if rng.random() < 0.35:
        samples = _in_a_room(samples, rng)
    if rng.random() < 0.2:
        samples = _without_highs(samples, rng.uniform(3400, 7000))
    if rng.random() < 0.6:
        samples = _noisy(samples, rng)
    return np.asarray(samples / max(float(np.abs(samples).max()), 1e-6) * rng.uniform(0.1, 0.95), np.float32)


def _through_mel(samples: Samples, rng: np.random.Generator) -> Samples:
    """A mel of few bins back to sound by a few steps of Griffin-Lim, from noise or from the true phases."""
    n_fft, hop = 1024, int(rng.choice((256, 320)))
    window = torch.hann_window(n_fft)
    wav = torch.from_numpy(np.asarray(samples, np.float32))
    spectrum = torch.stft(wav, n_fft, hop, window=window, return_complex=True)
    filters = slaney_filters(RATE_HZ, n_fft, int(rng.choice((60, 72, 80, 100))))
    mel = filters.T @ spectrum.abs()
    if rng.random() < 0.5:
        # networks that predict a mel average over what they are unsure of
        share = rng.uniform(0.1, 0.3)
        smooth = torch.nn.functional.avg_pool1d(mel[None], 3, 1, 1)[0]
        mel = mel * (1 - share) + smooth * share
    # the areas of the filters are equal: their transpose, divided by what it adds up to, spreads a mel back
    spread = filters @ (filters.T @ torch.ones(len(filters), 1))
    magnitude = (filters @ mel) / spread.clamp(min=1e-6)
    for _ in range(4):
        magnitude = magnitude * (filters @ mel) / (filters @ (filters.T @ magnitude)).clamp(min=1e-8)
    if rng.random() < 0.6:
        angle = torch.from_numpy(rng.uniform(0, 2 * np.pi, tuple(magnitude.shape)).astype(np.float32))
        phase, num_steps = torch.polar(torch.ones_like(magnitude), angle), int(rng.integers(6, 16))
    else:
        phase, num_steps = spectrum / spectrum.abs().clamp(min=1e-8), int(rng.integers(1, 4))
    for _ in range(num_steps):
        rebuilt = torch.stft(
            torch.istft(magnitude * phase, n_fft, hop, window=window, length=len(wav)),
            n_fft, hop, window=window, return_complex=True,
        )  # fmt: skip
        phase = rebuilt / rebuilt.abs().clamp(min=1e-8)
    return torch.istft(magnitude * phase, n_fft, hop, window=window, length=len(wav)).numpy()


def _disturbed(samples: Samples, rng: np.random.Generator) -> Samples:
    """Phases and magnitudes with noise on them, magnitudes smoothed over time and frequency."""
    n_fft, hop = 512, 128
    window = torch.hann_window(n_fft)
    wav = torch.from_numpy(np.asarray(samples, np.float32))
    spectrum = torch.stft(wav, n_fft, hop, window=window, return_complex=True)
    magnitude = spectrum.abs()
    kernel = (1 + 2 * int(rng.integers(0, 3)), 1 + 2 * int(rng.integers(0, 3)))
    padding = (kernel[0] // 2, kernel[1] // 2)
    smooth = torch.nn.functional.avg_pool2d(magnitude[None, None], kernel, 1, padding)[0, 0]
    noise = rng.standard_normal(tuple(magnitude.shape)).astype(np.float32)
    smooth = smooth * torch.from_numpy(np.exp(rng.uniform(0, 0.5) * noise))
    angle = spectrum.angle() + float(rng.uniform(0, 1.2)) * torch.from_numpy(
        rng.standard_normal(tuple(magnitude.shape)).astype(np.float32)
    )
    return torch.istft(torch.polar(smooth, angle), n_fft, hop, window=window, length=len(wav)).numpy()


def _coloured(samples: Samples, rng: np.random.Generator) -> Samples:
    """A smooth random filter of up to 10 dB either way, and a tilt."""
    spectrum = np.fft.rfft(samples)
    place = np.linspace(0, 1, len(spectrum))
    knots = np.linspace(0, 1, 9)
    gain_db = np.interp(np.sqrt(place), knots, rng.uniform(-1, 1, 9) * rng.uniform(2, 10))
    gain_db += rng.uniform(-12, 8) * place
    return np.asarray(np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(samples)), np.float32)


def _in_a_room(samples: Samples, rng: np.random.Generator) -> Samples:
    """Decaying noise as the room's answer, 0.1 to 0.6 s long; the direct sound keeps its time."""
    decay_s = rng.uniform(0.1, 0.6)
    length = int(decay_s * RATE_HZ)
    answer = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    answer *= 10 ** (rng.uniform(-18, -3) / 20) / np.sqrt(np.square(answer).sum())
    answer[0] = 1.0
    size = len(samples) + length
    return np.asarray(
        np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(answer, size), size)[: len(samples)], np.float32
    )


def _without_highs(samples: Samples, edge_hz: float) -> Samples:
    """What a line passes: a Butterworth filter of the sixth order, applied as a product of spectra."""
    size = len(samples) + 2048
    half_turn = np.exp(1j * np.pi * np.arange(size // 2 + 1) / (size // 2))
    half_turn[-1] = -1 + 1e-9j  # at half the rate the filter is closed
    place = (half_turn - 1) / (half_turn + 1) / np.tan(np.pi * edge_hz / RATE_HZ)
    response = np.ones(len(place), complex)
    for index in range(6):
        response /= place - np.exp(1j * np.pi * (2 * index + 7) / 12)
    return np.asarray(
        np.fft.irfft(np.fft.rfft(samples, size // 2 * 2) * response, size // 2 * 2)[: len(samples)], np.float32
    )


def _noisy(samples: Samples, rng: np.random.Generator) -> Samples:
    """White to brown noise, 8 to 40 dB below the speech."""
    spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
    spectrum /= np.maximum(np.arange(len(spectrum)), 20) ** rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, len(samples))
    level = np.sqrt(np.mean(np.square(samples))) * 10 ** (-rng.uniform(8, 40) / 20)
    return np.asarray(samples + noise * level / max(float(np.sqrt(np.mean(np.square(noise)))), 1e-9), np.float32)
