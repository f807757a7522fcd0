"""Speech for clients that speak OpenAI's language: /v1/audio/speech, /v1/models, /v1/audio/voices."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from anyio import CapacityLimiter
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from cosyforge.api.context import Caller, PlatformParameter
from cosyforge.api.envelope import OPENAI_ERROR_RESPONSES, wire_error
from cosyforge.api.speech import SpokenStream, chunks
from cosyforge.api.speech_parameters import BAD_INSTRUCTION, BAD_VOICE, is_ssml, parse_parameters
from cosyforge.api.speech_request import end, first_chunk, json_object, make_utterance
from cosyforge.api.utterance import Utterance
from cosyforge.bootstrap import Platform
from cosyforge.deployments.records import Deployment, DeploymentStatus
from cosyforge.errors import InvalidParameter, ModelNotFound, PlatformError
from cosyforge.registry.api_keys import ApiKey
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest

router = APIRouter(prefix="/v1", tags=["openai"], responses=OPENAI_ERROR_RESPONSES)

SAMPLE_RATE_HZ = 24_000
"""What OpenAI's raw samples have."""
MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
MIN_SPEED, MAX_SPEED = 0.5, 2.0
_OURS = (
    "sample_rate", "volume", "pitch", "bit_rate", "seed", "language_hints", "enable_ssml", "hot_fix",
    "enable_markdown_filter", "enable_aigc_tag", "aigc_propagator", "aigc_propagate_id",
)  # fmt: skip
"""Parameters of our own that may stand in the body too (`extra_body` of the official client)."""
_TOKENS_PER_S = 25


@router.post("/audio/speech", response_class=Response)
async def create_speech(request: Request, platform: PlatformParameter, caller: Caller) -> Response:
    """Speak a text; the body is the audio while it is made, or with `stream_format: "sse"` events that carry it."""
    body = await json_object(request)
    utterance = await _utterance(request, platform, caller, body)
    limiter: CapacityLimiter = request.app.state.synthesis_limiter
    first = await first_chunk(request, utterance, limiter)
    if body.get("stream_format") == "sse":
        return SpokenStream(utterance, _events(utterance, limiter, first), "text/event-stream", {})
    media_type = MEDIA_TYPES[utterance.request.format]
    return SpokenStream(utterance, _audio(utterance, limiter, first), media_type, {})


@router.get("/models")
def list_models(platform: PlatformParameter, caller: Caller) -> JSONResponse:
    """The models that can be spoken with now."""
    return JSONResponse({"object": "list", "data": _models(platform, caller)})


@router.get("/models/{model}")
def get_model(platform: PlatformParameter, caller: Caller, model: str) -> JSONResponse:
    found = next((shown for shown in _models(platform, caller) if shown["id"] == model), None)
    if found is None:
        raise ModelNotFound(param="model")
    return JSONResponse(found)


@router.get("/audio/voices")
def list_voices(platform: PlatformParameter, caller: Caller, model: str | None = None) -> JSONResponse:
    """Which voice goes with which model; `model` asks for that one's alone."""
    voices = []
    for shown in _models(platform, caller):
        is_base = shown["id"] == platform.settings.base_model
        names = sorted(platform.base_voices()) if is_base else ["default"]
        if model in (None, shown["id"]):
            voices += [{"id": name, "name": name, "model": shown["id"]} for name in names]
    return JSONResponse({"object": "list", "voices": voices})


def _models(platform: Platform, caller: ApiKey) -> list[dict[str, Any]]:
    """The base first, then what this workspace has deployed and is running."""
    settings = platform.settings
    models = []
    if settings.serve_base_model != "off":
        made_at = (settings.base_model_dir / "model.json").stat().st_mtime
        models.append(_model_json(settings.base_model, made_at, "cosyforge"))
    deployments: list[Deployment] = []
    page_no, total = 1, 1
    while len(deployments) < total:
        total, page = platform.deployments.page(caller.workspace_id, page_no, 1000)
        deployments += page
        page_no += 1
        if not page:
            break
    running = [item for item in deployments if item.state in (DeploymentStatus.RUNNING, DeploymentStatus.UPDATING)]
    return models + [
        _model_json(item.deployed_model, item.created_at.timestamp(), item.workspace_id) for item in running
    ]


def _model_json(name: str, created_s: float, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(created_s), "owned_by": owner}


