"""What a URL costs: CPU of build-shards on a list minus that on the same files in a folder, beside img2dataset.

20,000 different small JPEGs (88 to 104 px, 3 to 8 KB), served from eight loopback addresses by a process of its own, whose time
counts for nobody. Whole commands in turn; CPU is user + system of the command and all its children (wait4). img2dataset is also
run on two URLs, so that what its start-up costs can be told from what a URL costs. It lives in an environment of its own
(it pins opencv < 5 and webdataset < 0.3); IMG2DATASET names its program, default /tmp/i2d/bin/img2dataset.

    python benchmarks/bench_download.py [--num 20000] [--rounds 5]
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from common import summarise, write_result

BIN = Path(sys.executable).parent
IMG2DATASET = os.environ.get("IMG2DATASET", "/tmp/i2d/bin/img2dataset")
ADDRESSES = [f"127.0.0.{number}" for number in range(2, 10)]
WORKERS = 2
OURS = ("--workers", str(WORKERS), "--patch-size", "64", "--patch-format", "png")
# Little is measured: what both runs share should not drown the difference that counts
RECIPE = """measure = ["resolution"]
gates = []
drop_same_pixels = false
phash = false
"""
THEIRS = (
    "--processes_count", str(WORKERS), "--thread_count", "32", "--resize_mode", "no", "--skip_reencode", "True",
    "--input_format", "txt", "--output_format", "webdataset",
)  # fmt: skip
SETTINGS = """max_rate_per_host_hz = 1e6
max_in_flight = 128
max_per_host = 16
"""


class Serve(asyncio.Protocol):
    """As little of an HTTP server as both clients need: GET, Range, keep-alive. `/-/` tells what happened so far."""

    files: dict[bytes, bytes]
    num_served, last = 0, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self.transport, self.waiting = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self.waiting += data
        while b"\r\n\r\n" in self.waiting:
            head, self.waiting = self.waiting.split(b"\r\n\r\n", 1)
            path = head.split(b" ", 2)[1]
            if path == b"/-/":
                told = json.dumps({"served": Serve.num_served, "last": Serve.last}).encode()
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
                continue
            self.transport.write(answer(self.files.get(path), head.lower()))
            Serve.num_served += path in self.files
            Serve.last = time.monotonic()
            if b"\r\nconnection: close" in head.lower():
                self.transport.close()


def answer(body: bytes | None, head: bytes) -> bytes:
    """Write one answer; every file here is smaller than the first range that is asked for."""
    if body is None:
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    line = b"HTTP/1.1 200 OK\r\n"
    if b"\r\nrange: bytes=0-" in head:
        size = len(body)
        line = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-%d/%d\r\n" % (size - 1, size)
    return line + b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def serve(folder: Path) -> None:
    """Serve until killed; first says its ports."""
    Serve.files = {f"/{path.name}".encode(): path.read_bytes() for path in folder.iterdir()}
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Serve, address, 0, backlog=1024) for address in ADDRESSES]
    print(json.dumps([server.sockets[0].getsockname()[:2] for server in servers]), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


@contextmanager
def served(folder: Path) -> Iterator[list[str]]:
    """Run the server; its places HOST:PORT."""
    with subprocess.Popen([sys.executable, __file__, "--serve", str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        places = [f"{host}:{port}" for host, port in json.loads(process.stdout.readline())]
        try:
            yield places
        finally:
            process.kill()


def make_pictures(folder: Path, num: int) -> None:
    """Write that many JPEGs, all different."""
    folder.mkdir()
    for number in range(num):
        rng = np.random.default_rng(number)
        height, width = (int(side) for side in rng.integers(88, 105, 2))
        coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image += rng.integers(-12, 13, image.shape, dtype=np.int16)
        data = cv2.imencode(".jpg", np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
        (folder / f"{number:06d}.jpg").write_bytes(data.tobytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one command took."""

    cpu_s: float
    wall_s: float
    after_last_s: float  # from the server's last byte to the end
    num_served: int
    num_processes_left: int


def run(command: list[str], out: Path, place: str) -> Cost:
    """Run a command that writes `out`."""
    shutil.rmtree(out, ignore_errors=True)
    before = tell(place)
    start = time.monotonic()
    log = out.with_suffix(".log")
    with log.open("wb") as words:
        process = subprocess.Popen(
            command, stdout=words, stderr=words, env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}
        )
        _, status, usage = os.wait4(process.pid, 0)
        end = time.monotonic()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{log.read_text()[-2000:]}")
    after = tell(place)
    mine = [p for p in psutil.process_iter(["cmdline"]) if str(out) in (p.info["cmdline"] or [])]
    return Cost(
        cpu_s=usage.ru_utime + usage.ru_stime, wall_s=end - start, num_served=after["served"] - before["served"],
        after_last_s=end - after["last"] if after["served"] > before["served"] else 0.0, num_processes_left=len(mine),
    )  # fmt: skip


def tell(place: str) -> dict[str, Any]:
    """Ask the server what it has served, and when it wrote the last byte (monotonic clock, the same for all processes)."""
    with urllib.request.urlopen(f"http://{place}/-/") as reply:
        return dict(json.load(reply))


