"""Config, plug-ins, stages, atomic files and console: small rules, each with its message."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from curate.core import artifacts, config, console, plugins
from curate.core.errors import ConfigError, InstallError, ManifestError, PluginError
from curate.core.stage import Context, chain
from curate.recipes import Recipe, load_recipe, preset_names


@dataclass(frozen=True, kw_only=True)
class Inner:
    ratio: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    size: int
    inner: Inner = Inner()
    names: tuple[str, ...] = ()
    folder: Path | None = None


def test_config_builds_nested_values():
    built = config.build(Outer, {"size": 3, "inner": {"ratio": 1}, "names": ["a", "b"], "folder": "x"}, where="t")
    assert built == Outer(size=3, inner=Inner(ratio=1.0), names=("a", "b"), folder=Path("x"))
    assert config.build(Outer, config.to_plain(built), where="t") == built


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 1, "sise": 2}, "t: unknown key 'sise'; did you mean 'size'"),
        ({}, "t: missing key 'size'"),
        ({"size": "1"}, "t.size must be int, got '1'"),
        ({"size": True}, "t.size must be int, got True"),
        ({"size": 1, "inner": {"ratio": "x"}}, "t.inner.ratio must be a number"),
        ({"size": 1, "names": "ab"}, "t.names must be a list"),
    ],
)
def test_config_refuses(values, message):
    with pytest.raises(ConfigError) as caught:
        config.build(Outer, values, where="t")
    assert message in str(caught.value)


def test_config_hash_ignores_order_and_what_is_left_out():
    assert config.config_hash({"a": 1, "b": 2}) == config.config_hash({"b": 2, "a": 1})
    assert config.config_hash({"a": 1, "workers": 2}, leave_out=("workers",)) == config.config_hash({"a": 1})
    assert config.config_hash({"a": 1}) != config.config_hash({"a": 2})


def test_toml_errors_name_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read config .*missing\.toml"):
        config.read_toml(tmp_path / "missing.toml")
    (tmp_path / "bad.toml").write_text("a = [")
    with pytest.raises(ConfigError, match=r"bad\.toml is not TOML"):
        config.read_toml(tmp_path / "bad.toml")


def test_a_typo_lists_near_plugins():
    with pytest.raises(PluginError, match="no filters plug-in called 'flat_aera'; near names: flat_area"):
        plugins.load("curate.filters", "flat_aera")


def test_listing_imports_no_plugin():
    code = "import sys\nfrom curate.core.plugins import names as n\n"
    code += "print(n('curate.filters'), 'curate.filters.sharpness' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'sharpness'" in done.stdout and done.stdout.endswith(" False\n")


def test_rng_depends_on_seed_stage_and_key_alone():
    context = Context(seed=1, reject=lambda rejection: None)
    first = context.rng("a", "k").random(3)
    context.rng("b", "k").random(100)
    assert np.array_equal(context.rng("a", "k").random(3), first)
    assert not np.array_equal(context.rng("a", "l").random(3), first)


def test_chain_is_lazy():
    seen = []

    class Note:
        name = "note"

        def __call__(self, items, ctx):
            for item in items:
                seen.append(item)
                yield item * 2

    stream = chain([1, 2, 3], [Note(), Note()], Context(seed=0, reject=lambda rejection: None))
    assert seen == []
    assert next(stream) == 4
    assert seen == [1, 2]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    artifacts.write_json(target, {"a": 1})
    with pytest.raises(RuntimeError), artifacts.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert artifacts.read_json(target) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_only_one_process_writes_an_output(tmp_path):
    code = f"""
from pathlib import Path
from curate.core.artifacts import locked_output
from curate.core.errors import ConfigError
try:
    with locked_output(Path({str(tmp_path)!r})): print("entered")
except ConfigError as error: print(error)
"""
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "lock").touch()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / ".tmp-mine").write_text("of a user")
    (tmp_path / "shards" / ".tmp-1-x.tar").write_text("stale")
    with artifacts.locked_output(tmp_path):
        assert [path.name for path in tmp_path.rglob(".tmp-*")] == [".tmp-mine"]
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "another process is writing" in other.stdout


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / ".tmp-1-thesis").write_text("precious")
    with (
        pytest.raises(ConfigError, match=r"already holds other files \(\.tmp-1-thesis\)"),
        artifacts.locked_output(tmp_path),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-1-thesis"]


def test_an_output_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to output"), artifacts.locked_output(tmp_path / "file" / "out"):
        pass


def test_json_of_ours_that_is_broken_names_the_file(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ManifestError, match=r"x\.json is not JSON"):
        artifacts.read_json(tmp_path / "x.json")


def test_a_shadowing_package_is_named():
    with pytest.raises(InstallError, match=r"'json' is shadowed by .*json/__init__\.py"):
        console.check_install(["json"])


def test_human_units():
    assert [console.human_bytes(v) for v in (1, 1536, 3 << 20)] == ["1 B", "1.5 KiB", "3.0 MiB"]
    assert [console.human_seconds(v) for v in (5, 75, 3700)] == ["0:05", "1:15", "1:01:40"]


def test_recipes_check_themselves(tmp_path):
    with pytest.raises(
        ConfigError, match="recipe must be one of everything, lsdir, million-ird, photographs, usual or"
    ):
        load_recipe("photos", patch_size_px=64)
    with pytest.raises(ConfigError, match="gates names 'sharpness'"):
        Recipe(name="x", measure=("noise_sigma",), gates=("sharpness",))
    file = tmp_path / "mine.toml"
    file.write_text('measure = ["sharpness"]\ngates = ["sharpness"]\n[thresholds.sharpness]\nmin_sharpness = 5\n')
    recipe = load_recipe(str(file), patch_size_px=64)
    assert recipe.name == "mine" and recipe.filters()[-1].min_sharpness == 5.0
    file.write_text('measure = ["sharpness"]\n[thresholds.sharpness]\nmin_sharpnes = 5\n')
    with pytest.raises(
        ConfigError, match="recipe mine: sharpness: unknown key 'min_sharpnes'; did you mean 'min_sharpness'"
    ):
        load_recipe(str(file), patch_size_px=64)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_gates_what_it_measures(name):
    recipe = load_recipe(name, patch_size_px=256)
    assert recipe.name == name and set(recipe.gates) <= set(recipe.measure)
    if "resolution" in recipe.measure:
        wanted = {"lsdir": 2160, "million-ird": 1024}.get(name, 256)
        assert recipe.thresholds["resolution"]["min_side_px"] == wanted


def test_temporary_names_hold_the_process_id(tmp_path):
    with artifacts.atomic_path(tmp_path / "a") as temporary:
        assert str(os.getpid()) in temporary.name
        temporary.write_text("x")


@dataclass(frozen=True, kw_only=True)
class Tables:
    shares: Mapping[str, float]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shares": 3}, "t.shares must be a table, got 3"),
        ({"shares": {"a": "x"}}, "t.shares.a must be a number, got 'x'"),
        ({"shares": {"a": float("inf")}}, "t.shares.a must be finite, got inf"),
    ],
)
def test_config_checks_tables_and_finiteness(values, message):
    with pytest.raises(ConfigError) as caught:
        config.build(Tables, values, where="t")
    assert str(caught.value) == message


def test_an_operating_system_error_is_one_line(capsys):
    def app():
        raise PermissionError(13, "Permission denied", "/readonly/out.png")

    with pytest.raises(SystemExit) as caught:
        console.run(app, [])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: /readonly/out.png: Permission denied\n"
