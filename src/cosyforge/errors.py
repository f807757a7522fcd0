"""Every error a person can cause or must know about, drawn once.

    PlatformError
    ├── InvalidParameter        what was asked cannot be right
    │   ├── InvalidDataset      the training package breaks a rule; carries the whole report
    │   └── InvalidMarkup       SSML or LaTeX is wrong; carries the column
    ├── Unauthenticated         no key, or a key nobody issued
    ├── AccessDenied            it is there, and not for this caller
    ├── NotFound                the thing is not there (or not yours)
    ├── ModelNotFound           no such model at synthesis
    ├── Conflict                the name is taken
    ├── UnsupportedOperation    the state forbids it
    ├── NotReady                it exists and cannot serve yet
    ├── Throttled               come back later
    ├── ShuttingDown            this server takes nothing new any more
    └── Internal                our fault
        └── OutOfSpace          the disk is full, or as good as full

The docstring of a class is its default message. Nothing here knows HTTP: `api/envelope.py` maps classes to the wire.
"""

from __future__ import annotations

import inspect


class PlatformError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None, **fields: object) -> None:
        self.message = message or inspect.getdoc(type(self)) or type(self).__name__
        self.fields = fields
        super().__init__(self.message)


class InvalidParameter(PlatformError):
    """A parameter is missing or not valid."""


class InvalidDataset(InvalidParameter):
    """The training package breaks a rule."""


class InvalidMarkup(InvalidParameter):
    """The markup in the text is not valid."""


class Unauthenticated(PlatformError):
    """Invalid API-key provided."""


class AccessDenied(PlatformError):
    """Access denied."""


class NotFound(PlatformError):
    """Not found!"""


class ModelNotFound(PlatformError):
    """Model can not be found."""


class Conflict(PlatformError):
    """The name is taken already."""


class UnsupportedOperation(PlatformError):
    """The present state does not allow this operation."""


class NotReady(PlatformError):
    """Model is not ready."""


class Throttled(PlatformError):
    """Requests rate limit exceeded, please try again later."""


class ShuttingDown(PlatformError):
    """The server is stopping; try again in a moment."""


class Internal(PlatformError):
    """Internal server error!"""


class OutOfSpace(Internal):
    """There is no room left on the disk of the server."""
