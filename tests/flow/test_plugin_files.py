"""Single-file plugins of a running daemon: added, edited and mended without a restart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flow.daemon_process import DaemonProcess, draw_shapes, running, wait_until
from tests.testing.test_guide import plugin_of_the_guide
from tlserve.client import Client

SOURCE = plugin_of_the_guide()


def named(name: str) -> str:
    return SOURCE.replace('name="edges"', f'name="{name}"')


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    return folder


@pytest.fixture
def daemon(make_daemon: Callable[..., DaemonProcess], plugins: Path, tmp_path: Path) -> DaemonProcess:
    """With two folders of plugins, and `edges` as its backbone, which neither holds yet."""
    (tmp_path / "more").mkdir()
    made = make_daemon("edges")
    folders = json.dumps([str(plugins), str(tmp_path / "more")])
    made.env = os.environ | {"TLSERVE_PLUGIN_FOLDERS": folders}
    return made


def listed(client: Client) -> dict[str, str | None]:
    return {line.name: line.error for line in client.backbones() if line.plugin in ("edges", "corners")}


def retrained(client: Client, live: int) -> None:
    wait_until(lambda: client.model("shapes").phase in ("idle", "failed"), "the pass before ended")
    client.retrain("shapes")
    wait_until(lambda: client.model("shapes").live == live, f"version {live} is live")


def build_of(daemon: DaemonProcess, version: int) -> str:
    manifest = daemon.state / "models" / "shapes" / str(version) / "manifest.json"
    return str(json.loads(manifest.read_text())["build"])


def test_a_file_that_is_added_later_is_listed_and_trained_with(
    shapes: Path, daemon: DaemonProcess, plugins: Path
) -> None:
    with running(daemon), Client(daemon.address) as client:
        wait_until(
            lambda: "no plugin offers 'edges'" in client.model("shapes").message, "what is missing is told"
        )
        assert listed(client) == {}
        (plugins / "edges.py").write_text(SOURCE)
        # The next pass finds it, whatever brings it about: here, more pictures.
        draw_shapes(shapes / "disc", "disc", 3, seed=9)
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        assert listed(client) == {"edges": None}


def test_an_edited_file_counts_at_once_in_listings_and_with_the_next_retraining(
    shapes: Path, daemon: DaemonProcess, plugins: Path
) -> None:
    (plugins / "edges.py").write_text(SOURCE)
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        (plugins / "edges.py").write_text(SOURCE.replace("default_rng(0)", "default_rng(1)"))
        (plugins / "corners.py").write_text(named("corners"))
        assert listed(client) == {"corners": None, "edges": None}
        retrained(client, 2)
        assert build_of(daemon, 2) != build_of(daemon, 1)

        # A file that is broken for a while harms neither what is live nor what is trained without asking.
        (plugins / "edges.py").write_text("def (")
        assert "SyntaxError" in (listed(client)["edges"] or "")
        draw_shapes(shapes / "bar", "bar", 3, seed=9)
        wait_until(lambda: client.model("shapes").live == 3, "new pictures are trained on")
        assert build_of(daemon, 3) == build_of(daemon, 2)
        client.retrain("shapes")
        wait_until(lambda: "SyntaxError" in client.model("shapes").message, "the mistake is told")
        picture = next((shapes / "disc").iterdir())
        assert client.classify("shapes", [picture])[0].version == 3
        (plugins / "edges.py").write_text(SOURCE.replace("default_rng(0)", "default_rng(2)"))
        retrained(client, 4)
        assert len({build_of(daemon, version) for version in (1, 2, 4)}) == 3


def test_two_files_with_one_name_are_both_named_until_one_goes(
    shapes: Path, daemon: DaemonProcess, plugins: Path, tmp_path: Path
) -> None:
    one, other = plugins / "edges.py", tmp_path / "more" / "edges.py"
    for path in (one, other):
        path.write_text(SOURCE)
    both = f"two plugins claim the prefix 'edges': file {one} and file {other}; rename or remove one"
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").message == both, "the model says what is wrong")
        assert client.model("shapes").phase == "failed"
        assert listed(client) == {"edges": both}
        other.unlink()
        assert listed(client) == {"edges": None}
        client.retrain("shapes")
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
