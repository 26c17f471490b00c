"""A page on this machine that restores pictures: `serve(ServeConfig)`. Not for the internet.

It listens on loopback unless told otherwise. A request must name the server by an address, `localhost` or `--host` (a web
page that points its own name at 127.0.0.1 is refused), and a picture must come with a header that other pages cannot send
unasked. Nothing is read from or written to the disk; the last `KEPT_RESULTS` results stay in memory. One picture at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import json
import logging
import re
import secrets
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from curate.core.console import note, say
from curate.core.errors import ConfigError, ToolkitError

from .bound import bind
from .checkpoint import LoadedModel, load_run
from .inference import check_picture, restore_picture
from .memory import memory_limit
from .picture_files import Picture, decode_picture
from .picture_writers import encode_png
from .restorer import Restorer
from .trainer import choose_device

_LOG = logging.getLogger(__name__)
MAX_UPLOAD_BYTES = 256 << 20
MAX_WAITING = 4
KEPT_RESULTS = 2
KEPT_RESTORERS = 8  # one a combination of choices
OWN_HEADER = "X-Irdistill"
_HOST = re.compile(r"^(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d+)?$")
_HEADERS = {
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
}  # fmt: skip
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' blob: data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """One server.

    Attributes:
        run: RUN folder.
        host: address to listen on.
        port: 0 takes a free one.
        max_memory: as `RestoreConfig.max_memory`.
        checkpoint: `last` or `best`.
        device: `auto`, `cpu`, `cuda`, ...
    """

    run: Path
    host: str = "127.0.0.1"
    port: int = 8000
    max_memory: str = ""
    checkpoint: str = "last"
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"serve.port must be 0 to 65535, got {self.port}")


@dataclass(frozen=True, slots=True)
class _Result:
    before: bytes
    after: bytes


class Studio:
    """The network and what it has restored; pictures go through one after another, in a thread of their own."""

    def __init__(self, config: ServeConfig) -> None:
        self._device = choose_device(config.device)
        self._limit = memory_limit(config.max_memory, self._device)
        self.loaded: LoadedModel = load_run(config.run, which=config.checkpoint)
        self._restorers: dict[tuple[str, str, bool], tuple[Restorer, int]] = {}  # and what was kept when it was made
        self._results: OrderedDict[str, _Result] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, "restore")
        self._waiting: dict[str, int] = {}  # bytes of each upload
        self.progress = (0, 0)

    def about(self) -> dict[str, Any]:
        """Say which network this is and what may be chosen."""
        module: Any = self.loaded.module
        depths = {name: ",".join(map(str, counts)) for name, counts in module.depths.items()}
        return {
            "model": self.loaded.name, "step": self.loaded.step, "depths": depths, "trained": ",".join(map(str, module.reuse)),
            "tasks": list(module.tasks), "max_upload_bytes": MAX_UPLOAD_BYTES,
        }  # fmt: skip

    async def restore(
        self, receive: Callable[[], Awaitable[bytes]], depth: str, task: str, ensemble: bool
    ) -> dict[str, Any]:
        """Restore one picture; returns what the page needs to show it.

        Args:
            receive: gives the uploaded file; called only if there is a place for it.
            depth: as `restoration restore`.
            task: likewise.
            ensemble: average over the eight flips and turns.

        Raises:
            ToolkitError: not a picture, too large, no such depth or head, or too many are waiting.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise ConfigError("other pictures are waiting: try again in a while")
        ticket = secrets.token_urlsafe(16)
        self._waiting[ticket] = 0
        try:
            data = await receive()
            self._waiting[ticket] = len(data)
            work = functools.partial(self._restore, data, depth, task, ensemble)
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        finally:
            del self._waiting[ticket]

    def result(self, name: str) -> _Result | None:
        """Return a result that is still kept."""
        return self._results.get(name)

    def _restore(self, data: bytes, depth: str, task: str, ensemble: bool) -> dict[str, Any]:
        self.progress = (0, 0)
        start = time.monotonic()
        restorer = self._restorer(depth, task, ensemble, len(data))
        header = check_picture(data, restorer, keeps_both=True)
        picture = decode_picture(data, header)
        restored = restore_picture(picture, restorer, on_tiles=self._tell)
        seconds = time.monotonic() - start
        name = secrets.token_urlsafe(16)
        before = replace(picture, metadata=replace(picture.metadata, xmp=b"", main={}, camera={}, position={}))
        self._results[name] = _Result(encode_png(before), encode_png(restored))
        while len(self._results) > KEPT_RESULTS:
            self._results.popitem(last=False)
        return {"name": name, "seconds": round(seconds, 2), **_sizes(picture, restored)}

    def _kept_bytes(self) -> int:
        """Count what waits and what is kept."""
        kept = sum(len(result.before) + len(result.after) for result in list(self._results.values()))
        return kept + sum(list(self._waiting.values()))

    def _restorer(self, depth: str, task: str, ensemble: bool, num_own_bytes: int) -> Restorer:
        """Return the network with these choices made, told what else is held beside the upload that it is for."""
        key = (depth, task, ensemble)
        if key not in self._restorers:
            if len(self._restorers) >= KEPT_RESTORERS:
                self._restorers.clear()
            network = bind(self.loaded.module, depth=depth, task=task)
            restorer = Restorer(network, device=self._device, limit_bytes=self._limit, self_ensemble=ensemble)
            self._restorers[key] = (restorer, self._kept_bytes())
        restorer, counted = self._restorers[key]
        restorer.beside_bytes = self._kept_bytes() - num_own_bytes - counted
        return restorer

    def _tell(self, done: int, tiles: int) -> None:
        self.progress = (done, tiles)


