"""The address guard: which addresses are public, and that aiohttp connects to what was checked and to nothing else."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from curate.core.errors import ConfigError, ToolkitError
from curate.fetch import addresses as module
from curate.fetch.addresses import FAILURE_KEEP_S, Guard, Resolver, is_public, literal_address
from curate.fetch.faults import Fault

PUBLIC = "93.184.215.14"


@pytest.mark.parametrize(
    "ip",
    [
        PUBLIC, "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0",
        "172.15.0.1", "172.32.0.1", "192.167.0.1", "223.255.255.255",
        "198.17.0.1", "198.20.0.1", "2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "2002:808:808::1",
        "64:ff9b::8.8.8.8", "64:ff9b:1::8.8.8.8", "2001:0:808:808::f7f7:f7f7",  # Teredo writes 8.8.8.8 inverted
    ],
)  # fmt: skip
def test_public(ip: str) -> None:
    assert is_public(ip)


@pytest.mark.parametrize(
    "ip",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254",
        "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.19.255.255",
        "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1",
        "168.63.129.16",
        "::", "::1", "::7f00:1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
        "::ffff:0:8.8.8.8", "fe80::1", "fe80::1%eth0", "2606:4700::1%eth0", "::ffff:8.8.8.8%1", "fec0::1", "fc00::1",
        "fd00:ec2::254", "ff02::1", "100::1", "2001:db8::1", "3fff::1", "2001:2::1", "2001:10::1", "5f00::1", "4000::1",
        "2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::", "64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::10.0.0.1",
        "64:ff9b:1:a00:0:100:808:808", "2001:0:7f00:1::f7f7:f7f7", "2001:0:808:808::f5ff:fffe",
        "", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "010.0.0.1", "1.2.3.4/32", "[::1]", " 8.8.8.8",
    ],
)  # fmt: skip
def test_not_public(ip: str) -> None:
    assert not is_public(ip)


@pytest.mark.parametrize(
    ("host", "ip"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.0.0.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("10.1.2", "10.1.0.2"),
        ("0", "0.0.0.0"),
        ("::1", "::1"),
        ("example.org", None),
        ("08.0.0.1", None),  # no octal number, hence a name
        ("1.2.3.4.5", None),
        ("256.1.1.1", None),
        ("4294967296", None),
        ("1e100.net", None),
        ("0x7f.example.org", None),
    ],
)
def test_literals(host: str, ip: str | None) -> None:
    assert literal_address(host) == ip


def test_check_literal() -> None:
    guard = Guard(())
    guard.check_literal("example.org", 80)
    guard.check_literal("8.8.8.8", 80)
    guard.check_literal("0x7f.example.org", 80)
    for host in ("134744072", "8.8.2056", "08.0.0.1", "256.1.1.1", "1.2.3.4.5"):
        with pytest.raises(Fault, match=r"policy: .* is neither a name nor an address"):
            guard.check_literal(host, 80)
    for host in ("127.0.0.1", "2130706433", "0x7f.1", "::1", "::ffff:7f00:1"):
        with pytest.raises(Fault, match="is not a public address") as caught:
            guard.check_literal(host, 80)
        assert caught.value.kind == "policy"
        assert not caught.value.again
    with pytest.raises(
        Fault,
        match=r"^policy: 10\.0\.0\.1 is not a public address \(if it may be asked: --allow-private 10\.0\.0\.1:80\)$",
    ):
        guard.check_literal("10.0.0.1", 80)
    with pytest.raises(
        Fault, match=r"^policy: 127\.1 resolves to 127\.0\.0\.1, which is not a public address \(if it may"
    ):
        guard.check_literal("127.1", 80)


def test_allow_private_is_exact() -> None:
    guard = Guard(("Pics.Example.:8001", "127.0.0.1:8002", "[::1]:8003", "::1:8004", "bücher.example:80"))
    guard.check("pics.example", 8001, "127.0.0.1")
    guard.check("pics.example", 8001, "10.0.0.1")
    guard.check("127.0.0.1", 8002, "127.0.0.1")
    guard.check("::1", 8003, "::1")
    guard.check("::1", 8004, "::1")
    guard.check("xn--bcher-kva.example", 80, "10.0.0.1")
    refused = [
        ("pics.example", 8002), ("pics.example", 80), ("a.pics.example", 8001), ("127.0.0.1", 8001), ("localhost", 8002),
        ("127.1", 8002), ("2130706433", 8002), ("::1", 8001), ("::ffff:7f00:1", 8002),
    ]  # fmt: skip
    for host, port in refused:
        with pytest.raises(Fault, match="not a public address"):
            guard.check(host, port, "127.0.0.1")


@pytest.mark.parametrize("place", ["example.org", "example.org:x", "a b:80", ":80", "[::1:80x", "[zz::]:80"])
def test_bad_allow_private(place: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        Guard((place,))


class FakeDns:
    """Stands in for socket.getaddrinfo; holds answers back until `let_go`."""

    def __init__(self, answers: dict[str, list[str] | Exception]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, host: str, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        self.asked.append(host)
        self.open.wait(5)
        answer = self.answers[host]
        if isinstance(answer, Exception):
            raise answer
        return [_entry(ip) for ip in answer]


def _entry(ip: str) -> tuple[Any, ...]:
    if ":" in ip:
        return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (ip, 0, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _install(monkeypatch: pytest.MonkeyPatch, answers: dict[str, list[str] | Exception]) -> FakeDns:
    dns = FakeDns(answers)
    monkeypatch.setattr(socket, "getaddrinfo", dns)
    return dns


def test_resolve_answers_and_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    dns = _install(monkeypatch, {"a.org": [PUBLIC, "2606:4700::1", PUBLIC]})

    async def go() -> None:
        clock = Clock()
        resolver = Resolver(Guard(()), timeout_s=2, keep_s=300, clock=clock)
        found = await resolver.resolve("a.org", 8080, socket.AF_UNSPEC)
        assert [(each["host"], each["family"]) for each in found] == [
            (PUBLIC, socket.AF_INET),
            ("2606:4700::1", socket.AF_INET6),
        ]
        assert all(each["flags"] & socket.AI_NUMERICHOST and each["port"] == 8080 for each in found)
        assert all(each["hostname"] == "a.org" for each in found)
        only = await resolver.resolve("a.org", 80, socket.AF_INET6)
        assert [each["host"] for each in only] == ["2606:4700::1"]
        clock.now += 299
        await resolver.resolve("a.org", 80)
        assert dns.asked == ["a.org"]
        clock.now += 2
        await resolver.resolve("a.org", 80)
        assert dns.asked == ["a.org", "a.org"]
        await resolver.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("answer", "kind", "again"),
    [
        (socket.gaierror(socket.EAI_AGAIN, "try again"), "dns", True),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "dns", False),
        (socket.gaierror(socket.EAI_NODATA, "no address"), "dns", False),
        (socket.gaierror(socket.EAI_SYSTEM, "system"), "dns", True),
        (OSError(5, "input/output error"), "dns", True),
        (UnicodeError("label too long"), "dns", False),
        ([], "dns", False),
        ([PUBLIC, "10.0.0.1"], "policy", False),
        (["::1"], "policy", False),
    ],
)
def test_resolve_failures(monkeypatch: pytest.MonkeyPatch, answer: Any, kind: str, again: bool) -> None:
    dns = _install(monkeypatch, {"a.org": answer})

    async def go() -> None:
        clock = Clock()
        resolver = Resolver(Guard(()), timeout_s=2, clock=clock)
        for _ in range(2):
            with pytest.raises(Fault) as caught:
                await resolver.resolve("a.org", 80, socket.AF_UNSPEC)
            assert (caught.value.kind, caught.value.again) == (kind, again)
        assert len(dns.asked) == 1
        clock.now += FAILURE_KEEP_S
        with pytest.raises(Fault):
            await resolver.resolve("a.org", 80, socket.AF_UNSPEC)
        assert len(dns.asked) == (2 if kind == "dns" else 1)
        await resolver.close()

    asyncio.run(go())


def test_one_lookup_at_a_time_survives_a_caller_that_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    dns = _install(monkeypatch, {"a.org": [PUBLIC], "b.org": [PUBLIC]})
    dns.open.clear()

    async def go() -> None:
        resolver = Resolver(Guard(()), timeout_s=2)
        callers = [asyncio.create_task(resolver.resolve("a.org", 80)) for _ in range(10)]
        callers.append(asyncio.create_task(resolver.resolve("b.org", 80)))
        await asyncio.sleep(0.02)
        callers[0].cancel()
        await asyncio.sleep(0)
        dns.open.set()
        found = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert all(isinstance(each, list) for each in found[1:])
        await resolver.close()

    asyncio.run(go())
    assert sorted(dns.asked) == ["a.org", "b.org"]


def test_a_wait_for_a_thread_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"h{index}.org" for index in range(40)]

    def look_up(host: str) -> tuple[tuple[int, str], ...]:
        time.sleep(0.02)
        return ((int(socket.AF_INET), PUBLIC),)

    monkeypatch.setattr(module, "_look_up", look_up)

    async def go() -> None:
        resolver = Resolver(Guard(()), timeout_s=0.2, threads=2)  # all of them take 0.4 s
        found = await asyncio.gather(*(resolver.resolve(name, 80) for name in names), return_exceptions=True)
        assert [each for each in found if not isinstance(each, list)] == []
        await resolver.close()

    asyncio.run(go())


def test_hung_lookups_time_out_and_others_start_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, list[str] | Exception] = {f"h{index}.org": [PUBLIC] for index in range(8)}
    dns = _install(monkeypatch, names)
    dns.open.clear()

    async def go() -> None:
        resolver = Resolver(Guard(()), timeout_s=0.05, threads=1)
        for index in range(4):  # one thread and three in its place
            with pytest.raises(Fault, match="no answer") as caught:
                await resolver.resolve(f"h{index}.org", 80)
            assert (caught.value.kind, caught.value.again) == ("dns", True)
        assert len(dns.asked) == 4
        waiting = asyncio.create_task(resolver.resolve("h4.org", 80))
        await asyncio.sleep(0.15)
        assert len(dns.asked) == 4  # no fifth thread
        assert not waiting.done()  # nor a fault: nobody has looked
        dns.open.set()
        assert await waiting
        assert await resolver.resolve("h5.org", 80)
        with pytest.raises(Fault):
            await resolver.resolve("h0.org", 80)  # kept
        assert dns.asked.count("h0.org") == 1
        await resolver.close()

    asyncio.run(go())


def test_a_lookup_nobody_waits_for_gives_up_its_place_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    dns = _install(monkeypatch, {"a.org": [PUBLIC], "b.org": [PUBLIC], "c.org": [PUBLIC]})
    dns.open.clear()

    async def go() -> None:
        resolver = Resolver(Guard(()), timeout_s=2, threads=1)
        first, second, third = (asyncio.create_task(resolver.resolve(f"{name}.org", 80)) for name in "abc")
        other = asyncio.create_task(resolver.resolve("c.org", 80))
        await asyncio.sleep(0.02)
        for task in (first, second, third):
            task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert list(resolver._running) == ["a.org", "c.org"]  # a thread is at the first, the third has another caller
        later = asyncio.create_task(resolver.resolve("b.org", 80))  # does not join the one that was given up
        await asyncio.sleep(0)
        dns.open.set()
        assert await later and await other
        assert dns.asked == ["a.org", "c.org", "b.org"]
        await resolver.close()

    asyncio.run(go())


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_ends_the_run(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    dns = _install(monkeypatch, {"a.org": OSError(code, "Too many open files")})

    async def go() -> None:
        resolver = Resolver(Guard(()), timeout_s=2)
        with pytest.raises(ToolkitError, match=r"^Too many open files: lower max_in_flight .* or raise ulimit -n$"):
            await resolver.resolve("a.org", 80)
        dns.answers["a.org"] = [PUBLIC]
        assert await resolver.resolve("a.org", 80)  # says nothing of the name, hence is not kept
        await resolver.close()

    asyncio.run(go())


def test_too_many_open_files_under_whatever_number_the_c_library_gives() -> None:
    script = """
