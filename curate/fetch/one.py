"""One URL, from list row to outcome: tries, redirects, ranges, body. Read this first."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from ..core.errors import ToolkitError
from . import answer as answers
from .answer import REDIRECTS, Ask, Extent
from .body import HEAD_BYTES, Body, Unpacker, Version
from .client import Client
from .config import FetchConfig
from .faults import FETCHED, SKIPPED, Fault
from .forgotten import Forgotten
from .hosts import Hosts, Slot
from .ledger import Outcome, now
from .optout import find_opt_out, licence_links
from .probe import SNIFF_BYTES, HeaderJudge, check_format, head_facts, suffix_of
from .robots import AGENT, Robots
from .urls import Url

_log = logging.getLogger(__name__)
_MAX_ODD_BYTES = 1 << 20
"""Of a body that starts like no picture and does not say how long it is, so much is read to see whether it ends."""


@dataclass(slots=True)
class Job:
    """One URL in flight: what is known of it so far. `known` holds fields of `Outcome`."""

    url: Url
    before: Outcome
    body: Body
    hashes: Mapping[str, str]
    known: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    total: int | None = None
    judged: bool = False
    deadline: float | None = None
    seen: set[str] = field(default_factory=set)

    @property
    def validator(self) -> str:
        """What proves that more bytes belong to those there; "" if nothing does."""
        return self.body.version.validator if self.body.version is not None else ""

    def outcome(self) -> Outcome:
        """Put together what is known now."""
        return dataclasses.replace(self.before, **self.known, attempts=self.attempts)


class Skip(Exception):  # noqa: N818 - no error: the recipe does not want this picture
    """The header alone tells that the recipe rejects the picture; the message is the reason."""


class Getter:
    """Fetches one URL at a time for many callers in one event loop; they share hosts, robots rules and the ledger."""

    def __init__(
        self, cfg: FetchConfig, client: Client, robots: Robots | None, hosts: Hosts, forgotten: Forgotten,
        judge: HeaderJudge, in_flight: asyncio.Semaphore,
    ) -> None:  # fmt: skip
        self._cfg, self._client, self._robots, self._hosts = cfg, client, robots, hosts
        self._forgotten, self._judge, self._in_flight = forgotten, judge, in_flight

    async def get(self, url: Url, hashes: Mapping[str, str], known: Outcome, stem: Path, part: Path) -> Outcome:
        """Fetch one URL to `stem` + a suffix by content.

        Args:
            url: where to begin.
            hashes: algorithm -> hex digest that the picture must have.
            known: its row of the ledger so far.
            stem: where the picture goes.
            part: where it grows; what a killed run left there is resumed.

        Returns:
            The final outcome; never raises for anything a server does.
        """
        body = Body(stem, part, max_bytes=self._cfg.max_bytes, algorithms=tuple(hashes))
        job = Job(url=url, before=known, body=body, hashes=hashes, attempts=known.attempts)
        job.known["started"] = known.started or now()
        body.recover()
        try:
            await self._try_until_done(job)
            job.known |= {"kind": FETCHED, "detail": ""}
        except Skip as skip:
            body.restart()
            job.known |= {"kind": SKIPPED, "detail": str(skip)}
        except Fault as fault:
            body.restart()
            self._fail(job, fault)
        except ToolkitError:  # ours, not the server's: a full disk
            raise
        except Exception as error:  # noqa: BLE001 - a bug met by one answer must not stop a list of millions, nor be hidden
            _log.warning("%s: a bug of irdistill, please report it", job.before.url, exc_info=True)
            body.restart()
            self._fail(job, Fault("protocol", f"a bug of irdistill: {type(error).__name__}"))
        finally:
            body.pause()
        job.known["ended"] = now()
        return job.outcome()

    async def _try_until_done(self, job: Job) -> None:
        for attempt in range(1, self._cfg.max_attempts + 1):
            try:
                return await self._follow(job)
            except Fault as fault:
                wait_s = self._backoff(job, fault, attempt)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)

    def _backoff(self, job: Job, fault: Fault, attempt: int) -> float | None:
        """Seconds until the next try; None if there is none."""
        if not fault.again or attempt >= self._cfg.max_attempts:
            return None
        wait_s = self._cfg.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
        wait_s = max(wait_s, fault.wait_s or 0.0)
        left_s = self._cfg.deadline_s if job.deadline is None else job.deadline - asyncio.get_running_loop().time()
        return wait_s if wait_s < left_s else None

    async def _follow(self, job: Job) -> None:
        """Go from hop to hop until a body is whole."""
        url = job.url
        job.seen.clear()
        for _ in range(self._cfg.max_redirects + 1):
            if url.text in job.seen:
                raise Fault("redirect", f"in a circle at {url.text}")
            job.seen.add(url.text)
            if self._forgotten.matches(url.host, url.text, ""):
                raise Fault("opt-out", "forgotten on request")
            if self._robots is not None:
                self._hosts.crawl_delay(url.origin, await self._robots.check(url) or 0.0)
            onward = await self._hop(job, url)
            if onward is None:
                return
            url = onward
        raise Fault("redirect", f"more than {self._cfg.max_redirects} hops")

    async def _hop(self, job: Job, url: Url) -> Url | None:
        """Ask one host; returns where it sends us, None if the picture is complete."""
        async with self._slot(job, url) as slot:
            try:
                async with asyncio.timeout_at(job.deadline):
                    onward = await self._exchange(job, url)
            except TimeoutError as error:
                fault = Fault("timeout", f"not done within {self._cfg.deadline_s:g} s")
                slot.failed(fault)
                raise fault from error
            except Fault as fault:
                slot.failed(fault)
                raise
            except Skip:
                slot.succeeded()
                raise
            slot.succeeded()
            return onward

    @contextlib.asynccontextmanager
    async def _slot(self, job: Job, url: Url) -> AsyncIterator[Slot]:
        """Wait for the host and for a place in flight; the wait does not count against the URL's deadline."""
        clock = asyncio.get_running_loop().time
        begin = clock()
        async with self._hosts.slot(url.origin) as slot, self._in_flight:
            job.deadline = clock() + self._cfg.deadline_s if job.deadline is None else job.deadline + clock() - begin
            yield slot

    async def _exchange(self, job: Job, url: Url) -> Url | None:
        """Ask until the body is whole: a probe and the rest, what is missing, or everything."""
        job.attempts += 1
        ask = self._first_ask(job)
        while True:
            async with self._client.get(url, ask.headers(job.validator)) as response:
                job.known["status"] = response.status
                if response.status in REDIRECTS:
                    return url.join(response.headers.get("Location", ""))
                answers.check_status(response)
                more = await self._read(job, url, ask, response)
            if more is None:
                self._finish(job)
                return None
            ask = more

    def _first_ask(self, job: Job) -> Ask:
        if job.body.size and job.validator:
            return Ask(job.body.size, None, ranged=True)
        job.body.restart()
        probe = self._cfg.probe_bytes
        return Ask(0, probe, ranged=True) if probe else Ask()

    async def _read(self, job: Job, url: Url, ask: Ask, response: aiohttp.ClientResponse) -> Ask | None:
        """Read one answer's body; returns what to ask for next, None if nothing is missing."""
        self._check_opt_out(response)
        packed = answers.encoding(response)
        if response.status == 416 or (response.status == 206 and packed):
            if not ask.ranged:
                kind = "http-4xx" if response.status == 416 else "protocol"
                raise Fault(kind, f"status {response.status} without a range", status=response.status)
            job.body.restart()  # no such range, or a piece of something compressed: ask for the whole
            return Ask()
        extent = answers.extent(response, ask)
        if extent.total is not None and extent.total > self._cfg.max_bytes:
            raise Fault(
                "too-large", f"{extent.total} bytes, over the limit of {self._cfg.max_bytes}", status=response.status
            )
        version = Version(url=url.text, validator=answers.validator(response), total=extent.total)
        if not extent.start:
            job.body.restart()
            job.body.version = version if version.validator and not packed else None
        elif version != job.body.version:  # not every server looks at If-Range (RFC 9110, 15.3.7.3)
            job.body.restart()
            raise Fault("protocol", "the picture changed while it was read, and the server joined both", again=True)
        job.total = extent.total
        self._note_headers(job, url, response)
        await self._stream(job, response, Unpacker(packed) if packed else None)
        return self._after(job, extent)

    def _after(self, job: Job, extent: Extent) -> Ask | None:
        """Compare what came with what was announced; a proper piece of the picture is followed by the next."""
        size = job.body.size
        if extent.stop is None:
            return None
        if size != extent.stop or (extent.total is not None and size > extent.total):
            what = "truncated" if size < extent.stop else "protocol"
            raise Fault(what, f"{size - extent.start} bytes, {extent.stop - extent.start} were announced", again=True)
        if size == extent.total:
            return None
        if job.validator and extent.total is not None and size - extent.start >= min(HEAD_BYTES, self._cfg.probe_bytes):
            return Ask(size, None, ranged=True)
        job.body.restart()  # nothing proves that the rest belongs to the same picture, or where it ends: take it whole
        return Ask()

    def _check_opt_out(self, response: aiohttp.ClientResponse) -> None:
        found = find_opt_out(
            response.headers.getall("X-Robots-Tag", ()),
            agent=AGENT,
            directives=self._cfg.opt_out,
            now=datetime.now(UTC),
        )
        if found:
            raise Fault("opt-out", found, status=response.status)

    def _note_headers(self, job: Job, url: Url, response: aiohttp.ClientResponse) -> None:
        headers = response.headers
        job.known |= {
            "final_url": url.text, "etag": _short(headers.get("ETag")), "last_modified": _short(headers.get("Last-Modified")),
            "content_type": _short(headers.get("Content-Type")), "licence": _short(licence_links(headers.getall("Link", ()))),
        }  # fmt: skip

    async def _stream(self, job: Job, response: aiohttp.ClientResponse, unpacker: Unpacker | None) -> None:
        body = job.body
        async for data in response.content.iter_any():
            if unpacker is None:
                body.write(data)
            else:
                unpacker.feed(data, body)
            if body.size >= SNIFF_BYTES and not job.judged:
                self._look(job)
        if unpacker is not None:
            unpacker.close()

    def _look(self, job: Job) -> None:
        """Judge the first bytes, once when the format shows and once more when the header is there."""
        try:
            check_format(bytes(job.body.head[:SNIFF_BYTES]))
        except Fault:
            if job.total is not None:
                raise
            if job.body.size > _MAX_ODD_BYTES:
                raise Fault("too-large", f"no picture, and no end after {_MAX_ODD_BYTES} bytes") from None
            return
        if len(job.body.head) < HEAD_BYTES:
            return
        job.judged = True
        facts = head_facts(bytes(job.body.head))
        reason = self._judge(facts, job.total) if facts is not None and self._cfg.probe_bytes else ""
        if facts is not None and reason:
            raise Skip(f"{reason}: {facts.width}x{facts.height}")

    def _finish(self, job: Job) -> None:
        """Check the whole body and give it its name."""
        body = job.body
        if not body.size:
            raise Fault("not-image", "an empty body", status=job.known["status"])
        format_name = check_format(bytes(body.head[:SNIFF_BYTES]))
        found = body.hashes()
        for name, wanted in job.hashes.items():
            if found[name] != wanted:
                raise Fault("hash-mismatch", f"{name} is {found[name]}, the list says {wanted[:128]}")
        if self._forgotten.matches("", "", found["sha256"]):
            raise Fault("opt-out", "forgotten on request")
        suffix = suffix_of(format_name)
        job.known |= {"num_bytes": body.size, "sha256": found["sha256"], "suffix": suffix}
        body.finish(suffix)

    def _fail(self, job: Job, fault: Fault) -> None:
        if fault.status is not None:
            job.known["status"] = fault.status
        not_before = now() + fault.wait_s if fault.wait_s is not None else None
        job.known |= {"kind": fault.kind, "detail": fault.detail, "not_before": not_before}


def _short(value: str | None) -> str:
    """Cut a header to what a table may hold; bytes that are no UTF-8, which aiohttp gives as surrogates, become escapes."""
    return (value or "")[:500].encode("utf-8", "backslashreplace").decode()
