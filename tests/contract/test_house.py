"""The house's own rules: file sizes, frozen command line and public names, documented commands and plug-ins."""

import importlib
import json
import os
from pathlib import Path

import pytest
import typer

from curate.core import plugins

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("curate", "distill", "restoration", "pipelines")
GOLDEN = Path(__file__).with_name("house.json")
PLUGIN_FOLDERS = (
    "curate.filters",
    "distill.selectors",
    "distill.complexity",
    "restoration.degradations",
    "restoration.extra_metrics",
    "restoration.models",
)


def public_names() -> dict[str, list[str]]:
    return {name: sorted(importlib.import_module(name).__all__) for name in PACKAGES}


def command_line() -> dict[str, dict[str, list[str]]]:
    """List every parameter of every command with its default, as typer declares it."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in PACKAGES:
        group = typer.main.get_command(importlib.import_module(f"{name}.cli").app)
        found[name] = {
            command: sorted(f"{'/'.join(p.opts)}={p.default}" for p in parsed.params)
            for command, parsed in sorted(group.commands.items())
        }
    return found


@pytest.mark.parametrize("part", ["public_names", "command_line"])
def test_what_users_rely_on_is_frozen(part):
    """A removal or change is a CHANGELOG entry first; then `make golden`."""
    current = {"public_names": public_names, "command_line": command_line}[part]()
    stored = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("IRDISTILL_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(stored | {part: current}, indent=1, sort_keys=True) + "\n")
        stored = json.loads(GOLDEN.read_text())
    assert stored[part] == current


@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_short(package):
    lengths = {
        str(f.relative_to(REPOSITORY)): len(f.read_text().splitlines()) for f in (REPOSITORY / package).rglob("*.py")
    }
    assert {name: count for name, count in lengths.items() if count > 400} == {}


def test_no_junk_drawers():
    stems = {f.stem for package in PACKAGES for f in (REPOSITORY / package).rglob("*.py")}
    assert not stems & {"utils", "common", "helpers", "misc"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_command_has_help_and_is_documented(package):
    documented = (REPOSITORY / "docs" / "cli.md").read_text()
    group = typer.main.get_command(importlib.import_module(f"{package}.cli").app)
    for command, parsed in group.commands.items():
        assert parsed.help, f"{package} {command} has no help"
        assert f"{package} {command}" in documented


@pytest.mark.parametrize("folder", PLUGIN_FOLDERS)
def test_every_plugin_is_listed_for_newcomers(folder):
    extending = (REPOSITORY / "docs" / "extending.md").read_text()
    assert plugins.names(folder), folder
    assert folder.replace(".", "/") in extending


def test_documents_name_files_that_exist():
    for document in ("tour.md", "extending.md"):
        for word in (REPOSITORY / "docs" / document).read_text().replace("`", " ").split():
            if word.endswith(".py") and "/" in word and word != "curate/filters/dark.py":  # the one a reader writes
                assert (REPOSITORY / word).is_file(), f"docs/{document} names {word}"
