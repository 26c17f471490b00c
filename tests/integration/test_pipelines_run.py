"""The whole way at toy size: every step, the report, and what a second run skips."""

import dataclasses
import re

import pytest

from curate.core.errors import ConfigError, MissingDependencyError, PluginError
from pipelines import load_recipe, run
from pipelines.pictures import copy_pictures
from pipelines.recipe import Bundled
from pipelines.report import task_name

SMALL = dataclasses.replace(
    load_recipe("demo"),
    name="toy",
    pictures=tuple(Bundled(package="skimage", file=f"data/{name}") for name in ("astronaut.png", "brick.png", "rocket.jpg")),
    held_out=(Bundled(package="skimage", file="data/chelsea.png"),),
    encoder="handcrafted",
    model="tiny",
    steps=6,
    tasks=("noise25", "sr2"),
)  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return run(SMALL, tmp_path_factory.mktemp("pipeline") / "out")


def test_the_whole_way_ends_in_a_report_and_a_restored_picture(first):
    assert first.restored.is_file() and first.report.is_file() and first.skipped == ()
    assert [(score.picture, score.task) for score in first.scores] == [("chelsea", "noise25"), ("chelsea", "sr2")]
    assert all(10 < score.before_db < 50 and 10 < score.after_db < 50 for score in first.scores)


def test_the_report_is_self_contained_and_complete(first):
    page = first.report.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page), "the page asks for something outside itself"
    assert "http" not in re.sub(
        r"http://www\.w3\.org/[^\"]*|https?://(?:purl|creativecommons)\.org[^\"]*|https://matplotlib\.org/?", "", page
    )
    for words in (
        "Before and after",
        "astronaut.png",
        "stage1",
        "stage2",
        "training loss",
        "128 px",
        "20%",
        *SMALL.remarks[:1],
    ):
        assert words in page
    for score in first.scores:
        assert f"{score.after_db:.2f}" in page


def test_a_second_run_skips_everything(first, capfd):
    again = run(SMALL, first.out)
    assert again.skipped == ("pictures", "curate", "distill", "train", "evaluate", "restore")
    assert again.scores == first.scores
    assert "curate: inputs unchanged, skipped" in capfd.readouterr().err


def test_a_changed_setting_runs_what_depends_on_it(first, capfd):
    again = run(dataclasses.replace(SMALL, tasks=("sr2",)), first.out)
    assert again.skipped == ("pictures", "curate", "distill", "train")
    assert "evaluate: inputs changed, made anew" in capfd.readouterr().err
    assert sorted(p.name for p in (first.out / "restore" / "restored").iterdir()) == ["sr2"]


def test_a_lost_folder_is_made_again(first):
    import shutil

    run(dataclasses.replace(SMALL, tasks=("sr2",)), first.out)
    shutil.rmtree(first.out / "restore")
    assert "restore" not in run(dataclasses.replace(SMALL, tasks=("sr2",)), first.out).skipped


def test_bad_recipes_are_one_clear_line(program, tmp_path):
    with pytest.raises(PluginError, match="no pipeline recipe called 'dmo'; known: demo"):
        load_recipe("dmo")
    with pytest.raises(ConfigError, match="both in the corpus and held out"):
        dataclasses.replace(SMALL, held_out=SMALL.pictures)
    missing = Bundled(package="no_such_package_x", file="a.png")
    with pytest.raises(MissingDependencyError, match=r"pip install 'irdistill\[demo\]'"):
        copy_pictures((missing,), tmp_path / "p", extra="demo")
    with pytest.raises(MissingDependencyError, match=r"ships no data/nothing\.png"):
        copy_pictures((Bundled(package="skimage", file="data/nothing.png"),), tmp_path / "p", extra="demo")
    done = program("pipelines", "run", "dmo", tmp_path / "out")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_every_recipe_loads_and_says_its_cost():
    import importlib

    from curate.core import plugins

    for name in plugins.names("pipelines.recipes"):
        assert load_recipe(name).name == name
        doc = importlib.import_module(f"pipelines.recipes.{name}").recipe.__doc__
        assert all(word in doc for word in ("Command:", "Cost:", "Expected:"))


def test_tasks_are_named_for_people():
    assert [task_name(t) for t in ("noise25", "jpeg10", "sr2", "rain")] == [
        "Gaussian noise, sigma 25", "JPEG, quality 10", "bicubic x2", "rain",
    ]  # fmt: skip
