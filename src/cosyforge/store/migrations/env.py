"""Alembic's entry point; `store/database.py` calls it with an open connection."""

from alembic import context

from cosyforge.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
    user_module_prefix="",
)
context.run_migrations()
