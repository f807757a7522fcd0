"""Uploaded files. The bytes are an artifact; what is known about them is a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.engine import Row

from cosyforge.errors import InvalidParameter
from cosyforge.store.artifacts import ArtifactStore, ArtifactWriter
from cosyforge.store.database import Database
from cosyforge.store.tables import files


@dataclass(frozen=True)
class UploadedFile:
    """Units: size in bytes"""

    id: int
    file_id: str
    workspace_id: str
    api_key_id: int
    name: str
    description: str
    purpose: str
    size: int
    md5: str
    sha256: str
    artifact: str
    created_at: datetime


class Files:
    """The files of all workspaces."""

    def __init__(self, database: Database, artifacts: ArtifactStore) -> None:
        self._database = database
        self._artifacts = artifacts

    def add(
        self,
        writer: ArtifactWriter,
        *,
        name: str,
        description: str,
        purpose: str,
        workspace_id: str,
        api_key_id: int,
        now: datetime,
    ) -> UploadedFile:
        """Keep what was written; the file is usable at once."""
        file_id = str(uuid4())
        artifact = f"files/{file_id}"
        writer.commit(artifact)
        with self._database.transaction() as connection:
            connection.execute(
                insert(files).values(
                    file_id=file_id,
                    workspace_id=workspace_id,
                    api_key_id=api_key_id,
                    name=name,
                    description=description,
                    purpose=purpose,
                    size=writer.size,
                    md5=writer.md5,
                    sha256=writer.sha256,
                    artifact=artifact,
                    created_at=now,
                )
            )
            return get_file(connection, workspace_id, file_id)

    def get(self, workspace_id: str, file_id: str) -> UploadedFile:
        """Raises: InvalidParameter when there is no such file"""
        with self._database.read() as connection:
            return get_file(connection, workspace_id, file_id)

    def page(self, workspace_id: str, page_no: int, page_size: int) -> tuple[int, list[UploadedFile]]:
        """One page, newest first, and the number of files in all."""
        mine = files.c.workspace_id == workspace_id
        page = select(files).where(mine).order_by(files.c.id.desc()).limit(page_size).offset((page_no - 1) * page_size)
        with self._database.read() as connection:
            total = connection.execute(select(func.count()).where(mine)).scalar_one()
            return total, [_file(row) for row in connection.execute(page)]

    def delete(self, workspace_id: str, file_id: str) -> None:
        """Forget a file; a job that trains on it has its own copy.

        Raises: InvalidParameter when there is no such file
        """
        with self._database.transaction() as connection:
            file = get_file(connection, workspace_id, file_id)
            connection.execute(delete(files).where(files.c.file_id == file_id))
        self._artifacts.delete(file.artifact)


def get_file(connection: Connection, workspace_id: str, file_id: str) -> UploadedFile:
    """Raises: InvalidParameter, as the service we are compatible with answers 400 here, not 404"""
    statement = select(files).where(files.c.file_id == file_id, files.c.workspace_id == workspace_id)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise InvalidParameter("File not found.")
    return _file(row)


def _file(row: Row[tuple[object, ...]]) -> UploadedFile:
    return UploadedFile(**row._mapping)
