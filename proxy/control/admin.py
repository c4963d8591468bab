"""The admin port: health, statistics, flags."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from proxy.control.store import FileStore
from proxy.errors import FlagsError, StoreError

MAX_BODY = 64 * 1024
"""Largest request body taken, in bytes."""


def _error(status: int, message: str, **headers: str) -> web.Response:
    return web.json_response({"error": message}, status=status, headers=headers)


def _token_check(token: str) -> Any:
    @web.middleware
    async def check(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            given.encode("utf-8", "surrogateescape"), token.encode()
        ):
            return _error(
                401,
                "the admin token is missing or wrong: send Authorization: Bearer <token>",
                **{"WWW-Authenticate": "Bearer"},
            )
        return await handler(request)

    return check


@web.middleware
async def _json_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """aiohttp's own refusals, in the shape of ours."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = _error(error.status, f"{request.method} {request.path}: {error.reason}")
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response


class Admin:
    """Answers the operator. `statistics` makes the body of `/stats`; `ready` says why not; `drain`
    lets lessons end and stops."""

    def __init__(
        self,
        store: FileStore,
        statistics: Callable[[], dict[str, Any]],
        ready: Callable[[], Awaitable[str | None]],
        drain: Callable[[], None],
        token: str | None,
    ) -> None:
        self._store = store
        self._statistics = statistics
        self._ready = ready
        self._drain = drain
        self._token = token

    def application(self) -> web.Application:
        """The aiohttp application."""
        middlewares = [_json_errors]
        if self._token:
            middlewares.append(_token_check(self._token))
        app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_post("/drain", self._post_drain)
        app.router.add_get("/stats", self._stats)
        app.router.add_get("/flags", self._get_flags)
        app.router.add_patch("/flags", self._patch_flags)
        return app

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, request: web.Request) -> web.Response:
        reason = await self._ready()
        if reason is not None:
            return _error(503, reason)
        return web.json_response({"status": "ready"})

    async def _post_drain(self, request: web.Request) -> web.Response:
        self._drain()
        return web.json_response({"status": "draining"}, status=202)

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(self._statistics())

    async def _get_flags(self, request: web.Request) -> web.Response:
        return web.json_response(self._store.live.current.model_dump())

    async def _patch_flags(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            return _error(415, "send flags as Content-Type: application/json")
        try:
            changes = json.loads(await request.read())
        except (ValueError, RecursionError) as error:
            return _error(400, f"the body is not JSON: {error}")
        if not isinstance(changes, dict):
            return _error(400, 'the body is not a JSON object such as {"enabled": false}')
        try:
            flags = await asyncio.to_thread(self._store.write, changes)
        except StoreError as error:
            return _error(503, str(error))
        except FlagsError as error:
            return _error(400, str(error))
        self._store.refresh()
        return web.json_response(flags.model_dump())
