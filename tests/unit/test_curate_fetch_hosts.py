"""Manners per host: slots, rate, back-off, parking. Time is virtual: the loop's clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import pytest

from curate.fetch import hosts as module
from curate.fetch.config import FetchConfig
from curate.fetch.faults import CLASSES, Fault
from curate.fetch.hosts import BURST_S, Hosts

A = "http://a.org"


class _Jump(selectors.DefaultSelector):
    """Never sleeps: what the loop would wait is added to its clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "the test waits for something that never comes"
        self.now += max(timeout, 0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jump = _Jump()
        super().__init__(self.jump)

    def time(self) -> float:
        return self.jump.now


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(coroutine)


def now() -> float:
    return asyncio.get_running_loop().time()


def make(**fields: Any) -> Hosts:
    return Hosts(FetchConfig(**({"breathers_s": ()} | fields)), asyncio.get_running_loop().time)


def fault(kind: str, **fields: Any) -> Fault:
    return Fault(kind, f"it was {kind}", **fields)


async def ask(hosts: Hosts, result: Fault | None = None, *, origin: str = A, takes_s: float = 0.0) -> float:
    """One request; returns when it started."""
    async with hosts.slot(origin) as slot:
        started = now()
        if takes_s:
            await asyncio.sleep(takes_s)
        if result is None:
            slot.succeeded()
        else:
            slot.failed(result)
    return started


async def grow(hosts: Hosts, num: int = 200) -> None:
    for _ in range(num):
        await ask(hosts)


class Gauge:
    """How many requests are open at a time."""

    def __init__(self) -> None:
        self.open = self.most = 0

    async def ask(self, hosts: Hosts, takes_s: float = 1.0) -> None:
        async with hosts.slot(A):
            self.open += 1
            self.most = max(self.most, self.open)
            await asyncio.sleep(takes_s)
            self.open -= 1


async def limit_of(hosts: Hosts) -> int:
    gauge = Gauge()
    await asyncio.gather(*(gauge.ask(hosts) for _ in range(20)))
    return gauge.most


def test_connections_grow_by_successes_and_halve() -> None:
    async def go() -> None:
        hosts = make(max_per_host=6, max_rate_per_host_hz=1e6)
        assert await limit_of(hosts) == 2
        await grow(hosts, 2)
        assert await limit_of(hosts) == 3
        await grow(hosts, 2)
        assert await limit_of(hosts) == 3  # three in a row are needed now
        await grow(hosts, 1)
        assert await limit_of(hosts) == 4
        await grow(hosts)
        assert await limit_of(hosts) == 6
        for kind, left in (
            ("truncated", 6),
            ("http-4xx", 6),
            ("robots", 6),
            ("timeout", 3),
            ("connect", 1),
            ("http-5xx", 1),
        ):
            await ask(hosts, fault(kind))
            assert await limit_of(hosts) == left, kind

    run(go())


def test_one_connection_where_only_one_is_allowed() -> None:
    async def go() -> None:
        hosts = make(max_per_host=1)
        await grow(hosts, 5)
        assert await limit_of(hosts) == 1

    run(go())


def test_requests_under_way_slow_down_once() -> None:
    async def go() -> None:
        hosts = make(max_per_host=6, max_rate_per_host_hz=1e6)
        await grow(hosts)
        await asyncio.gather(*(ask(hosts, fault("http-429", status=429), takes_s=1) for _ in range(6)))
        assert await limit_of(hosts) == 3

    run(go())


def test_first_come_first_served() -> None:
    async def go() -> None:
        hosts = make(max_per_host=1, max_rate_per_host_hz=10)
        order: list[int] = []

        async def visit(index: int) -> None:
            async with hosts.slot(A):
                order.append(index)

        await asyncio.gather(*(visit(index) for index in range(30)))
        assert order == list(range(30))

    run(go())


def test_rate_with_a_small_burst() -> None:
    async def go() -> None:
        hosts = make(max_rate_per_host_hz=50)
        start = now()
        starts = [await ask(hosts) - start for _ in range(106)]
        assert sum(each <= 1e-9 for each in starts) == 1 + round(50 * BURST_S)
        assert starts[-1] == pytest.approx(105 / 50 - BURST_S, abs=1e-6)
        assert max(b - a for a, b in pairwise(starts[10:])) < 0.021
        assert await ask(hosts, origin="http://b.org") == pytest.approx(start + starts[-1])  # hosts do not share

    run(go())


def test_rate_holds_for_requests_one_after_the_other_that_leave_the_host_idle() -> None:
    async def go() -> None:
        hosts = make(max_rate_per_host_hz=1)
        start = now()
        for _ in range(4):
            await ask(hosts)
        assert now() - start == pytest.approx(3 - BURST_S)

    run(go())


def test_429_halves_the_rate_and_successes_raise_it() -> None:
    async def go() -> None:
        hosts = make(max_rate_per_host_hz=8, max_per_host=1)
        await ask(hosts, fault("http-429"))
        await ask(hosts, fault("http-5xx", status=503))
        await ask(hosts, fault("http-5xx", status=500))  # halves connections only
        await asyncio.sleep(10)
        starts = [await ask(hosts) for _ in range(3)]
        assert starts[1] - starts[0] == pytest.approx(1 / 2 - BURST_S)
        assert starts[2] - starts[1] == pytest.approx(1 / (2 * 1.05))
        await grow(hosts)
        await asyncio.sleep(10)
        starts = [await ask(hosts) for _ in range(3)]
        assert starts[2] - starts[1] == pytest.approx(1 / 8)

    run(go())


def test_rate_stops_falling_somewhere() -> None:
    async def go() -> None:
        hosts = make(park_after=1000)
        for _ in range(30):
            await ask(hosts, fault("http-429"))
        start = now()
        await ask(hosts)
        assert now() - start <= 10

    run(go())


def test_retry_after_pauses_the_whole_host() -> None:
    async def go() -> None:
        hosts = make()
        start = now()
        waiting = [asyncio.create_task(ask(hosts)) for _ in range(3)]
        await ask(hosts, fault("http-429", wait_s=60.0, again=True))
        later = [await each for each in waiting[2:]]
        assert await ask(hosts) >= start + 60
        assert all(each == start or each >= start + 60 for each in later)
        assert await ask(hosts, origin="http://b.org") < start + 62

    run(go())


def test_a_retry_after_longer_than_a_url_may_take_parks() -> None:
    async def go() -> None:
        hosts = make(deadline_s=180)
        await ask(hosts, fault("http-429", wait_s=7200.0, again=True, status=429))
        with pytest.raises(Fault, match=r"it was http-429; http://a\.org parked, it asks .* 7200 s$") as caught:
            await ask(hosts)
        assert caught.value.status == 429
        assert A in hosts.summary()
        await asyncio.sleep(7199)
        with pytest.raises(Fault):
            await ask(hosts)
        await asyncio.sleep(2)
        await ask(hosts)

    run(go())


def test_retry_after_counts_with_any_answer() -> None:
    async def go() -> None:
        hosts = make(deadline_s=180)
        start = now()
        await ask(hosts, fault("http-4xx", wait_s=20.0, status=403))
        assert await ask(hosts) == pytest.approx(start + 20)
        await ask(hosts, fault("http-4xx", wait_s=200.0, status=403))
        with pytest.raises(Fault, match="asks to be left alone for 200 s"):
            await ask(hosts)

    run(go())


def test_crawl_delay() -> None:
    async def go() -> None:
        hosts = make()
        hosts.crawl_delay(A, 5)
        start = now()
        starts = [each - start for each in await asyncio.gather(*(ask(hosts) for _ in range(4)))]
        assert starts == pytest.approx([0, 5, 10, 15])
        hosts.crawl_delay(A, 3600)
        assert await ask(hosts) - start == pytest.approx(45)  # capped at 30
        hosts.crawl_delay(A, float("nan"))
        hosts.crawl_delay(A, -1)
        assert await ask(hosts) - start == pytest.approx(45)

    run(go())


def test_parking() -> None:
    async def go() -> None:
        hosts = make(park_after=3, park_s=300, max_per_host=1)
        for kind in ("timeout", "http-4xx", "connect", "dns"):
            await ask(hosts, fault(kind))  # the 404 is an answer: two in a row
        assert hosts.summary() == {}
        async with hosts.slot(A) as held:
            waiting = [asyncio.create_task(ask(hosts)) for _ in range(5)]
            await asyncio.sleep(0)
            held.failed(fault("timeout", again=True))
        results = await asyncio.gather(*waiting, return_exceptions=True)
        for each in results:
            assert isinstance(each, Fault)
            assert (each.kind, each.again) == ("timeout", False)
            assert each.detail == "it was timeout; http://a.org parked after 3 failures in a row"
        assert hosts.summary() == {A: "parked after 3 failures in a row, the last timeout: it was timeout"}
        with pytest.raises(Fault, match="parked after 3"):
            await ask(hosts)

    run(go())


def test_after_parking_one_request_tries_the_host() -> None:
    async def go() -> None:
        hosts = make(park_after=2, park_s=300)
        await ask(hosts, fault("connect"))
        await ask(hosts, fault("connect"))
        parked_for = 300.0
        for _ in range(6):  # 300, 600, 1200, 2400, 3600, 3600
            await asyncio.sleep(parked_for - 1)
            with pytest.raises(Fault, match="parked"):
                await ask(hosts)
            await asyncio.sleep(1.1)
            trial = asyncio.create_task(ask(hosts, fault("connect"), takes_s=2))
            others = [asyncio.create_task(ask(hosts)) for _ in range(4)]
            await asyncio.sleep(1)
            assert not any(each.done() for each in others)
            await trial
            results = await asyncio.gather(*others, return_exceptions=True)
            assert all(isinstance(each, Fault) and each.kind == "connect" for each in results)
            parked_for = min(2 * parked_for, 3600.0)
        await asyncio.sleep(3601)
        await asyncio.gather(ask(hosts, takes_s=2), *(ask(hosts) for _ in range(4)))  # a success frees all
        assert hosts.summary() == {}
        await ask(hosts, fault("connect"))
        await ask(hosts, fault("connect"))
        await asyncio.sleep(301)
        await ask(hosts)  # and the first parking is short again

    run(go())


def test_a_trial_that_says_nothing_hands_on_to_the_next() -> None:
    async def go() -> None:
        hosts = make(park_after=1, park_s=10)
        await ask(hosts, fault("tls"))
        await asyncio.sleep(11)
        async with hosts.slot(A):
            other = asyncio.create_task(ask(hosts, fault("http-4xx")))
            await asyncio.sleep(1)
            assert not other.done()
        await other
        assert hosts.summary() == {}

    run(go())


def test_answers_from_before_the_parking_do_not_end_it() -> None:
    async def go() -> None:
        hosts = make(park_after=1, park_s=300)
        early = asyncio.create_task(ask(hosts, takes_s=5))
        await asyncio.sleep(1)
        await ask(hosts, fault("timeout"))
        await early
        with pytest.raises(Fault, match="parked"):
            await ask(hosts)

    run(go())


@pytest.mark.parametrize("kind", CLASSES)
def test_which_kinds_park(kind: str) -> None:
    async def go() -> None:
        hosts = make(park_after=2, park_s=300)
        for _ in range(2):
            await ask(hosts, fault(kind))
        expected = kind in ("dns", "connect", "tls", "timeout", "http-5xx", "http-429", "protocol", "truncated")
        assert bool(hosts.summary()) == expected

    run(go())


@pytest.mark.parametrize("kind", [None, *CLASSES])
def test_which_kinds_end_a_row_of_failures(kind: str | None) -> None:
    async def go() -> None:
        hosts = make(park_after=3, park_s=300)
        for result in (fault("timeout"), fault("timeout"), None if kind is None else fault(kind), fault("timeout")):
            if not hosts.summary():
                await ask(hosts, result)
        failure = kind in ("dns", "connect", "tls", "timeout", "http-5xx", "http-429", "protocol", "truncated")
        says_nothing = kind in ("robots", "policy", "duplicate")  # the host was not asked
        assert bool(hosts.summary()) == (failure or says_nothing)

    run(go())


@pytest.mark.parametrize("kind", [None, "opt-out", "http-4xx", "robots", "policy"])
def test_a_trial_that_does_not_fail_does_not_park_again(kind: str | None) -> None:
    async def go() -> None:
        hosts = make(park_after=1, park_s=300)
        await ask(hosts, fault("timeout"))
        await asyncio.sleep(301)
        await ask(hosts, None if kind is None else fault(kind))
        await ask(hosts)  # not parked
        assert hosts.summary() == {}

    run(go())


def test_cancelled_waiters_free_their_place() -> None:
    async def go() -> None:
        hosts = make(max_per_host=1, max_rate_per_host_hz=1e6)
        async with hosts.slot(A) as slot:
            waiting = [asyncio.create_task(ask(hosts)) for _ in range(6)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            waiting[3].cancel()
            await asyncio.sleep(0)
            waiting[1].cancel()  # and one in the same step in which its turn comes
            slot.succeeded()
        waiting[2].cancel()  # its turn came; its task does not know yet
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in results] == [True, True, True, True, False, False]
        assert not hosts._busy
        await ask(hosts)

    run(go())


def test_a_request_that_raises_frees_its_place() -> None:
    async def go() -> None:
        hosts = make(max_per_host=1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with hosts.slot(A):
                    raise ZeroDivisionError
        assert await limit_of(hosts) == 1
        assert hosts.summary() == {}

    run(go())


def test_random_cancellations_leave_nothing_behind() -> None:
    async def go() -> None:
        rng = random.Random(5)
        hosts = make(max_per_host=3, max_rate_per_host_hz=100, park_after=4, park_s=1)
        kinds = [None, None, fault("timeout"), fault("http-429", wait_s=0.5), fault("http-4xx")]
        tasks = []
        for _ in range(600):
            origin = f"http://{rng.randrange(3)}.org"
            tasks.append(asyncio.create_task(ask(hosts, rng.choice(kinds), origin=origin, takes_s=rng.random() / 10)))
            if rng.random() < 0.4:
                rng.choice(tasks).cancel()
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() / 20)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in results} == {float, Fault, asyncio.CancelledError}
        assert not hosts._busy
        await asyncio.sleep(4000)
        for index in range(3):
            await ask(hosts, origin=f"http://{index}.org")
        assert not hosts.summary()

    run(go())


