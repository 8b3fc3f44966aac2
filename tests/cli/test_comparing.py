"""`tlserve compare`: the table, the advice and the page, from a server and without one."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Colours, run
from tests.flow.daemon_process import draw_shapes
from tlserve.app.lock import StateLock
from tlserve.cli.comparing import BUSY, comparison_listing
from tlserve.release.layout import StateLayout
from tlserve.rpc.backend import ModelEvent

GOOD = {"backbone": "a", "accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "licence": "MIT"}


def test_the_table_has_the_best_first_and_the_broken_last_with_its_reason() -> None:
    rows = [{"backbone": "c", "error": "no weights"}, GOOD, {**GOOD, "backbone": "b", "accuracy": 0.9}]
    listing = comparison_listing(rows)
    assert [str(row[0]) for row in listing.rows] == ["b", "a", "c"]
    assert listing.sentences == ["MIT", "MIT", "no weights"]
    assert listing.rows[1][1] == "80.0 % (70-90)"
    assert set(listing.rows[2][1:]) == {"-"}


def test_a_long_name_leaves_room_for_the_numbers() -> None:
    row = {**GOOD, "backbone": "onnx:/some/very/long/path/to/a/network.onnx"}
    name = str(comparison_listing([row], 84).rows[0][0])
    assert len(name) == 24
    assert name.endswith("network.onnx")
    assert str(comparison_listing([row]).rows[0][0]) == row["backbone"]


def test_a_comparison_shows_table_advice_and_the_command_to_adopt(colours: Colours) -> None:
    names = "nano, broken,longest_name"
    result = run("compare", "colours", "--backbones", names, "--address", colours.address)
    assert result.exit_code == 0, result.stderr
    assert colours.backend.compared == [("colours", ["nano", "broken", "longest_name"])]
    longest, nano, broken = result.stdout.splitlines()[1:]
    assert longest.split("  ")[0] == "longest_name"
    assert longest.endswith("90.0 % (89-91)   12.5 s  0.25 s      4.24  2.68    1.0M  MIT")
    assert nano.endswith("in use now; MIT")
    assert broken.endswith("no weights; put them under weights/")
    assert result.stderr.splitlines()[-2].startswith("We would take longest_name: its accuracy, 90.0")
    assert result.stderr.splitlines()[-1] == "Take it: tlserve adopt colours longest_name"


def test_progress_is_shown_for_each_backbone_while_the_daemon_works(colours: Colours) -> None:
    def event(kind: str, message: str, done: int = 0, total: int = 0) -> ModelEvent:
        return ModelEvent("colours", 1.0, kind, message, "extracting", None, done, total)

    colours.loop.call_soon_threadsafe(colours.backend.gate.clear)
    with asking(colours) as process:
        wait_for(lambda: colours.backend.working == 1 and len(colours.backend.watchers) == 1)
        for one in (
            event("comparison", "comparing backbones: nano"),
            event("phase", "a pass of the same model meanwhile", 7, 9),
            event("comparison", "comparing backbones: other"),
        ):
            colours.loop.call_soon_threadsafe(colours.backend.tell, one)
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        colours.loop.call_soon_threadsafe(colours.backend.gate.set)
        process.communicate(timeout=20)
    assert lines == ["nano: running the backbone\n", "other: running the backbone\n"]
    assert process.returncode == 0


@contextlib.contextmanager
def asking(colours: Colours) -> Iterator[subprocess.Popen[str]]:
    """`tlserve compare` in a process of its own."""
    command = [sys.executable, "-m", "tlserve", "compare", "colours", "--address", colours.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        late = threading.Timer(30, process.kill)
        late.start()
        yield process
        late.cancel()


def test_what_is_in_use_needs_no_adoption(colours: Colours) -> None:
    result = run("compare", "colours", "--backbones", "nano", "--address", colours.address)
    assert result.stderr.endswith("It is the one in use now.\n")
    assert "tlserve adopt" not in result.stderr


def test_json_has_the_rows_and_the_choice(colours: Colours) -> None:
    result = run("compare", "colours", "--backbones", "nano,broken", "--json", "--address", colours.address)
    found = json.loads(result.stdout)
    assert [row["backbone"] for row in found["rows"]] == ["nano", "broken"]
    assert found["choice"]["backbone"] == "nano"


def test_the_page_is_written_where_it_was_asked_for(colours: Colours, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run(
        *("compare", "colours", "--backbones", "nano", "--out", page, "--no-open"),
        "--address",
        colours.address,
    )
    assert page.read_text() == "<!doctype html><title>backbones for colours é</title>"
    assert f"The page is {page}\n" in result.stderr


def test_when_none_can_be_used_the_command_fails_and_shows_why(colours: Colours) -> None:
    result = run("compare", "colours", "--backbones", "broken", "--address", colours.address)
    assert result.exit_code == 1
    assert "no weights" in result.stdout
    assert "none of these backbones" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["colours", "--backbones", "nano,,broken"],
        ["colours", "--out", "no/such/folder/page.html"],
        ["no/such/folder"],
        ["colours", "--address", "nowhere"],
    ],
)
def test_wrong_use_is_told_before_anything_is_asked(colours: Colours, arguments: list[str]) -> None:
    assert run("compare", *arguments, env={"TLSERVE_ADDRESS": colours.address}).exit_code == 2
    assert colours.backend.compared == []


def test_an_unknown_model_is_one_line_on_stderr(colours: Colours) -> None:
    result = run("compare", "colors", "--address", colours.address)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["tlserve: unknown model 'colors'; models here: colours, empty"]


def test_a_daemon_that_is_busy_with_something_else_is_no_riddle(colours: Colours) -> None:
    colours.loop.call_soon_threadsafe(colours.backend.gate.clear)
    with asking(colours) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"{BUSY}\n"
        colours.loop.call_soon_threadsafe(colours.backend.gate.set)
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_ctrl_c_ends_the_comparison_on_the_server_too(colours: Colours) -> None:
    colours.loop.call_soon_threadsafe(colours.backend.gate.clear)
    with asking(colours) as process:
        wait_for(lambda: colours.backend.working == 1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    wait_for(lambda: colours.backend.cancelled == 1)
    assert process.returncode != 0
    assert "Traceback" not in said


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come about within 20 seconds"
        time.sleep(0.02)


def test_it_is_refused_while_a_daemon_owns_the_state(tmp_path: Path) -> None:
    draw_shapes(tmp_path / "shapes" / "disc", "disc", 1, seed=0)
    with StateLock(StateLayout(tmp_path / "state").lock, holder="tlserve serve"):
        result = run("compare", tmp_path / "shapes", "--state", tmp_path / "state")
    assert result.exit_code == 1
    assert "is in use by tlserve serve" in result.stderr


def test_without_a_daemon_a_folder_is_compared_and_its_rows_are_kept(tmp_path: Path) -> None:
    folder, state, page = tmp_path / "images" / "shapes", tmp_path / "state", tmp_path / "page.html"
    for seed, shape in enumerate(("disc", "bar")):
        draw_shapes(folder / shape, shape, 12, seed=seed)
    result = run(
        *("compare", folder, "--state", state, "--backbones", "nano,torchvision/none", "--no-open"),
        *("--out", page),
    )
    assert result.exit_code == 0, result.stderr
    assert "nano: running the backbone" in result.stderr
    nano, missing = result.stdout.splitlines()[1:]
    assert nano.startswith("nano ")
    assert missing.startswith("torchvision/none ")
    assert "tlserve adopt shapes nano" in page.read_text()
    assert list((state / "features").iterdir())
    assert not (state / "models" / "shapes").exists()


def test_a_folder_with_one_class_is_told_what_it_lacks(tmp_path: Path) -> None:
    draw_shapes(tmp_path / "lonely" / "disc", "disc", 3, seed=0)
    result = run("compare", tmp_path / "lonely", "--state", tmp_path / "state", "--backbones", "nano")
    assert result.exit_code == 1
    assert "2 class folders" in result.stderr.splitlines()[-1]
