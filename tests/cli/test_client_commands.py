"""Commands that ask a running server: what goes to stdout, what to stderr, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Colours, run
from tests.rpc.colours import picture
from tlserve.cli.classifying import shortened
from tlserve.cli.options import DEFAULT_ADDRESS
from tlserve.client import DEFAULT_ADDRESS as CLIENT_DEFAULT_ADDRESS
from tlserve.rpc.backend import ModelEvent

VERSION_FIELDS = {
    "version",
    "state",
    "images",
    "classes",
    "accuracy",
    "backbone",
    "created",
    "reason",
    "drop_to_live_seconds",
}


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{colour}.png" for colour in ("red", "green", "blue")]
    for file in files:
        file.write_bytes(picture(file.stem))
    return files


def test_the_default_address_is_that_of_the_client() -> None:
    assert DEFAULT_ADDRESS == CLIENT_DEFAULT_ADDRESS


def test_versions_as_json_have_every_promised_field(colours: Colours) -> None:
    result = run("versions", "colours", "--json", "--address", colours.address)
    assert result.exit_code == 0
    versions = json.loads(result.stdout)
    assert [one["version"] for one in versions] == [1, 2]
    assert all(set(one) >= VERSION_FIELDS for one in versions)
    assert result.stderr == ""


def test_versions_as_a_table_say_which_one_is_live(colours: Colours) -> None:
    result = run("versions", "colours", "--address", colours.address)
    live = result.stdout.splitlines()[-1]
    assert live.split()[:2] == ["2", "live"]
    assert "1.50 s" in live


def test_the_address_may_come_from_the_environment(colours: Colours) -> None:
    result = run("models", "--json", env={"TLSERVE_ADDRESS": colours.address})
    assert {one["model"] for one in json.loads(result.stdout)} == {"colours", "empty"}


def test_a_table_in_a_pipe_has_no_colour_codes_and_is_not_wrapped(colours: Colours) -> None:
    result = run("models", "--address", colours.address)
    assert "\x1b" not in result.stdout
    assert sum(line.startswith("colours") for line in result.stdout.splitlines()) == 1


def test_backbones_show_what_is_wrong_with_broken_ones(colours: Colours) -> None:
    result = run("backbones", "--address", colours.address)
    assert result.exit_code == 0
    assert "no weights" in result.stdout


def test_without_a_daemon_the_plugins_here_are_asked_for_their_backbones() -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8001)) == 0:
            pytest.skip("something listens at the default address")
    result = run("backbones")
    assert result.exit_code == 0
    assert any(line.startswith("nano ") for line in result.stdout.splitlines())
    assert "PLUGIN" not in result.stdout
    assert "No daemon answers" in result.stderr
    assert run("backbones", "--address", "127.0.0.1:1").exit_code == 1


def test_classify_names_the_class_of_every_file(colours: Colours, pictures: list[Path]) -> None:
    result = run("classify", "colours", *pictures, "--json", "--address", colours.address)
    answers = json.loads(result.stdout)
    assert [one["file"] for one in answers] == [str(file) for file in pictures]
    assert [one["label"] for one in answers] == ["red", "green", "blue"]
    assert {one["version"] for one in answers} == {2}
    assert answers[0]["top"][0] == {"label": "red", "probability": answers[0]["probability"]}


def test_classify_can_ask_an_older_version(colours: Colours, pictures: list[Path]) -> None:
    result = run("classify", "colours", pictures[0], "--version", "1", "--address", colours.address)
    assert result.stdout.splitlines()[-1].split()[3] == "1"


def test_a_file_that_is_no_image_is_named_and_the_others_are_answered(
    colours: Colours, pictures: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "notes.txt"
    bad.write_text("no image at all")
    result = run("classify", "colours", pictures[0], bad, pictures[2], "--address", colours.address)
    assert result.exit_code == 1
    assert str(bad) in result.stderr
    assert "red.png" in result.stdout
    assert "blue.png" in result.stdout


def test_a_folder_stands_for_the_images_in_it(colours: Colours, pictures: list[Path]) -> None:
    folder = pictures[0].parent
    (folder / "notes.txt").write_text("no image at all")
    result = run("classify", "colours", folder, "--json", "--address", colours.address)
    assert result.exit_code == 0
    assert [Path(one["file"]).name for one in json.loads(result.stdout)] == [
        "blue.png",
        "green.png",
        "red.png",
    ]


def test_classify_json_is_a_list_even_when_nothing_could_be_asked(pictures: list[Path]) -> None:
    result = run("classify", "colours", pictures[0], "--json", "--address", "127.0.0.1:1")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == []


def test_a_long_path_keeps_its_end() -> None:
    assert shortened("short.png", 20) == "short.png"
    assert shortened("a/very/long/path/of/folders/daisy.jpg", 20).endswith("ders/daisy.jpg"[-13:])
    assert len(shortened("x" * 90, 20)) == 20


@pytest.mark.parametrize("address", ["foo", "http://127.0.0.1:8001", "127.0.0.1", "127.0.0.1:99999", ""])
def test_an_address_of_another_form_is_wrong_use(address: str) -> None:
    for command in ("models", "backbones", "doctor"):
        result = run(command, "--address", address)
        assert result.exit_code == 2
        assert result.stderr == f"tlserve: --address must look like HOST:PORT (got {address!r})\n"


def test_a_missing_file_is_wrong_use(colours: Colours, tmp_path: Path) -> None:
    assert run("classify", "colours", tmp_path / "no.png", "--address", colours.address).exit_code == 2


def test_an_unknown_model_is_one_line_on_stderr(colours: Colours) -> None:
    result = run("versions", "colors", "--address", colours.address)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["tlserve: unknown model 'colors'; models here: colours, empty"]


def test_without_a_daemon_the_message_says_how_to_start_one() -> None:
    result = run("models", "--address", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "tlserve serve" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_promote_and_rollback_change_what_is_live(colours: Colours) -> None:
    assert run("promote", "colours", "1", "--address", colours.address).exit_code == 0
    assert colours.backend.live == 1
    result = run("rollback", "colours", "--address", colours.address)
    assert colours.backend.live == 2
    assert "tlserve promotion colours auto" in result.stderr


def test_promotion_is_shown_without_a_mode_and_set_with_one(colours: Colours) -> None:
    assert run("promotion", "colours", "--address", colours.address).stdout == "auto\n"
    run("promotion", "colours", "frozen", "--address", colours.address)
    assert colours.backend.promotion == "frozen"
    run("promotion", "colours", "default", "--address", colours.address)
    assert run("promotion", "colours", "--address", colours.address).stdout == "auto\n"
    assert run("promotion", "colours", "sideways", "--address", colours.address).exit_code == 2


def test_a_version_is_pinned_and_unpinned(colours: Colours) -> None:
    run("pin", "colours", "1", "--address", colours.address)
    assert colours.backend.pinned == {1}
    run("pin", "colours", "1", "--unpin", "--address", colours.address)
    assert colours.backend.pinned == set()


def test_retrain_prints_the_job_for_scripts_and_a_hint_for_people(colours: Colours) -> None:
    result = run("retrain", "colours", "--accept-deletions", "--address", colours.address)
    assert result.stdout == "job-1\n"
    assert "tlserve watch colours" in result.stderr
    assert colours.backend.retrained == [("colours", True)]


def test_export_writes_the_live_version_unless_another_is_named(colours: Colours, tmp_path: Path) -> None:
    live, first = tmp_path / "live.onnx", tmp_path / "first.onnx"
    assert run("export", "colours", live, "--address", colours.address).exit_code == 0
    assert run("export", "colours", "1", first, "--address", colours.address).exit_code == 0
    assert live.stat().st_size == first.stat().st_size == 2_500_000
    assert live.read_bytes() != first.read_bytes()


@pytest.mark.parametrize("arguments", [["1", "2", "file.onnx"], ["no/such/folder/file.onnx"], []])
def test_export_with_wrong_arguments_is_wrong_use(colours: Colours, arguments: list[str]) -> None:
    assert run("export", "colours", *arguments, "--address", colours.address).exit_code == 2


def test_watch_prints_events_until_ctrl_c(colours: Colours) -> None:
    command = [sys.executable, "-m", "tlserve", "watch", "--address", colours.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while not colours.backend.watchers and time.monotonic() < deadline:
            time.sleep(0.02)
        event = ModelEvent("colours", 0.0, "swap", "version 3 is live", version=3)
        colours.loop.call_soon_threadsafe(colours.backend.tell, event)
        assert process.stdout is not None
        assert process.stderr is not None
        late = threading.Timer(20, process.kill)
        late.start()
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        late.cancel()
    assert line.rstrip().endswith("colours  version 3 is live")
    assert rest == f"following {colours.address}, Ctrl-C ends\n"
    assert process.returncode == 0


def test_a_reader_that_goes_away_early_is_no_traceback(colours: Colours) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "tlserve", "versions", "colours", "--address", colours.address]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert "Traceback" not in done.stderr


def test_a_report_as_a_page_is_a_file_whose_path_goes_to_stdout(colours: Colours, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = run(*("report", "colours", "previous", "--out", out, "--no-open"), "--address", colours.address)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}\n"
    assert out.read_text() == "<!doctype html><title>colours 1 é</title>"
    result = run("report", "colours", "--html", "--no-open", "--address", colours.address)
    page = Path(result.stdout.strip())
    assert page.name.startswith("tlserve-colours-live-")
    assert page.read_text() == "<!doctype html><title>colours 2 é</title>"
    page.unlink()


def test_the_page_of_an_unknown_version_leaves_no_file(colours: Colours, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert run("report", "colours", "7", "--out", out, "--address", colours.address).exit_code == 1
    assert not out.exists()


def test_a_page_as_json_or_into_no_folder_is_wrong_use(colours: Colours) -> None:
    for more in (["--html", "--json"], ["--out", "no/such/folder/page.html"]):
        assert run("report", "colours", *more, "--address", colours.address).exit_code == 2


def test_the_browser_that_the_environment_names_is_given_the_page(colours: Colours, tmp_path: Path) -> None:
    seen, browser, page = tmp_path / "seen", tmp_path / "browser", tmp_path / "a page.html"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "tlserve", "report", "colours", "--out", str(page)]
    done = subprocess.run(
        [*command, "--address", colours.address],
        env={**os.environ, "BROWSER": f"{browser} %s"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert seen.read_text() == f"{page.as_uri()}\n"


def test_without_a_display_it_is_said_where_the_page_is(colours: Colours, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    nowhere = {"BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    result = run("report", "colours", "--out", page, "--address", colours.address, env=nowhere)
    assert result.stdout == f"{page}\n"
    assert result.stderr == "No browser can be opened here; open that file in yours.\n"


def test_a_backbone_is_adopted_shown_and_given_back(colours: Colours) -> None:
    colours.backend.adopted = "other"
    assert "learns on other, not nano" in run("models", "--address", colours.address).stdout
    result = run("adopt", "colours", "--reset", "--address", colours.address)
    assert colours.backend.adopted == ""
    assert result.stderr == "colours: it learns on nano from now on, as version 2 did.\n"
    assert "not nano" not in run("models", "--address", colours.address).stdout
    result = run("adopt", "colours", "nano", "--address", colours.address)
    assert colours.backend.adopted == "nano"
    assert "tlserve watch colours" in result.stderr


def test_an_unknown_backbone_is_not_adopted(colours: Colours) -> None:
    result = run("adopt", "colours", "nanoo", "--address", colours.address)
    assert result.exit_code == 1
    assert "did you mean nano" in result.stderr
    assert colours.backend.adopted == ""


@pytest.mark.parametrize("arguments", [["colours"], ["colours", "nano", "--reset"]])
def test_adopting_nothing_or_twice_is_wrong_use(colours: Colours, arguments: list[str]) -> None:
    assert run("adopt", *arguments, "--address", colours.address).exit_code == 2
