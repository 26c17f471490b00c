"""Manners towards one host: how many connections, how often, and when to leave it alone. One event loop, no locks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from .config import FetchConfig
from .faults import Fault

START_LIMIT = 2  # connections to a host nothing is known of
MAX_CRAWL_DELAY_S = 30.0  # what Yandex and Bing cap theirs near; longer ones would mean never to finish
MAX_PARK_S = 3600.0
MIN_RATE_HZ = 0.1  # halving stops here; what is slower is for Retry-After and parking
BURST_S = 0.1  # so much of the rate may be used at once: timers are coarse, and thumbnails of one page come together
RATE_GAIN = 1.05  # a success
NUM_IDLE = 20_000  # hosts remembered though nothing is under way; about 10 MB

_NO_ANSWER = frozenset({"dns", "connect", "tls", "timeout", "http-5xx", "http-429", "protocol", "truncated"})
_NOT_ASKED = frozenset({"robots", "policy", "duplicate"})  # say nothing of the host; every other kind is an answer
_OVERLOAD = frozenset({"http-429", "http-5xx", "timeout", "connect"})
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Host:
    """What is known of one origin."""

    origin: str
    limit: int  # connections
    rate_hz: float
    park_s: float  # the next parking
    num_open: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None
    successes: int = 0  # in a row, since the limit last changed
    failures: int = 0  # in a row
    last_fault: Fault | None = None
    has_answered: bool = False
    num_breathers: int = 0  # since it last answered
    slowdowns: int = 0  # how often limit or rate were cut
    due: float = -math.inf  # when the next request comes if they come evenly (GCRA's theoretical arrival time)
    last_start: float = -math.inf
    crawl_delay_s: float = 0.0
    paused_until: float = -math.inf
    parked_until: float | None = None  # past: one request tries it out
    why_parked: str = ""

    def delay_s(self, now: float) -> float:
        """Seconds until the next request may start: <= 0 now, inf when another one has ended."""
        if self.num_open >= (self.limit if self.parked_until is None else 1):
            return math.inf
        start = max(self.paused_until, self.due - BURST_S)
        if self.crawl_delay_s:
            start = max(start, self.last_start + self.crawl_delay_s)
        return start - now

    def take(self, now: float) -> None:
        self.num_open += 1
        self.last_start = now
        self.due = max(self.due, now) + 1 / self.rate_hz

    def is_parked(self, now: float) -> bool:
        return self.parked_until is not None and now < self.parked_until

    def parked_fault(self) -> Fault:
        last = self.last_fault
        assert last is not None, "parked without a fault"
        return Fault(last.kind, f"{last.detail}; {self.origin} {self.why_parked}", again=False, status=last.status)


class Slot:
    """One request's place at a host: `async with hosts.slot(origin) as slot`; tell it how the request ended, once."""

    __slots__ = ("_host", "_hosts", "_is_trial", "_origin", "_slowdowns", "_told")

    def __init__(self, hosts: Hosts, origin: str) -> None:
        self._hosts, self._origin = hosts, origin
        self._told = self._is_trial = False
        self._slowdowns = 0

    async def __aenter__(self) -> Slot:
        self._host = host = await self._hosts._enter(self._origin)
        self._slowdowns, self._is_trial = host.slowdowns, host.parked_until is not None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hosts._leave(self._host)

    def succeeded(self) -> None:
        """The host answered as it should."""
        self._tell()
        self._hosts._on_success(self._host, trial=self._is_trial)

    def failed(self, fault: Fault) -> None:
        """The request ended in a fault; whether that is the host's, the kind says."""
        self._tell()
        # Requests under way when the host was slowed down tell nothing new: six of them would cut it to a sixty-fourth
        self._hosts._on_fault(self._host, fault, is_news=self._slowdowns == self._host.slowdowns, trial=self._is_trial)

    def _tell(self) -> None:
        assert not self._told, "a slot was told twice how its request ended"
        self._told = True


