"""The local page: restores what it is sent, shows both sides, and takes nothing from strangers. Used in Chromium (slow)."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from curate.core.errors import ConfigError
from restoration.server import MAX_WAITING, ServeConfig, Studio, make_app, serve

OURS = {"X-Irdistill": "1"}


@pytest.fixture(scope="module")
def studio(make_run, tmp_path_factory) -> Studio:
    return Studio(ServeConfig(run=make_run(tmp_path_factory.mktemp("run"), "dynet-tiny", change=0.05), device="cpu"))


def talk(studio: Studio, conversation) -> None:
    async def run() -> None:
        async with TestClient(TestServer(make_app(studio, frozenset({"our-host"})))) as client:
            await conversation(client)

    asyncio.run(run())


def test_a_picture_is_restored_and_both_sides_are_kept(studio, make_photo):
    photo = make_photo(0, 45, 70)
    data = io.BytesIO()
    Image.fromarray(photo).save(data, "PNG")

    async def conversation(client: TestClient) -> None:
        about = await (await client.get("/about")).json()
        assert about["model"] == "dynet-tiny" and about["depths"] == {"s": "1,1,1,2", "l": "2,2,2,3"}
        sides = {}
        for depth in ("s", "l"):
            answer = await client.post(f"/restore?depth={depth}", data=data.getvalue(), headers=OURS)
            result = await answer.json()
            assert answer.status == 200 and (result["width"], result["height"], result["bits"]) == (70, 45, 8)
            for side in ("before", "after"):
                picture = await (await client.get(f"/result/{result['name']}/{side}")).read()
                sides[depth, side] = np.asarray(Image.open(io.BytesIO(picture)))
        np.testing.assert_array_equal(sides["s", "before"], photo)
        assert (sides["s", "after"] != photo).any() and (sides["s", "after"] != sides["l", "after"]).any()
        first = result["name"]
        for _ in range(2):
            await client.post("/restore", data=data.getvalue(), headers=OURS)
        assert (await client.get(f"/result/{first}/after")).status == 404, "only the last results are kept"

    talk(studio, conversation)


def test_the_page_needs_nothing_from_elsewhere_and_says_so(studio):
    async def conversation(client: TestClient) -> None:
        answer = await client.get("/")
        text, policy = await answer.text(), answer.headers["Content-Security-Policy"]
        assert "http://" not in text and "https://" not in text and "NONCE" not in text
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
        assert text.count(nonce) == 2 and nonce not in (await (await client.get("/")).text())
        assert answer.headers["X-Content-Type-Options"] == "nosniff"

    talk(studio, conversation)


def test_strangers_are_refused(studio):
    async def conversation(client: TestClient) -> None:
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1].evil"):
            assert (await client.get("/about", headers={"Host": host})).status in (400, 421), host
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "our-host:1"):
            assert (await client.get("/about", headers={"Host": host})).status == 200, host
        elsewhere = {"Origin": "http://evil.example"}
        assert (await client.get("/about", headers=elsewhere)).status == 403
        assert (await client.post("/restore", data=b"x", headers=OURS | elsewhere)).status == 403
        assert (await client.post("/restore", data=b"x")).status == 403, "a form of another page cannot set our header"
        assert (await client.options("/restore")).status == 405, "no permission is given to other pages"
        for path in ("/../run.json", "/result/..%2f..%2frun/after", "/page.html", "/result/" + "a" * 22 + "/run.json"):
            assert (await client.get(path)).status == 404, path

    talk(studio, conversation)


def test_bad_uploads_are_one_line(studio, monkeypatch):
    monkeypatch.setattr("restoration.server.MAX_UPLOAD_BYTES", 2 << 20)

    async def conversation(client: TestClient) -> None:
        bomb = io.BytesIO()
        Image.new("1", (14000, 14000)).save(bomb, "PNG")
        for data, expected in ((b"", "empty"), (b"hello", "not-an-image"), (bomb.getvalue(), "too-many-pixels")):
            answer = await client.post("/restore", data=data, headers=OURS)
            assert answer.status == 422 and expected in (await answer.json())["error"], expected
        for query in ("depth=xl", "depth=1,2", "depth=999,1,1,1"):
            assert (await client.post(f"/restore?{query}", data=b"x", headers=OURS)).status == 422
        answer = await client.post("/restore", data=io.BytesIO(bytes(3 << 20)), headers=OURS)
        assert answer.status == 413 and "2 MiB" in (await answer.json())["error"]

    talk(studio, conversation)


def test_there_is_a_place_before_a_picture_is_received(studio, monkeypatch):
    """Uploads that nobody has room for are not read into memory."""
    received = []

    async def receive() -> bytes:
        received.append(len(studio._waiting))
        await asyncio.sleep(0.2)
        return b"no picture"

    async def run() -> list[object]:
        asked = [studio.restore(receive, "", "", False) for _ in range(MAX_WAITING + 2)]
        return await asyncio.gather(*asked, return_exceptions=True)

    told = [str(error) for error in asyncio.run(run())]
    assert len(received) == MAX_WAITING and max(received) == MAX_WAITING and not studio._waiting
    assert sum("other pictures are waiting" in line for line in told) == 2
    assert sum("not-an-image" in line for line in told) == MAX_WAITING


def test_what_is_kept_comes_off_the_limit(studio, make_photo, png_bytes):
    async def conversation(client: TestClient) -> None:
        data = png_bytes(make_photo(0, 200, 300))
        for _ in range(2):
            assert (await client.post("/restore", data=data, headers=OURS)).status == 200

    talk(studio, conversation)
    kept = sum(len(result.before) + len(result.after) for result in studio._results.values())
    assert kept > 50_000
    choices, (restorer, counted) = next(iter(studio._restorers.items()))
    free = restorer.free_bytes(0) + restorer.beside_bytes
    assert studio._restorer(*choices, 0) is restorer and restorer.beside_bytes == kept - counted
    assert restorer.free_bytes(0) == free - kept + counted
    studio._waiting["another"] = 10**6
    assert studio._restorer(*choices, 0).free_bytes(0) == free - kept + counted - 10**6
    del studio._waiting["another"]


def test_a_bug_is_one_line_for_the_page_and_all_of_it_in_the_log(studio, monkeypatch, caplog, png_bytes, make_photo):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("cannot\nbuild transform")

    monkeypatch.setattr("restoration.server.restore_picture", fail)

    async def conversation(client: TestClient) -> None:
        answer = await client.post("/restore", data=png_bytes(make_photo(0, 20, 20)), headers=OURS)
        assert answer.status == 500
        assert (await answer.json())["error"] == "the server failed: RuntimeError: cannot build transform"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"

    talk(studio, conversation)
    assert "POST /restore" in caplog.text and "Traceback" in caplog.text


def test_a_port_in_use_is_one_line(make_run, tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="cannot listen on 127"):
        serve(ServeConfig(run=make_run(tmp_path / "run"), port=taken.getsockname()[1], device="cpu"))
    with pytest.raises(ConfigError, match="port must be 0 to 65535"):
        ServeConfig(run=tmp_path, port=70000)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_in_chromium(make_run, make_photo, tmp_path):
    """Choose a file, wait, drag the line, use the keys, choose another depth, go on after an error."""
    run = make_run(tmp_path / "run", "dynet-tiny", change=0.05)
    Image.fromarray(make_photo(0, 300, 420)).save(tmp_path / "photo.png")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    program = [str(Path(sys.executable).parent / "restoration"), "serve", str(run), "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[0]
        asyncio.run(asyncio.wait_for(use_page(address, tmp_path), 150))
    finally:
        server.terminate()
        server.communicate(timeout=20)


class Tab:
    """One page of a browser, over its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.number = socket, 0

    async def ask(self, method: str, **parameters: object) -> dict:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while True:
            answer = await self.socket.receive_json()
            if answer.get("id") == self.number:
                if "context" in answer.get("error", {}).get("message", ""):
                    return {"result": {}}  # the page is still being opened
                assert "error" not in answer, answer
                return answer["result"]

    async def value(self, expression: str) -> object:
        result = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        deadline = time.monotonic() + 60
        while not await self.value(expression):
            assert time.monotonic() < deadline, (expression, await self.value("document.body.innerText"))
            await asyncio.sleep(0.1)

    async def choose(self, path: Path) -> None:
        root = (await self.ask("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.ask("DOM.querySelector", nodeId=root, selector="#file"))["nodeId"]
        await self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    async def mouse(self, kind: str, x: float, y: float) -> None:
        await self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)


async def use_page(address: str, folder: Path) -> None:
    command = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900", address,
    ]  # fmt: skip
    browser = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        while b"DevTools listening on" not in (line := await browser.stderr.readline()):
            assert line, "chromium ended"
        port = line.split(b"127.0.0.1:")[1].split(b"/")[0].decode()
        async with aiohttp.ClientSession() as session:
            tabs = await (await session.get(f"http://127.0.0.1:{port}/json")).json()
            url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(url, max_msg_size=0) as socket:
                await use_tab(Tab(socket), folder)
    finally:
        browser.terminate()
        await browser.wait()