def test_hosts_without_history_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUM_IDLE", 50)

    async def go() -> None:
        hosts = make()
        for index in range(300):
            await ask(hosts, origin=f"http://{index}.org", takes_s=0.03)
        assert not hosts._idle and not hosts._busy
        for index in range(300):
            await ask(hosts, fault("dns"), origin=f"http://{index}.org")
            hosts.crawl_delay(f"http://other{index}.org", 3)
        assert len(hosts._idle) == 50
        assert not hosts._busy

    run(go())


def test_a_slot_is_told_once() -> None:
    async def go() -> None:
        hosts = make()
        async with hosts.slot(A) as slot:
            slot.succeeded()
            with pytest.raises(AssertionError, match="told twice"):
                slot.failed(fault("timeout"))

    run(go())


def test_parked_between_the_turn_and_the_first_step() -> None:
    async def go() -> None:
        hosts = make(park_after=1, max_rate_per_host_hz=1e6)
        first, second = hosts.slot(A), hosts.slot(A)
        await first.__aenter__()
        await second.__aenter__()
        waiter = asyncio.create_task(ask(hosts))
        await asyncio.sleep(0)
        await first.__aexit__(None, None, None)  # the waiter's turn, but its task has not run yet
        second.failed(fault("connect"))
        with pytest.raises(Fault, match="parked after 1 failure in a row"):
            await waiter
        await second.__aexit__(None, None, None)
        assert not hosts._busy

    run(go())


