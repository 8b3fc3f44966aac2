"""What the doctor finds, on this machine and on made-up ones."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import Colours, run
from tests.flow.daemon_process import draw_shapes
from tlserve.cli.doctor import backbones, daemon, folders, machine
from tlserve.cli.doctor.check import Check, Status, fail, ok
from tlserve.cli.doctor.check import run as run_group
from tlserve.release import LiveState, VersionStore, with_backbone
from tlserve.release.layout import StateLayout
from tlserve.settings import Settings, load_settings

LOCAL = "22 1 0:20 / / rw - ext4 /dev/sda rw\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "watch").mkdir()
    return load_settings({"watch": tmp_path / "watch", "state": tmp_path / "state"})


@pytest.fixture
def mountinfo(tmp_path: Path) -> Path:
    file = tmp_path / "mountinfo"
    file.write_text(LOCAL)
    return file


def statuses(checks: Iterator[Check]) -> dict[str, Status]:
    return {check.name: check.status for check in checks}


def test_a_state_folder_that_is_not_there_yet_is_fine(settings: Settings, mountinfo: Path) -> None:
    assert statuses(folders.check_state(settings, mountinfo)) == {"state folder": Status.OK}
    assert not settings.state.exists()


def test_a_state_folder_on_a_network_disk_fails_and_a_watch_folder_there_warns(
    settings: Settings, mountinfo: Path, tmp_path: Path
) -> None:
    mountinfo.write_text(f"{LOCAL}23 22 0:21 / {tmp_path} rw - nfs4 server:/x rw\n")
    (found,) = folders.check_state(settings, mountinfo)
    assert found.status is Status.FAIL
    assert "nfs4" in found.found
    assert statuses(folders.check_watch(settings, mountinfo))["watch folder"] is Status.WARN


def test_models_that_cannot_be_trained_are_named(settings: Settings, mountinfo: Path) -> None:
    draw_shapes(settings.watch / "good" / "disc", "disc", 2, seed=0)
    draw_shapes(settings.watch / "good" / "bar", "bar", 2, seed=1)
    draw_shapes(settings.watch / "lonely" / "disc", "disc", 2, seed=2)
    (settings.watch / "lonely" / "_inbox").mkdir()
    (settings.watch / "bad name!").mkdir()
    found = statuses(folders.check_watch(settings, mountinfo))
    assert found["model lonely"] is Status.WARN
    assert found["folder bad name!"] is Status.WARN
    assert found["models"] is Status.OK


def test_few_watches_are_a_warning_that_says_how_to_raise_them(tmp_path: Path) -> None:
    limits = tmp_path / "proc/sys/fs/inotify"
    limits.mkdir(parents=True)
    (limits / "max_user_instances").write_text("128\n")
    (limits / "max_user_watches").write_text("2\n")
    for number in range(5):
        (tmp_path / "watch" / str(number)).mkdir(parents=True)
    (found,) = machine.check_inotify(tmp_path / "proc", tmp_path / "watch")
    assert found.status is Status.WARN
    assert "sysctl" in found.advice


def test_watches_in_use_are_counted_from_the_processes(tmp_path: Path) -> None:
    info = tmp_path / "77" / "fdinfo"
    info.mkdir(parents=True)
    (info / "3").write_text("pos:\t0\ninotify wd:2 ino:1\ninotify wd:1 ino:2\n")
    (info / "4").write_text("pos:\t0\nflags:\t02\n")
    assert machine.used_by_this_user(tmp_path) == (1, 2)


def test_a_check_that_breaks_is_a_finding() -> None:
    def broken() -> Iterator[Check]:
        yield ok("first", "fine")
        raise OSError("no such device")

    first, second = run_group("group", broken)
    assert first == ok("first", "fine")
    assert second.status is Status.FAIL
    assert "no such device" in second.found


def test_this_installation_is_complete() -> None:
    checks = [*machine.check_versions(), *machine.check_image_formats()]
    assert [check for check in checks if check.status is Status.FAIL] == []


def test_a_running_daemon_is_found_with_its_models(colours: Colours, settings: Settings) -> None:
    found = statuses(daemon.check_daemon(colours.address, settings))
    assert found["daemon"] is Status.OK
    assert found["served model colours"] is Status.OK
    assert found["served model empty"] is Status.WARN
    assert found["images of empty"] is Status.WARN


def test_a_served_model_that_waits_is_a_warning_with_its_own_message_as_the_remedy(
    colours: Colours, settings: Settings
) -> None:
    waiting = replace(colours.backend.get_model("colours"), phase="waiting", message="100 of 150 disappeared")
    (found,) = daemon.check_model(waiting)
    assert (found.status, found.advice) == (Status.WARN, "100 of 150 disappeared")
    assert "version 2 is live" in found.found


def test_a_daemon_that_answers_watches_a_folder_of_its_own(settings: Settings, mountinfo: Path) -> None:
    settings.watch.rmdir()
    assert statuses(folders.check_watch(settings, mountinfo)) == {"watch folder": Status.WARN}
    assert statuses(folders.check_watch(settings, mountinfo, needed=False)) == {}


def test_no_daemon_is_a_warning_and_another_program_on_its_port_a_failure() -> None:
    settings = load_settings({"grpc": "127.0.0.1:0", "http": "", "metrics": ""})
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        (found,) = daemon.check_daemon(taken, settings)
        assert found.status is Status.FAIL
    assert statuses(daemon.check_daemon(taken, settings)) == {"daemon": Status.WARN, "grpc port": Status.OK}


def test_a_daemon_is_looked_for_where_the_settings_say(colours: Colours, tmp_path: Path) -> None:
    config = tmp_path / "tlserve.toml"
    config.write_text(f'watch = "{tmp_path}"\ngrpc = "{colours.address}"\n')
    result = run("doctor", "--config", config, "--json")
    checks = {one["name"]: one for one in json.loads(result.stdout)}
    assert checks["daemon"]["status"] == "ok"
    assert "grpc port" not in checks


def test_a_port_that_cannot_be_bound_is_named_with_the_flag_that_chooses_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        settings = load_settings({"grpc": taken, "http": taken, "metrics": "no.such.host.invalid:0"})
        found = {check.name: check for check in daemon.check_ports(settings)}
        assert {check.status for check in found.values()} == {Status.FAIL}
        assert "in use" in found["grpc port"].found
        assert "--http" in found["http port"].advice
        assert "no.such.host.invalid" in found["metrics port"].found
    assert statuses(daemon.check_ports(load_settings({"grpc": taken, "http": taken, "metrics": ""}))) == {
        "grpc port": Status.OK,
        "http port": Status.OK,
    }


def test_wanted_backbones_are_loaded_and_what_is_wrong_with_one_says_who_wants_it(
    settings: Settings, tmp_path: Path
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "crooked.py").write_text("PLUGIN = 1 / 0\n")
    (plugins / "unused.py").write_text("import no_such_module\n")
    for model, toml in {
        "flowers": f'backbone = "onnx:{tmp_path}/x.onnx"',
        "ants": 'backbone = "crooked"',
        "bees": 'backbone = "crooked"',
        "usual": "",
        "torn": "backbone = ",
    }.items():
        (settings.watch / model).mkdir()
        (settings.watch / model / "model.toml").write_text(toml)
    here = load_settings({"watch": settings.watch, "plugin_folders": (plugins,)})
    found = {check.name: check for check in backbones.check_backbones(here)}
    assert {name: check.status for name, check in found.items()} == {
        "settings of torn": Status.FAIL,
        "plugin unused": Status.WARN,
        "backbones": Status.OK,
        "backbone nano": Status.OK,
        f"backbone onnx:{tmp_path}/x.onnx": Status.FAIL,
        "backbone crooked": Status.FAIL,
    }
    assert "2.7 million parameters" in found["backbone nano"].found
    assert "x.onnx" in found[f"backbone onnx:{tmp_path}/x.onnx"].found
    assert str(settings.watch / "flowers" / "model.toml") in found[f"backbone onnx:{tmp_path}/x.onnx"].advice
    assert "ZeroDivisionError" in found["backbone crooked"].found
    assert "ants" in found["backbone crooked"].advice
    assert "bees" in found["backbone crooked"].advice


def test_what_a_person_adopted_is_wanted_instead_of_what_the_file_names(
    settings: Settings, tmp_path: Path
) -> None:
    (settings.watch / "flowers").mkdir()
    (settings.watch / "flowers" / "model.toml").write_text('backbone = "onnx:file.onnx"')
    here = load_settings({"watch": settings.watch, "state": tmp_path / "s"})
    versions = VersionStore(StateLayout(here.state).models)
    versions.write_live("flowers", with_backbone(LiveState(), "onnx:adopted.onnx"))
    assert backbones.wanted_backbones(here).by == {
        "nano": [""],
        "onnx:adopted.onnx": ["tlserve adopt flowers"],
    }


def test_the_whole_round_is_json_on_stdout_and_nothing_else(tmp_path: Path) -> None:
    result = run(
        "doctor", "--watch", tmp_path, "--state", tmp_path / "s", "--address", "127.0.0.1:1", "--json"
    )
    checks = {one["name"]: one for one in json.loads(result.stdout)}
    assert {"python", "inotify", "state folder", "watch folder", "device", "daemon", "backbones"} <= set(
        checks
    )
    assert all(set(one) == {"name", "status", "found", "advice"} for one in checks.values())
    assert result.exit_code == (1 if any(one["status"] == "fail" for one in checks.values()) else 0)


def test_a_device_that_is_not_here_fails_with_the_reason(settings: Settings) -> None:
    (check,) = machine.check_accelerator(settings.model_copy(update={"device": "cuda:99"}))
    assert (check.name, check.status) == ("device", Status.FAIL)
    assert check.found.startswith("the device is set to cuda:99, but ")
    assert check.advice


def test_the_device_is_named_with_its_processor(settings: Settings) -> None:
    (check,) = machine.check_accelerator(settings.model_copy(update={"device": "cpu"}))
    assert (check.name, check.status) == ("device", Status.OK)
    assert check.found.startswith("cpu (as the setting asks): ")
    assert "core" in check.found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_state_folder_that_cannot_be_written_fails(tmp_path: Path, mountinfo: Path) -> None:
    tmp_path.chmod(0o500)
    settings = load_settings({"state": tmp_path / "state"})
    assert statuses(folders.check_state(settings, mountinfo)) == {"state folder": Status.FAIL}


def test_the_exit_code_is_1_when_anything_fails(tmp_path: Path) -> None:
    result = run(
        "doctor", "--watch", tmp_path, "--backbone", "onnx:/nowhere/x.onnx", "--address", "127.0.0.1:1"
    )
    assert result.exit_code == 1
    assert "/nowhere/x.onnx" in result.stdout
    assert "to mend first" in result.stdout
    assert fail("a", "b", "c").status == "fail"
