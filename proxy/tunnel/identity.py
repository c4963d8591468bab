"""What a client has in common with itself when it comes again."""

from __future__ import annotations

from aiohttp import web

from proxy.values import RolloutKey


def identity_of(request: web.BaseRequest, address: str | None, key: RolloutKey) -> bytes:
    """The cookie, header or query parameter that `key` names; the address where it has none."""
    value: str | None = None
    if key.kind == "cookie":
        value = request.cookies.get(key.name)
    elif key.kind == "header":
        value = request.headers.get(key.name)
    elif key.kind == "query":
        value = request.query.get(key.name)
    named = f"{key}={value}" if value else f"address={address}"
    return named.encode("utf-8", "surrogateescape")
