"""The bill of a deployment across the ends of servers: heartbeats, and what is closed by whom.

Units are billed from RUNNING to a stop, a failure or the deletion; a replica that is being replaced does not interrupt
them. While no server runs, nothing answers and nothing is billed. A server that is told to stop closes the bills itself.
One that vanishes leaves them open: the next one closes each at the last heartbeat, so that no second is billed in which
nothing ran, none counts twice, and at most the last heartbeat interval is given away.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from cosyforge.billing.ledger import last_mark_at
from cosyforge.deployments import queries
from cosyforge.deployments.records import Deployment
from cosyforge.store.database import Database

LOST = "The server was lost; the bill ends here until it runs again."
STOPPED = "The server stopped; the bill ends here until it runs again."


class Heartbeat:
    """Remembers until when every bill is certainly right, should this server vanish."""

    def __init__(self, database: Database, interval_s: float) -> None:
        self._database = database
        self._interval_s = interval_s
        self._noted_at: datetime | None = None

    def beat(self, now: datetime) -> None:
        """Cheap to call often; it writes once per interval."""
        if self._noted_at is not None and (now - self._noted_at).total_seconds() < self._interval_s:
            return
        self._noted_at = now
        with self._database.transaction() as connection:
            queries.note_alive(connection, now)


def close_bill_of_lost_server(connection: Connection, deployment: Deployment, now: datetime) -> None:
    if deployment.billed_units:
        seen_at = deployment.alive_at or last_mark_at(connection, deployment.deployment_id) or now
        _close(connection, deployment, "server lost", LOST, min(seen_at, now))


def close_bill_of_stopping_server(connection: Connection, deployment: Deployment, now: datetime) -> None:
    if deployment.billed_units:
        _close(connection, deployment, "server stopped", STOPPED, now)


def _close(connection: Connection, deployment: Deployment, reason: str, message: str, at: datetime) -> None:
    queries.bill_units(connection, deployment, 0, reason, at)
    queries.add_event(connection, deployment.deployment_id, message, at)
