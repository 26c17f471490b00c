"""One URL, from list row to outcome: tries, redirects, ranges, body. Read this first."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from . import answer as answers
from .answer import REDIRECTS, Ask
from .body import HEAD_BYTES, Body, Unpacker
from .client import Client
from .config import FetchConfig
from .faults import FETCHED, SKIPPED, Fault
from .forgotten import Forgotten
from .hosts import Hosts, Slot
from .ledger import Ledger, Outcome, now
from .optout import find_opt_out, licence_links
from .probe import SNIFF_BYTES, HeaderJudge, check_format, head_facts, suffix_of
from .robots import AGENT, Robots
from .urls import Url

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
    validator: str = ""
    total: int | None = None
    judged: bool = False
    deadline: float | None = None
    saved: bool = False
    seen: set[str] = field(default_factory=set)

    def outcome(self) -> Outcome:
        """Put together what is known now."""
        return dataclasses.replace(self.before, **self.known, attempts=self.attempts)


class Skip(Exception):  # noqa: N818 - no error: the recipe does not want this picture
    """The header alone tells that the recipe rejects the picture; the message is the reason."""


class Getter:
    """Fetches one URL at a time for many callers in one event loop; they share hosts, robots rules and the ledger."""

    def __init__(
        self, cfg: FetchConfig, client: Client, robots: Robots | None, hosts: Hosts, ledger: Ledger, forgotten: Forgotten,
        judge: HeaderJudge,
    ) -> None:  # fmt: skip
        self._cfg, self._client, self._robots, self._hosts = cfg, client, robots, hosts
        self._ledger, self._forgotten, self._judge = ledger, forgotten, judge
        self._in_flight = asyncio.Semaphore(cfg.max_in_flight)

    async def get(self, url: Url, hashes: Mapping[str, str], known: Outcome, stem: Path) -> Outcome:
        """Fetch one URL to `stem` + a suffix by content.

        Args:
            url: where to begin.
            hashes: algorithm -> hex digest that the picture must have.
            known: its row of the ledger so far.
            stem: where the picture goes; a part file there is resumed.

        Returns:
            The final outcome; never raises for anything a server does.
        """
        body = Body(stem, max_bytes=self._cfg.max_bytes, algorithms=tuple(hashes))
        job = Job(url=url, before=known, body=body, hashes=hashes, attempts=known.attempts)
        job.known["started"] = known.started or now()
        job.validator = known.etag or known.last_modified  # of the part file a killed run left
        if job.validator:
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
        finally:
            body.pause()
        job.known["ended"] = now()
        return job.outcome()

    async def _try_until_done(self, job: Job) -> None:
        for attempt in range(1, self._cfg.max_attempts + 1):
            try:
                return await self._follow(job)
            except Fault as fault:
                job.known["status"] = fault.status
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
        total = answers.total_bytes(response, ask)
        if total is not None and total > self._cfg.max_bytes:
            raise Fault("too-large", f"{total} bytes, over the limit of {self._cfg.max_bytes}", status=response.status)
        if response.status == 200 and ask.start:
            job.body.restart()
        elif ask.start and _has_changed(job, total, answers.validator(response)):
            job.body.restart()  # or every further try would ask for the rest of what is gone
            raise Fault("protocol", "the picture changed while it was read, and the server joined both", again=True)
        job.total = total
        self._note_headers(job, url, response, resumable=not packed)
        await self._stream(job, response, Unpacker(packed) if packed else None)
        if response.status == 206 and ask.stop is not None and (total is None or job.body.size < total):
            if job.validator:
                return Ask(job.body.size, None, ranged=True)
            job.body.restart()  # nothing proves that the rest belongs to the same picture: take it whole
            return Ask()
        if total is not None and job.body.size < total:
            raise Fault("truncated", f"{job.body.size} of {total} bytes", again=True)
        return None

    def _check_opt_out(self, response: aiohttp.ClientResponse) -> None:
        found = find_opt_out(
            response.headers.getall("X-Robots-Tag", ()),
            agent=AGENT,
            directives=self._cfg.opt_out,
            now=datetime.now(UTC),
        )
        if found:
            raise Fault("opt-out", found, status=response.status)

    def _note_headers(self, job: Job, url: Url, response: aiohttp.ClientResponse, *, resumable: bool) -> None:
        headers = response.headers
        job.validator = answers.validator(response) if resumable else ""
        job.known |= {
            "final_url": url.text, "etag": _short(headers.get("ETag")), "last_modified": _short(headers.get("Last-Modified")),
            "content_type": _short(headers.get("Content-Type")), "licence": licence_links(headers.getall("Link", ())) or "",
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
            if body.spilled and job.validator and not job.saved:
                job.saved = True  # from here on a killed run is worth resuming
                self._ledger.put(job.outcome())
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


def _has_changed(job: Job, total: int | None, validator: str) -> bool:
    """Say whether a 206 belongs to other bytes than ours; not every server looks at If-Range (RFC 9110, 15.3.7.3)."""
    return (job.total is not None and total != job.total) or validator not in ("", job.validator)


def _short(value: str | None) -> str:
    return (value or "")[:500]