class Hosts:
    """Slots per origin (`Url.origin`), first come first served.

    Connections: few at first, one more after as many successes in a row as there are, half of them when the host is
    overloaded (429, 5xx, time-outs, no connection). Rate: `max_rate_per_host_hz` or what robots.txt asks; a 429 or 503 halves
    it. Retry-After pauses the whole host. `park_after` failures in a row park it for `park_s`; then one request tries it
    out. A host that had answered before is given `breathers_s` first, while its rows wait.

    Args:
        cfg: limits.
        clock: the event loop's seconds.
    """

    def __init__(self, cfg: FetchConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._cfg, self._clock = cfg, clock
        self._start_limit = min(START_LIMIT, cfg.max_per_host)
        self._busy: dict[str, _Host] = {}
        self._idle: OrderedDict[str, _Host] = OrderedDict()  # longest idle first

    def slot(self, origin: str) -> Slot:
        """Return a place at the host; entering it waits for a free connection and for the rate.

        Entering raises a Fault of the host's last kind if it is parked, or is parked while one waits.
        """
        return Slot(self, origin)

    def crawl_delay(self, origin: str, seconds: float) -> None:
        """Keep at least so long between the starts of two requests; capped at 30 s."""
        host = self._busy.get(origin) or self._idle.get(origin) or self._remember(self._new(origin))
        host.crawl_delay_s = min(seconds, MAX_CRAWL_DELAY_S) if seconds > 0 else 0.0

    def summary(self) -> Mapping[str, str]:
        """Return the parked origins with the reason."""
        hosts = [*self._idle.values(), *self._busy.values()]
        return {
            host.origin: f"{host.why_parked}, the last {host.last_fault}"
            for host in hosts
            if host.parked_until is not None
        }

    async def _enter(self, origin: str) -> _Host:
        host = self._busy.get(origin)
        now = self._clock()
        if host is None:
            host = self._idle.get(origin) or self._new(origin)
            if not host.is_parked(now):
                self._idle.pop(origin, None)
                self._busy[origin] = host
        if host.is_parked(now):
            raise host.parked_fault()
        if not host.waiting and host.delay_s(now) <= 0:
            host.take(now)
            return host
        await self._wait(host)
        if host.is_parked(self._clock()):  # between our turn and now
            self._leave(host)
            raise host.parked_fault()
        return host

    async def _wait(self, host: _Host) -> None:
        turn = asyncio.get_running_loop().create_future()
        host.waiting.append(turn)
        self._let_in(host)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # _let_in may have skipped it
                    host.waiting.remove(turn)
                self._retire(host)
            elif turn.exception() is None:  # it was our turn already
                self._leave(host)
            raise

    def _leave(self, host: _Host) -> None:
        host.num_open -= 1
        self._let_in(host)
        self._retire(host)

    def _let_in(self, host: _Host) -> None:
        """Wake all whose turn it is; set the timer for the next."""
        now = self._clock()
        waiting = host.waiting
        while waiting:
            if waiting[0].done():  # cancelled, and its task has not run yet
                waiting.popleft()
                continue
            delay_s = host.delay_s(now)
            if delay_s > 0:
                if host.timer is None and delay_s < math.inf:
                    host.timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer, host)
                return
            host.take(now)
            waiting.popleft().set_result(None)

    def _on_timer(self, host: _Host) -> None:
        host.timer = None
        self._let_in(host)

    def _on_success(self, host: _Host, *, trial: bool) -> None:
        self._on_answer(host, trial=trial)
        host.rate_hz = min(host.rate_hz * RATE_GAIN, self._cfg.max_rate_per_host_hz)
        host.successes += 1
        if host.successes >= host.limit and host.limit < self._cfg.max_per_host:
            host.limit += 1
            host.successes = 0

    def _on_fault(self, host: _Host, fault: Fault, *, is_news: bool, trial: bool) -> None:
        if fault.kind in _NOT_ASKED:
            return
        if fault.kind in _NO_ANSWER:
            host.failures += 1
            host.successes = 0
            host.last_fault = fault
            if is_news:
                self._slow_down(host, fault)
        else:
            self._on_answer(host, trial=trial)  # a 404 is one
        if fault.wait_s is not None and fault.wait_s > 0:
            self._pause(host, fault, fault.wait_s)
        if host.failures and (trial or (host.failures >= self._cfg.park_after and host.parked_until is None)):
            if host.has_answered and not trial and host.num_breathers < len(self._cfg.breathers_s):
                self._give_time(host)
                return
            self._park(host, host.park_s, f"parked after {host.failures} failure{'s' * (host.failures > 1)} in a row")
            host.park_s = max(min(2 * host.park_s, MAX_PARK_S), self._cfg.park_s)

    def _slow_down(self, host: _Host, fault: Fault) -> None:
        if fault.kind in _OVERLOAD:
            host.limit = max(host.limit // 2, 1)
            host.slowdowns += 1
        if fault.kind == "http-429" or fault.status == 503:
            host.rate_hz = min(max(host.rate_hz / 2, MIN_RATE_HZ), self._cfg.max_rate_per_host_hz)

    def _give_time(self, host: _Host) -> None:
        """Let the rows of a host that was well wait out a short trouble; parked, they would all end at once."""
        seconds = self._cfg.breathers_s[host.num_breathers]
        host.num_breathers += 1
        host.failures = 0
        host.paused_until = max(host.paused_until, self._clock() + seconds)
        _log.info("%s is given %.0f s after failures in a row; the last: %s", host.origin, seconds, host.last_fault)

    def _pause(self, host: _Host, fault: Fault, seconds: float) -> None:
        """Obey Retry-After; nobody waits longer than a URL may take."""
        if seconds > self._cfg.deadline_s:
            host.last_fault = fault
            self._park(host, seconds, f"parked, it asks to be left alone for {seconds:.0f} s")
        else:
            host.paused_until = max(host.paused_until, self._clock() + seconds)

    def _park(self, host: _Host, seconds: float, why: str) -> None:
        host.why_parked = why
        host.parked_until = max(self._clock() + seconds, host.parked_until or -math.inf)
        _log.info("%s %s; asked again in %.0f s; the last: %s", host.origin, why, seconds, host.last_fault)
        while host.waiting:
            turn = host.waiting.popleft()
            if not turn.done():
                turn.set_exception(host.parked_fault())

    def _on_answer(self, host: _Host, *, trial: bool) -> None:
        if host.parked_until is not None and not trial:
            return  # asked before it was parked; a Retry-After may be the reason
        host.failures = host.num_breathers = 0
        host.has_answered = True
        host.last_fault = host.parked_until = None
        host.park_s = self._cfg.park_s

    def _new(self, origin: str) -> _Host:
        return _Host(origin, self._start_limit, self._cfg.max_rate_per_host_hz, self._cfg.park_s)

    def _retire(self, host: _Host) -> None:
        """Forget an idle host, unless there is something to remember."""
        if host.num_open or host.waiting or self._busy.get(host.origin) is not host:
            return
        if host.timer is not None:
            host.timer.cancel()
            host.timer = None
        del self._busy[host.origin]
        if self._has_history(host):
            self._remember(host)

    def _remember(self, host: _Host) -> _Host:
        self._idle[host.origin] = host
        if len(self._idle) > NUM_IDLE:
            self._idle.popitem(last=False)
        return host

    def _has_history(self, host: _Host) -> bool:
        return (
            host.failures > 0
            or host.num_breathers > 0
            or host.limit != self._start_limit
            or host.rate_hz < self._cfg.max_rate_per_host_hz
            or host.crawl_delay_s > 0
            or max(host.due, host.paused_until) > self._clock()
        )