def test_a_host_that_was_well_is_given_time_before_it_is_parked() -> None:
    async def go() -> None:
        hosts = make(park_after=3, breathers_s=(10.0, 60.0), max_per_host=1)

        async def ask(what: Fault | None) -> float:
            async with hosts.slot(A) as slot:
                started = now()
                slot.succeeded() if what is None else slot.failed(what)
            return started

        await ask(None)
        begin = now()
        times = [await ask(fault("connect")) - begin for _ in range(9)]
        assert [round(seconds) for seconds in times] == [0, 0, 0, 10, 10, 10, 70, 70, 70]
        with pytest.raises(Fault, match="parked after 3 failures"):
            await ask(None)

    run(go())


def test_an_answer_brings_the_time_back() -> None:
    async def go() -> None:
        hosts = make(park_after=2, breathers_s=(10.0,), max_per_host=1)
        for _ in range(3):
            async with hosts.slot(A) as slot:
                slot.succeeded()
            for _ in range(2):
                async with hosts.slot(A) as slot:
                    slot.failed(fault("timeout"))
        begin = now()
        async with hosts.slot(A) as slot:
            slot.succeeded()
        assert now() - begin == pytest.approx(10.0, abs=0.2)

    run(go())


def test_a_host_that_never_answered_is_parked_at_once() -> None:
    async def go() -> None:
        hosts = make(park_after=2, breathers_s=(10.0,))
        for _ in range(2):
            async with hosts.slot(A) as slot:
                slot.failed(fault("dns"))
        with pytest.raises(Fault, match="parked"):
            async with hosts.slot(A):
                pass

    run(go())
