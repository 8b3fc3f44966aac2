"""`tlserve train` in a process of its own, with the bundled backbone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flow.daemon_process import draw_shapes
from tlserve.app.lock import StateLock
from tlserve.cli.training import serve_command
from tlserve.release import LiveState, VersionStore, with_backbone
from tlserve.release.layout import StateLayout
from tlserve.runtime import read_build_spec
from tlserve.settings import load_settings


def train(folder: Path, state: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tlserve", "train", str(folder), "--state", str(state), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


@dataclass
class Trained:
    folder: Path
    state: Path
    said: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("train")
    folder = root / "images" / "shapes"
    for seed, shape in enumerate(("disc", "bar")):
        draw_shapes(folder / shape, shape, 12, seed=seed)
    return Trained(folder, root / "state", train(folder, root / "state"))


def test_one_pass_makes_a_live_version_and_says_where_it_is(trained: Trained) -> None:
    assert trained.said.returncode == 0, trained.said.stderr
    assert VersionStore(StateLayout(trained.state).models).live("shapes").live == 1
    assert f"{trained.state}/models/shapes/1" in trained.said.stderr
    assert "version 1 is live" in trained.said.stderr
    command = f"tlserve serve --state {trained.state} --watch {trained.folder.parent}\n"
    assert trained.said.stderr.endswith(command)


def test_its_report_is_a_page_when_the_command_ends(trained: Trained) -> None:
    page = trained.state / "models" / "shapes" / "1" / "report.html"
    assert f"Its report, for your browser: {page}\n" in trained.said.stderr
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")


def test_heads_were_compared_and_no_view_was_made(trained: Trained) -> None:
    store = VersionStore(StateLayout(trained.state).models)
    assert len(store.report("shapes", 1)["training"]["comparison"]) > 1
    plan = store.manifest("shapes", 1).plan
    assert plan is not None
    assert plan.views == 0


def test_flags_say_how_to_learn(trained: Trained, tmp_path: Path) -> None:
    flags = ("--precision", "int8", "--head", "ridge", "--strategy", "head")
    said = train(trained.folder, tmp_path / "state", *flags)
    assert said.returncode == 0, said.stderr
    layout = StateLayout(tmp_path / "state")
    manifest = VersionStore(layout.models).manifest("shapes", 1)
    assert manifest.plan is not None
    assert (manifest.plan.head, manifest.plan.strategy) == ("ridge", "head")
    assert read_build_spec(layout.backbones / manifest.build).precision == "int8"
    assert said.stderr.endswith("--precision int8 --head ridge --strategy head\n")


def test_fine_tuning_without_a_study_is_told_to_be_missing(trained: Trained, tmp_path: Path) -> None:
    said = train(trained.folder, tmp_path / "state", "--strategy", "finetune")
    assert said.returncode == 0, said.stderr
    assert said.stderr.endswith("It was not fine-tuned: strategy finetune needs --study.\n")
    assert "not fine-tuned" not in trained.said.stderr


def test_an_adopted_backbone_outranks_the_flag_and_is_told(trained: Trained, tmp_path: Path) -> None:
    store = VersionStore(StateLayout(tmp_path / "state").models)
    store.write_live("shapes", with_backbone(LiveState(), "nano"))
    said = train(trained.folder, tmp_path / "state", "--backbone", "torchvision/none")
    assert said.returncode == 0, said.stderr
    assert store.manifest("shapes", 1).backbone == "nano"
    assert store.live("shapes").backbone == "nano"
    assert "It learns on nano: " in said.stderr


def test_a_study_looks_for_a_better_version_after_the_first(trained: Trained, tmp_path: Path) -> None:
    said = train(trained.folder, tmp_path / "state", "--study", "--views", "1")
    assert said.returncode == 0, said.stderr
    layout = StateLayout(tmp_path / "state")
    assert layout.study("shapes").is_file()
    assert "version 1 was live until version 2 was" in said.stderr or "version 1 is live" in said.stderr
    newest = VersionStore(layout.models).versions("shapes")[-1]
    assert (layout.models / "shapes" / str(newest) / "report.html").is_file()


def test_the_hint_names_a_backbone_that_is_not_the_default(tmp_path: Path) -> None:
    settings = load_settings({"watch": tmp_path, "state": tmp_path / "s", "backbone": "mine"})
    assert serve_command(settings).endswith(f"--watch {tmp_path} --backbone mine")


def test_progress_goes_to_stderr_as_plain_lines(trained: Trained) -> None:
    assert trained.said.stdout == ""
    assert "\x1b" not in trained.said.stderr
    assert "running the backbone" in trained.said.stderr


def test_a_second_pass_over_the_same_images_changes_nothing(trained: Trained) -> None:
    again = train(trained.folder, trained.state)
    assert again.returncode == 0
    assert "nothing changed since version 1" in again.stderr


def test_a_folder_with_one_class_fails_and_says_what_is_missing(trained: Trained, tmp_path: Path) -> None:
    draw_shapes(tmp_path / "lonely" / "disc", "disc", 5, seed=0)
    said = train(tmp_path / "lonely", trained.state)
    assert said.returncode == 1
    assert "2 class folders" in said.stderr
    assert "Traceback" not in said.stderr


def test_it_is_refused_while_a_daemon_owns_the_state(tmp_path: Path) -> None:
    (tmp_path / "shapes").mkdir()
    with StateLock(StateLayout(tmp_path / "state").lock, holder="tlserve serve"):
        said = train(tmp_path / "shapes", tmp_path / "state")
    assert said.returncode == 1
    assert "is in use by tlserve serve" in said.stderr
    assert len(said.stderr.splitlines()) == 1
