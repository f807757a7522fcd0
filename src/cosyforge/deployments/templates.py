"""The deployment templates: what one replica costs in model units.

Source: product document, "Deployment templates"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cosyforge.errors import InvalidParameter

MAX_CAPACITY = 999


@dataclass(frozen=True)
class Template:
    """Units: capacity_unit_per_instance in model units per replica"""

    template_id: str
    template_name: str
    template_desc: str
    model_unit_spec: str
    capacity_unit_per_instance: int

    def to_json(self) -> dict[str, Any]:
        return {
            "template_name": self.template_name,
            "template_id": self.template_id,
            "template_type": "COUPLED",
            "template_version": "v1",
            "template_desc": self.template_desc,
            "roles": {
                "unified": {
                    "model_unit_spec": self.model_unit_spec,
                    "capacity_unit_per_instance": self.capacity_unit_per_instance,
                }
            },
        }


TEMPLATES = (
    Template(
        "dps-20260521172224-1vabse",
        "Single-machine deployment",
        "Cost-effective deployment: one process with its share of the processor cores per replica.",
        "MU5",
        1,
    ),
    Template(
        "MU2",
        "Single-machine deployment - flagship complex inference",
        "Heavy workloads: one process that may use every processor core per replica.",
        "MU2",
        8,
    ),
)


def find_template(deploy_spec: str | None) -> Template:
    """The template of a template id or a model unit type; the cheapest one when nothing is asked for.

    Raises: InvalidParameter
    """
    if not deploy_spec:
        return TEMPLATES[0]  # official clients exist that cannot send a template
    for template in TEMPLATES:
        if deploy_spec in (template.template_id, template.model_unit_spec):
            return template
    known = ", ".join(template.template_id for template in TEMPLATES)
    raise InvalidParameter(f"deploy_spec {deploy_spec} is not a deployment template; choose one of {known}.")


def check_capacity(capacity: int, base_capacity: int, *, least: int) -> None:
    """Raises: InvalidParameter when model units do not make whole replicas"""
    if capacity < least or capacity % base_capacity or capacity > MAX_CAPACITY:
        raise InvalidParameter(
            f"Invalid capacity ({capacity}), capacity must be larger than or equal to {least} and multiples of "
            f"{base_capacity} and less than {MAX_CAPACITY + 1}!"
        )
