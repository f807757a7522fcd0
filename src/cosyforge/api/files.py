"""Files: upload, list, look, delete, and the signed links behind which artifacts lie."""

from __future__ import annotations

import mimetypes
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from cosyforge.api.context import Caller, PageNo, PlatformParameter, date_and_time, link_to, now
from cosyforge.api.multipart import Upload, receive_upload
from cosyforge.bootstrap import Platform
from cosyforge.errors import InvalidParameter
from cosyforge.registry.api_keys import ApiKey
from cosyforge.registry.files import UploadedFile

router = APIRouter(tags=["files"])


@router.post("/api/v1/files")
async def upload_files(request: Request, platform: PlatformParameter, caller: Caller) -> JSONResponse:
    content_type = request.headers.get("content-type", "")
    limit = platform.settings.max_upload_bytes
    try:
        upload = await receive_upload(content_type, request.stream(), platform.artifacts, limit)
    except ClientDisconnect as error:
        raise InvalidParameter("The upload broke off.") from error
    try:
        uploaded, failed = await run_in_threadpool(_keep, platform, caller, upload)
    finally:
        upload.discard()
    return _answer(request, {"uploaded_files": uploaded, "failed_uploads": failed})


def _keep(platform: Platform, caller: ApiKey, upload: Upload) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Commit the files; one that is too large does not spoil the others."""
    parts = [part for part in upload.files if part.field_name == "files"]
    if not parts:
        raise InvalidParameter("The form has no file in a field named files.")
    descriptions = upload.fields.get("descriptions", [])
    uploaded, failed = [], []
    for index, part in enumerate(parts):
        if part.too_large:
            message = f"{part.file_name} is larger than {platform.settings.max_upload_bytes} B, the limit for a file."
            failed.append({"name": part.file_name, "code": "BadRequest.TooLarge", "message": message})
            continue
        file = platform.files.add(
            part.writer,
            name=part.file_name,
            description=descriptions[index] if index < len(descriptions) else "",
            purpose=upload.first("purpose", "fine-tune"),
            workspace_id=caller.workspace_id,
            api_key_id=caller.key_id,
            now=now(),
        )
        uploaded.append({"file_id": file.file_id, "name": file.name})
    return uploaded, failed


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
    media_type = mimetypes.guess_type(key)[0] or "application/octet-stream"
    return FileResponse(platform.artifacts.local_path(key), media_type=media_type)


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
