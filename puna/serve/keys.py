"""One check before every route: a key, or, without one, that the request comes from this machine.

`Gate(app, Keyring.of("..."))` is pure ASGI, so nothing behind it is reached without it, errors
included. What a key asks for is limited here too, and every answer is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import parse_qs, urlsplit

from puna.gateway.reading import error_body
from puna.serve.keyring import Key, Keyring
from puna.serve.metrics import Metrics

COOKIE = "puna_key"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PAGES = ("/", "/runs")
PUBLIC = ("/health",)  # what needs no key; nothing else is public
OPEN_MOST = 4096  # requests for answers at once, all keys together
# Pages run their own scripts only and load nothing from anywhere else.
_ALWAYS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
Refusal = tuple[int, str, list[tuple[str, str]]]


class Gate:
    """With `keys`: `Authorization: Bearer KEY`, `x-api-key`, or the cookie of `GET /?key=KEY`.

    Without any only loopback names are answered as Host (a page elsewhere could point its own name
    here). Either way no other site's page is answered (its Origin or Sec-Fetch-Site says so), but
    for those of `origins`, which are named to the letter.
    """

    def __init__(
        self,
        app: Any,
        keys: Keyring | None = None,
        *,
        origins: Collection[str] = (),
        metrics: Metrics | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.app, self.keys, self.origins = app, keys, frozenset(origins)
        self.metrics, self.close = metrics or Metrics(), close
        self.open = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, refused here or handed on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        method, path = scope["method"], scope["path"]
        origin = headers.get("origin", "")
        send = self._sending(send, path, origin if origin in self.origins else "")
        if login := self._login(scope):
            await _answer(send, 303, "", [("location", "/"), ("set-cookie", login)])
            return
        if method == "OPTIONS" and origin in self.origins:
            await _answer(send, 204, "", _PREFLIGHT)
            return
        key = self._key(headers)
        refusal = self._refusal(headers, method, path, key)
        counted = refusal is None and method == "POST" and path.startswith("/v1/")
        if counted:
            refusal = self._enter(key)
        if refusal:
            status, why, more = refusal
            code = "invalid_api_key" if status == 401 else None
            await _answer(send, status, json.dumps(error_body(path, status, why, None, code)), more)
            return
        if not counted:
            await self.app(scope, receive, send)
            return
        scope["puna.cost"] = 0
        try:
            await self.app(scope, receive, send)
        finally:
            self.open -= 1
            if key is not None:
                key.leave(scope["puna.cost"])

    def _enter(self, key: Key | None) -> Refusal | None:
        if self.open >= OPEN_MOST:
            return 503, f"{self.open} requests are open", [("retry-after", "5")]
        found = key.enter() if key is not None else None
        if found:
            return 429, found[1], [("retry-after", str(found[0]))]
        self.open += 1
        return None

    def _refusal(
        self, headers: dict[str, str], method: str, path: str, key: Key | None
    ) -> Refusal | None:
        if self.keys is None and _host(headers.get("host", "")) not in LOOPBACK:
            return 403, "without a key only this machine is served, by a loopback name", []
        origin = headers.get("origin")
        if origin not in self.origins:
            if origin is not None and _netloc(origin) != headers.get("host", ""):
                return 403, "requests from other sites' pages are not answered", []
            followed = method == "GET" and path in PAGES
            followed = followed and headers.get("sec-fetch-mode") == "navigate"
            elsewhere = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
            if elsewhere and not followed:  # a link to a page may stand anywhere
                return 403, "requests from other sites' pages are not answered", []
        if self.keys is None or key is not None or (path in PUBLIC and method in ("GET", "HEAD")):
            return None
        why = "give the server's key: Authorization: Bearer KEY, or open /?key=KEY"
        return 401, why, [("www-authenticate", "Bearer")]

    def _key(self, headers: dict[str, str]) -> Key | None:
        if self.keys is None:
            return None
        given = (_bearer(headers), headers.get("x-api-key", ""), _cookie(headers))
        found = [self.keys.find(g) for g in given if g]
        return next((k for k in found if k is not None), None)

    def _login(self, scope: Any) -> str:
        """The cookie for the key in the address of the first page; "" where there is none."""
        if self.keys is None or scope["method"] != "GET" or scope["path"] != "/":
            return ""
        query = scope["query_string"].decode("latin-1").replace("+", "%2B")
        given = parse_qs(query).get("key", [""])[-1]
        if not given or self.keys.find(given) is None:
            return ""
        return f"{COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/"

    def _sending(self, send: Any, path: str, origin: str) -> Any:
        """`send` with the headers of every answer; its status is counted."""
        more = list(_ALWAYS)
        if self.origins:
            more.append((b"vary", b"Origin"))
        if origin:
            more.append((b"access-control-allow-origin", origin.encode("latin-1")))

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests[_route(path), message["status"]] += 1
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        return sending


_PREFLIGHT = [
    ("access-control-allow-methods", "GET, POST"),
    ("access-control-allow-headers", "authorization, *"),
    ("access-control-max-age", "600"),
]
_ROUTES = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages/count_tokens",
    "/v1/messages", "/v1/models", "/health", "/metrics", "/openapi.json", "/runs", "/static",
    "/api",
)  # fmt: skip


def _route(path: str) -> str:
    """A path by our own name for it: what clients make up is counted as one."""
    found = next((r for r in _ROUTES if path == r or path.startswith(r + "/")), "other")
    return "/" if path == "/" else found


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


async def _answer(send: Any, status: int, body: str, more: list[tuple[str, str]]) -> None:
    headers = [("content-type", "application/json"), ("cache-control", "no-store"), *more]
    raw = [(k.encode(), v.encode("latin-1")) for k, v in headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body.encode()})
