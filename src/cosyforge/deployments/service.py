"""What a user may do with deployments: it writes what is wanted, the reconciler makes it so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from sqlalchemy import Connection

from cosyforge.deployments import queries
from cosyforge.deployments.records import SERVING, SYSTEM_WORKSPACE, Deployment, DeploymentStatus
from cosyforge.deployments.templates import Template, check_capacity, find_template
from cosyforge.errors import Conflict, InvalidParameter, UnsupportedOperation
from cosyforge.registry.models import Model, find_model
from cosyforge.store.database import Database

_SUFFIX = re.compile(r"[A-Za-z0-9]{1,8}")
_RETRY_AFTER_S = 30


@dataclass(frozen=True)
class DeploymentRequest:
    """A deployment as asked for; absent fields are None.

    Units: capacity counts model units, not replicas
    """

    model_name: str
    capacity: int
    deploy_spec: str | None = None
    plan: str | None = None
    billing_method: str | None = None
    name: str | None = None
    suffix: str | None = None


class Deployments:
    """The deployments of all workspaces."""

    def __init__(self, database: Database, base_model: str, base_directory: str) -> None:
        self._database = database
        self._base_model = base_model
        self._base_directory = base_directory

    def create(self, request: DeploymentRequest, workspace_id: str, creator: str, now: datetime) -> Deployment:
        """Ask for a deployment.

        Raises: InvalidParameter; Conflict when the name is taken
        """
        _check_request(request)
        template = find_template(request.deploy_spec)
        check_capacity(request.capacity, template.capacity_unit_per_instance, least=1)
        with self._database.transaction() as connection:
            model = find_model(connection, request.model_name)
            if model is None or model.workspace_id != workspace_id:
                raise InvalidParameter(f"The model {request.model_name} does not exist or is not deployable")
            deployed_model = f"{model.model_name}-{request.suffix}" if request.suffix else model.model_name
            if queries.find_deployment(connection, deployed_model) is not None:
                raise Conflict(f"Deployed model {deployed_model} already exists, please specify a suffix.")
            queries.insert_deployment(connection, _new_row(request, model, deployed_model, template, creator, now))
            return queries.get_deployment(connection, workspace_id, deployed_model)

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
            return queries.list_events(connection, deployment.deployment_id)

    def scale(self, workspace_id: str, deployed_model: str, capacity: int, now: datetime) -> Deployment:
        """Set the model units wanted; replicas follow within a reconcile step, the bill at once.

        Units: capacity counts model units, not replicas
        Raises: NotFound; InvalidParameter when capacity is no multiple of the template's units; UnsupportedOperation
        Source: product document, "Plan replica count and scale"
        """
        with self._database.transaction() as connection:
            deployment = queries.get_deployment(connection, workspace_id, deployed_model)
            check_capacity(capacity, deployment.base_capacity, least=0)
            if deployment.status is DeploymentStatus.DELETING:
                raise UnsupportedOperation(f"Deployment {deployed_model} is DELETING; it cannot be scaled.")
            self._scale(connection, deployment, capacity, now)
            return queries.get_deployment(connection, workspace_id, deployed_model)

    def set_limits(
        self, workspace_id: str, deployed_model: str, rpm_limit: int | None, tpm_limit: int | None, now: datetime
    ) -> Deployment:
        """Remember request and token limits per minute; None leaves one as it is.

        Raises: NotFound; InvalidParameter when none is given or one is negative
        """
        limits = {"rpm_limit": rpm_limit, "tpm_limit": tpm_limit}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        if not given:
            raise InvalidParameter("Give rpm_limit or tpm_limit.")
        for name, limit in given.items():
            if limit < 1:
                raise InvalidParameter(f"{name} must be an integer of at least 1 (got {limit}).")
        with self._database.transaction() as connection:
            deployment = queries.get_deployment(connection, workspace_id, deployed_model)
            queries.set_fields(connection, deployment.deployment_id, modified_at=now, **given)
            return queries.get_deployment(connection, workspace_id, deployed_model)

    def delete(self, workspace_id: str, deployed_model: str, now: datetime) -> Deployment:
        """Stop billing now; the replicas finish what they are saying and go.

        Raises: NotFound
        """
        with self._database.transaction() as connection:
            deployment = queries.get_deployment(connection, workspace_id, deployed_model)
            queries.bill_units(connection, deployment, 0, "deleted", now)
            queries.transition(connection, deployment, DeploymentStatus.DELETING, now, message=None)
            return queries.get_deployment(connection, workspace_id, deployed_model)

    def ensure_base_model(self, now: datetime) -> Deployment:
        """The built-in deployment of the base model: made when there is none, tried again a while after it failed."""
        with self._database.read() as connection:
            found = queries.find_deployment(connection, self._base_model)
        if found is not None and not _is_worth_a_retry(found, now):
            return found
        with self._database.transaction() as connection:
            found = queries.find_deployment(connection, self._base_model)
            if found is None:
                queries.insert_deployment(connection, self._base_row(now))
            elif _is_worth_a_retry(found, now):
                queries.transition(connection, found, DeploymentStatus.UPDATING, now, message=None)
            return queries.get_deployment(connection, SYSTEM_WORKSPACE, self._base_model)

    def forget_base_model(self) -> None:
        """At start: the base model is served again when somebody asks for it."""
        with self._database.transaction() as connection:
            deployment = queries.find_deployment(connection, self._base_model)
            if deployment is not None:
                queries.delete_deployment(connection, deployment.deployment_id)

    def _scale(self, connection: Connection, deployment: Deployment, capacity: int, now: datetime) -> None:
        queries.set_fields(connection, deployment.deployment_id, capacity=capacity, modified_at=now)
        if deployment.billed_units:
            queries.bill_units(connection, deployment, capacity, "scaled", now)
        status = deployment.status
        if status in SERVING and status is not DeploymentStatus.RUNNING:
            return  # on its way already, to the new capacity
        if status is DeploymentStatus.PENDING or (status is DeploymentStatus.STOPPED and capacity == 0):
            return
        if status is DeploymentStatus.RUNNING and capacity == deployment.capacity:
            return
        queries.transition(connection, deployment, DeploymentStatus.UPDATING, now, message=None)

    def _base_row(self, now: datetime) -> dict[str, object]:
        template = find_template(None)
        return {
            "deployment_id": str(uuid4()),
            "deployed_model": self._base_model,
            "workspace_id": SYSTEM_WORKSPACE,
            "creator": "",
            "name": self._base_model,
            "model_name": self._base_model,
            "base_model": self._base_model,
            "directory": self._base_directory,
            "template_id": template.template_id,
            "model_unit_spec": template.model_unit_spec,
            "base_capacity": 1,
            "capacity": 1,
            "ready_capacity": 0,
            "status": str(DeploymentStatus.PENDING),
            "billed_units": 0,
            "created_at": now,
            "modified_at": now,
        }


def _is_worth_a_retry(deployment: Deployment, now: datetime) -> bool:
    return (
        deployment.status is DeploymentStatus.FAILED and (now - deployment.modified_at).total_seconds() > _RETRY_AFTER_S
    )


def _check_request(request: DeploymentRequest) -> None:
    if (request.plan or "mu") != "mu":
        raise InvalidParameter(f"plan must be mu (got {request.plan}).")
    if (request.billing_method or "POST_PAY") != "POST_PAY":
        raise InvalidParameter(f"billing_method must be POST_PAY (got {request.billing_method}).")
    if request.suffix and not _SUFFIX.fullmatch(request.suffix):
        raise InvalidParameter("suffix may have letters and digits only, at most 8.")


def _new_row(
    request: DeploymentRequest, model: Model, deployed_model: str, template: Template, creator: str, now: datetime
) -> dict[str, object]:
    return {
        "deployment_id": str(uuid4()),
        "deployed_model": deployed_model,
        "workspace_id": model.workspace_id,
        "creator": creator,
        "name": request.name or model.model_name,
        "model_name": model.model_name,
        "base_model": model.base_model,
        "directory": model.directory,
        "template_id": template.template_id,
        "model_unit_spec": template.model_unit_spec,
        "base_capacity": template.capacity_unit_per_instance,
        "capacity": request.capacity,
        "ready_capacity": 0,
        "status": str(DeploymentStatus.PENDING),
        "billed_units": 0,
        "created_at": now,
        "modified_at": now,
    }
