"""Engines: which names there are, what a worker must find, and why a late write never appears."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from curate import BuildShardsConfig
from curate.core import artifacts
from curate.core.errors import ConfigError, ManifestError
from curate.engine import Surroundings, check_engine, open_engine
from curate.engine_worker import Proof, one_thread, prove
from curate.job import content_of
from curate.pool import Pool
from curate.world import World


@pytest.mark.parametrize("name", ["process", "dask", "tcp://10.0.0.1:8786", "tls://head:8786", "tcp://[::1]:8786"])
def test_names_of_engines(name):
    check_engine(name)


@pytest.mark.parametrize(
    "name", ["", "slurm", "tcp://", "tcp://host", "tcp://host:port", "http://host:80", "tcp://:80"]
)
def test_other_names_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="engine must be process, dask or tcp://HOST:PORT"):
        BuildShardsConfig(source="photos", out=tmp_path / "c", engine=name)


def test_the_engine_is_no_part_of_thecontent_of(tmp_path):
    configs = [BuildShardsConfig(source="photos", out=tmp_path, engine=name) for name in ("process", "dask")]
    world = World(packs=(), earlier=())
    assert content_of(configs[0], world) == content_of(configs[1], world)
    assert isinstance(open_engine("process", workers=1, around=Surroundings(out=tmp_path, files=(), versions={})), Pool)


def test_the_program_starts_without_dask():
    code = (
        "import sys, curate.cli, curate.build; print([name for name in sys.modules if name in ('dask', 'distributed')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def proof(out: Path, *files: Path, **changes: object) -> Proof:
    fields = {
        "fence": artifacts.fence_of(out), "files": tuple((file, file.stat().st_size) for file in files),
        "versions": (("numpy", np.__version__),), "keep_heap": False,
    }  # fmt: skip
    return Proof(**(fields | changes))


def test_a_worker_says_what_it_lacks(tmp_path):
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"12345")
    with artifacts.locked_output(tmp_path / "c"):
        good = proof(tmp_path / "c", photo)
        assert prove(good) == ""
        assert "has numpy" in prove(proof(tmp_path / "c", versions=(("numpy", "1.0"),)))
        assert "(not installed)" in prove(proof(tmp_path / "c", versions=(("no-such-package", "1.0"),)))
        assert "sees another" in prove(proof(tmp_path / "c", files=((photo, 4),)))
        assert "No such file" in prove(proof(tmp_path / "c", files=((tmp_path / "b.jpg", 4),)))
    assert "does not see" in prove(good), "the run has ended"
    with artifacts.locked_output(tmp_path / "c"):
        assert "does not see" in prove(good), "another run has begun"
    assert one_thread(1) == "" and "has 4 threads" in one_thread(4)


def test_a_write_that_comes_late_does_not_appear(tmp_path):
    out = tmp_path / "c"
    with artifacts.locked_output(out):
        fence = artifacts.fence_of(out)
        with artifacts.fenced(fence):
            artifacts.write_bytes(out / "early", b"1")
            straggler = artifacts.atomic_path(out / "late", sync=False)
            straggler.__enter__().write_bytes(b"2")
    assert sorted(path.name for path in out.iterdir()) == ["early", "ledger"], "the sweep took its temporary file"
    with artifacts.fenced(fence), pytest.raises(ManifestError, match="the run that asked for it has ended"):
        artifacts.write_bytes(out / "ledger" / "spool" / "late", b"3")
    assert not (out / "ledger" / "spool").exists()
    artifacts.write_bytes(out / "mine", b"4")  # nobody else is bound by it
    with artifacts.fenced(fence), pytest.raises(ManifestError, match="late is not written"):
        straggler.__exit__(None, None, None)
    assert not (out / "late").exists()


def test_temporary_names_differ_between_machines_with_the_same_process_number(tmp_path):
    with artifacts.atomic_path(tmp_path / "a") as one, artifacts.atomic_path(tmp_path / "a") as other:
        assert one != other
        one.write_bytes(b"1")
        other.write_bytes(b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_temporary_files_of_killed_workers_are_removed_at_the_end(tmp_path):
    with artifacts.locked_output(tmp_path / "c"):
        (tmp_path / "c" / "shards").mkdir()
        (tmp_path / "c" / "shards" / ".tmp-77-0a1b2c3d-patches-000000.tar").write_text("half")
    assert list((tmp_path / "c" / "shards").iterdir()) == []
