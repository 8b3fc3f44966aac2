"""`tlserve new-backbone`: what it writes works at once, and it never takes another one's place."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.cli.conftest import run
from tlserve.plugin_api import ENTRY_POINT_GROUP
from tlserve.plugin_host import PluginHost
from tlserve.testing import PLUGIN_CHECKS, check_plugin


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """As the author would, in the package's folder, with the package importable."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def lines_that_matter(source: str) -> int:
    """Statements, apart from imports and docstrings."""
    return sum(
        isinstance(node, ast.stmt)
        and not isinstance(node, ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in ast.walk(ast.parse(source))
    )


def test_the_package_is_a_plugin_of_twenty_lines_with_everything_around_it(tmp_path: Path) -> None:
    done = run("new-backbone", "my.birds", "--folder", tmp_path)
    target = tmp_path / "tlserve-my.birds"
    assert (done.exit_code, done.stdout) == (0, f"{target}\n")
    assert f"cd {target}\n" in done.stderr
    assert "tlserve serve --backbone my.birds" in done.stderr
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    module = "tlserve_my_birds"
    assert files == {
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "tests/test_my_birds.py",
        f"{module}/__init__.py",
        f"{module}/network.py",
        f"{module}/weights.safetensors",
    }
    project = tomllib.loads((target / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {ENTRY_POINT_GROUP: {"my.birds": f"{module}:Plugin"}}
    assert lines_that_matter((target / module / "__init__.py").read_text()) <= 20
    assert not any("$" in (target / file).read_text() for file in files if not file.endswith("safetensors"))


def test_listing_the_package_imports_no_torch(tmp_path: Path) -> None:
    run("new-backbone", "birds", "--folder", tmp_path)
    said = python(
        "-c",
        "import sys, tlserve_birds; print(tlserve_birds.Plugin().names(), 'torch' in sys.modules)",
        folder=tmp_path / "tlserve-birds",
    )
    assert said.stdout == "('',) False\n", said.stderr


@pytest.mark.slow
def test_the_packages_own_test_passes_at_once(tmp_path: Path) -> None:
    run("new-backbone", "birds", "--folder", tmp_path)
    said = python("-m", "pytest", "-q", "-p", "no:cacheprovider", folder=tmp_path / "tlserve-birds")
    assert "1 passed" in said.stdout, said.stdout + said.stderr


def test_the_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("new-backbone", "found", "--folder", tmp_path)
    target = tmp_path / "tlserve-found"
    monkeypatch.syspath_prepend(target)
    project = tomllib.loads((target / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"][ENTRY_POINT_GROUP].items()
    host = PluginHost(entry_points=[EntryPoint(name, value, ENTRY_POINT_GROUP)])
    assert [(entry.name, entry.error) for entry in host.catalogue()] == [("found", None)]
    assert host.load("found").info.name == "found"


@pytest.mark.slow
def test_the_single_file_is_a_plugin_of_a_folder(tmp_path: Path) -> None:
    done = run("new-backbone", "moths", "--single-file", "--folder", tmp_path)
    assert done.stdout == f"{tmp_path / 'moths.py'}\n"
    assert f"""TLSERVE_PLUGIN_FOLDERS='["{tmp_path}"]'""" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moths.py", "moths.safetensors"]
    host = PluginHost([tmp_path], entry_points=())
    assert [(entry.name, entry.error) for entry in host.catalogue()] == [("moths", None)]
    # What the network itself promises, the package's own test proves: the two hold the same one.
    check_plugin(tmp_path / "moths.py", checks=[check.name for check in PLUGIN_CHECKS])


@pytest.mark.parametrize("name", ["", "-birds", "birds-", "two words", "a/b", "käfer", "x;y"])
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    done = run("new-backbone", "--folder", tmp_path, "--", name)
    assert done.exit_code == 2
    assert "cannot be a backbone's name" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [(), ("--single-file",)])
def test_nothing_is_overwritten(more: tuple[str, ...], tmp_path: Path) -> None:
    first = run("new-backbone", "birds", "--folder", tmp_path, *more)
    there = Path(first.stdout.strip())
    mine = there if there.is_file() else there / "pyproject.toml"
    mine.write_text("my work")
    again = run("new-backbone", "birds", "--folder", tmp_path, *more)
    assert again.exit_code == 2
    assert f"{there} is there already" in again.stderr
    assert mine.read_text() == "my work"


def test_the_prefix_of_another_plugin_is_refused_and_its_place_told(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "owls.py").write_text("raise RuntimeError('asking for a name runs no plugin')")
    (tmp_path / "tlserve.toml").write_text(f'plugin_folders = ["{tmp_path / "plugins"}"]')
    for name in ("owls", "Owls"):
        done = run("new-backbone", name, "--folder", tmp_path, "--config", tmp_path / "tlserve.toml")
        assert done.exit_code == 2
        assert f"is taken by file {tmp_path}/plugins/owls.py" in done.stderr


def test_the_name_of_an_installed_module_is_refused(tmp_path: Path) -> None:
    """The bundled plugin's, whether or not tlserve's entry points are installed."""
    done = run("new-backbone", "nano", "--folder", tmp_path)
    assert done.exit_code == 2
    assert "'nano' is taken by" in done.stderr or "'tlserve_nano' is installed" in done.stderr


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("new-backbone", "birds", "--folder", tmp_path / "file")
    assert done.exit_code == 1
    assert f"cannot write the plugin to {tmp_path / 'file'}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
