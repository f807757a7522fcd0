"""The OpenAPI document, corrected: what a bad parameter gets here is 400 with our envelope, not the framework's 422."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from cosyforge.api.auth import PROTECTED

_FRAMEWORK_SCHEMAS = ("HTTPValidationError", "ValidationError")


def describe(app: FastAPI) -> dict[str, Any]:
    """The document of all routes, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["security"] = [{"key": []}] if path.startswith(PROTECTED) else []
        schemas = document["components"]["schemas"]
        for name in _FRAMEWORK_SCHEMAS:
            schemas.pop(name, None)
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = document
    return app.openapi_schema
