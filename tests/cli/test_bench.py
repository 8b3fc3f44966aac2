"""`tlserve bench`: what it prints, what its JSON holds, and its exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.cli.conftest import Colours, run
from tests.flow.daemon_process import wait_until
from tests.rpc.colours import picture
from tlserve.cli.bench_report import milliseconds

QUICK = ("--seconds", "0.3", "--warm-up", "0")


def test_the_table_has_throughput_latencies_and_who_answered(colours: Colours) -> None:
    result = run("bench", "colours", *QUICK, "--clients", "2", "--address", colours.address)
    assert result.exit_code == 0, result.stderr
    heading, row = result.stdout.splitlines()
    assert " ".join(heading.split()) == ("clients requests/s images/s p50 ms p90 p99 p99.9 max errors CPU of")
    assert row.split()[0] == "2"
    assert row.endswith(f"{colours.backend.answered_images} answers in 0.3 s, all by version 2")
    assert "made-up JPEGs" in result.stderr


def test_json_has_the_same_numbers_and_the_settings(colours: Colours, tmp_path: Path) -> None:
    red = tmp_path / "class" / "red.png"
    red.parent.mkdir()
    red.write_bytes(picture("red"))
    result = run(
        *("bench", "colours", tmp_path, *QUICK, "--sweep", "1, 3", "--batch", "2", "--json"),
        *("--address", colours.address),
    )
    found = json.loads(result.stdout)
    assert (found["models"], found["batch"]) == (["colours"], 2)
    assert found["input"].startswith("input 'image': 1 file, ")
    assert [one["settings"]["clients"] for one in found["runs"]] == [1, 3]
    assert sum(one["answers"] for one in found["runs"]) * 2 == colours.backend.answered_images
    first = found["runs"][0]
    assert first["images_per_second"] == pytest.approx(2 * first["requests_per_second"])
    assert set(first["latency_ms"]) == {"mean", "p50", "p90", "p99", "p99_9", "max"}
    assert first["versions"] == [{"model": "colours", "version": "2", "answers": first["answers"]}]
    assert first["errors"] == []


def test_an_open_loop_says_how_it_kept_its_plan(colours: Colours) -> None:
    result = run("bench", "colours", *QUICK, "--rate", "40", "--address", colours.address)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1].startswith("40/s")
    assert " planned, " in result.stdout


def test_errors_are_a_table_of_their_own_and_exit_code_1(colours: Colours) -> None:
    colours.backend.queue_rows = 0
    result = run("bench", "colours", *QUICK, "--address", colours.address)
    assert result.exit_code == 1
    assert "RESOURCE_EXHAUSTED" in result.stdout
    assert "100.0 %  the queue is full" in result.stdout


def test_what_cannot_be_asked_is_one_line_and_exit_code_1(colours: Colours) -> None:
    for arguments, says in (
        (("nobody", "--address", colours.address), "unknown model 'nobody'"),
        (("colours", "--version", "9", "--address", colours.address), "has no version '9'"),
        (("colours", "--input", "sound", "--address", colours.address), "no input 'sound'"),
        (("colours", "--address", "127.0.0.1:1"), "no tlserve at"),
    ):
        result = run("bench", *arguments)
        assert result.exit_code == 1
        assert says in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["colours", "--clients", "4", "--rate", "10"],
        ["colours", "--clients", "0"],
        ["colours", "--sweep", "1,x"],
        ["colours", "--sweep", "1,,2"],
        ["colours", "--rate", "-1"],
        ["colours", "--seconds", "0"],
        ["colours", "--size", "224"],
        ["colours", "--size", "0x10"],
        ["colours", "--processes", "9"],
        ["colours", "--sweep", "8,1", "--processes", "2"],
        ["colours,,other"],
        ["colours", "no/such/file.jpg"],
        ["colours", "--address", "nowhere"],
        [],
    ],
)
def test_wrong_use_is_told_before_anything_is_sent(colours: Colours, arguments: list[str]) -> None:
    where = [] if "--address" in arguments else ["--address", colours.address]
    assert run("bench", *arguments, *where).exit_code == 2
    assert colours.backend.answered_images == 0


def test_a_folder_without_images_is_wrong_use(colours: Colours, tmp_path: Path) -> None:
    assert run("bench", "colours", tmp_path, "--address", colours.address).exit_code == 2


def test_ctrl_c_ends_it_early_and_shows_what_was_measured(colours: Colours) -> None:
    command = [sys.executable, "-m", "tlserve", "bench", "colours", "--warm-up", "0", "--seconds", "60"]
    command += ["--sweep", "2,4", "--address", colours.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        late = threading.Timer(30, process.kill)
        late.start()
        wait_until(lambda: colours.backend.answered_images > 20, "nothing was asked", 20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        late.cancel()
    assert process.returncode == 0, err
    assert len(out.splitlines()) == 2
    assert "ended early" in out
    assert "Traceback" not in err


def test_latencies_have_three_digits() -> None:
    assert [milliseconds(value) for value in (0.8321, 9.994, 9.996, 99.94, 99.96, 1234.5)] == [
        "0.83", "9.99", "10.0", "99.9", "100", "1,234",
    ]  # fmt: skip
