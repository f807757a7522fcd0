"""The life of the serving process: listen, announce, and end in order.

On SIGTERM: /readyz says 503 and new work is refused, training workers save, running requests end within the grace;
only then the port closes and the rest is stopped.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

import structlog
import uvicorn
from fastapi import FastAPI

from cosyforge.api.websocket import retire_sockets
from cosyforge.bootstrap import Platform
from cosyforge.settings import Settings

_POLL_S = 0.05
_log = structlog.get_logger()


def run_server(
    application: FastAPI, settings: Settings, listener: socket.socket, announce: Callable[[int], None]
) -> None:
    """Serve until a signal says stop. `announce` gets the port once the server answers."""
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        ws_per_message_deflate=False,  # compressing coded audio costs time and saves nothing
        ws_max_size=1 << 20,  # a message is at most 20,000 characters
        # a listener who plays what he reads answers a ping when he comes to it, maybe a minute later; one who is gone
        # is noticed when TCP gives up on the pings
        ws_ping_timeout=None,
        server_header=False,
    )
    _Server(config, application.state.platform, listener, announce).run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, platform: Platform, listener: socket.socket, announce: Callable[[int], None]
    ) -> None:
        super().__init__(config)
        self._platform = platform
        self._listener = listener
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self._listener.getsockname()[:2]
            _log.info("serving", url=f"http://{host}:{port}", pid=os.getpid())
            self._announce(port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        began_s = asyncio.get_running_loop().time()
        self._platform.ask_to_stop()
        retire_sockets()
        _log.info("stopping", open_requests=len(self.server_state.tasks))
        await self._drain(began_s)
        used_s = asyncio.get_running_loop().time() - began_s
        # whoever still talks is cut off when the grace is over
        left_s = self._platform.settings.shutdown_grace_s - used_s
        self.config.timeout_graceful_shutdown = max(1, round(left_s))
        await super().shutdown(sockets)

    async def _drain(self, began_s: float) -> None:
        """Go on listening, to tell that there is nothing to be had, until the open requests have ended."""
        settings = self._platform.settings
        while not self.force_exit:
            passed_s = asyncio.get_running_loop().time() - began_s
            is_busy = bool(self.server_state.tasks) and passed_s < settings.shutdown_grace_s
            if not is_busy and passed_s >= settings.shutdown_notice_s:
                return
            await asyncio.sleep(_POLL_S)
