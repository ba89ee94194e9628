"""Requests to one HTTP endpoint: slots, rate limit, retries, deadlines, one-line errors.

`await Endpoint(RemoteConfig("http://127.0.0.1:8000")).request("GET", "/models", None, read_models)`
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from puna.core.errors import UserError
from puna.core.rng import derive
from puna.engine.policy import EndpointError
from puna.engine.wire import BODY_LIMIT, Garbage, base_url, excerpt, is_loopback, retry_after

T = TypeVar("T")
CONNECT_S = 10.0
LONGEST_PAUSE_S = 30.0
TRANSIENT = (408, 425, 429)


class RequestRefused(EndpointError):
    """The endpoint refuses this one request (400, 413, 422: too long, a parameter it lacks)."""


@dataclass(frozen=True)
class RemoteConfig:
    """Where the endpoint is and what may be spent on it.

    `url` with or without /v1; `model` None: the only one it serves; `api_key_env`: the environment
    variable that holds the key; `timeout_s` for one request, `deadline_s` for one chat with its
    retries (waiting for a free slot or for the rate limit not counted); `backoff_s`: the first
    pause between tries, doubled each time; prices per million tokens; `budget` in their currency.
    """

    url: str
    model: str | None = None
    api_key_env: str | None = None
    concurrency: int = 16
    requests_per_minute: float | None = None
    timeout_s: float = 120.0
    deadline_s: float = 600.0
    retries: int = 5
    backoff_s: float = 0.5
    temperature: float | None = None
    max_tokens: int = 512
    cache_dir: Path | None = None
    price_in: float | None = None
    price_out: float | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        """Raises UserError naming the setting that cannot work."""
        for name in ("concurrency", "timeout_s", "deadline_s", "max_tokens"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}", fix="give a number above 0")
        if self.requests_per_minute is not None and not self.requests_per_minute > 0:
            raise UserError("requests_per_minute is not above 0", fix="leave it out for no limit")
        if self.retries < 0 or self.backoff_s < 0:
            raise UserError("retries or backoff_s is below 0", fix="give 0 or more")
        if self.budget is not None and None in (self.price_in, self.price_out):
            raise UserError("a budget needs prices", fix="set price_in and price_out")


class _Failure(Exception):
    """A try failed in a way that another may mend; `after`: seconds the endpoint asks for."""

    def __init__(self, reason: str, after: float | None = None, silent: bool = False) -> None:
        super().__init__(reason)
        self.after, self.silent = after, silent


class _Bucket:
    """A token bucket holding one second's requests, kept as the time when the next one is due."""

    def __init__(self, per_minute: float | None) -> None:
        self._every = 60.0 / per_minute if per_minute else 0.0
        self._slack = max(0.0, 1.0 - self._every)
        self._due = 0.0

    async def take(self) -> float:
        """Wait for a turn; returns the seconds waited."""
        if not self._every:
            return 0.0
        now = asyncio.get_running_loop().time()
        due = max(self._due, now - self._slack)
        self._due = due + self._every
        wait = max(0.0, due - now)
        await asyncio.sleep(wait)
        return wait


class _Lane:
    """What belongs to one event loop: connections, slots, the rate limit."""

    def __init__(self, config: RemoteConfig, url: str, key: str) -> None:
        try:
            import httpx
        except ImportError as error:
            raise UserError("endpoints need httpx", fix="pip install 'puna[endpoint]'") from error
        # Compressed bodies could unpack to any size before their length is seen.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        size, local = config.concurrency, is_loopback(url)
        self.loop = asyncio.get_running_loop()
        self.client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=size, max_keepalive_connections=size),
            trust_env=not local,
            # Plain HTTP on this machine needs no certificates, and loading them takes 30 ms.
            verify=not (local and url.startswith("http:")),
        )
        self.slots = asyncio.Semaphore(size)
        self.once = asyncio.Lock()
        self.bucket = _Bucket(config.requests_per_minute)
        self.failures = (httpx.TransportError, httpx.DecodingError)
        self.unreachable = (httpx.ConnectError, httpx.ConnectTimeout)


