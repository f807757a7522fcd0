"""The HTTP application: routes, error table, lifespan. Decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from cosyforge import __version__
from cosyforge.api import (
    compatible_files,
    deployment_control,
    deployments,
    estimate,
    extensions,
    files,
    fine_tunes,
    keys,
    models,
    openai,
    operations,
    preview,
    speech,
    streams,
    usage,
    websocket,
)
from cosyforge.api.envelope import ERROR_RESPONSES, install_error_handlers
from cosyforge.api.middleware import Authentication, BodyGuard, RequestContext
from cosyforge.api.openapi import describe
from cosyforge.api.rate_limits import RateLimits, RateRules
from cosyforge.bootstrap import Platform
from cosyforge.settings import Settings


def create_app(platform: Platform) -> FastAPI:
    """The application around a wired platform, which it starts and stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.synthesis_limiter = CapacityLimiter(platform.settings.max_synthesis_threads)
        app.state.websockets = CapacityLimiter(platform.settings.max_websockets)
        app.state.websocket_tasks = CapacityLimiter(platform.settings.max_websocket_tasks)
        await run_in_threadpool(platform.start)
        try:
            yield
        finally:
            await run_in_threadpool(platform.stop)

    # the pages that show an interface load scripts from the net; /openapi.json has all they would show
    app = FastAPI(title="CosyForge", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.platform = platform
    app.state.rate_limits = _rate_limits(platform.settings)
    management = (files, compatible_files, fine_tunes, models, deployments, deployment_control, streams, keys)
    modules = (*management, speech, websocket, openai, extensions, usage, estimate, operations, preview)
    for module in modules:
        app.include_router(module.router, responses=ERROR_RESPONSES)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    install_error_handlers(app)
    # the last one added is the outermost
    app.add_middleware(BodyGuard)
    app.add_middleware(Authentication, platform=platform, rate_limits=app.state.rate_limits)
    app.add_middleware(RequestContext)
    return app


def _rate_limits(settings: Settings) -> RateLimits:
    return RateLimits(RateRules(settings.requests_per_second, settings.base_synthesis_per_second))
