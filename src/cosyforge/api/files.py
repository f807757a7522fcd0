"""Files: upload, list, look, delete, and the signed links behind which artifacts lie."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from cosyforge import metrics
from cosyforge.api.context import Caller, PageNo, PlatformParameter, date_and_time, link_to, now
from cosyforge.api.envelope import wire_error
from cosyforge.api.multipart import Upload, UploadedPart, receive_upload
from cosyforge.bootstrap import Platform
from cosyforge.errors import InvalidParameter, NotFound, OutOfSpace, PlatformError
from cosyforge.registry.api_keys import ApiKey
from cosyforge.registry.files import PURPOSES, UploadedFile

router = APIRouter(tags=["files"])

_MEDIA_TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "zip": "application/zip",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "txt": "text/plain; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
}
"""By the ending of a name; anything else is bytes. Not the machine's own table, which differs between machines."""

_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "purpose": {"type": "string", "enum": list(PURPOSES), "default": PURPOSES[0]},
                        "descriptions": {"type": "array", "items": {"type": "string"}},
                    },
                }
            }
        },
    }
}


@router.post("/api/v1/files", openapi_extra=_UPLOAD_BODY)
async def upload_files(request: Request, platform: PlatformParameter, caller: Caller) -> JSONResponse:
    upload = await take_upload(request, platform, caller, "files")
    try:
        uploaded, failed = await run_in_threadpool(_keep_all, platform, caller, upload)
    finally:
        upload.discard()
    return _answer(request, {"uploaded_files": uploaded, "failed_uploads": failed})


async def take_upload(request: Request, platform: Platform, caller: ApiKey, file_field: str) -> Upload:
    """The body of an upload, received and not yet kept: discard it in any case.

    Raises: InvalidParameter
    """
    space = await run_in_threadpool(platform.files.space, caller.workspace_id)
    content_type = request.headers.get("content-type", "")
    try:
        return await receive_upload(content_type, request.stream(), platform.artifacts, space, file_field)
    except ClientDisconnect as error:
        raise InvalidParameter("The upload broke off.") from error


def checked_purpose(purpose: str) -> str:
    """Raises: InvalidParameter"""
    if purpose not in PURPOSES:
        raise InvalidParameter(f"purpose must be one of {', '.join(PURPOSES)} (got {purpose}).", param="purpose")
    return purpose


def keep_part(
    platform: Platform,
    caller: ApiKey,
    part: UploadedPart,
    *,
    description: str,
    purpose: str,
    file_id: str | None = None,
) -> UploadedFile:
    """Raises: why this file cannot be kept: InvalidParameter with a code of its own, OutOfSpace"""
    if part.problem is not None:
        raise part.problem
    file = platform.files.add(
        part.writer,
        name=part.file_name,
        description=description,
        purpose=purpose,
        workspace_id=caller.workspace_id,
        api_key_id=caller.key_id,
        now=now(),
        file_id=file_id,
    )
    metrics.uploaded_bytes.inc(file.size)
    return file


def _keep_all(platform: Platform, caller: ApiKey, upload: Upload) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Commit the files; one that cannot be kept does not spoil the others."""
    if not upload.files:
        raise InvalidParameter("The form has no file in a field named files.")
    purpose = checked_purpose(upload.first("purpose", PURPOSES[0]))
    descriptions = upload.fields.get("descriptions", [])
    uploaded, failed = [], []
    for index, part in enumerate(upload.files):
        description = descriptions[index] if index < len(descriptions) else ""
        try:
            file = keep_part(platform, caller, part, description=description, purpose=purpose)
        except (InvalidParameter, OutOfSpace) as error:
            failed.append({"name": part.file_name, "code": failure_code(error), "message": error.message})
        else:
            uploaded.append({"file_id": file.file_id, "name": file.name})
    return uploaded, failed


def failure_code(error: PlatformError) -> str:
    """A full disk is told like a full workspace: that is the only case which the contract knows."""
    return "BadRequest.TooLarge" if isinstance(error, OutOfSpace) else wire_error(error)[1]


@router.get("/api/v1/files")
def list_files(
    request: Request,
    platform: PlatformParameter,
    caller: Caller,
    page_no: PageNo = 1,
    page_size: Annotated[int, Query(ge=1, le=100)] = 10,
) -> JSONResponse:
    total, files = platform.files.page(caller.workspace_id, page_no, page_size)
    shown = [_file_json(platform, request, file) for file in files]
    return _answer(request, {"total": total, "page_no": page_no, "page_size": page_size, "files": shown})


@router.get("/api/v1/files/{file_id}")
def get_file(request: Request, platform: PlatformParameter, caller: Caller, file_id: str) -> JSONResponse:
    return _answer(request, _file_json(platform, request, platform.files.get(caller.workspace_id, file_id)))


@router.delete("/api/v1/files/{file_id}")
def delete_file(request: Request, platform: PlatformParameter, caller: Caller, file_id: str) -> JSONResponse:
    platform.files.delete(caller.workspace_id, file_id)
    return JSONResponse({"request_id": request.state.request_id})


@router.api_route("/artifacts/{key:path}", methods=["GET", "HEAD"], include_in_schema=False)
def get_artifact(
    platform: PlatformParameter,
    key: str,
    expires: Annotated[int, Query(alias="Expires")] = 0,
    signature: Annotated[str, Query(alias="Signature")] = "",
) -> FileResponse:
    """The bytes behind a signed link; ranges are served. The link is the permission, no key is needed."""
    platform.links.check(key, expires, signature, time.time())
    if not key.startswith("files/"):
        return FileResponse(platform.artifacts.local_path(key), media_type=media_type(key))
    file = platform.files.find_by_artifact(key)
    if file is None:
        raise NotFound()
    return download(platform, file)


def download(platform: Platform, file: UploadedFile) -> FileResponse:
    """Under the name it came with. Never shown in a browser: who uploads a page could speak in our name."""
    path = platform.artifacts.local_path(file.artifact)
    return FileResponse(path, media_type=media_type(file.name), filename=file.name)


def media_type(name: str) -> str:
    return _MEDIA_TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")


def _answer(request: Request, contents: dict[str, Any]) -> JSONResponse:
    """Files answer with `data` where everything else has `output`."""
    return JSONResponse({"request_id": request.state.request_id, "data": contents})


def _file_json(platform: Platform, request: Request, file: UploadedFile) -> dict[str, Any]:
    expires_at = int(time.time()) + platform.settings.url_lifetime_s
    return {
        "id": file.id,
        "file_id": file.file_id,
        "name": file.name,
        "description": file.description,
        "size": file.size,
        "md5": file.md5,
        "gmt_create": date_and_time(platform, file.created_at),
        "url": link_to(platform, request, file.artifact, expires_at),
        "region": "cn-beijing",
        "user_id": file.workspace_id,
        "api_key_id": str(file.api_key_id),
        "purpose": file.purpose,
    }
