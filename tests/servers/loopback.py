"""A web server for tests that may answer wrongly: several hosts on loopback, hand-written answers, a log of every request.

It runs in a thread of its own, so that tests can block. A handler is `async def handler(x: Exchange) -> None`; it writes what
it likes, also things that are not HTTP. One host is one 127.0.0.x with a port of its own (Linux answers on all of 127/8).
"""

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CERTIFICATE = Path(__file__).parents[1] / "data" / "self-signed.pem"
REASONS = {200: "OK", 206: "Partial Content", 404: "Not Found", 429: "Too Many Requests", 503: "Service Unavailable"}
CHUNK = 65_536


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One line of the log; `sent` counts bytes the kernel took, `done` is when the last one was, None if it never was."""

    site: str
    connection: int
    at: float
    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0
    done: float | None = None

    @property
    def start(self) -> int | None:
        """First byte asked for; None without a Range."""
        value = self.headers.get("range", "")
        return int(value.removeprefix("bytes=").split("-")[0]) if value else None


@dataclass(slots=True, kw_only=True, eq=False)
class Site:
    """One host with one port."""

    name: str
    address: str
    handler: "Handler"
    secure: bool = False
    port: int = 0
    open: set[int] = field(default_factory=set)
    most_open: int = 0
    busy: int = 0
    most_busy: int = 0

    @property
    def place(self) -> str:
        """HOST:PORT."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self.secure else 'http'}://{self.place}"


class Exchange:
    """One request and the means to answer it."""

    def __init__(
        self, site: Site, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.site, self.request, self.path = site, request, request.path
        self.headers = request.headers
        self._reader, self._writer = reader, writer
        self._busy = True
        self.closing = False
        site.busy += 1
        site.most_busy = max(site.most_busy, site.busy)

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """Write bytes; with `last` the answer counts as whole once they are out."""
        for begin in range(0, len(data), CHUNK):
            self._writer.write(data[begin : begin + CHUNK])
            if last and begin + CHUNK >= len(data):
                self.rest()  # before the client can have the last byte and ask for the next thing
            await self._writer.drain()
            left = self._writer.transport.get_write_buffer_size()
            self.request.sent += min(CHUNK, len(data) - begin)
        if last:
            while left and not self._writer.transport.is_closing():  # the log's `done` means: with the kernel
                await asyncio.sleep(0.001)
                left = self._writer.transport.get_write_buffer_size()
            if not left:
                self.request.done = time.monotonic()

    def rest(self) -> None:
        """Say that the server is through with this request."""
        if self._busy:
            self._busy = False
            self.site.busy -= 1

    async def head(self, status: int, *headers: tuple[str, str]) -> None:
        """Write status line and headers."""
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Answer')}", *(f"{name}: {value}" for name, value in headers)]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8"))

    async def reply(self, status: int = 200, body: bytes = b"", *headers: tuple[str, str]) -> None:
        """Answer whole and right, with a length."""
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Answer')}", *(f"{name}: {value}" for name, value in headers)]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}"]) + "\r\n\r\n"
        await self.send(head.encode("utf-8") + (b"" if self.request.method == "HEAD" else body), last=True)

    async def chunk(self, data: bytes) -> None:
        """Write one chunk of a chunked body; none is the end of it."""
        await self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n", last=not data)

    def close(self) -> None:
        """Close once everything is written (FIN)."""
        self.closing = True

    async def wait_for_the_client_to_leave(self) -> None:
        """Say nothing more."""
        await self._reader.read()
        self.closing = True

    def reset(self) -> None:
        """Break the connection (RST)."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        self.closing = True


Handler = Callable[[Exchange], Awaitable[None]]


async def serve_ranges(x: Exchange, body: bytes, etag: str, *headers: tuple[str, str]) -> None:
    """Answer as a good server of files does: Range and If-Range (RFC 9110, 13.1.5 and 14.2); one range `a-` or `a-b`."""
    common = (("Content-Type", "image/jpeg"), ("Accept-Ranges", "bytes"), *([("ETag", etag)] if etag else []), *headers)
    start = x.request.start
    if start is None or x.headers.get("if-range", etag) != etag:
        await x.reply(200, body, *common)
    elif start >= len(body):
        await x.reply(416, b"", ("Content-Range", f"bytes */{len(body)}"), *common)
    else:
        last = x.headers["range"].partition("-")[2]
        part = body[start : int(last) + 1 if last else None]
        span = f"bytes {start}-{start + len(part) - 1}/{len(body)}"
        await x.reply(206, part, ("Content-Range", span), *common)


class Web:
    """All hosts, in one thread. A context manager; `log` grows while it runs."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        secure: tuple[str, ...] = (),
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        fixed = dict(addresses or {})
        self.sites = {
            name: Site(name=name, address=fixed.get(name, f"127.0.0.{number}"), handler=handler, secure=name in secure)
            for number, (name, handler) in enumerate(handlers.items(), start=2)
        }
        self.log: list[Request] = []
        self.errors: list[str] = []  # what a handler tripped over: a test of a test
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> "Web":
        self._thread = threading.Thread(target=self._loop.run_forever, name="loopback-web")
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(20)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    def asked(self, site: str, path: str | None = None) -> list[Request]:
        """Return the requests of a site, or of one path there (without robots.txt if no path is given)."""
        return [r for r in list(self.log) if r.site == site and (r.path == path if path else r.path != "/robots.txt")]

    @property
    def places(self) -> dict[str, str]:
        """Return HOST:PORT of every site."""
        return {name: site.place for name, site in self.sites.items()}

    async def _open(self) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(CERTIFICATE)
        for site in self.sites.values():

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, site: Site = site) -> None:
                task = self._loop.create_task(self._talk(site, reader, writer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

            server = await asyncio.start_server(
                connected, site.address, 0, ssl=tls if site.secure else None, limit=1 << 20, backlog=512
            )
            site.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.05)  # transports close in the next rounds of the loop

    async def _talk(self, site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)  # `sent` stays honest
        site.open.add(number)
        site.most_open = max(site.most_open, len(site.open))
        try:
            while not await self._answer(site, number, reader, writer):
                pass
            site.open.discard(number)  # before the client can know, and open another
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), 1)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            pass  # the client left
        finally:
            site.open.discard(number)
            writer.transport.abort()

    async def _answer(
        self, site: Site, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        first = await reader.readexactly(1)
        if first == b"\x16":  # a TLS hello at a port without TLS; Apache and nginx say this
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return True
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        pairs = [line.split(": ", 1) for line in head[1:] if ": " in line]
        headers = {name.lower(): value for name, value in pairs}
        request = Request(
            site=site.name, connection=number, at=time.monotonic(), method=method, path=path, headers=headers
        )
        self.log.append(request)
        x = Exchange(site, request, reader, writer)
        try:
            await site.handler(x)
        except (ConnectionError, ssl.SSLError):
            raise
        except Exception as fault:
            self.errors.append(f"{site.name}{path}: {fault!r}")
            raise ConnectionError from fault
        finally:
            x.rest()
        return x.closing or headers.get("connection", "").lower() == "close"