import asyncio, os, resource
from curate.core.errors import ToolkitError
from curate.fetch.addresses import Guard, Resolver
async def go():
    resolver = Resolver(Guard(()), timeout_s=5)
    try:  # glibc has read its files now, and reports what went wrong then once more
        await resolver.resolve("localhost", 80)
    except Exception as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    files = []
    try:
        while True:
            files.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for name in ("a.invalid", "b.invalid"):
        try:
            await resolver.resolve(name, 80)
        except ToolkitError as error:
            print(error)
    for file in files:
        os.close(file)
    await resolver.close()
asyncio.run(go())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert (done.stderr, done.returncode) == ("", 0)
    assert [line.partition(": lower max_in_flight")[0] for line in lines[1:]] == ["Too many open files"] * 2


def test_close_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    dns = _install(monkeypatch, {"a.org": [PUBLIC]})
    dns.open.clear()

    async def go() -> None:
        resolver = Resolver(Guard(()), timeout_s=5)
        caller = asyncio.create_task(resolver.resolve("a.org", 80))
        await asyncio.sleep(0.01)
        await resolver.close()
        with pytest.raises(asyncio.CancelledError):
            await caller

    asyncio.run(go())
    dns.open.set()


def test_a_bug_in_the_lookup_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, {})

    async def go() -> None:
        resolver = Resolver(Guard(()), timeout_s=2)
        with pytest.raises(KeyError):
            await resolver.resolve("a.org", 80)

    asyncio.run(go())


