"""An S3 bucket (moto, on the loopback): the bytes of a local corpus, whatever is killed on the way, and never half a shard."""

import hashlib
import importlib.util
import subprocess
import time
from pathlib import Path

import pytest
from dask_programs import BIN, wait_until
from s3_server import Bucket, s3_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("moto") is None or importlib.util.find_spec("s3fs") is None,
        reason="needs moto[s3], flask, flask-cors and s3fs",
    ),
]
URL = "s3://shelf/corpora/c"
OPTIONS = ["--recipe", "everything", "--patch-size", "64", "--workers", "1"]


@pytest.fixture
def server(tmp_path):
    with s3_server(tmp_path) as environment, Bucket(environment) as bucket:
        bucket.ask("mkdir", "shelf")
        yield environment | {"IRDISTILL_STAGING": str(tmp_path / "staging")}, bucket


def curate(environment, *arguments) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "curate"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)


def remote_digests(bucket: Bucket) -> dict[str, str]:
    names = {name.removeprefix("shelf/corpora/c/"): name for name in bucket.ask("find", "shelf/corpora/c")}
    kept = {name: path for name, path in names.items() if not name.startswith("ledger/")}
    return {
        name: hashlib.sha256(bytes.fromhex(bucket.ask("cat_file", path))).hexdigest() for name, path in kept.items()
    }


def local_digests(out: Path) -> dict[str, str]:
    files = [path for path in out.rglob("*") if path.is_file() and path.relative_to(out).parts[0] != "ledger"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.timeout(400)
def test_killed_while_publishing_equals_a_local_corpus(make_folder, tmp_path, server):
    environment, bucket = server
    source = make_folder(tmp_path / "photos", num=160)
    assert curate(environment, "build-shards", source, tmp_path / "c", *OPTIONS).returncode == 0
    whole = local_digests(tmp_path / "c")
    tars = sum(name.endswith(".tar") for name in whole)
    assert tars == 10
    killed = 0
    for wanted in (1, 3, 6):  # shards that are verified over there
        process = subprocess.Popen(
            [str(BIN / "curate"), "build-shards", str(source), URL, *OPTIONS],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        marks = tmp_path / "staging"
        while process.poll() is None and len(list(marks.glob("*/ledger/published/[0-9]*.json"))) < wanted:
            time.sleep(0.005)
        killed += process.poll() is None
        process.kill()
        process.wait()
        visible = {
            name: digest for name, digest in remote_digests(bucket).items() if not name.startswith(".publishing/")
        }
        assert visible.items() <= whole.items(), "what a reader sees is whole"
        assert "_SUCCESS" not in visible and "manifest.json" not in visible
        refused = curate(environment, "verify", URL)
        assert refused.returncode == 2 and "holds no manifest.json" in refused.stderr
    assert killed >= 2
    done = curate(environment, "build-shards", source, URL, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "(resumed)" in done.stdout and f"corpus   {URL}" in done.stdout
    assert remote_digests(bucket) == whole
    assert not list((tmp_path / "staging").rglob("*.tar")) and not list((tmp_path / "staging").rglob(".tmp-*"))
    checked = curate(environment, "verify", URL)
    assert (checked.returncode, checked.stdout) == (0, "no difference: 10 shards, 3840 patches, 160 inputs\n")


def test_what_is_wrong_with_a_bucket_is_one_line(photo_folder, tmp_path, server):
    environment, bucket = server
    assert curate(environment, "build-shards", photo_folder, URL, *OPTIONS).returncode == 0
    bucket.ask("rm", "shelf/corpora/c/metadata/patches-000000.parquet")
    found = curate(environment, "verify", URL)
    assert found.returncode == 1 and "metadata/patches-000000.parquet: missing" in found.stdout
    other = curate(environment, "build-shards", photo_folder, "s3://no-such-bucket/c", *OPTIONS)
    assert other.returncode == 2 and "cannot write s3://no-such-bucket/c" in other.stderr
    assert len(other.stderr.splitlines()) == 1, other.stderr
    away = environment | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    lost = curate(away, "build-shards", photo_folder, "s3://shelf/d", *OPTIONS)
    assert lost.returncode == 2 and lost.stderr.startswith("error: cannot list s3://shelf/d"), lost.stderr


def test_dask_publishes_the_same(make_folder, tmp_path, server):
    environment, bucket = server
    source = make_folder(tmp_path / "photos", num=40)
    assert curate(environment, "build-shards", source, tmp_path / "c", *OPTIONS).returncode == 0
    done = curate(environment, "build-shards", source, URL, *OPTIONS, "--engine", "dask")
    assert done.returncode == 0, done.stderr
    assert remote_digests(bucket) == local_digests(tmp_path / "c")
    assert wait_until(lambda: bucket.ask("exists", "shelf/corpora/c/_SUCCESS"))
