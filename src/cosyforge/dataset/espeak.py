"""espeak-ng in this process: samples with the start of every phone and word, some hundred times faster than real time.

The C library is called through ctypes. It keeps one global voice, so a process speaks one sentence at a time. What it says depends on
what it said before (the phases of flutter and roughness, the gain, random breath), and no call of it resets that: it is loaded anew for
every text, which costs some milliseconds, so that the same call always returns the same samples.
Mandarin is given as pinyin with tone digits to the voice `cmn-latn-pinyin`: the voice `cmn` of espeak-ng 1.51 spells many characters out.
Source: espeak-ng, speak_lib.h
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LIBRARY = "libespeak-ng.so.1"

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_PHONEME_EVENTS_IN_IPA = 1 | 2
_CHARS_UTF8 = 1
_POSITION_IN_CHARACTERS = 1
_EVENT_END, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_RATE, _PITCH, _RANGE = 1, 3, 4


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Sound:
    """One phone as espeak-ng names it in IPA, "" for silence.

    Units: start in samples; word is the index of the word in the text that was given, -1 before the first
    """

    ipa: str
    start: int
    word: int


Spoken = tuple[npt.NDArray[np.float32], int, list[Sound]]
"""Samples (L,) in [-1, 1], their rate in Hz, and the sounds in order."""


class _Espeak:
    """The library as it was loaded, and what it said since."""

    def __init__(self) -> None:
        if _is_loaded():
            raise RuntimeError(
                f"{LIBRARY} is in use in this process already: let one thread at a time speak, and speak in a process "
                "where no other package loads it"
            )
        try:
            self._library: Any = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise FileNotFoundError(f"{LIBRARY} not found: run `apt-get install -y espeak-ng`") from error
        self._pieces: list[npt.NDArray[np.int16]] = []
        self._sounds: list[Sound] = []
        self._word_starts: list[int] = []
        # the library keeps the pointer: the callback must live as long as it does
        self._callback = _Callback(self._receive)
        self.rate_hz: int = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, None, _PHONEME_EVENTS_IN_IPA)
        if self.rate_hz <= 0:
            _unload(self._library)
            raise RuntimeError(
                "espeak-ng could not start: its voice data is missing; install the package espeak-ng-data"
            )
        self._library.espeak_SetSynthCallback(self._callback)

    @property
    def data_directory(self) -> Path:
        directory = ctypes.c_char_p()
        self._library.espeak_Info.restype = ctypes.c_char_p
        self._library.espeak_Info(ctypes.byref(directory))
        return Path((directory.value or b"").decode())

    def close(self) -> None:
        """Stop the library's thread and unload it; it forgets what it said, and cannot be called any more."""
        self._library.espeak_Terminate()
        _unload(self._library)

    def _receive(self, wav: Any, num_samples: int, events: Any) -> int:
        index = 0
        while events[index].type != _EVENT_END:
            event = events[index]
            if event.type == _EVENT_WORD and event.length > 0:
                position = int(event.text_position)
                if position not in self._word_starts:
                    self._word_starts.append(position)
            elif event.type == _EVENT_PHONEME:
                name = event.id.string.decode("utf-8", "replace")
                self._sounds.append(Sound(name, int(event.sample), len(self._word_starts) - 1))
            index += 1
        if num_samples > 0:
            self._pieces.append(np.ctypeslib.as_array(wav, (num_samples,)).copy())
        return 0

    def set_voice(self, name: str) -> None:
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(
                f"espeak-ng has no voice {name!r}; `espeak-ng --voices` and its folder voices/!v name them"
            )

    def set_voice_file(self, content: str) -> None:
        language = re.search(r"^language[ \t]+(\S+)", content, re.MULTILINE)
        if language is None:
            raise ValueError(f"this voice file has no line `language NAME`, as in `language en-us`:\n{content}")
        # the library takes any file and crashes at the first word of an unknown language
        self.set_voice(language[1])
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".voice") as file:
            file.write(content)
            file.flush()
            if self._library.espeak_SetVoiceByFile(file.name.encode()) != 0:
                raise ValueError(f"espeak-ng refused this voice file:\n{content}")

    def speak(self, text: str, words_per_minute: int, pitch: int, pitch_range: int) -> Spoken:
        for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode() + b"\0"
        # breath is drawn from rand() of the C library, which outlives this one; texts differ in it as they would in a row
        ctypes.CDLL(None).srand(zlib.crc32(data))
        self._library.espeak_Synth(data, len(data), 0, _POSITION_IN_CHARACTERS, 0, _CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()
        samples = np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)
        return samples.astype(np.float32) / 32768.0, self.rate_hz, self._sounds


def _is_loaded() -> bool:
    try:
        library = ctypes.CDLL(LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return False
    _unload(library)
    return True


def _unload(library: ctypes.CDLL) -> None:
    """Give back one loading of a library; ctypes itself never does."""
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))


@contextmanager
def _fresh_engine() -> Iterator[_Espeak]:
    engine = _Espeak()
    try:
        yield engine
    finally:
        engine.close()


