"""Which addresses may be asked: public ones only, checked after the name is resolved and then connected to, not resolved again.

Source: IANA's registries of special-purpose addresses for IPv4 and IPv6 (RFC 6890), as of 2025. Our own tables, because
`ipaddress.is_global` changed its mind between patch releases of Python (3.11.10, 3.12.4).
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from aiohttp.abc import AbstractResolver, ResolveResult

from ..core.errors import ConfigError, ToolkitError
from .faults import Fault
from .urls import canonical_host

FAILURE_KEEP_S = 30.0  # a name that failed is not asked for again so long
NUM_NAMES = 65_536  # answers kept at a time
_HUNG_FACTOR = 3  # so many times the pool may hang in the C library before lookups have to wait for them

_V4_REFUSED = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's metadata and DNS: looks public, is the machine's own host
    )
)  # fmt: skip
_V6_UNICAST = ipaddress.IPv6Network("2000::/3")
_V6_REFUSED = tuple(ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20"))
_NAT64 = tuple(ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/96"))
# of 64:ff9b:1::/48 (RFC 8215) only the layout with the IPv4 address at the end: the others could hide a second one

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Answer = tuple[tuple[int, str], ...]  # (family, ip), in the order of the C library
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


@lru_cache(maxsize=4096)
def is_public(ip: str) -> bool:
    """Say whether an address is global unicast; an IPv4 address inside an IPv6 one is judged too.

    Args:
        ip: IPv4 with four decimal parts, or IPv6; anything else is not public.
    """
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return _is_public_v4(address)
    if address.scope_id is not None:
        return False
    inner = _inner_v4(address)
    if inner:
        return all(_is_public_v4(each) for each in inner)
    return address in _V6_UNICAST and not any(address in net for net in _V6_REFUSED)


def _is_public_v4(address: ipaddress.IPv4Address) -> bool:
    return not any(address in net for net in _V4_REFUSED)


def _inner_v4(address: ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address, ...]:
    """IPv4 addresses that a packet to this one may end up at; those of ::/96 (deprecated) are refused as they are."""
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if any(address in net for net in _NAT64):
        return (ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF),)
    return ()


def literal_address(host: str) -> str | None:
    """Return the address a host spells out, None for a name.

    Knows what the C library's inet_aton takes for an address: `127.1`, `2130706433`, `0x7f.0.0.1`, `0177.0.0.1`.
    """
    if ":" in host:
        return host
    if not host[:1].isdigit():
        return None
    try:
        return str(ipaddress.IPv4Address(socket.inet_aton(host)))
    except (OSError, UnicodeError):
        return None


class Guard:
    """Refuses addresses that are not public, but for the places a user names.

    Args:
        allow_private: `HOST:PORT`, exact: neither another port nor another name of the same machine is meant.

    Raises:
        ConfigError: an entry that is no `HOST:PORT`.
    """

    def __init__(self, allow_private: tuple[str, ...]) -> None:
        self._allowed = frozenset(_canonical_place(place) for place in allow_private)

    def check(self, host: str, port: int, ip: str) -> None:
        """Check one address that a name resolves to.

        Args:
            host: as `Url.host` spells it.
            port: of the URL.
            ip: the address.

        Raises:
            Fault: `policy`, if it is not public and the place is not allowed.
        """
        if is_public(ip) or (host, port) in self._allowed:
            return
        subject = host if host == ip else f"{host} resolves to {ip}, which"
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise Fault("policy", f"{subject} is not a public address (if it may be asked: --allow-private {place})")

    def check_literal(self, host: str, port: int) -> None:
        """Check a host that is an address itself: aiohttp asks no resolver for those.

        Raises:
            Fault: `policy`, if it is not public and the place is not allowed, or is digits that are no plain address.
        """
        ip = literal_address(host)
        if ip is not None:
            self.check(host, port, ip)
        if ip != host and host.replace(".", "").isdigit():  # aiohttp refuses these too, with an exception of its own
            raise Fault("policy", f"{host} is neither a name nor an address as we write them")


def _canonical_place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        return canonical_host(f"[{host}]" if ":" in host else host), int(port)
    except ValueError as error:
        raise ConfigError(f"allow_private must be HOST:PORT, got {text!r} ({error})") from None


@dataclass(slots=True)
class _Lookup:
    """One name that is being looked up, or waits for a thread."""

    num_callers: int = 0
    has_thread: bool = False
    task: asyncio.Task[_Answer | Fault] = field(init=False)


class Resolver(AbstractResolver):
    """Resolves names for aiohttp, in daemon threads, and hands on checked addresses only.

    Every address of a name is checked and one bad one refuses the name: else an attacker's DNS server could mix them. What
    is returned is numeric, so the connection goes where the check looked. One name is looked up once at a time.

    Args:
        guard: judges addresses.
        timeout_s: of one lookup, from when a thread is at it.
        threads: lookups at a time; the others wait, as long as somebody waits for them.
        keep_s: how long answers are kept.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        timeout_s: float,
        threads: int = 32,
        keep_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guard, self._timeout_s, self._keep_s, self._clock = guard, timeout_s, keep_s, clock
        self._free = asyncio.Semaphore(threads)
        self._hung: set[asyncio.Future[_Answer]] = set()
        self._max_hung = threads * _HUNG_FACTOR
        self._kept: OrderedDict[str, tuple[float, _Answer | Fault]] = OrderedDict()  # oldest first
        self._running: dict[str, _Lookup] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the checked addresses of a name.

        Raises:
            Fault: `dns` if there are none, `policy` if one is not public.
            ToolkitError: too many open files.
        """
        answer = await self._answer(host)
        if isinstance(answer, Fault):
            raise Fault(answer.kind, answer.detail, again=answer.again)  # a new one: each carries its traceback
        for _, ip in answer:
            self._guard.check(host, port, ip)
        results = [
            ResolveResult(hostname=host, host=ip, port=port, family=found, proto=socket.IPPROTO_TCP, flags=_NUMERIC)
            for found, ip in answer
            if family in (socket.AF_UNSPEC, found)
        ]
        if not results:
            raise Fault("dns", f"{host} has no address of the family asked for")
        return results

    async def close(self) -> None:
        """Stop waiting for lookups; those under way end in their daemon threads."""
        running = [lookup.task for lookup in self._running.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._kept.clear()

    async def _answer(self, host: str) -> _Answer | Fault:
        kept = self._kept.get(host)
        if kept is not None and self._clock() < kept[0]:
            return kept[1]
        lookup = self._running.get(host) or self._start(host)
        lookup.num_callers += 1
        try:
            return await asyncio.shield(lookup.task)  # a caller that gives up must not take the others' answer along
        finally:
            lookup.num_callers -= 1
            if not lookup.num_callers and not lookup.has_thread:  # or those given up would pile up behind dead names
                lookup.task.cancel()
                self._forget(host, lookup)

    def _start(self, host: str) -> _Lookup:
        lookup = self._running[host] = _Lookup()
        lookup.task = asyncio.get_running_loop().create_task(self._ask(host, lookup))
        lookup.task.add_done_callback(lambda _: self._forget(host, lookup))
        return lookup

    def _forget(self, host: str, lookup: _Lookup) -> None:
        if self._running.get(host) is lookup:
            del self._running[host]

    async def _ask(self, host: str, lookup: _Lookup) -> _Answer | Fault:
        answer: _Answer | Fault
        await self._free.acquire()  # no time-out: that all threads are busy says nothing of this name
        lookup.has_thread = True
        try:
            answer = await self._in_thread(host)
        except Fault as fault:
            answer = fault.with_traceback(None)
        keep_s = FAILURE_KEEP_S if isinstance(answer, Fault) else self._keep_s
        self._kept.pop(host, None)
        self._kept[host] = self._clock() + keep_s, answer
        if len(self._kept) > NUM_NAMES:
            self._kept.popitem(last=False)
        return answer

    async def _in_thread(self, host: str) -> _Answer:
        """One daemon thread a lookup: threads of a ThreadPoolExecutor are joined at exit, and getaddrinfo can hang."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_Answer] = loop.create_future()
        done.add_done_callback(self._ended)
        threading.Thread(target=_run_lookup, args=(loop, done, host), name=f"dns {host}", daemon=True).start()
        finished, _ = await asyncio.wait((done,), timeout=self._timeout_s)
        if finished:
            return done.result()
        if len(self._hung) < self._max_hung:  # it hangs: another may start in its place
            self._hung.add(done)
            self._free.release()
        raise Fault("dns", f"no answer for {host} within {self._timeout_s:g} s", again=True)

    def _ended(self, done: asyncio.Future[_Answer]) -> None:
        done.exception()  # taken here, or asyncio logs the one that nobody waits for any more
        if done in self._hung:
            self._hung.remove(done)
        else:
            self._free.release()


