"""Every model that a workspace may use: the base model, which belongs to everybody, and its own tuned ones."""

from __future__ import annotations

from dataclasses import dataclass

from cosyforge.registry.models import Model, Models, find_model
from cosyforge.store.database import Database


@dataclass(frozen=True)
class CatalogueEntry:
    """tuned: what is known of a tuned model; None for the base model."""

    model_name: str
    base_model: str
    display_name: str
    tuned: Model | None = None

    @property
    def is_base(self) -> bool:
        return self.tuned is None


class Catalogue:
    """Lists models, the newest first and so the base model last."""

    def __init__(self, database: Database, base_model: str) -> None:
        self._database = database
        self._models = Models(database)
        self._base = CatalogueEntry(base_model, base_model, base_model)

    def page(
        self, workspace_id: str, page_no: int, page_size: int, *, with_base: bool = True, with_tuned: bool = True
    ) -> tuple[int, list[CatalogueEntry]]:
        """One page, and the number of models in all."""
        total, entries = 0, list[CatalogueEntry]()
        if with_tuned:
            total, models = self._models.page(workspace_id, page_no, page_size)
            entries = [_entry(model) for model in models]
        if with_base:
            if (page_no - 1) * page_size <= total < page_no * page_size:
                entries.append(self._base)
            total += 1
        return total, entries

    def find(self, workspace_id: str, model_name: str) -> CatalogueEntry | None:
        """None also for a model of another workspace."""
        if model_name == self._base.model_name:
            return self._base
        with self._database.read() as connection:
            model = find_model(connection, model_name)
        return _entry(model) if model is not None and model.workspace_id == workspace_id else None


def _entry(model: Model) -> CatalogueEntry:
    return CatalogueEntry(model.model_name, model.base_model, model.display_name, model)
