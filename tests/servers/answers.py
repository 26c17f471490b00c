"""Ways to answer, right and wrong: handlers for the server of `loopback.py`, and the pictures and bombs they send."""

import asyncio
import base64
import email.utils
import io
import random
import time
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from loopback import Exchange, Handler, serve_ranges
from PIL import Image

ZEROS = bytes(1 << 20)


@cache
def jpeg(seed: int, width: int = 120, height: int = 100, quality: int = 88) -> bytes:
    """Encode a picture unlike any with another seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), np.uint8))
    noise = rng.normal(0, 12, (height, width, 3))
    image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + noise
    out = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def padded(data: bytes, num_bytes: int) -> bytes:
    """Lengthen a JPEG by a comment."""
    num_more = num_bytes - len(data)
    assert 4 <= num_more < 65_537
    return data[:2] + b"\xff\xfe" + (num_more - 2).to_bytes(2, "big") + bytes(num_more - 4) + data[2:]


def deflated_zeros(num_bytes: int, prefix: bytes, wbits: int) -> bytes:
    """Deflate a prefix and that many zeros without making them: one flushed block, repeated."""
    pack = zlib.compressobj(9, zlib.DEFLATED, wbits)
    head = pack.compress(prefix) + pack.flush(zlib.Z_FULL_FLUSH)
    block = pack.compress(ZEROS) + pack.flush(zlib.Z_FULL_FLUSH)
    rest = pack.compress(ZEROS[: num_bytes % len(ZEROS)]) + pack.flush(zlib.Z_FINISH)
    return head + block * (num_bytes // len(ZEROS)) + rest


@cache
def png_bomb(side: int = 32_000) -> bytes:
    """A grey PNG of side x side zeros, about 1 MB."""
    stored = side * (side + 1)
    data = deflated_zeros(stored, b"", 15)[:-4]  # zlib took the block for once, so its checksum is another
    adler = (stored % 65_521 << 16 | 1).to_bytes(4, "big")

    def part(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes((8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", data + adler) + part(b"IEND", b"")


@cache
def gzip_bomb() -> bytes:
    """A JPEG's start and 1 GB of zeros; nobody sane reads as far as the checksum, so it is none."""
    data = deflated_zeros(1 << 30, jpeg(1), -15)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + data + bytes(8)


def dispatch(routes: dict[str, Handler]) -> Handler:
    """Find the handler of a path."""

    async def handler(x: Exchange) -> None:
        await routes.get(x.path, routes.get("*", answer(404)))(x)

    return handler


def answer(status: int, body: bytes = b"", *headers: tuple[str, str]) -> Handler:
    """Answer always the same."""

    async def handler(x: Exchange) -> None:
        await x.reply(status, body, *headers)

    return handler


def picture(seed: int, *headers: tuple[str, str], kind: str = "image/jpeg") -> Handler:
    """Answer with a small picture, ignoring Range."""

    async def handler(x: Exchange) -> None:
        await x.reply(200, jpeg(seed), ("Content-Type", kind), *headers)

    return handler


def in_turn(*steps: Handler) -> Handler:
    """Answer with each in turn, then with the last for ever."""
    count = iter(range(1 << 30))

    async def handler(x: Exchange) -> None:
        await steps[min(next(count), len(steps) - 1)](x)

    return handler


def later(seconds: float, handler: Handler) -> Handler:
    """Think first."""

    async def slow(x: Exchange) -> None:
        await asyncio.sleep(seconds)
        await handler(x)

    return slow


def redirect(to: str | Callable[[], str], status: int = 302) -> Handler:
    """Send elsewhere; the URL may need places that are known only once the server runs (a function)."""

    async def handler(x: Exchange) -> None:
        await x.reply(status, b"elsewhere", ("Location", to if isinstance(to, str) else to()))

    return handler


def raw(*parts: bytes, pause_s: float = 0.0, later: bytes = b"", end: str = "close") -> Handler:
    """Write bytes as they are, `later` a moment after them; then close, reset or hold the connection."""

    async def handler(x: Exchange) -> None:
        for part in parts:
            await x.send(part)
            await asyncio.sleep(0.1 if later else pause_s)
        if later:
            await x.send(later)
            await asyncio.sleep(pause_s)
        if end == "hold":
            await x.wait_for_the_client_to_leave()
        x.rest()
        if end == "reset":
            x.reset()
        x.close()

    return handler


def drip(first: bytes, every_s: float = 1.0) -> Handler:
    """Send a beginning, then a byte a second for as long as anyone listens."""

    async def handler(x: Exchange) -> None:
        await x.send(first)
        while True:
            await asyncio.sleep(every_s)
            await x.send(b"\0")

    return handler


async def silence(x: Exchange) -> None:
    """Take the request and never answer."""
    await x.wait_for_the_client_to_leave()


def flood(head: bytes, part: bytes, num: int = 1 << 30) -> Handler:
    """Send a head, then a part again and again."""

    async def handler(x: Exchange) -> None:
        await x.send(head)
        for _ in range(num):
            await x.send(part)
        x.close()

    return handler


def date_limited(wait_s: int, body: bytes) -> Handler:
    """429 until a date, which stands in Retry-After; a picture from then on."""
    until: list[int] = []

    async def handler(x: Exchange) -> None:
        until.append(int(time.time()) + wait_s)
        if time.time() >= until[0]:
            await x.reply(200, body, ("Content-Type", "image/jpeg"))
        else:
            await x.reply(429, b"", ("Retry-After", email.utils.formatdate(until[0], usegmt=True)))

    return handler


def broken_once(body: bytes, etag: str) -> Handler:
    """A good server of files whose first answer from the middle of a body on breaks half-way."""
    broken: list[bool] = []

    async def handler(x: Exchange) -> None:
        start = x.request.start or 0
        if broken or (start == 0 and x.request.start is not None):
            return await serve_ranges(x, body, etag)
        broken.append(True)
        part = body[start:]
        await x.head(
            206 if start else 200, ("Content-Type", "image/jpeg"), ("ETag", etag), ("Content-Length", str(len(part))),
            ("Accept-Ranges", "bytes"),
            *([("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")] if start else []),
        )  # fmt: skip
        await x.send(part[: len(part) // 2])
        await asyncio.sleep(0.3)  # or the reset would take back what is under way
        x.rest()
        x.reset()

    return handler


def changing(old: bytes, new: bytes, *, honest: bool = False, etags: tuple[str, str] = ('"old"', '"new"')) -> Handler:
    """Another picture from the second request on; a server that is not honest ignores If-Range."""
    count = iter(range(1 << 30))

    async def handler(x: Exchange) -> None:
        is_new = next(count) > 0
        if not honest:
            x.headers.pop("if-range", None)
        await serve_ranges(x, new if is_new else old, etags[is_new])

    return handler


def guarded(body: bytes, user: str, word: str) -> Handler:
    """Ask for a password."""
    want = "Basic " + base64.b64encode(f"{user}:{word}".encode()).decode()

    async def handler(x: Exchange) -> None:
        if x.headers.get("authorization") == want:
            await x.reply(200, body, ("Content-Type", "image/jpeg"))
        else:
            await x.reply(401, b"who are you?", ("WWW-Authenticate", "Basic"))

    return handler


def noise(num: int) -> bytes:
    """Bytes that are no picture."""
    return random.Random(num).randbytes(num)


def ranges(body: bytes, etag: str) -> Handler:
    """Serve as a good server of files does."""

    async def handler(x: Exchange) -> None:
        await serve_ranges(x, body, etag)

    return handler
