"""Access control of the server.

A page of another origin can make a browser send requests to this machine. So the server refuses a foreign ``Host`` (a name that
was pointed at this machine). Requests that start work need this server's ``Origin`` and the token in its page. Beyond loopback
every request needs the token. Bodies have limits on size and time.
"""

import asyncio
import hmac
import ipaddress
import json
from dataclasses import dataclass
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from subcircuit.report.page import NOTHING_ELSE

HARMLESS = ("GET", "HEAD")
LARGEST_BODY = 1 << 16
SECONDS_FOR_A_BODY = 10.0
COOKIE = "subcircuit-token"
POLICY = f"{NOTHING_ELSE}; frame-ancestors 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True)
class Guard:
    """ASGI middleware that refuses unauthorised requests.

    Args:
        app: the guarded application.
        host: the address to which the server is bound.
        token: a secret that only the page holds.
        seconds: time limit for a request's body.
    """

    app: ASGIApp
    host: str
    token: str
    seconds: float = SECONDS_FOR_A_BODY

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on with its body read and the page's headers added to the answer."""
        if scope["type"] != "http":
            # no web sockets; the server's own start and stop messages pass
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope["method"], Headers(scope=scope), scope["query_string"].decode("latin-1"))
        if refusal is not None:
            await _answer(send, *refusal)
            return
        try:
            body = await asyncio.wait_for(_body(receive), self.seconds)
        except TimeoutError:
            await _answer(send, 408, "the request did not arrive in time")
            return
        if body is None:
            await _answer(send, 413, f"the request is larger than {LARGEST_BODY} bytes")
            return
        await self.app(scope, _replay(body), _with_headers(send))

    def _refusal(self, method: str, headers: Headers, query: str) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 400, "this server goes by another name"
        given = headers.get("x-subcircuit-token") or ""
        if not is_loopback(self.host) and not any(
            self._is_token(one) for one in (given, _cookie(headers), *parse_qs(query).get("token", ()))
        ):
            return 403, "the address has to end in the token that the server printed"
        if method in HARMLESS:
            return None
        origin = urlsplit(headers.get("origin", ""))
        if origin.scheme != "http" or origin.netloc != host or not self._is_token(given):
            return 403, "only the page that this server sent may ask for that"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"http://{host}").hostname or ""
        except ValueError:
            return False
        if is_loopback(name) or name == self.host:
            return True
        # elsewhere by any of the machine's addresses: it is names that can be pointed at it
        return not is_loopback(self.host) and _is_address(name)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _cookie(headers: Headers) -> str:
    found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    return "" if found is None else found.value


async def _body(receive: Receive) -> bytes | None:
    """All of a request's body; None where it is too large."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LARGEST_BODY:
            return None
    return body


def _replay(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *_HEADERS]
        await send(message)

    return guarded


async def _answer(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})