def _run_lookup(loop: asyncio.AbstractEventLoop, done: asyncio.Future[_Answer], host: str) -> None:
    """Body of a thread."""
    answer: _Answer | None = None
    problem: BaseException | None = None
    try:
        answer = _look_up(host)
    except BaseException as error:  # noqa: BLE001 - the waiter must hear of everything
        problem = error
    try:
        loop.call_soon_threadsafe(_settle, done, answer, problem)
    except RuntimeError:
        return  # the loop is closed: nobody waits


def _settle(done: asyncio.Future[_Answer], answer: _Answer | None, problem: BaseException | None) -> None:
    if done.done():
        return
    if problem is not None:
        done.set_exception(problem)
    elif answer is not None:
        done.set_result(answer)


def _look_up(host: str) -> _Answer:
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except UnicodeError:
        raise Fault("dns", f"{host} is no name that DNS can hold") from None
    except OSError as error:
        _check_open_files(error)
        raise _fault(host, error) from None
    families = (socket.AF_INET, socket.AF_INET6)
    answer = tuple(dict.fromkeys((int(entry[0]), str(entry[4][0])) for entry in found if entry[0] in families))
    if not answer:
        raise Fault("dns", f"{host} has no address")
    return answer


def _fault(host: str, error: OSError) -> Fault:
    if not isinstance(error, socket.gaierror):
        return Fault("dns", f"{host}: {error}", again=True)
    final = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None), socket.EAI_FAIL)
    return Fault("dns", f"{host}: {error.strerror or error}", again=not final)


def _check_open_files(error: OSError) -> None:
    """Raise ToolkitError if a lookup failed for want of files: that says nothing of the name.

    Try to open one: glibc 2.36 gives EMFILE at the first lookup only, and EBUSY, left over from elsewhere, at the later ones.
    """
    cause = error
    if isinstance(error, socket.gaierror) or error.errno not in _OUT_OF_FILES:  # gaierror has numbers of its own
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
            return
        except OSError as problem:
            if problem.errno not in _OUT_OF_FILES:
                return
            cause = problem
    raise ToolkitError(f"{cause.strerror}: lower max_in_flight in the --fetch file, or raise ulimit -n") from error
