"""The admin port: health, statistics, flags, connections, the dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from aiohttp import web

from proxy.control import metrics
from proxy.control.guard import STATIC, Guard, error, json_errors
from proxy.control.store import FlagStore
from proxy.errors import ConflictError, FlagsError, QueryError, StoreError

MAX_BODY = 64 * 1024
"""Largest request body taken, in bytes."""

CLIENT = "X-Audio-Proxy-Client"
_CLIENTS = {"dashboard": "dashboard", "command line": "command line by admin port"}
_USUAL_CLIENT = "admin port"
_DEEPEST = 3
_NAME = re.compile(r"\w[\w.-]{0,60}")

_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "json": "application/json",
}

Json = dict[str, Any]


class _RefusedError(Exception):
    """An answer instead of what was asked for."""

    def __init__(self, response: web.Response) -> None:
        super().__init__()
        self.response = response


@dataclass(frozen=True)
class Sources:
    """Who knows what the admin port is asked for."""

    fleet: Callable[[], Awaitable[Json]]
    """The body of `/stats`."""
    local: Callable[[], Json]
    """The same of this machine."""
    ready: Callable[[], Awaitable[str | None]]
    """Why not, or None."""
    drain: Callable[[], None]
    """Lets lessons end and stops."""
    connections: Callable[[Mapping[str, str]], Awaitable[Json]]
    """A page of them. Raises QueryError."""
    switch: Callable[[str, bool], Awaitable[Json | None]]
    """Switches one off or on: its row; None where nobody holds it. Raises QueryError where it did
    not opt in."""


class Admin:
    """Answers the operator."""

    def __init__(self, store: FlagStore, sources: Sources, guard: Guard) -> None:
        self._store = store
        self._sources = sources
        self._guard = guard
        self._files = resources.files("proxy") / "web" / "dashboard"

    def application(self) -> web.Application:
        """The aiohttp application."""
        middlewares: Any = [json_errors, self._guard.middleware(), _refusals]
        app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_post("/drain", self._post_drain)
        app.router.add_get("/stats", self._stats)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/flags", self._get_flags)
        app.router.add_patch("/flags", self._patch_flags)
        app.router.add_get("/connections", self._connections)
        app.router.add_patch("/connections/{id}", self._patch_connection)
        app.router.add_get("/", self._page)
        app.router.add_get(STATIC + "{name:.+}", self._static)
        return app

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, request: web.Request) -> web.Response:
        reason = await self._sources.ready()
        if reason is not None:
            return error(503, reason)
        return web.json_response({"status": "ready"})

    async def _post_drain(self, request: web.Request) -> web.Response:
        # Nothing at all is said by programs alone: a form always names a type of its own.
        says = request.body_exists or request.content_type != "application/octet-stream"
        if says and await _read_object(request, "{}"):
            return error(400, "POST /drain takes no fields: send nothing, or {}")
        self._sources.drain()
        return web.json_response({"status": "draining"}, status=202)

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(await self._sources.fleet())

    async def _metrics(self, request: web.Request) -> web.Response:
        text = metrics.render(self._sources.local())
        return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _get_flags(self, request: web.Request) -> web.Response:
        return self._flags()

    async def _patch_flags(self, request: web.Request) -> web.Response:
        changes = await _read_object(request, '{"enabled": false}')
        expected = changes.pop("revision", None)
        if expected is not None and (not isinstance(expected, int) or isinstance(expected, bool)):
            return error(400, "revision: a whole number is expected")
        client = request.headers.get(CLIENT, "")
        by = _CLIENTS.get(client, _USUAL_CLIENT)
        try:
            await self._store.change(changes, by, expected)
        except ConflictError as conflict:
            return error(409, str(conflict))
        except StoreError as away:
            return error(503, str(away))
        except FlagsError as wrong:
            return error(400, str(wrong))
        return self._flags()

    def _flags(self) -> web.Response:
        live = self._store.live
        about = {"revision": live.revision, "changed_by": live.changed_by}
        return web.json_response({**live.current.as_record(), **about})

    async def _connections(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(await self._sources.connections(request.query))
        except QueryError as wrong:
            return error(400, str(wrong))

    async def _patch_connection(self, request: web.Request) -> web.Response:
        body = await _read_object(request, '{"enabled": false}')
        if set(body) != {"enabled"} or not isinstance(body["enabled"], bool):
            return error(400, 'enabled: true or false is expected, such as {"enabled": false}')
        number = request.match_info["id"]
        try:
            row = await self._sources.switch(number, body["enabled"])
        except QueryError as wrong:
            return error(409, str(wrong))
        if row is None:
            return error(404, f"{number}: there is no such connection, or it has ended")
        return web.json_response(row)

    async def _page(self, request: web.Request) -> web.Response:
        return self._file("index.html")

    async def _static(self, request: web.Request) -> web.Response:
        return self._file(request.match_info["name"])

    def _file(self, name: str) -> web.Response:
        """One of the dashboard's files; they are few and small, and read each time."""
        kind, parts = _TYPES.get(name.rpartition(".")[2]), name.split("/")
        is_name = kind is not None and all(map(_NAME.fullmatch, parts)) and len(parts) <= _DEEPEST
        found = self._files.joinpath(*parts) if is_name else self._files
        if not found.is_file():
            return error(404, f"{name}: there is no such file")
        return web.Response(body=found.read_bytes(), content_type=kind or "", charset="utf-8")


@web.middleware
async def _refusals(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except _RefusedError as refused:
        return refused.response


async def _read_object(request: web.Request, example: str) -> Json:
    """A request's body, a JSON object. Raises _RefusedError."""
    if request.content_type != "application/json":
        raise _RefusedError(error(415, "send JSON as Content-Type: application/json"))
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as wrong:
        raise _RefusedError(error(400, f"the body is not JSON: {wrong}")) from wrong
    if not isinstance(body, dict):
        raise _RefusedError(error(400, f"the body is not a JSON object such as {example}"))
    return body
