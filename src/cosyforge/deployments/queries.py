"""The statements about deployments: a connection in, records out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from cosyforge.billing.ledger import add_unit_mark
from cosyforge.deployments.records import ALLOWED_FROM, Deployment, DeploymentEvent, DeploymentStatus, Wanted
from cosyforge.errors import NotFound, UnsupportedOperation
from cosyforge.store.tables import deployment_events, deployments


def insert_deployment(connection: Connection, values: dict[str, Any]) -> None:
    connection.execute(insert(deployments).values(**values))


def find_deployment(connection: Connection, deployed_model: str) -> Deployment | None:
    """A deployment of any workspace."""
    row = connection.execute(select(deployments).where(deployments.c.deployed_model == deployed_model)).one_or_none()
    return None if row is None else Deployment(**row._mapping)


def get_deployment(connection: Connection, workspace_id: str, deployed_model: str) -> Deployment:
    """Raises: NotFound, also for a deployment of another workspace"""
    deployment = find_deployment(connection, deployed_model)
    if deployment is None or deployment.workspace_id != workspace_id:
        raise NotFound()
    return deployment


def list_deployments(
    connection: Connection, workspace_id: str, page_no: int, page_size: int
) -> tuple[int, list[Deployment]]:
    """One page, newest first, and the number of deployments in all."""
    mine = deployments.c.workspace_id == workspace_id
    total = connection.execute(select(func.count()).where(mine)).scalar_one()
    page = select(deployments).where(mine).order_by(deployments.c.number.desc())
    rows = connection.execute(page.limit(page_size).offset((page_no - 1) * page_size))
    return total, [Deployment(**row._mapping) for row in rows]


def all_deployments(connection: Connection) -> list[Deployment]:
    """Of all workspaces, the oldest first."""
    rows = connection.execute(select(deployments).order_by(deployments.c.number))
    return [Deployment(**row._mapping) for row in rows]


# ---- what is wanted


def wish(connection: Connection, deployment: Deployment, now: datetime, **values: Any) -> None:
    """Change what is wanted; the reconciler sees by the generation that there is something to take up.

    Raises: UnsupportedOperation when the deployment is to be deleted, which is final
    """
    statement = update(deployments).where(
        deployments.c.deployment_id == deployment.deployment_id, deployments.c.wanted != str(Wanted.DELETED)
    )
    changed = connection.execute(statement.values(generation=deployments.c.generation + 1, modified_at=now, **values))
    if changed.rowcount == 0:
        raise UnsupportedOperation(f"Deployment {deployment.deployed_model} is DELETING; it cannot be changed.")


# ---- what is seen


def transition(
    connection: Connection, deployment: Deployment, status: DeploymentStatus, now: datetime, **values: Any
) -> None:
    """Move the status, with whatever else changes in the same moment.

    Raises: UnsupportedOperation when the present status does not allow the move
    """
    allowed = [str(source) for source in ALLOWED_FROM[status]]
    statement = update(deployments).where(
        deployments.c.deployment_id == deployment.deployment_id, deployments.c.status.in_(allowed)
    )
    changed = connection.execute(statement.values(status=str(status), modified_at=now, **values))
    if changed.rowcount == 0:
        raise UnsupportedOperation(
            f"Deployment {deployment.deployed_model} is {deployment.status}; it cannot become {status}."
        )


def set_fields(connection: Connection, deployment_id: str, **values: Any) -> None:
    """Change anything but the status."""
    assert "status" not in values
    connection.execute(update(deployments).where(deployments.c.deployment_id == deployment_id).values(**values))


def delete_deployment(connection: Connection, deployment_id: str) -> None:
    """Its events stay: bills can be checked against them."""
    connection.execute(delete(deployments).where(deployments.c.deployment_id == deployment_id))


# ---- the bill


def bill_units(connection: Connection, deployment: Deployment, units: int, reason: str, now: datetime) -> None:
    """From now on so many model units are billed; nothing happens when that is so already.

    Should the clock have been set back, "now" is the last moment that is billed already: no second counts twice.
    """
    if deployment.billed_units == units or deployment.is_builtin:
        return
    at = max(now, deployment.alive_at or now)
    set_fields(connection, deployment.deployment_id, billed_units=units, alive_at=at)
    add_unit_mark(
        connection,
        workspace_id=deployment.workspace_id,
        deployment_id=deployment.deployment_id,
        deployed_model=deployment.deployed_model,
        model_unit_spec=deployment.model_unit_spec,
        units=units,
        reason=reason,
        now=at,
    )


def note_alive(connection: Connection, now: datetime) -> None:
    """What is billed now ran until now."""
    is_billed = (deployments.c.billed_units > 0) & (deployments.c.alive_at < now)
    connection.execute(update(deployments).where(is_billed).values(alive_at=now))


# ---- what happened


def add_event(
    connection: Connection,
    deployment_id: str,
    message: str,
    now: datetime,
    *,
    status: DeploymentStatus | None = None,
    capacity: int | None = None,
) -> None:
    values = {"deployment_id": deployment_id, "at": now, "message": message, "capacity": capacity}
    connection.execute(insert(deployment_events).values(**values, status=None if status is None else str(status)))


def list_events(connection: Connection, deployment_id: str, after: int = 0) -> list[DeploymentEvent]:
    """The oldest first. after: an event id"""
    mine = (deployment_events.c.deployment_id == deployment_id) & (deployment_events.c.event_id > after)
    rows = connection.execute(select(deployment_events).where(mine).order_by(deployment_events.c.event_id))
    return [DeploymentEvent(**row._mapping) for row in rows]


def has_deployment(connection: Connection, deployment_id: str) -> bool:
    statement = select(deployments.c.number).where(deployments.c.deployment_id == deployment_id)
    return connection.execute(statement).first() is not None