def test_a_hung_lookup_does_not_keep_the_process() -> None:
    script = """
import asyncio, socket, threading
from curate.fetch.addresses import Guard, Resolver
from curate.fetch.faults import Fault
socket.getaddrinfo = lambda *args, **kwargs: threading.Event().wait()
async def go():
    resolver = Resolver(Guard(()), timeout_s=0.05)
    try:
        await resolver.resolve("a.org", 80)
    except Fault as fault:
        print(fault.kind)
    await resolver.close()
asyncio.run(go())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("dns", "", 0)


async def _with_server(
    guard_places: Callable[[int], tuple[str, ...]], visit: Callable[..., Awaitable[None]]
) -> list[str]:
    """Run `visit(session, port)` beside a loopback server; return the hosts it was asked for."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["Host"])
        return web.Response(text="pixels")

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        await web.SockSite(runner, listener).start()
        resolver = Resolver(Guard(guard_places(port)), timeout_s=2)
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, happy_eyeballs_delay=0.25)
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                await visit(session, port)
        finally:
            await resolver.close()
            await runner.cleanup()
    return seen


def test_fault_passes_through_aiohttp_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, list[str] | Exception] = {
        "mixed.example": [PUBLIC, "127.0.0.1"],
        "mixed2.example": ["127.0.0.1", PUBLIC],
        "gone.example": socket.gaierror(socket.EAI_NONAME, "unknown"),
        "0x7f.1": ["127.0.0.1"],
    }

    async def visit(session: aiohttp.ClientSession, port: int) -> None:
        _install(monkeypatch, answers)
        for host in answers:
            with pytest.raises(Fault) as caught:
                await session.get(f"http://{host}:{port}/x")
            assert caught.value.kind == ("dns" if host == "gone.example" else "policy")
            if "mixed" in host:
                assert caught.value.detail.startswith(f"{host} resolves to 127.0.0.1, which is not a public address (")

    assert asyncio.run(_with_server(lambda port: (), visit)) == []


def test_connects_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def visit(session: aiohttp.ClientSession, port: int) -> None:
        dns = _install(monkeypatch, {"pics.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
        async with session.get(f"http://pics.example:{port}/x", headers={"Connection": "close"}) as answer:
            assert await answer.text() == "pixels"
        assert dns.asked == ["pics.example"]  # once by us, never again by the connector
        dns.answers["pics.example"] = ["127.0.0.2"]  # rebinding: kept answer is used for the next connection
        async with session.get(f"http://pics.example:{port}/y") as answer:
            assert answer.status == 200
        with pytest.raises(Fault, match=r"other\.example resolves to 127\.0\.0\.1"):
            await session.get(f"http://other.example:{port}/x")
        assert dns.asked == ["pics.example", "other.example"]

    seen = asyncio.run(_with_server(lambda port: (f"pics.example:{port}",), visit))
    assert [host.partition(":")[0] for host in seen] == ["pics.example", "pics.example"]
