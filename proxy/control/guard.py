"""Who may ask the admin port: token, Host and Origin checked before anything is answered."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = ("/", "/healthz", "/readyz")
"""Answered without a token: they tell nothing of clients, and change nothing."""
STATIC = "/static/"

_READS = ("GET", "HEAD")

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def error(status: int, message: str, **headers: str) -> web.Response:
    """An answer that says what was wrong."""
    return web.json_response({"error": message}, status=status, headers=headers)


@web.middleware
async def json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """aiohttp's own refusals, in the shape of ours; every answer with `PAGE_HEADERS`."""
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        if refusal.status < 400:
            raise
        answer = error(refusal.status, f"{request.method} {request.path}: {refusal.reason}")
        if "Allow" in refusal.headers:
            answer.headers["Allow"] = refusal.headers["Allow"]
        response = answer
    if not response.prepared:
        response.headers.update(PAGE_HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
    return response


class Guard:
    """Refuses what a web page of somebody else may have sent, and who has no token."""

    def __init__(self, token: str | None, hosts: Collection[str]) -> None:
        """`hosts`: names that the port may be called by, beside localhost and IP addresses."""
        self._token = token
        self._hosts = {"localhost", *hosts}

    def check(self, request: web.Request) -> web.Response | None:
        """The refusal, or None."""
        probe = request.path in ("/healthz", "/readyz")
        host = request.headers.get("Host", "")
        if not probe and not self._knows(host):
            return error(
                421,
                f"Host: {host!r} is no name of this admin port: use its IP address or localhost, "
                "or name it in admin_hosts",
            )
        if request.method not in _READS:
            origin = request.headers.get("Origin")
            if origin is not None and not _is_same(origin, host):
                return error(403, f"Origin: changes from pages of {origin!r} are not taken")
            if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
                return error(403, "Sec-Fetch-Site: changes from other sites are not taken")
        if self._token is None or request.path in OPEN_PATHS or request.path.startswith(STATIC):
            return None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(
            given.encode("utf-8", "surrogateescape"), self._token.encode()
        ):
            return None
        return error(
            401,
            "the admin token is missing or wrong: send Authorization: Bearer <token>",
            **{"WWW-Authenticate": "Bearer"},
        )

    def middleware(self) -> object:
        """For an aiohttp application."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return self.check(request) or await handler(request)

        return guard

    def _knows(self, host: str) -> bool:
        """Whether a page can have got here by this name only if it is one of ours: a name that
        somebody else's server gives out may mean our address (DNS rebinding)."""
        try:
            parsed = urlsplit(f"//{host}")
            name = parsed.hostname or ""
        except ValueError:
            return False
        if parsed.netloc != host or "@" in host:
            return False
        if name in self._hosts:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _is_same(origin: str, host: str) -> bool:
    scheme, mark, rest = origin.partition("://")
    return bool(mark) and scheme in ("http", "https") and rest.lower() == host.lower()
