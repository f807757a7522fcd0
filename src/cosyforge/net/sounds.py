"""The sounds that an SSML text names, fetched and checked before anything is spoken.

Whoever speaks (a replica, the engine in the CLI) never touches the network: it finds each address in
`SynthesisRequest.attachments`, with the path of a checked WAV. The files live as long as the request.

    request = sounds.attach(request, text)      # raises InvalidMarkup with line and column
    ...                                         # send it, speak it
    sounds.release(request)
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from cosyforge.errors import InvalidMarkup, InvalidParameter
from cosyforge.net.guarded_fetch import GuardedFetch
from cosyforge.net.sound_file import checked_wav
from cosyforge.synthesis.request import SynthesisRequest
from cosyforge.text.ssml import is_ssml, parse_ssml

MAX_EVENT_BYTES = 2_000_000
"""Source: markup page of DashScope, soundEvent"""

MAX_SOUNDS = 20
"""So many different addresses in one text."""


@dataclass(frozen=True)
class SoundLimits:
    """Units: bytes of one background music"""

    background_bytes: int = 10_000_000


class Sounds:
    """Fetches into a directory of its own, which holds nothing when nobody speaks."""

    def __init__(self, fetch: GuardedFetch, directory: Path, limits: SoundLimits | None = None) -> None:
        """What a crash left in the directory goes; the directory is made when it is needed."""
        self._fetch = fetch
        self._directory = directory
        self._limits = limits or SoundLimits()
        for left in directory.glob("*.wav") if directory.is_dir() else ():
            left.unlink(missing_ok=True)

    def attach(self, request: SynthesisRequest, text: str, voice: str | None = None) -> SynthesisRequest:
        """The request with every sound of the text; the same request for text without markup or without sounds.

        Checks the markup on the way, also against the voice and the sample rate of the request. Blocks while it
        fetches, each address once.
        voice: the name by which the caller knows the request's voice, where the request holds another one
        Raises: InvalidMarkup with line and column: of the markup, or of the tag whose sound cannot be had
        """
        if not (request.enable_ssml and is_ssml(text)):
            return request
        speaks = parse_ssml(text, voice=voice or request.voice, sample_rate_hz=request.sample_rate_hz)
        wanted: dict[str, tuple[str, int, int]] = {}
        for url, purpose, place in (sound for speak in speaks for sound in speak.sounds):
            # an address for both purposes has to keep to the smaller size
            if url not in wanted or purpose == "soundEvent":
                wanted[url] = (purpose, place.line, place.column)
            if len(wanted) > MAX_SOUNDS:
                raise _wrong(f"there are more than {MAX_SOUNDS} different sounds", place.line, place.column)
        if not wanted:
            return request
        return self._fetched(request, wanted)

    def release(self, request: SynthesisRequest) -> None:
        """Delete what `attach` fetched; harmless for a request without attachments, and when called twice."""
        for _, path in request.attachments:
            if Path(path).parent == self._directory:
                Path(path).unlink(missing_ok=True)

    def _fetched(self, request: SynthesisRequest, wanted: dict[str, tuple[str, int, int]]) -> SynthesisRequest:
        self._directory.mkdir(parents=True, exist_ok=True)
        attached = request
        try:
            for url, (purpose, line, column) in wanted.items():
                try:
                    sound = self._sound(url, purpose)
                except InvalidParameter as error:
                    what = "bgm of <speak>" if purpose == "bgm" else "src of <soundEvent>"
                    raise _wrong(f"{what}: {error.message}", line, column) from error
                path = self._directory / f"{uuid.uuid4().hex}.wav"
                attached = replace(attached, attachments=(*attached.attachments, (url, str(path))))
                path.write_bytes(sound)
        except BaseException:
            self.release(attached)
            raise
        return attached

    def _sound(self, url: str, purpose: str) -> bytes:
        max_bytes = self._limits.background_bytes if purpose == "bgm" else MAX_EVENT_BYTES
        return checked_wav(self._fetch.fetch(url, max_bytes))


def _wrong(what: str, line: int, column: int) -> InvalidMarkup:
    return InvalidMarkup(f"SSML line {line}, column {column}: {what}", line=line, column=column)
