"""What a user may do with deployments: it writes what is wanted, the reconciler makes it so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection

from cosyforge.deployments import queries
from cosyforge.deployments.records import (
    SYSTEM_WORKSPACE,
    Deployment,
    DeploymentEvent,
    DeploymentStatus,
    Wanted,
)
from cosyforge.deployments.templates import TEMPLATES, Template, cheapest_template, check_capacity, find_template
from cosyforge.errors import Conflict, InvalidParameter, NotFound, UnsupportedOperation
from cosyforge.registry.models import find_model
from cosyforge.store.database import Database

_SUFFIX = re.compile(r"[A-Za-z0-9]{1,8}")
_RETRY_AFTER_S = 30


@dataclass(frozen=True)
class DeploymentRequest:
    """A deployment as asked for; absent fields are None.

    Units: capacity counts model units, not replicas; limits are per minute
    """

    model_name: str
    capacity: int
    deploy_spec: str | None = None
    plan: str | None = None
    billing_method: str | None = None
    name: str | None = None
    suffix: str | None = None
    rpm_limit: int | None = None
    tpm_limit: int | None = None


@dataclass(frozen=True)
class _Source:
    """What is to be deployed. directory: absolute, or relative to the data directory"""

    model_name: str
    base_model: str
    directory: str


class Deployments:
    """The deployments of all workspaces."""

    def __init__(
        self, database: Database, base_model: str, base_directory: str, unit_hour_by_spec: Mapping[str, Decimal]
    ) -> None:
        self._database = database
        self._base_model = base_model
        self._base_directory = base_directory
        self._unit_hour_by_spec = unit_hour_by_spec

    # ---- looking

    def get(self, workspace_id: str, deployed_model: str) -> Deployment:
        """Raises: NotFound"""
        with self._database.read() as connection:
            return queries.get_deployment(connection, workspace_id, deployed_model)

    def page(self, workspace_id: str, page_no: int, page_size: int) -> tuple[int, list[Deployment]]:
        with self._database.read() as connection:
            return queries.list_deployments(connection, workspace_id, page_no, page_size)

    def events(self, workspace_id: str, deployed_model: str) -> list[tuple[datetime, str]]:
        """What happened to a deployment, the oldest first.

        Raises: NotFound
        """
        with self._database.read() as connection:
            deployment = queries.get_deployment(connection, workspace_id, deployed_model)
            return [(event.at, event.message) for event in queries.list_events(connection, deployment.deployment_id)]

    def news(self, deployment_id: str, after: int) -> tuple[list[DeploymentEvent], bool]:
        """What happened after an event, and whether that was the end: the deployment is gone."""
        with self._database.read() as connection:
            is_gone = not queries.has_deployment(connection, deployment_id)
            return queries.list_events(connection, deployment_id, after), is_gone

    # ---- wishes

    def create(self, request: DeploymentRequest, workspace_id: str, creator: str, now: datetime) -> Deployment:
        """Ask for a deployment.

        Raises: InvalidParameter; Conflict when the name is taken
        """
        template = self._check(request)
        with self._database.transaction() as connection:
            source = self._source(connection, request.model_name, workspace_id)
            deployed_model = f"{source.model_name}-{request.suffix}" if request.suffix else source.model_name
            if self._is_taken(connection, deployed_model, by_other_than=source.model_name):
                raise Conflict(f"Deployed model {deployed_model} already exists, please specify a suffix.")
            wanted = {"name": request.name or source.model_name, "capacity": request.capacity}
            limits = {"rpm_limit": request.rpm_limit, "tpm_limit": request.tpm_limit}
            owner = {"workspace_id": workspace_id, "creator": creator}
            values = {**owner, **wanted, **limits, "deployed_model": deployed_model}
            self._insert(connection, source, template, now, **values)
            return queries.get_deployment(connection, workspace_id, deployed_model)

    def scale(self, workspace_id: str, deployed_model: str, capacity: int, now: datetime) -> Deployment:
        """Set the model units wanted; replicas follow within a reconcile step, the bill at once.

        A deployment that was stopped or has failed is started with them; 0 stops it.
        Units: capacity counts model units, not replicas
        Raises: NotFound; InvalidParameter when capacity is no multiple of the template's units; UnsupportedOperation
        Source: product document, "Plan replica count and scale"
        """
        with self._database.transaction() as connection:
            deployment = queries.get_deployment(connection, workspace_id, deployed_model)
            check_capacity(capacity, deployment.base_capacity, least=0)
            is_so = capacity == deployment.capacity and deployment.wanted is Wanted.RUNNING
            if not is_so or deployment.status is DeploymentStatus.FAILED:
                message = f"Scaled from {deployment.capacity} to {capacity} model units."
                self._want(connection, deployment, now, message, wanted=Wanted.RUNNING, capacity=capacity)
                if deployment.billed_units:
                    queries.bill_units(connection, deployment, capacity, "scaled", now)
            return queries.get_deployment(connection, workspace_id, deployed_model)

    def stop(self, workspace_id: str, deployed_model: str, now: datetime) -> Deployment:
        """Want no replicas for now and pay nothing; the capacity is remembered for the start. Nothing when stopped.

        Raises: NotFound, UnsupportedOperation
        """
        with self._database.transaction() as connection:
            deployment = queries.get_deployment(connection, workspace_id, deployed_model)
            if deployment.wanted is not Wanted.STOPPED:
                self._want(connection, deployment, now, "Stopped on request.", wanted=Wanted.STOPPED)
                queries.bill_units(connection, deployment, 0, "stopped", now)
            return queries.get_deployment(connection, workspace_id, deployed_model)

    def start(self, workspace_id: str, deployed_model: str, now: datetime) -> Deployment:
        """Want the replicas again, after a stop or a failure; nothing when it is running or on its way.

        Raises: NotFound; UnsupportedOperation when it was scaled to nothing
        """
        with self._database.transaction() as connection:
            deployment = queries.get_deployment(connection, workspace_id, deployed_model)
            if deployment.capacity == 0:
                raise UnsupportedOperation(f"Deployment {deployed_model} has no model units; scale it to start it.")
            if deployment.wanted is not Wanted.RUNNING or deployment.status is DeploymentStatus.FAILED:
                self._want(connection, deployment, now, "Started on request.", wanted=Wanted.RUNNING)
            return queries.get_deployment(connection, workspace_id, deployed_model)

    def set_limits(
        self, workspace_id: str, deployed_model: str, rpm_limit: int | None, tpm_limit: int | None, now: datetime
    ) -> Deployment:
        """Change the request and token limits per minute; None leaves one as it is. One that failed is tried again.

        Raises: NotFound; InvalidParameter when none is given or one is not positive; UnsupportedOperation
        """
        given = _checked_limits(rpm_limit, tpm_limit)
        if not given:
            raise InvalidParameter("Give rpm_limit or tpm_limit.")
        with self._database.transaction() as connection:
            deployment = queries.get_deployment(connection, workspace_id, deployed_model)
            if deployment.wanted is Wanted.DELETED:
                raise UnsupportedOperation(f"Deployment {deployed_model} is DELETING; it cannot be changed.")
            if deployment.status is DeploymentStatus.FAILED:
                self._want(connection, deployment, now, "Limits changed; trying again.")
            queries.set_fields(connection, deployment.deployment_id, modified_at=now, **given)
            return queries.get_deployment(connection, workspace_id, deployed_model)

    def delete(self, workspace_id: str, deployed_model: str, now: datetime) -> Deployment:
        """Stop billing now; the replicas finish what they are saying and go.

        Raises: NotFound, also for one that is being deleted already
        """
        with self._database.transaction() as connection:
            deployment = queries.get_deployment(connection, workspace_id, deployed_model)
            if deployment.wanted is Wanted.DELETED:
                raise NotFound()
            queries.bill_units(connection, deployment, 0, "deleted", now)
            queries.wish(connection, deployment, now, wanted=str(Wanted.DELETED))
            queries.add_event(
                connection, deployment.deployment_id, "Deletion requested.", now, status=DeploymentStatus.DELETING
            )
            return queries.get_deployment(connection, workspace_id, deployed_model)

    # ---- the base model, built in

    def ensure_base_model(self, now: datetime) -> Deployment:
        """The built-in deployment of the base model: made when there is none, tried again a while after it failed."""
        with self._database.read() as connection:
            found = queries.find_deployment(connection, self._base_model)
        if found is not None and not _is_worth_a_retry(found, now):
            return found
        with self._database.transaction() as connection:
            found = queries.find_deployment(connection, self._base_model)
            if found is None:
                owner = {"workspace_id": SYSTEM_WORKSPACE, "creator": ""}
                values = {**owner, "deployed_model": self._base_model, "name": self._base_model, "capacity": 1}
                self._insert(connection, self._base_source(), TEMPLATES[0], now, **values)
            elif _is_worth_a_retry(found, now):
                self._want(connection, found, now, "Trying again.")
            return queries.get_deployment(connection, SYSTEM_WORKSPACE, self._base_model)

    def forget_base_model(self) -> None:
        """At start: the base model is served again when somebody asks for it."""
        with self._database.transaction() as connection:
            deployment = queries.find_deployment(connection, self._base_model)
            if deployment is not None:
                queries.delete_deployment(connection, deployment.deployment_id)

    # ---- how

    def _check(self, request: DeploymentRequest) -> Template:
        """Raises: InvalidParameter"""
        if (request.plan or "mu") != "mu":
            raise InvalidParameter(f"plan must be mu (got {request.plan}).")
        if (request.billing_method or "POST_PAY") != "POST_PAY":
            raise InvalidParameter(f"billing_method must be POST_PAY (got {request.billing_method}).")
        if request.suffix and not _SUFFIX.fullmatch(request.suffix):
            raise InvalidParameter("suffix may have letters and digits only, at most 8.")
        _checked_limits(request.rpm_limit, request.tpm_limit)
        if request.deploy_spec:
            template = find_template(request.deploy_spec)
        else:
            template = cheapest_template(request.capacity, self._unit_hour_by_spec)
        check_capacity(request.capacity, template.capacity_unit_per_instance, least=1)
        return template

    def _source(self, connection: Connection, model_name: str, workspace_id: str) -> _Source:
        """Raises: InvalidParameter when this workspace cannot deploy such a model"""
        if model_name == self._base_model:
            return self._base_source()
        model = find_model(connection, model_name)
        if model is None or model.workspace_id != workspace_id:
            raise InvalidParameter(f"The model {model_name} does not exist or is not deployable")
        return _Source(model.model_name, model.base_model, model.directory)

    def _base_source(self) -> _Source:
        return _Source(self._base_model, self._base_model, self._base_directory)

    def _is_taken(self, connection: Connection, deployed_model: str, *, by_other_than: str) -> bool:
        """A name belongs to its deployment, to the built-in base model, or to the model that is called so."""
        if deployed_model == self._base_model or queries.find_deployment(connection, deployed_model) is not None:
            return True
        return deployed_model != by_other_than and find_model(connection, deployed_model) is not None

    def _insert(
        self, connection: Connection, source: _Source, template: Template, now: datetime, **values: Any
    ) -> None:
        deployment_id = str(uuid4())
        row = {
            "deployment_id": deployment_id,
            "model_name": source.model_name,
            "base_model": source.base_model,
            "directory": source.directory,
            "template_id": template.template_id,
            "model_unit_spec": template.model_unit_spec,
            "base_capacity": template.capacity_unit_per_instance,
            "wanted": str(Wanted.RUNNING),
            "generation": 1,
            "seen_generation": 1,
            "ready_capacity": 0,
            "status": str(DeploymentStatus.PENDING),
            "billed_units": 0,
            "created_at": now,
            "modified_at": now,
        }
        queries.insert_deployment(connection, row | values)
        status, capacity = DeploymentStatus.PENDING, values["capacity"]
        queries.add_event(connection, deployment_id, str(status), now, status=status, capacity=capacity)

    def _want(
        self, connection: Connection, deployment: Deployment, now: datetime, message: str, **wishes: Wanted | int
    ) -> None:
        values = {name: str(value) if isinstance(value, Wanted) else value for name, value in wishes.items()}
        queries.wish(connection, deployment, now, **values)
        current = queries.get_deployment(connection, deployment.workspace_id, deployment.deployed_model)
        new_status = current.state if current.state is not deployment.state else None
        queries.add_event(
            connection, deployment.deployment_id, message, now, status=new_status, capacity=current.capacity
        )


def _checked_limits(rpm_limit: int | None, tpm_limit: int | None) -> dict[str, int]:
    """Those that are given. Raises: InvalidParameter"""
    limits = {"rpm_limit": rpm_limit, "tpm_limit": tpm_limit}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    for name, limit in given.items():
        if not 1 <= limit < 2**31:
            raise InvalidParameter(f"{name} must be an integer in [1, {2**31 - 1}] (got {limit}).")
    return given


def _is_worth_a_retry(deployment: Deployment, now: datetime) -> bool:
    has_failed = deployment.state is DeploymentStatus.FAILED
    return has_failed and (now - deployment.modified_at).total_seconds() > _RETRY_AFTER_S
