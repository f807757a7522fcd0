"""The deployment templates: what one replica costs in model units.

Source: product document, "Deployment templates"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cosyforge.errors import InvalidParameter

MAX_CAPACITY = 999


@dataclass(frozen=True)
class ReplicaResources:
    """What one replica of a template gets.

    Units: memory_mb in MiB of resident memory, 0 means as much as it likes
    device: as torch names them, "cpu" or "cuda:0"
    """

    threads: int
    memory_mb: int = 0
    device: str = "cpu"


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


def find_template(deploy_spec: str) -> Template:
    """The template of a template id or a model unit type.

    Raises: InvalidParameter
    """
    for template in TEMPLATES:
        if deploy_spec in (template.template_id, template.model_unit_spec):
            return template
    known = ", ".join(template.template_id for template in TEMPLATES)
    raise InvalidParameter(f"deploy_spec {deploy_spec} is not a deployment template; choose one of {known}.")


def cheapest_template(capacity: int, unit_hour_by_spec: Mapping[str, Decimal]) -> Template:
    """The template for those who cannot name one, as some official clients: the cheapest that the capacity fits.

    The first one when it fits none, so that `check_capacity` says what is wrong.
    """
    fitting = [template for template in TEMPLATES if _fits(capacity, template.capacity_unit_per_instance, least=1)]
    # every template gets the same number of units, so the price of one decides
    return min(fitting, key=lambda template: unit_hour_by_spec[template.model_unit_spec], default=TEMPLATES[0])


def check_capacity(capacity: int, base_capacity: int, *, least: int) -> None:
    """Raises: InvalidParameter when model units do not make whole replicas

    Source: the wire contract publishes the text with 0; it stays so unless 0 itself is what is refused
    """
    if not _fits(capacity, base_capacity, least=least):
        raise InvalidParameter(
            f"Invalid capacity ({capacity}), capacity must be larger than or equal to {0 if capacity else least} and "
            f"multiples of {base_capacity} and less than {MAX_CAPACITY + 1}!"
        )


def _fits(capacity: int, base_capacity: int, *, least: int) -> bool:
    return least <= capacity <= MAX_CAPACITY and capacity % base_capacity == 0
