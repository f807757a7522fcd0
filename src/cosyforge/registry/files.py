"""Uploaded files. The bytes are an artifact; what is known about them is a row. A workspace may have so many."""

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

PURPOSES = ("fine-tune", "file-extract", "batch")
_PREFIX = "files"
_TOO_LARGE = "BadRequest.TooLarge"


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


@dataclass(frozen=True)
class FileRules:
    """Of a workspace; 0 is no limit."""

    max_file_bytes: int = 0
    max_files: int = 0
    max_bytes: int = 0


@dataclass(frozen=True)
class Space:
    """What a workspace has uploaded, against what it may."""

    num_files: int
    num_bytes: int
    rules: FileRules

    def check(self, name: str, size: int) -> None:
        """One more file of so many bytes.

        Raises: InvalidParameter in the words of the service we are compatible with
        """
        rules = self.rules
        if rules.max_files and self.num_files >= rules.max_files:
            raise InvalidParameter(
                f"Out of number, {self.num_files} of {rules.max_files} files has been uploaded.",
                code="BadRequest.TooMany",
            )
        if rules.max_file_bytes and size > rules.max_file_bytes:
            raise InvalidParameter(
                f"{name} is larger than {rules.max_file_bytes} B, the limit for a file.", code=_TOO_LARGE
            )
        if rules.max_bytes and self.num_bytes + size > rules.max_bytes:
            raise InvalidParameter(
                f"Out of space, {self.num_bytes} B of {rules.max_bytes} B storage space has been used.",
                code=_TOO_LARGE,
            )

    def with_file(self, size: int) -> Space:
        return Space(self.num_files + 1, self.num_bytes + size, self.rules)


class Files:
    """The files of all workspaces."""

    def __init__(self, database: Database, artifacts: ArtifactStore, rules: FileRules | None = None) -> None:
        self._database = database
        self._artifacts = artifacts
        self._rules = rules or FileRules()

    def space(self, workspace_id: str) -> Space:
        with self._database.read() as connection:
            return self._space(connection, workspace_id)

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
        file_id: str | None = None,
    ) -> UploadedFile:
        """Keep what was written; the file is usable at once.

        Raises: InvalidParameter when the workspace is full by now; OutOfSpace; then nothing is kept
        """
        file_id = file_id or str(uuid4())
        artifact = f"{_PREFIX}/{file_id}"
        writer.finish()  # the slow part of writing, before others wait for the transaction
        try:
            with self._database.transaction() as connection:
                self._space(connection, workspace_id).check(name, writer.size)
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
                file = get_file(connection, workspace_id, file_id)
                writer.commit(artifact)
        except BaseException:
            self._artifacts.delete(artifact)
            raise
        return file

    def get(self, workspace_id: str, file_id: str) -> UploadedFile:
        """Raises: InvalidParameter when there is no such file"""
        with self._database.read() as connection:
            return get_file(connection, workspace_id, file_id)

    def find_by_artifact(self, artifact: str) -> UploadedFile | None:
        """Of any workspace: for links, which are a permission by themselves."""
        mine = files.c.file_id == artifact.removeprefix(f"{_PREFIX}/")
        with self._database.read() as connection:
            row = connection.execute(select(files).where(mine)).one_or_none()
        return None if row is None or row.artifact != artifact else _file(row)

    def page(self, workspace_id: str, page_no: int, page_size: int) -> tuple[int, list[UploadedFile]]:
        """One page, newest first, and the number of files in all."""
        mine = files.c.workspace_id == workspace_id
        page = select(files).where(mine).order_by(files.c.id.desc()).limit(page_size).offset((page_no - 1) * page_size)
        with self._database.read() as connection:
            total = connection.execute(select(func.count()).where(mine)).scalar_one()
            return total, [_file(row) for row in connection.execute(page)]

    def after(
        self, workspace_id: str, after: UploadedFile | None, limit: int, *, purpose: str | None, newest_first: bool
    ) -> list[UploadedFile]:
        """At most `limit` files that follow `after` in the order asked for."""
        order = files.c.id.desc() if newest_first else files.c.id.asc()
        statement = select(files).where(files.c.workspace_id == workspace_id).order_by(order).limit(limit)
        if purpose is not None:
            statement = statement.where(files.c.purpose == purpose)
        if after is not None:
            statement = statement.where(files.c.id < after.id if newest_first else files.c.id > after.id)
        with self._database.read() as connection:
            return [_file(row) for row in connection.execute(statement)]

    def delete(self, workspace_id: str, file_id: str) -> None:
        """Forget a file; a job that trains on it has its own copy.

        Raises: InvalidParameter when there is no such file
        """
        with self._database.transaction() as connection:
            file = get_file(connection, workspace_id, file_id)
            connection.execute(delete(files).where(files.c.file_id == file_id))
        self._artifacts.delete(file.artifact)

    def sweep(self) -> int:
        """Remove the bytes that no row knows, which a crash between the two leaves; returns how many files.

        For the start alone: an upload that is being kept right now looks the same.
        """
        with self._database.read() as connection:
            known = set(connection.execute(select(files.c.artifact)).scalars())
        orphans = [key for key in self._artifacts.keys(_PREFIX) if key not in known]
        for key in orphans:
            self._artifacts.delete(key)
        return len(orphans)

    def _space(self, connection: Connection, workspace_id: str) -> Space:
        statement = select(func.count(), func.coalesce(func.sum(files.c.size), 0))
        num_files, num_bytes = connection.execute(statement.where(files.c.workspace_id == workspace_id)).one()
        return Space(int(num_files), int(num_bytes), self._rules)


def get_file(connection: Connection, workspace_id: str, file_id: str) -> UploadedFile:
    """Raises: InvalidParameter, as the service we are compatible with answers 400 here, not 404"""
    statement = select(files).where(files.c.file_id == file_id, files.c.workspace_id == workspace_id)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise InvalidParameter("File not found.")
    return _file(row)


def _file(row: Row[tuple[object, ...]]) -> UploadedFile:
    return UploadedFile(**row._mapping)
