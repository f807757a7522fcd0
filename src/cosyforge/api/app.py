"""The HTTP application: routes, error table, lifespan. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from cosyforge import __version__
from cosyforge.api import deployments, extensions, files, fine_tunes, speech, streams
from cosyforge.api.envelope import install_error_handlers
from cosyforge.api.middleware import Authentication, RequestContext
from cosyforge.bootstrap import Platform


def create_app(platform: Platform) -> FastAPI:
    """The application around a wired platform, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.synthesis_limiter = CapacityLimiter(platform.settings.max_synthesis_threads)
        await run_in_threadpool(platform.start)
        try:
            yield
        finally:
            await run_in_threadpool(platform.stop)

    app = FastAPI(title="CosyForge", version=__version__, lifespan=lifespan)
    app.state.platform = platform
    for module in (files, fine_tunes, deployments, streams, speech, extensions):
        app.include_router(module.router)
    install_error_handlers(app)
    # the last one added is the outermost
    app.add_middleware(Authentication, api_keys=platform.api_keys)
    app.add_middleware(RequestContext)
    return app