class Endpoint:
    """One address with its key. Usable from one event loop after another, not from two at once."""

    def __init__(self, config: RemoteConfig) -> None:
        """Raises UserError: a bad address, an environment variable that is missing or unusable."""
        self.config, self.url = config, base_url(config.url)
        self.key = _read_key(config.api_key_env)
        self._lane: _Lane | None = None

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None,
        read: Callable[[bytes], T],
        admit: Callable[[], None] = lambda: None,
        patient: bool = True,
    ) -> T:
        """`read` of the answer's body, tried again on 408, 425, 429, 5xx, broken and slow links.

        `admit` is called once a slot is free and may raise; without `patient` an endpoint that
        cannot be reached, or stays silent for `timeout_s`, is not tried again. Raises
        EndpointError once tries or time are spent, RequestRefused at once on other 4xx, UserError
        where the key or the address is wrong.
        """
        lane, config = self._open(), self.config
        async with lane.slots:
            started, throttled = lane.loop.time(), 0.0
            for tries in range(1, config.retries + 2):
                admit()
                throttled += await lane.bucket.take()
                left = started + throttled + config.deadline_s - lane.loop.time()
                try:
                    return self._read(read, await self._send(lane, method, path, body, left))
                except _Failure as error:
                    failure = error
                left = started + throttled + config.deadline_s - lane.loop.time()
                pause = self._pause(failure, body or b"", tries)
                if tries > config.retries or (failure.silent and not patient):
                    break
                if pause >= left:
                    failure = _Failure(
                        f"{failure} (deadline {config.deadline_s:g} s)", silent=failure.silent
                    )
                    break
                await asyncio.sleep(pause)
        plural = "try" if tries == 1 else "tries"
        what = "nothing answers at" if failure.silent else "no usable answer from"
        raise EndpointError(f"{what} {self.url} after {tries} {plural}; last: {failure}")

    def _read(self, read: Callable[[bytes], T], raw: bytes) -> T:
        try:
            return read(raw)
        except Garbage as error:
            why = excerpt(str(error).encode("utf-8", "replace"), self.key)
            raise _Failure(f"{why}: {excerpt(raw, self.key)}") from error

    def _pause(self, failure: _Failure, body: bytes, tries: int) -> float:
        spread = derive(0, self.url, body.decode("ascii"), tries) / 2**63
        if failure.after is not None:
            return failure.after * (1 + 0.1 * spread)
        full = min(LONGEST_PAUSE_S, self.config.backoff_s * 2.0 ** (tries - 1))
        return full * (0.5 + 0.5 * spread)

    async def _send(
        self, lane: _Lane, method: str, path: str, body: bytes | None, left: float
    ) -> bytes:
        limit = max(0.001, min(self.config.timeout_s, left))
        raw = bytearray()
        try:
            async with (
                asyncio.timeout(limit),
                lane.client.stream(method, self.url + path, content=body) as response,
            ):
                async for chunk in response.aiter_bytes():
                    raw += chunk
                    if len(raw) > BODY_LIMIT:
                        raise _Failure(f"a body of more than {BODY_LIMIT // 10**6} MB")
        except TimeoutError as error:
            raise _Failure(f"silent for {limit:.3g} s", silent=True) from error
        except lane.failures as error:
            reason = excerpt(f"{type(error).__name__} {error}".encode(), self.key)
            raise _Failure(reason, silent=isinstance(error, lane.unreachable)) from error
        self._judge(response.status_code, bytes(raw), response.headers)
        return bytes(raw)

    def _judge(self, status: int, raw: bytes, headers: Mapping[str, str]) -> None:
        if 200 <= status < 300:
            return
        said = f"{status}: {excerpt(raw, self.key, 300)}"
        if status in TRANSIENT or status >= 500:
            raise _Failure(f"it answered {said}", retry_after(headers.get("retry-after")))
        name = self.config.api_key_env
        fixes = {
            401: f"put a valid key into the environment variable {name}"
            if name
            else "name the environment variable that holds the key (api_key_env)",
            402: "pay, or choose another endpoint",
            403: f"see what the key in {name} may use" if name else "it may need a key",
            404: "check the address and the model's name",
        }
        if status in fixes or 300 <= status < 400:
            fix = fixes.get(status, "give the address that it redirects to")
            raise UserError(f"{self.url} refuses with {said}", fix=fix)
        raise RequestRefused(f"{self.url} refuses the request with {said}")

    def _open(self) -> _Lane:
        # A command may probe in one asyncio.run and evaluate in the next: connections, unlike the
        # address and the totals, do not outlive their loop.
        if self._lane is None or self._lane.loop is not asyncio.get_running_loop():
            self._lane = _Lane(self.config, self.url, self.key)
        return self._lane

    def once(self) -> asyncio.Lock:
        """The running loop's lock, for what its requests need to learn a single time."""
        return self._open().once

    async def close(self) -> None:
        """Close the connections; a later request opens new ones."""
        lane, self._lane = self._lane, None
        if lane is not None and lane.loop is asyncio.get_running_loop():
            await lane.client.aclose()


def _read_key(name: str | None) -> str:
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(f"the environment variable {name} is not set", fix=f"export {name}=KEY")
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"the environment variable {name} holds more than a key", fix=f"export {name}=KEY"
        )
    return key