# ---- the request


async def _utterance(request: Request, platform: Platform, caller: ApiKey, body: dict[str, Any]) -> Utterance:
    """Raises: as make_utterance, in words that fit this interface"""

    def asked() -> tuple[str, str, SynthesisRequest]:
        return _read(body, request.state.request_id, caller.workspace_id)

    try:
        return await make_utterance(request, platform, caller, "openai", body.get("model"), asked)
    except InvalidParameter as error:
        if error.message == BAD_VOICE:
            raise InvalidParameter(_known_voices(platform, body["model"]), param="voice") from error
        if error.message == BAD_INSTRUCTION:
            message = (
                f"{body['model']} takes no such instructions; leave them out, or ask the base model in fewer words."
            )
            raise InvalidParameter(message, param="instructions") from error
        raise


def _known_voices(platform: Platform, model: str) -> str:
    is_base = model == platform.settings.base_model
    names = sorted(platform.base_voices()) if is_base else ["default"]
    return f"voice must be one of {', '.join(names)} for {model}."


def _read(body: dict[str, Any], request_id: str, account: str) -> tuple[str, str, SynthesisRequest]:
    model, text = body.get("model"), body.get("input")
    if not isinstance(model, str) or not model:
        raise InvalidParameter("model is missing.", param="model")
    if not isinstance(text, str):
        raise InvalidParameter("input must be the text to speak.", param="input")
    if body.get("stream_format") not in (None, "audio", "sse"):
        raise InvalidParameter("stream_format must be audio or sse.", param="stream_format")
    values = {name: body[name] for name in _OURS if name in body}
    values = {"sample_rate": SAMPLE_RATE_HZ, **values}
    values |= {
        "voice": _voice(body.get("voice")),
        "format": _format(body.get("response_format")),
        "rate": _speed(body.get("speed")),
        "instruction": body.get("instructions"),
    }
    wanted = parse_parameters(
        values, request_id=request_id, streaming=True, account=account, formats=tuple(MEDIA_TYPES)
    )
    is_markup = is_ssml(text, wanted.enable_ssml)
    return model, text, SynthesisRequest(**{**vars(wanted), "enable_ssml": is_markup})


def _voice(value: Any) -> str:
    """A name, or an object with an id."""
    voice = value.get("id") if isinstance(value, dict) else value
    if not isinstance(voice, str) or not voice:
        raise InvalidParameter("voice must be the name of a voice; GET /v1/audio/voices lists them.", param="voice")
    return voice


def _format(value: Any) -> str:
    if value is None:
        return "mp3"
    if not isinstance(value, str) or value not in MEDIA_TYPES:
        raise InvalidParameter(f"response_format must be one of {', '.join(MEDIA_TYPES)}.", param="response_format")
    return value


def _speed(value: Any) -> float:
    if value is None:
        return 1.0
    if type(value) not in (int, float) or not MIN_SPEED <= value <= MAX_SPEED:
        raise InvalidParameter(f"speed must be a number in [{MIN_SPEED}, {MAX_SPEED}] here.", param="speed")
    return float(value)


# ---- the answer


async def _audio(
    utterance: Utterance, limiter: CapacityLimiter, first: AudioChunk | None
) -> AsyncGenerator[bytes, None]:
    """A body cannot say what went wrong once it has begun: it breaks off, and clients see that it is not whole."""
    async with aclosing(chunks(utterance, limiter, first)) as pieces:
        async for chunk in pieces:
            if chunk.audio:
                yield chunk.audio
    await end(utterance)


async def _events(
    utterance: Utterance, limiter: CapacityLimiter, first: AudioChunk | None
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(chunks(utterance, limiter, first)) as pieces:
            async for chunk in pieces:
                if chunk.audio:
                    yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(chunk.audio).decode()})
        await end(utterance)
    except PlatformError as error:
        _, code = wire_error(error)
        yield _event({"error": {"message": error.message, "type": "server_error", "param": None, "code": code}})
        return
    spoken, heard = utterance.num_characters, round(utterance.audio_s * _TOKENS_PER_S)
    usage = {"input_tokens": spoken, "output_tokens": heard, "total_tokens": spoken + heard}
    yield _event({"type": "speech.audio.done", "usage": usage})


def _event(contents: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(contents, ensure_ascii=False)}\n\n".encode()