def commands(work: Path, folder: Path, places: list[str], num: int) -> dict[str, list[str]]:
    """Write the lists and settings; the command of each way, all writing `out`."""
    names = sorted(path.name for path in folder.iterdir())
    urls = [f"http://{places[number % len(places)]}/{name}" for number, name in enumerate(names)]
    for name, listed in (("list.txt", urls), ("two.txt", urls[:2])):
        (work / name).write_text("\n".join(listed) + "\n")
    (work / "fetch.toml").write_text(SETTINGS + f"allow_private = {json.dumps(places)}\n")
    (work / "bare.toml").write_text(RECIPE)
    curate, out = str(BIN / "curate"), str(work / "out")
    ours = (*OURS, "--recipe", str(work / "bare.toml"))
    fetch = ("--fetch", str(work / "fetch.toml"))
    theirs = (*THEIRS, "--number_sample_per_shard", str(max(1, num // WORKERS)), "--output_folder", out)
    return {
        "list": [curate, "build-shards", str(work / "list.txt"), out, *ours, *fetch],
        "folder": [curate, "build-shards", str(folder), out, *ours],
        "download": [curate, "download", str(work / "list.txt"), out, "--workers", str(WORKERS), *fetch],
        "img2dataset": [IMG2DATASET, "--url_list", str(work / "list.txt"), *theirs],
        "img2dataset, two URLs": [IMG2DATASET, "--url_list", str(work / "two.txt"), *theirs],
    }


def check(way: str, out: Path, num: int) -> int:
    """Stop unless every picture arrived; the number of temporary files left."""
    if way.startswith("img2dataset"):
        stats = [json.loads(path.read_text()) for path in out.glob("*_stats.json")]
        got, wanted = sum(stat["successes"] for stat in stats), 2 if way.endswith("two URLs") else num
    elif way == "download":
        got, wanted = sum(1 for path in (out / "pictures").rglob("*.jpg")), num
    else:
        shards = json.loads((out / "manifest.json").read_text())["shards"]
        got, wanted = sum(shard["samples"] for shard in shards), num
    if got != wanted:
        sys.exit(f"{way}: {got} pictures of {wanted}")
    return sum(1 for path in out.rglob("*") if "tmp" in path.name)


def numbers(costs: dict[str, list[Cost]], left: dict[str, int], num: int) -> dict[str, float | int]:
    """Make the flat table: medians over rounds, differences and ratios within a round."""
    cpu = {way: [1000 * cost.cpu_s / num for cost in taken] for way, taken in costs.items()}

    def median_of(way: str, less: str) -> float:
        return statistics.median(a - b for a, b in zip(cpu[way], cpu[less], strict=True))

    net = [a - b for a, b in zip(cpu["list"], cpu["folder"], strict=True)]
    theirs = [a - b for a, b in zip(cpu["img2dataset"], cpu["img2dataset, two URLs"], strict=True)]
    values: dict[str, float | int] = {
        "URLs": num,
        "rounds": len(net),
        "workers": WORKERS,
        "build-shards on the list less the folder, ms CPU a URL": median_of("list", "folder"),
        "download, whole command with a decoding check, ms CPU a URL": statistics.median(cpu["download"]),
        "img2dataset, ms CPU a URL": statistics.median(cpu["img2dataset"]),
        "img2dataset less its start-up, ms CPU a URL": median_of("img2dataset", "img2dataset, two URLs"),
        "img2dataset / ours": statistics.median(a / b for a, b in zip(cpu["img2dataset"], net, strict=True)),
        "img2dataset less its start-up / ours": statistics.median(a / b for a, b in zip(theirs, net, strict=True)),
    }
    for way, taken in costs.items():
        values[f"{way}, s CPU"] = statistics.median(cost.cpu_s for cost in taken)
        values[f"{way}, s wall"] = statistics.median(cost.wall_s for cost in taken)
        if way != "folder":
            values[f"{way}, s from the last byte to the end"] = statistics.median(cost.after_last_s for cost in taken)
            values[f"{way}, pictures served"] = max(cost.num_served for cost in taken)
        values[f"{way}, processes left"] = max(cost.num_processes_left for cost in taken)
        values[f"{way}, temporary files left"] = left[way]
    return values


def main(num: int, rounds: int) -> None:
    if not Path(IMG2DATASET).is_file():
        sys.exit(
            f"no img2dataset at {IMG2DATASET}: python3.11 -m venv V; V/bin/pip install img2dataset==1.47.0 'setuptools<80'; "
            "IMG2DATASET=V/bin/img2dataset"
        )
    work = Path(tempfile.mkdtemp())
    make_pictures(work / "pictures", num)
    with served(work / "pictures") as places:
        ways = commands(work, work / "pictures", places, num)
        costs: dict[str, list[Cost]] = {way: [] for way in ways}
        left = dict.fromkeys(ways, 0)
        for number in range(rounds):
            for way, command in ways.items():
                costs[way].append(run(command, work / "out", places[0]))
                left[way] = max(left[way], check(way, work / "out", num))
            print(number, {way: round(taken[-1].cpu_s, 1) for way, taken in costs.items()}, file=sys.stderr)
    shutil.rmtree(work)
    write_result(
        "download", f"CPU a URL, {num} small JPEGs from loopback, beside img2dataset 1.47; whole commands in turn",
        numbers(costs, left, num),
        cpu_seconds={w: summarise([cost.cpu_s for cost in taken]) for w, taken in costs.items()} if rounds > 1 else {},
        img2dataset=" ".join(THEIRS), ours=" ".join(OURS), recipe=RECIPE, settings=SETTINGS,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--num", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", type=Path)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve))
    else:
        main(given.num, given.rounds)
