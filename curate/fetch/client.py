"""One HTTP client for the whole run: one TLS context, connections kept alive, addresses checked, faults instead of errors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import importlib.metadata
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType

import aiohttp
import yarl

from ..core.errors import ToolkitError
from .addresses import Guard, Resolver, literal_address
from .answer import REDIRECTS
from .config import FetchConfig
from .faults import Fault
from .robots import MAX_BYTES, RobotsAnswer
from .urls import Url, parse_url

_READ_BYTES = 64 << 10
_IDLE_S = 5.0  # of a connection; a list of many hosts leaves many behind
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


class Client:
    """Ask for one URL at a time, follow nothing, decode nothing. Use as an async context manager."""

    def __init__(self, cfg: FetchConfig) -> None:
        self._cfg = cfg
        self._guard = Guard(cfg.allow_private)
        self._resolver = Resolver(self._guard, timeout_s=cfg.connect_timeout_s)

    async def __aenter__(self) -> Client:
        cfg = self._cfg
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, use_dns_cache=False, limit=0, ssl=ssl.create_default_context(),
            keepalive_timeout=_IDLE_S,
        )  # fmt: skip
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, read_bufsize=_READ_BYTES,
            # every picture as it lies on the server: no list of formats that would make it convert, no compression on the way
            headers={"User-Agent": user_agent(cfg.contact), "Accept": "*/*", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=cfg.connect_timeout_s, connect=None, sock_read=cfg.read_timeout_s
            ),
        )  # fmt: skip
        # or aiohttp asks a second time, at once, when a connection, even a new one, ends unanswered (client.py, _request;
        # its test client sets the same): tries are counted and spaced in one.py
        self._session._retry_connection = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._resolver.close()

    @contextlib.asynccontextmanager
    async def get(self, url: Url, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one GET; whatever goes wrong, here or while the caller reads, is raised as a Fault."""
        self._guard.check_literal(url.host, url.port)
        if url.credentials:
            token = base64.b64encode(url.credentials.encode()).decode()
            headers = {**headers, "Authorization": f"Basic {token}"}
        try:
            async with self._session.get(
                yarl.URL(url.text, encoded=True), headers=headers, allow_redirects=False
            ) as response:
                with _ends_with_its_connection(response):
                    yield response
        except (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, TimeoutError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _OUT_OF_FILES:
                raise ToolkitError(
                    f"{error.strerror}: lower max_in_flight in the --fetch file (now {self._cfg.max_in_flight}), "
                    "or raise ulimit -n"
                ) from error
            raise _fault(error) from error

    async def robots_txt(self, origin: str) -> RobotsAnswer:
        """Fetch a host's robots.txt, following up to 5 redirects (RFC 9309 section 2.3.1.2)."""
        url = parse_url(f"{origin}/robots.txt")
        if literal_address(url.host) is None:
            await self._resolver.resolve(
                url.host, url.port
            )  # before the clock runs: thousands of names may wait for theirs
        try:
            async with asyncio.timeout(self._cfg.connect_timeout_s + self._cfg.read_timeout_s):
                return await self._robots_txt(url)
        except TimeoutError as error:
            raise Fault("timeout", f"{origin}/robots.txt does not answer", again=True) from error

    async def _robots_txt(self, url: Url) -> RobotsAnswer:
        for _ in range(6):
            async with self.get(url, {}) as response:
                if response.status not in REDIRECTS or "Location" not in response.headers:
                    return RobotsAnswer(response.status, await _read_up_to(response, MAX_BYTES))
                url = url.join(response.headers["Location"])
        return RobotsAnswer(404, b"")  # "unavailable", says the RFC of more redirects than that


@contextlib.contextmanager
def _ends_with_its_connection(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Wake who reads a chunked body when its connection ends.

    On a chunk that makes no sense, aiohttp 3.14 closes the connection, stops its own timers and tells whoever has the headers
    already nothing (client_proto.py, data_received): the reader would wait until the URL's deadline.
    """
    protocol = response.connection.protocol if response.connection is not None else None
    if protocol is None or "Transfer-Encoding" not in response.headers:
        yield
        return
    body, closed = response.content, protocol.closed

    def end(_: object = None) -> None:
        if not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the connection ended in a chunked body that makes no sense"))

    if closed is None:
        end()
        yield
        return
    closed.remove_done_callback(_look)  # once for each connection, not for each answer
    closed.add_done_callback(_look)
    closed.add_done_callback(end)
    try:
        yield
    finally:
        closed.remove_done_callback(end)


def _look(closed: asyncio.Future[None]) -> None:
    closed.exception()  # or asyncio complains that nobody did


async def _read_up_to(response: aiohttp.ClientResponse, limit: int) -> bytes:
    text = bytearray()
    async for data in response.content.iter_any():
        text += data
        if len(text) >= limit:
            break
    return bytes(text[:limit])


def user_agent(contact: str) -> str:
    """Say who asks, and where a webmaster can reach the person behind it."""
    version = importlib.metadata.version("irdistill")
    return f"irdistill/{version} (collects photographs for image restoration; {contact or 'no contact given'})"


def _fault(error: Exception) -> Fault:
    text = str(error) or type(error).__name__
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError, ssl.SSLError)):
        return Fault("tls", _brief(text))
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return Fault("timeout", _brief(text), again=True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Fault("dns", _brief(text), again=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        return Fault("connect", _brief(error.strerror or str(error.os_error)), again=True)
    if isinstance(error, aiohttp.ClientPayloadError):
        return _payload_fault(error, text)
    if isinstance(error, (aiohttp.ServerDisconnectedError, OSError)):
        return Fault("protocol", _brief(text), again=True)
    return Fault("protocol", _brief(text))  # not HTTP: another try would read the same


def _payload_fault(error: aiohttp.ClientPayloadError, text: str) -> Fault:
    """Tell a body that ended early from one whose connection broke or whose chunks make no sense.

    aiohttp names the broken connection only in the text (client_proto.py, connection_lost).
    """
    cause = error.__cause__
    ended = isinstance(cause, aiohttp.http_exceptions.ContentLengthError) or "Not enough data" in text
    if "ConnectionResetError" not in text and "BrokenPipe" not in text and ended:
        return Fault("truncated", "the connection was closed before the body was complete", again=True)
    return Fault("protocol", _brief(text), again=True)


def _brief(text: str) -> str:
    return " ".join(text.split())[:300]
