"""HTTPS against servers of our own, with their certificate trusted for once."""

import loopback
import pyarrow.parquet as pq
import pytest
from answers import dispatch, jpeg, picture, redirect

from curate.download import DownloadConfig, download
from curate.fetch.config import FetchConfig


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_must_be_trusted_and_name_the_host(tmp_path, monkeypatch, trusted):
    routes = {"/a.jpg": picture(1), "/b.jpg": picture(2), "/moved.jpg": redirect("/b.jpg")}
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(loopback.CERTIFICATE))
    addresses = {"named": "127.0.0.1", "other": "127.0.0.9"}  # the certificate is for 127.0.0.1
    handlers = {name: dispatch(routes) for name in addresses}
    with loopback.Web(handlers, secure=tuple(addresses), addresses=addresses) as web:
        urls = [web.sites[name].origin + path for name in addresses for path in routes]
        (tmp_path / "list.txt").write_text("\n".join(urls) + "\n")
        fetch = FetchConfig(allow_private=tuple(web.places.values()), deadline_s=4, backoff_s=0.1)
        config = DownloadConfig(list=str(tmp_path / "list.txt"), out=tmp_path / "out", fetch=fetch, workers=1)
        download(config)
        rows = pq.read_table(tmp_path / "out" / "urls").to_pylist()
        asked, connections = web.asked("other"), {r.connection for r in web.asked("named")}
    assert [row["class"] for row in rows] == (["ok"] * 3 if trusted else ["tls"] * 3) + ["tls"] * 3
    assert asked == []  # nothing was said to a host that could not show who it is
    assert len(connections) <= 2  # kept alive, not one for each
    if trusted:
        assert (tmp_path / "out" / rows[0]["file"]).read_bytes() == jpeg(1)
        assert rows[2]["final_url"] == urls[1]