async def use_tab(tab: Tab, folder: Path) -> None:
    await tab.until("document.readyState === 'complete' && typeof $ === 'function' && $('model').textContent !== ''")
    assert "dynet-tiny" in await tab.value("$('model').textContent")
    await tab.choose(folder / "photo.png")
    await tab.until("!$('stage').hidden")
    box = json.loads(await tab.value("JSON.stringify($('pair').getBoundingClientRect())"))
    assert box["width"] == 420 and "420 \u00d7 300" in await tab.value("$('facts').textContent")
    middle = box["y"] + box["height"] / 2
    await tab.mouse("mousePressed", box["x"] + 210, middle)
    await tab.mouse("mouseMoved", box["x"] + 105, middle)
    await tab.mouse("mouseReleased", box["x"] + 105, middle)
    assert float(await tab.value("split")) == pytest.approx(25, abs=0.5)
    await tab.value("$('handle').focus()")
    for kind in ("keyDown", "keyUp"):
        await tab.ask("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight")
    assert float(await tab.value("split")) == pytest.approx(27, abs=0.5)
    assert await tab.value("$('download').download") == "photo-restored.png"
    size = "(async () => (await (await fetch($('download').href)).arrayBuffer()).byteLength)()"
    assert await tab.value(size) > 10_000
    assert await tab.value("$('again').disabled")
    first = await tab.value("$('after').src")
    await tab.value("$('depth').value = 'l'; $('depth').dispatchEvent(new Event('change')); $('again').click()")
    await tab.until(f"!busy && $('after').src !== {first!r}")
    await tab.choose(folder / "bad.jpg")
    await tab.until("!$('error').hidden")
    assert "bad.jpg" in await tab.value("$('error').textContent") and not await tab.value("busy")
