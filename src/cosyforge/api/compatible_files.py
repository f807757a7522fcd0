"""The same files for clients that speak OpenAI's language: /compatible-mode/v1/files, with its shapes and errors."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool

from cosyforge.api.context import Caller, PlatformParameter
from cosyforge.api.envelope import OPENAI_ERROR_RESPONSES
from cosyforge.api.files import checked_purpose, download, failure_code, keep_part, take_upload
from cosyforge.api.multipart import Upload
from cosyforge.bootstrap import Platform
from cosyforge.errors import InvalidParameter, NotFound, OutOfSpace
from cosyforge.registry.api_keys import ApiKey
from cosyforge.registry.files import PURPOSES, UploadedFile

router = APIRouter(prefix="/compatible-mode/v1/files", tags=["openai"], responses=OPENAI_ERROR_RESPONSES)

_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                    },
                }
            }
        },
    }
}


@router.post("", openapi_extra=_UPLOAD_BODY)
async def upload_file(request: Request, platform: PlatformParameter, caller: Caller) -> JSONResponse:
    upload = await take_upload(request, platform, caller, "file")
    try:
        file = await run_in_threadpool(_keep, platform, caller, upload)
    finally:
        upload.discard()
    return JSONResponse(_file_json(file))


def _keep(platform: Platform, caller: ApiKey, upload: Upload) -> UploadedFile:
    """Raises: InvalidParameter, also when the file does not fit: there is no place for half a success here"""
    unknown = sorted({*upload.fields, *upload.other_files} - {"purpose"})
    if unknown:
        raise InvalidParameter(f"Unknown form field(s): {', '.join(unknown)}.", param=unknown[0])
    if len(upload.files) != 1:
        raise InvalidParameter(
            f"The form must have one file in a field named file (got {len(upload.files)}).", param="file"
        )
    if len(upload.fields.get("purpose", [])) != 1:
        raise InvalidParameter("The form must have one field named purpose.", param="purpose")
    purpose = checked_purpose(upload.first("purpose", ""))
    file_id = f"file-fe-{secrets.token_hex(12)}"
    try:
        return keep_part(platform, caller, upload.files[0], description="", purpose=purpose, file_id=file_id)
    except OutOfSpace as error:
        raise InvalidParameter(error.message, code=failure_code(error)) from error


@router.get("")
def list_files(
    platform: PlatformParameter,
    caller: Caller,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(max_length=64)] = None,
) -> JSONResponse:
    last = _file(platform, caller, after) if after else None
    found = platform.files.after(caller.workspace_id, last, limit + 1, purpose=purpose, newest_first=order == "desc")
    shown = [_file_json(file) for file in found[:limit]]
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {"first_id": None, "last_id": None}
    return JSONResponse({"object": "list", "data": shown, **ends, "has_more": len(found) > limit})


@router.get("/{file_id}")
def get_file(platform: PlatformParameter, caller: Caller, file_id: str) -> JSONResponse:
    return JSONResponse(_file_json(_file(platform, caller, file_id)))


@router.get("/{file_id}/content", response_class=FileResponse)
def get_content(platform: PlatformParameter, caller: Caller, file_id: str) -> FileResponse:
    return download(platform, _file(platform, caller, file_id))


@router.delete("/{file_id}")
def delete_file(platform: PlatformParameter, caller: Caller, file_id: str) -> JSONResponse:
    file = _file(platform, caller, file_id)
    platform.files.delete(caller.workspace_id, file.file_id)
    return JSONResponse({"id": file.file_id, "object": "file", "deleted": True})


def _file(platform: Platform, caller: ApiKey, file_id: str) -> UploadedFile:
    """Raises: NotFound, which is the word here for what the native API calls an invalid parameter"""
    try:
        return platform.files.get(caller.workspace_id, file_id)
    except InvalidParameter as error:
        raise NotFound(f"No such File object: {file_id}", param="file_id") from error


def _file_json(file: UploadedFile) -> dict[str, Any]:
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }
