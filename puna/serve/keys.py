"""One check before every route: a key, or, without one, that the request comes from this machine.

`Gate(app, key="...")` is pure ASGI, so nothing behind it is reached without it, errors included.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from puna.gateway.openai import error_body

COOKIE = "puna_key"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PAGES = ("/", "/runs")
# Pages run their own scripts only and load nothing from anywhere else.
_ALWAYS = {
    b"content-security-policy": (
        b"default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class Gate:
    """With a `key`: `Authorization: Bearer KEY`, or the cookie that `GET /?key=KEY` sets.

    Without one only loopback names are answered as Host (a page elsewhere could point its own name
    here), and with either no other site's page is answered (its Origin or Sec-Fetch-Site says so).
    """

    def __init__(self, app: Any, key: str = "", close: Callable[[], None] = lambda: None) -> None:
        self.app, self.key, self.close = app, key.encode(), close

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, refused here or handed on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        send = _with_headers(send)
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        if self.key and scope["method"] == "GET" and scope["path"] == "/":
            query = scope["query_string"].decode("latin-1").replace("+", "%2B")
            given = parse_qs(query).get("key", [""])[-1]
            if given and self._right(given):
                cookie = f"{COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/"
                await _answer(send, 303, "", [("location", "/"), ("set-cookie", cookie)])
                return
        refusal = self._refusal(headers, scope["method"], scope["path"])
        if refusal:
            status, why = refusal
            body = json.dumps(error_body(why, "authentication_error", None, "invalid_api_key"))
            await _answer(send, status, body, [("www-authenticate", "Bearer")])
            return
        await self.app(scope, receive, send)

    def _refusal(self, headers: dict[str, str], method: str, path: str) -> tuple[int, str] | None:
        if not self.key and _host(headers.get("host", "")) not in LOOPBACK:
            return 403, "without a key only this machine is served, by a loopback name"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != headers.get("host", ""):
            return 403, "requests from other sites' pages are not answered"
        followed = method == "GET" and path in PAGES and headers.get("sec-fetch-mode") == "navigate"
        elsewhere = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if elsewhere and not followed:  # a link to a page may stand anywhere
            return 403, "requests from other sites' pages are not answered"
        if not self.key or self._right(_bearer(headers)) or self._right(_cookie(headers)):
            return None
        return 401, "give the server's key: Authorization: Bearer KEY, or open /?key=KEY"

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("latin-1", "replace"), self.key)


def _host(header: str) -> str:
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return "?"


def _bearer(headers: dict[str, str]) -> str:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _cookie(headers: dict[str, str]) -> str:
    """By hand: SimpleCookie drops all of them where another program's is odd."""
    pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
    return next((value for name, _, value in pairs if name == COOKIE), "")


def _with_headers(send: Any) -> Any:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_ALWAYS.items()]}
        await send(message)

    return sending


async def _answer(send: Any, status: int, body: str, more: list[tuple[str, str]]) -> None:
    headers = [("content-type", "application/json"), ("cache-control", "no-store"), *more]
    raw = [(k.encode(), v.encode("latin-1")) for k, v in headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body.encode()})
