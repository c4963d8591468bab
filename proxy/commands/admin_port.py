"""A running proxy's admin port, asked by a command."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from http.client import HTTPException
from typing import Any

from proxy.commands.words import plain
from proxy.config import AdminSettings
from proxy.errors import AudioProxyError, ConfigError

NAME = "command line"
"""Of this interface, in the audit lines."""

_TIMEOUT = 5.0
"""Seconds without a byte from it."""


class AdminPort:
    """Asks, and says in one line what keeps it from an answer: every method raises ConfigError
    where no proxy answers at `admin`, or where it does not take `admin_token`."""

    def __init__(self, settings: AdminSettings) -> None:
        self._address = str(settings.admin)
        self._headers = {"X-Audio-Proxy-Client": NAME}
        if settings.admin_token is not None:
            self._headers["Authorization"] = f"Bearer {settings.admin_token.get_secret_value()}"
        # What the environment says of proxies is for the web: nothing of this is to go there.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, expected: Collection[str]) -> dict[str, Any]:
        """The JSON at `path`, which has the `expected` keys.

        Raises AudioProxyError where it is refused.
        """
        status, body = self._ask("GET", path)
        if status != 200:
            raise AudioProxyError(self._refusal(path, status, body))
        if not set(expected) <= set(body):
            raise self._is_another(f"{path} is answered by something else")
        return body

    def ready(self) -> str | None:
        """Why it is not ready; None where it is."""
        status, body = self._ask("GET", "/readyz")
        if status == 200 and body.get("status") == "ready":
            return None
        return self._refusal("/readyz", status, body)

    def patch(self, path: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change what is at `path`; returns it as it is then.

        Raises AudioProxyError where it is refused: the message is the proxy's.
        """
        status, body = self._ask("PATCH", path, changes)
        if status != 200:
            raise AudioProxyError(self._refusal(path, status, body))
        return body

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            f"http://{self._address}{path}", method=method, headers=self._headers
        )
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            try:
                response = self._opener.open(request, timeout=_TIMEOUT)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                status: int = response.status
                if status == 401:
                    raise ConfigError("admin_token: the proxy does not take it, or needs one")
                answer = json.load(response)
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            raise self._is_another(error) from error
        if not isinstance(answer, dict):
            raise self._is_another(f"{path} is answered by something else")
        return status, answer

    def _refusal(self, path: str, status: int, body: Mapping[str, Any]) -> str:
        """What the proxy says. Raises ConfigError where something else has spoken."""
        message = body.get("error")
        if not isinstance(message, str) or not message:
            raise self._is_another(f"{path} is answered by something else, with status {status}")
        return str(plain(message))

    def _is_another(self, why: object) -> ConfigError:
        return ConfigError(f"admin: no proxy answers at {self._address}: {why}")
