"""robots.txt as RFC 9309 has it: one fetch per origin, groups chosen here, rules matched by protego."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protego import Protego

from .faults import Fault
from .urls import Url

AGENT = "irdistill"  # our product token: what `User-agent:` lines and X-Robots-Tag call us
MAX_BYTES = 500 * 1024  # RFC 9309, section 2.5: at least so much must be read
ERROR_KEEP_S = 600.0  # of a 5xx
FAULT_KEEP_S = 60.0  # of a fetch that got no answer
PAUSES_S = (1.0, 2.0)  # before further tries of such a fetch: a connection lost once must not cost a host's every URL
NUM_PARSED = 512  # rule sets ready for matching; the others are kept as text, a twentieth of the memory
MAX_PARSED_CHARS = 8 << 20  # of their text
MAX_KEPT_CHARS = 64 << 20  # of rules, all origins together

_AGENT_LINE = re.compile(r"user[-\s]*agent(?:\s*:|\s)\s*(.*)", re.IGNORECASE)
_TOKEN = re.compile(
    r"[A-Za-z_-]+"
)  # RFC 9309, section 2.2.1; `irdistill/1.0` means irdistill, as Google's parser reads it
_SITE_WIDE = re.compile(r"(?:site-?maps?|host)\s*:", re.IGNORECASE)  # belong to no group and end none


@dataclass(frozen=True, slots=True)
class RobotsAnswer:
    """What a server said when asked for robots.txt, after redirects.

    Attributes:
        status: HTTP status of the last answer.
        text: its body, cut at 500 KiB; anything at all.
    """

    status: int
    text: bytes


@dataclass(frozen=True, slots=True)
class _Verdict:
    expires: float
    rules: str  # of the groups that concern us, as one group; empty: all is allowed
    fault: Fault | None


class Robots:
    """Asks robots.txt before a URL is requested.

    Args:
        fetch: gets `origin + /robots.txt`, following five redirects; raises Fault if there is no answer.
        keep_s: how long rules are kept; RFC 9309, section 2.4: a day.
        num_hosts: origins kept; the longest unused goes first.
        pauses_s: before each further try of a fetch that got no answer.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[RobotsAnswer]],
        *,
        keep_s: float = 86_400.0,
        num_hosts: int = 10_000,
        pauses_s: tuple[float, ...] = PAUSES_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch, self._keep_s, self._num_hosts, self._clock = fetch, keep_s, num_hosts, clock
        self._pauses_s = pauses_s
        self._kept: OrderedDict[str, _Verdict] = OrderedDict()  # longest unused first
        self._num_chars = 0
        self._parsed: OrderedDict[str, tuple[Protego, int]] = OrderedDict()  # with the characters of the text
        self._num_parsed_chars = 0
        self._running: dict[str, asyncio.Task[_Verdict]] = {}

    async def check(self, url: Url) -> float | None:
        """Return the seconds that robots.txt asks for between two requests, None if it does not say.

        Raises:
            Fault: `robots` if it forbids the URL, or answers 429 or 5xx; the fetch's own kind if there was no answer.
        """
        origin = url.origin
        verdict = self._kept.get(origin)
        if verdict is None or self._clock() >= verdict.expires:
            verdict = await self._ask_once(origin)
        else:
            self._kept.move_to_end(origin)
        fault = verdict.fault
        if fault is not None:  # a new one: each carries its traceback
            raise Fault(fault.kind, fault.detail, again=fault.again, wait_s=fault.wait_s, status=fault.status)
        if not verdict.rules:
            return None
        rules = self._rules(origin, verdict.rules)
        if not rules.can_fetch("http://host" + url.target, AGENT):
            raise Fault("robots", f"disallowed by {origin}/robots.txt")
        return _delay_s(rules)

    async def close(self) -> None:
        """Stop the fetches under way."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _ask_once(self, origin: str) -> _Verdict:
        task = self._running.get(origin)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(origin))
            self._running[origin] = task
            task.add_done_callback(lambda _: self._running.pop(origin, None))
        return await asyncio.shield(task)  # a caller that gives up must not take the others' answer along

    async def _ask(self, origin: str) -> _Verdict:
        try:
            verdict = self._judge(origin, await self._fetch_patiently(origin))
        except Fault as fault:
            verdict = _Verdict(self._clock() + FAULT_KEEP_S, "", fault.with_traceback(None))
        self._keep(origin, verdict)
        return verdict

    async def _fetch_patiently(self, origin: str) -> RobotsAnswer:
        for pause_s in self._pauses_s:
            try:
                return await self._fetch(origin)
            except Fault as fault:
                if not fault.again:
                    raise
            await asyncio.sleep(pause_s)
        try:
            return await self._fetch(origin)
        except Fault as fault:
            if not fault.again:
                raise
            tries = len(self._pauses_s) + 1
            detail = f"robots.txt of {origin} could not be read in {tries} tries: {fault.detail}"
            # No more tries of the URL: they would only find this, kept
            raise Fault(fault.kind, detail, again=False, wait_s=fault.wait_s, status=fault.status) from None

    def _judge(self, origin: str, answer: RobotsAnswer) -> _Verdict:
        """RFC 9309, section 2.3.1: 2xx rules; redirects without end and 4xx allow all; errors of the server forbid all."""
        now = self._clock()
        status = answer.status
        if 200 <= status < 300:
            return _Verdict(now + self._keep_s, our_rules(answer.text), None)
        if 300 <= status < 500 and status != 429:
            return _Verdict(now + self._keep_s, "", None)
        detail = f"robots.txt of {origin} answers {status}"
        return _Verdict(now + ERROR_KEEP_S, "", Fault("robots", detail, status=status))

    def _keep(self, origin: str, verdict: _Verdict) -> None:
        self._drop(origin)
        self._kept[origin] = verdict
        self._num_chars += len(verdict.rules)
        while len(self._kept) > self._num_hosts or (self._num_chars > MAX_KEPT_CHARS and len(self._kept) > 1):
            self._drop(next(iter(self._kept)))

    def _drop(self, origin: str) -> None:
        verdict = self._kept.pop(origin, None)
        if verdict is not None:
            self._num_chars -= len(verdict.rules)
        self._drop_parsed(origin)

    def _drop_parsed(self, origin: str) -> None:
        _, num_chars = self._parsed.pop(origin, (None, 0))
        self._num_parsed_chars -= num_chars

    def _rules(self, origin: str, text: str) -> Protego:
        if origin in self._parsed:
            self._parsed.move_to_end(origin)
            return self._parsed[origin][0]
        rules = Protego.parse(text)
        self._parsed[origin] = rules, len(text)
        self._num_parsed_chars += len(text)
        while len(self._parsed) > NUM_PARSED or (self._num_parsed_chars > MAX_PARSED_CHARS and len(self._parsed) > 1):
            self._drop_parsed(next(iter(self._parsed)))
        return rules


def our_rules(text: bytes) -> str:
    """Return the rules that concern us as one group for everybody; empty if there are none.

    Groups that name us exactly (in any case) count together, else those for `*`: protego by itself would also take `ir`,
    and would not see us in `irdistill/1.0`. Anything that is no robots.txt has no groups.
    """
    ours: list[str] = []
    general: list[str] = []
    is_named = in_agents = to_us = to_all = False
    for line in _lines(text):
        agent = _AGENT_LINE.match(line)
        if agent:
            if not in_agents:
                to_us = to_all = False
            in_agents = True
            to_us = to_us or _is_ours(agent[1])
            to_all = to_all or agent[1].split()[:1] == ["*"]
            is_named = is_named or to_us
        elif not _SITE_WIDE.match(line):
            in_agents = False
            if to_us:
                ours.append(line)
            if to_all:
                general.append(line)
    rules = ours if is_named else general
    return "\n".join(("User-agent: *", *rules)) if rules else ""


def _lines(text: bytes) -> list[str]:
    """Non-empty lines without comments."""
    if len(text) > MAX_BYTES:
        text = text[:MAX_BYTES].rpartition(b"\n")[0]  # half a rule may say more than the whole
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        decoded = text.decode("utf-16", "replace")
    else:
        decoded = text.decode("utf-8-sig", "replace")
    lines = (line.partition("#")[0].strip(" \t\0\ufeff") for line in decoded.splitlines())
    return [line for line in lines if line]


def _is_ours(agent: str) -> bool:
    token = _TOKEN.match(agent)
    return token is not None and token[0].lower() == AGENT


def _delay_s(rules: Protego) -> float | None:
    """Crawl-delay and Request-rate, neither in the RFC, both in use; the slower counts."""
    delay: float | None = rules.crawl_delay(AGENT)
    rate = rules.request_rate(AGENT)
    if rate is None or rate.start_time is not None:
        return delay
    return max(delay or 0.0, float(rate.seconds / rate.requests))
