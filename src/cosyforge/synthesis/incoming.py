"""Text on its way into the engine: pieces in, segments to speak out, as soon as a sentence is complete."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from cosyforge.errors import InvalidParameter
from cosyforge.synthesis.output import check_segment
from cosyforge.synthesis.sequence import Sequence
from cosyforge.text.frontend import NOTHING_TO_SAY, Frontend
from cosyforge.text.segment import Segment
from cosyforge.text.ssml import is_ssml

logger = logging.getLogger(__name__)


def arriving_segments(frontend: Frontend, sequence: Sequence, text: Iterable[str]) -> Iterator[tuple[Segment, bool]]:
    """Give segments as the text completes them; True marks one that is known to be the last.

    Raises: InvalidParameter when there is nothing to speak, InvalidMarkup
    """
    request = sequence.request
    if isinstance(text, (str, list, tuple)):
        whole: str | None = "".join(text)
        pieces: Iterator[str] = iter(())
    else:
        whole, pieces = _whole_if_marked_up(iter(text), request.enable_ssml)
    if whole is None:
        yield from _arriving(frontend, sequence, pieces)
        return
    with sequence.measured("text"):
        segments, warnings = frontend.plan(
            whole,
            request.language_hint,
            request.enable_ssml,
            pronunciations=request.pronunciations,
            replacements=request.replacements,
            markdown_filter=request.markdown_filter,
        )
        for segment in segments:
            check_segment(segment, request)
    _warn(sequence, warnings)
    for index, segment in enumerate(segments):
        yield segment, index == len(segments) - 1


def _whole_if_marked_up(pieces: Iterator[str], enable_ssml: bool) -> tuple[str | None, Iterator[str]]:
    """Collect SSML whole; give plain text back as pieces, with nothing lost."""
    seen: list[str] = []
    while enable_ssml and len("".join(seen).lstrip()) < len("<speak>"):
        piece = next(pieces, None)
        if piece is None:
            break
        seen.append(piece)
    if enable_ssml and is_ssml("".join(seen)):
        return "".join([*seen, *pieces]), iter(())
    return None, _chained(seen, pieces)


def _arriving(frontend: Frontend, sequence: Sequence, pieces: Iterator[str]) -> Iterator[tuple[Segment, bool]]:
    request = sequence.request
    stream = frontend.stream(
        request.language_hint,
        pronunciations=request.pronunciations,
        replacements=request.replacements,
        markdown_filter=request.markdown_filter,
    )
    has_spoken = False
    for piece in pieces:
        with sequence.measured("text"):
            segments = stream.push(piece) if piece else stream.finish()
        for segment in segments:
            has_spoken = True
            yield segment, False
    with sequence.measured("text"):
        segments = stream.finish()
    _warn(sequence, stream.warnings)
    if not segments and not has_spoken:
        raise InvalidParameter(NOTHING_TO_SAY)
    for index, segment in enumerate(segments):
        yield segment, index == len(segments) - 1


def _warn(sequence: Sequence, warnings: list[str]) -> None:
    sequence.warnings += warnings
    for warning in warnings:
        logger.warning("request %s: %s", sequence.request.request_id, warning)


def _chained(first: list[str], rest: Iterator[str]) -> Iterator[str]:
    yield from first
    yield from rest
