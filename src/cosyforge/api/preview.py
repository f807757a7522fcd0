"""What will be said before anything is said, under /platform/v1: ours alone. Speaks to no replica and costs nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from cosyforge.api.context import Caller, PlatformParameter
from cosyforge.api.envelope import answer
from cosyforge.api.speech_parameters import NO_TEXT, check_length, is_ssml, parse_parameters, resolve_voice
from cosyforge.billing.characters import count_characters
from cosyforge.bootstrap import Platform
from cosyforge.cosyvoice.manifest import MANIFEST_NAME, FrontendEntry
from cosyforge.deployments.queries import find_deployment
from cosyforge.errors import InvalidParameter, ModelNotFound
from cosyforge.registry.api_keys import ApiKey
from cosyforge.registry.models import find_model
from cosyforge.synthesis.request import SynthesisRequest

if TYPE_CHECKING:
    from cosyforge.text.frontend import Frontend
    from cosyforge.text.segment import Segment

router = APIRouter(prefix="/platform/v1", tags=["speech"])

_ANY_VOICE = "default"


class PreviewRequest(BaseModel):
    """The fields of a request to speak that decide about its words; without a model the base model is meant."""

    model_config = ConfigDict(strict=True)

    text: str
    model: str | None = None
    voice: str | None = None
    language_hints: list[str] | None = None
    enable_ssml: bool = False
    hot_fix: dict[str, Any] | None = None
    enable_markdown_filter: bool = False


@router.post("/preview")
def post_preview(request: Request, platform: PlatformParameter, caller: Caller, body: PreviewRequest) -> JSONResponse:
    """The words of every sentence, what the model gets for them, the pauses, and what is left out."""
    return answer(request, _preview(request, platform, caller, body))


@router.get("/preview")
def get_preview(
    request: Request,
    platform: PlatformParameter,
    caller: Caller,
    text: str,
    model: str | None = None,
    voice: str | None = None,
    language_hints: Annotated[list[str] | None, Query()] = None,
    enable_ssml: bool = False,
    hot_fix: str | None = None,
    enable_markdown_filter: bool = False,
) -> JSONResponse:
    """The same for a short text; `hot_fix` is JSON."""
    body = PreviewRequest(
        text=text,
        model=model,
        voice=voice,
        language_hints=language_hints,
        enable_ssml=enable_ssml,
        hot_fix=_hot_fix(hot_fix),
        enable_markdown_filter=enable_markdown_filter,
    )
    return answer(request, _preview(request, platform, caller, body))


def _hot_fix(written: str | None) -> dict[str, Any] | None:
    if not written:
        return None
    try:
        value = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter("hot_fix is not valid JSON.") from error
    if not isinstance(value, dict):
        raise InvalidParameter("hot_fix must be a JSON object.")
    return value


def _preview(request: Request, platform: Platform, caller: ApiKey, body: PreviewRequest) -> dict[str, Any]:
    """Raises: InvalidParameter, InvalidMarkup; ModelNotFound, also for a model of another workspace"""
    directory, is_base = _find_model(platform, caller, body.model)
    asked = _asked(request, platform, body, is_base=is_base)
    if not body.text.strip():
        raise InvalidParameter(NO_TEXT)
    num_characters = count_characters(body.text, is_ssml=asked.enable_ssml)
    check_length(num_characters)
    frontend = read_frontend(directory, platform.settings.base_model_dir)
    segments, warnings = frontend.plan(
        body.text,
        asked.language_hint,
        asked.enable_ssml,
        pronunciations=asked.pronunciations,
        replacements=asked.replacements,
        markdown_filter=asked.markdown_filter,
    )
    return {
        "model": body.model or platform.settings.base_model,
        "characters": num_characters,
        "languages": list(frontend.languages),
        "prefix": frontend.prefix,
        "segments": [_segment_json(index, segment) for index, segment in enumerate(segments)],
        "warnings": warnings,
    }


def _find_model(platform: Platform, caller: ApiKey, name: str | None) -> tuple[Path, bool]:
    """The directory of a model, deployed or not, and whether it is the base.

    Raises: ModelNotFound
    """
    settings = platform.settings
    if name in (None, settings.base_model):
        return settings.base_model_dir, True
    with platform.database.read() as connection:
        found = find_deployment(connection, name) or find_model(connection, name)
    if found is None or found.workspace_id != caller.workspace_id:
        raise ModelNotFound()
    return settings.data_dir / found.directory, False


def _asked(request: Request, platform: Platform, body: PreviewRequest, *, is_base: bool) -> SynthesisRequest:
    """The request as it would be spoken; a voice need not be named."""
    values = {**body.model_dump(exclude={"text", "model"}), "voice": body.voice or _ANY_VOICE}
    asked = parse_parameters(values, request_id=request.state.request_id, streaming=False)
    if body.voice is not None:
        asked = resolve_voice(asked, platform.base_voice_ids() if is_base else None)
    return replace(asked, enable_ssml=is_ssml(body.text, asked.enable_ssml))


def read_frontend(directory: Path, base_directory: Path) -> Frontend:
    """The text front end of a model, as `cosyvoice.weights.load_model` finds it: the model's own, else its base's.

    Raises: ModelNotFound when the model is not there
    """
    from cosyforge.text.frontend import Frontend  # here: the tables of its languages would slow the server's start

    for candidate in (directory, base_directory):
        try:
            manifest = json.loads((candidate / MANIFEST_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ModelNotFound() from error
        if manifest.get("frontend"):
            return Frontend(manifest["frontend"])
    return Frontend(asdict(FrontendEntry()))


def _segment_json(index: int, segment: Segment) -> dict[str, Any]:
    """What people read (`words`), what the model reads (`tokens`), and how the one became the other."""
    shown: dict[str, Any] = {
        "index": index,
        "text": segment.text,
        "begin_index": segment.start,
        "end_index": segment.end,
        "language": segment.language,
        "words": segment.words,
        "tokens": segment.spoken,
        "pause_ms": segment.pause_ms,
        "readings": [{"text": written, "words": words} for written, words in segment.readings],
    }
    markup = {
        "sound": segment.sound,
        "rate": segment.rate,
        "pitch": segment.pitch,
        "volume": segment.volume,
        "effect": segment.effect,
        "background": segment.background,
    }
    return shown | {name: value for name, value in markup.items() if value is not None}