def make_app(studio: Studio, names: frozenset[str]) -> web.Application:
    """Build the application.

    Args:
        studio: what does the work.
        names: host names by which the server may be called, beside addresses and `localhost`.
    """
    page = (resources.files("restoration") / "page.html").read_text(encoding="utf-8")

    async def index(_: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        policy = {"Content-Security-Policy": _POLICY.format(nonce=nonce)}
        return web.Response(text=page.replace("NONCE", nonce), content_type="text/html", headers=policy)

    async def about(_: web.Request) -> web.Response:
        return web.json_response(studio.about())

    async def progress(_: web.Request) -> web.Response:
        return web.json_response({"done": studio.progress[0], "tiles": studio.progress[1]})

    async def restore(request: web.Request) -> web.Response:
        if OWN_HEADER not in request.headers:
            return _error(403, "a picture must be sent by the page itself")
        query = request.query
        choice = (query.get("depth", ""), query.get("task", ""), query.get("ensemble", "") == "1")
        try:
            return web.json_response(await studio.restore(request.read, *choice))
        except ToolkitError as error:
            return _error(422, str(error))

    async def picture(request: web.Request) -> web.Response:
        result = studio.result(request.match_info["name"])
        if result is None:
            return _error(404, "this result is no longer kept: restore the picture again")
        data = result.before if request.match_info["side"] == "before" else result.after
        return web.Response(body=data, content_type="image/png")

    app = web.Application(middlewares=[_guard(names)], client_max_size=MAX_UPLOAD_BYTES)
    app.router.add_get("/", index)
    app.router.add_get("/about", about)
    app.router.add_get("/progress", progress)
    app.router.add_post("/restore", restore)
    app.router.add_get(r"/result/{name:[A-Za-z0-9_-]{22}}/{side:before|after}", picture)
    return app


def serve(config: ServeConfig) -> None:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: no such run or device, or an address that cannot be listened on.
        ManifestError: a broken checkpoint.
    """
    studio = Studio(config)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(config, studio))


async def _serve(config: ServeConfig, studio: Studio) -> None:
    names = frozenset({config.host.lower(), socket.gethostname().lower()})
    runner = web.AppRunner(make_app(studio, names), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, config.host, config.port).start()
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(
                f"cannot listen on {config.host} port {config.port}: {reason}; choose another --port"
            ) from error
        port = runner.addresses[0][1]
        if not _is_loopback(config.host):
            note(f"warning: whoever can reach {config.host} port {port} can use this server")
        shown = f"[{config.host}]" if ":" in config.host else config.host
        say(f"http://{shown}:{port}/  ({studio.loaded.name}, step {studio.loaded.step}; Ctrl-C stops)")
        sys.stdout.flush()  # a pipe would keep the address to itself
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _guard(names: frozenset[str]) -> Any:
    """Refuse requests that come by a name that is not ours, or from another page; dress every answer."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        response: web.StreamResponse
        host = request.headers.get("Host", "")
        origin = request.headers.get("Origin")
        if not _is_ours(host, names):
            response = _error(421, f"this server is not called {host!r}: use the address it printed")
        elif origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            response = _error(403, "requests from other pages are refused")
        else:
            try:
                response = await handler(request)
            except web.HTTPRequestEntityTooLarge:
                response = _error(413, f"a picture may have at most {MAX_UPLOAD_BYTES >> 20} MiB")
            except web.HTTPException as error:
                response = _error(error.status, error.reason)
            except Exception as error:  # noqa: BLE001 - a bug, ours or a codec's: a line to the page, all of it to the log
                _LOG.exception("%s %s", request.method, request.path)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                response = _error(500, f"the server failed: {reason}")
        response.headers.update(_HEADERS)
        return response

    return guard


def _is_ours(host: str, names: frozenset[str]) -> bool:
    match = _HOST.match(host.lower())
    name = match[1].strip("[]") if match else ""
    if name == "localhost" or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True  # nobody can make an address point elsewhere


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _error(status: int, message: str) -> web.Response:
    return web.Response(status=status, text=json.dumps({"error": message}), content_type="application/json")


def _sizes(picture: Picture, restored: Picture) -> dict[str, int]:
    (height, width), (new_height, new_width) = picture.colour.shape[:2], restored.colour.shape[:2]
    bits = 8 * restored.colour.itemsize
    return {"height": height, "width": width, "new_height": new_height, "new_width": new_width, "bits": bits}