def speak(voice: str, text: str, *, words_per_minute: int = 160, pitch: int = 50, pitch_range: int = 50) -> Spoken:
    """Speak a text with a voice such as "en-us+f2".

    Units: pitch and pitch_range 0 to 99, 50 is the voice's own
    Returns: samples (L,) in [-1, 1], their rate in Hz, and the sounds in order; the same for the same arguments
    Raises: FileNotFoundError saying what to install; ValueError for an unknown voice; RuntimeError where the library is in use
    """
    with _fresh_engine() as engine:
        engine.set_voice(voice)
        return engine.speak(text, words_per_minute, pitch, pitch_range)


def speak_with_file(
    voice_file: str, text: str, *, words_per_minute: int = 160, pitch: int = 50, pitch_range: int = 50
) -> Spoken:
    """Speak a text with a voice of one's own: the content of a voice file as espeak-ng documents it (docs/voices.md).

    Units, Returns: as speak
    Raises: FileNotFoundError saying what to install; ValueError for a file that is refused; RuntimeError as speak
    """
    with _fresh_engine() as engine:
        engine.set_voice_file(voice_file)
        return engine.speak(text, words_per_minute, pitch, pitch_range)


@cache
def variant(name: str) -> str:
    """The lines of one of espeak-ng's voice variants, such as "f2", to make a voice file of.

    Raises: FileNotFoundError saying what to install; ValueError for an unknown variant
    """
    with _fresh_engine() as engine:
        path = engine.data_directory / "voices" / "!v" / name
    if not path.is_file():
        raise ValueError(f"espeak-ng has no variant {name!r}; {path.parent} holds them")
    return path.read_text(encoding="utf-8")


_ARPABET = {
    "iː": "IY", "i": "IY", "ɪ": "IH", "ᵻ": "IH", "ɛ": "EH", "eɪ": "EY", "æ": "AE", "a": "AE", "ɑː": "AA", "ɑ": "AA",
    "ɒ": "AA", "ɔː": "AO", "ɔ": "AO", "oʊ": "OW", "əʊ": "OW", "oː": "AO", "ʊ": "UH", "uː": "UW", "u": "UW", "ʌ": "AH", "ə": "AH",
    "ɐ": "AH", "ɜː": "ER", "ɚ": "ER", "ɝ": "ER", "aɪ": "AY", "aʊ": "AW", "ɔɪ": "OY", "əl": "AH L", "ən": "AH N",
    "n̩": "AH N", "l̩": "AH L", "p": "P", "b": "B", "t": "T", "d": "D", "k": "K", "ɡ": "G", "g": "G", "f": "F", "v": "V",
    "θ": "TH", "ð": "DH", "s": "S", "z": "Z", "ʃ": "SH", "ʒ": "ZH", "tʃ": "CH", "dʒ": "JH", "m": "M", "n": "N", "ŋ": "NG",
    "l": "L", "ɫ": "L", "r": "R", "ɹ": "R", "w": "W", "j": "Y", "h": "HH", "ɾ": "T", "ʔ": "T", "x": "K", "ʍ": "W",
    "ɪɹ": "IH R", "iə": "IH R", "ɪə": "IH R", "ɛɹ": "EH R", "eə": "EH R", "ʊɹ": "UH R", "ʊə": "UH R", "ɔːɹ": "AO R", "oːɹ": "AO R",
    "ɑːɹ": "AA R", "aɪə": "AY ER", "aʊə": "AW ER", "aɪɚ": "AY ER", "aʊɚ": "AW ER", "iːː": "IY", "ɑ̃": "AA N", "ɬ": "L",
}  # fmt: skip


def arpabet(ipa: str) -> list[str]:
    """ARPAbet phones of one English sound of espeak-ng; the nearest for a sound that English borrows.

    Raises: KeyError for a sound that is unknown
    """
    return _ARPABET[ipa].split()


_MANDARIN = {
    # b p m f d t n l g k h, j q x, zh ch sh r, z c s and the glides
    "p": "B", "ph": "P", "m": "M", "f": "F", "t": "D", "th": "T", "n": "N", "l": "L", "k": "G", "kh": "K", "χ": "HH",
    "tɕ": "J", "tɕh": "Q", "ɕ": "X", "ts.": "JH", "ts.h": "CH", "s.": "SH", "ʐ": "ZH", "ts": "TS", "tsh": "TSH",
    "s": "S", "w": "W", "j": "Y", "ʲ": "Y", "ŋ": "NG",
    "ɑ": "AA", "a": "A", "ai": "AY", "ɑu": "AW", "ei": "EY", "ou": "OW", "i": "IY", "u": "UW", "y": "YU", "yi": "YU",
    "yu": "YU", "ə": "AH", "o-": "E", "o": "AO", "i.": "IR", "i̪": "IZ", "ər": "ER", "iɛ": "Y EH", "iɑ": "Y AA",
    "iou": "Y OW", "io": "Y AO", "uo": "W AO", "uə": "W AH", "uei": "W EY", "ua": "W A", "uai": "W AY", "yɛ": "YU EH",
    "yæ": "YU A", "yə": "YU AH", "onɡ": "AO NG", "ɛ": "EH",
}  # fmt: skip


def mandarin_phones(ipa: str) -> list[str]:
    """One or two phones (see `synthetic.PHONES`) of one Mandarin sound of espeak-ng.

    Raises: KeyError for a sound that is unknown
    """
    return _MANDARIN[ipa].split()
