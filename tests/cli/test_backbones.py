"""`tlserve backbones`: the listing on any width, and all about one, with a daemon and without."""

from __future__ import annotations

import io
import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.conftest import Colours, run
from tlserve.cli.backbones.listing import MANY, backbones_table, chosen, matches, show_backbones
from tlserve.cli.backbones.showing import (
    input_in_words,
    normalisation_in_words,
    said_if_slow,
    speed_in_words,
    trial_in_words,
    waiting_words,
)
from tlserve.core.backbones import Speed
from tlserve.core.precision import PrecisionTrial
from tlserve.plugin_api import ImageSpec
from tlserve.rpc.backend import BackboneLine

ROOT = Path(__file__).resolve().parents[2]
RESNET = BackboneLine("few/resnet50", "few", "file few.py", None, "MIT", 25_557_032, 224, 224, 3840)
WIDE = BackboneLine("few/wide", "few", "file few.py", None, "A licence" * 9, 1_200_000_000, 160, 320, 12)
BROKEN = BackboneLine("bad", "bad", "file bad.py", "its weights are gone")
MANY_NAMES = tuple(
    replace(RESNET, name=f"zoo/vit_base_patch{n:02}_clip_224", plugin="zoo") for n in range(MANY + 1)
)

PLUGIN = """
from dataclasses import replace
from tests.plugin_host.tiny import INFO, TinyBackbone
from tlserve.plugin_api import BackboneFacts, UnknownArchitecture

class TinyPlugin:
    def names(self):
        return ("small", "large")

    def load(self, rest):
        if rest != "small":
            raise UnknownArchitecture(f"there is no {rest!r}")
        return TinyBackbone(replace(INFO, name=f"tiny/{rest}"))

    def facts(self, rest):
        return BackboneFacts("CC0-1.0", 36, 8, 8, 10) if rest == "large" else None

PLUGIN = TinyPlugin()
"""


@pytest.fixture
def here(tmp_path: Path) -> dict[str, str]:
    """The environment of commands that find no daemon, and a plugin of three hundred bytes."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8001)) == 0:
            pytest.skip("something listens at the default address")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "tiny.py").write_text(PLUGIN)
    return {
        "TLSERVE_PLUGIN_FOLDERS": json.dumps([str(tmp_path / "plugins")]),
        "PYTHONPATH": str(ROOT),
        "TLSERVE_ADDRESS": "",
    }


def rendered(lines: list[BackboneLine], columns: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=columns).print(backbones_table(lines, columns))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_row_says_what_a_backbone_takes_holds_and_gives(colours: Colours) -> None:
    result = run("backbones", "--address", colours.address)
    heading, nano, broken = result.stdout.splitlines()
    assert heading.split() == ["backbone", "input", "params", "row", "images/s", "licence"]
    assert nano.split() == ["nano", "48x32", "1.0M", "24", "~210", "MIT"]
    assert broken == "broken: no weights"
    assert "~ with reading and decoding" in result.stderr


def test_json_has_every_field_of_every_backbone(colours: Colours) -> None:
    result = run("backbones", "--json", "--address", colours.address)
    nano, broken = json.loads(result.stdout)
    assert (nano["n_parameters"], nano["row_width"], nano["measured"]) == (1_034_528, 24, "files")
    assert (broken["error"], broken["licence"]) == ("no weights", None)
    assert result.stderr == ""


@pytest.mark.parametrize("columns", [80, 120])
def test_a_row_fits_one_line_of_a_terminal(columns: int) -> None:
    lines = rendered([RESNET, WIDE], columns)
    assert len(lines) == 4
    assert max(map(len, lines)) <= columns
    assert lines[2].split() == ["few/resnet50", "224", "25.6M", "3,840", "-", "MIT"]
    assert lines[3].endswith("…")


def test_a_name_too_long_for_the_terminal_is_folded_and_never_cut() -> None:
    name = "zoo/vit_base_patch16_clip_quickgelu_224.openai"
    lines = rendered([replace(RESNET, name=name)], 70)
    assert max(map(len, lines)) <= 70
    assert lines[2].split()[0] + "".join(lines[3:]) == name
    assert "25.6M  3,840" in lines[2]


def test_a_plugin_with_very_many_names_takes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_backbones(chosen([RESNET, *MANY_NAMES, BROKEN], everything=False))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["backbone", "few/resnet50", "zoo/...", "bad:"]
    assert lines[2] == f"zoo/... {MANY + 1} backbones: tlserve backbones --only 'zoo/*'"


def test_all_of_them_are_shown_on_request() -> None:
    shown = chosen([RESNET, *MANY_NAMES], everything=True)
    assert list(shown.rows) == [RESNET, *MANY_NAMES]
    assert shown.left_out == {}


def test_of_very_many_those_that_were_measured_here_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    used = replace(MANY_NAMES[3], images_per_second=12.3, measured="backbone")
    show_backbones(chosen([used, *MANY_NAMES[:3], *MANY_NAMES[4:]], everything=False))
    said = capsys.readouterr()
    assert said.out.splitlines()[1].split()[:1] == [used.name]
    assert f"zoo/... {MANY} more backbones" in said.out
    assert "~" not in said.err


def test_a_pattern_that_fits_very_many_is_summed_up_with_the_way_on(here: dict[str, str]) -> None:
    zoo = PLUGIN.replace('("small", "large")', 'tuple(f"net{n:03}" for n in range(150))')
    (folder,) = json.loads(here["TLSERVE_PLUGIN_FOLDERS"])
    (Path(folder) / "zoo.py").write_text(zoo)
    many = run("backbones", "--only", "zoo/net*", env=here)
    assert many.stdout.splitlines() == [
        "zoo/... 150 backbones: a narrower pattern, or tlserve backbones --only 'zoo/net*' --all"
    ]
    every = run("backbones", "--only", "zoo/net*", "--all", env=here)
    assert len(every.stdout.splitlines()) == 1 + 150
    fewer = run("backbones", "--only", "zoo/net0*", env=here)
    assert len(fewer.stdout.splitlines()) == 1 + 100
    as_json = run("backbones", "--only", "zoo/net*", "--json", env=here)
    assert len(json.loads(as_json.stdout)) == 150
    unasked = run("backbones", env=here)
    assert "zoo/... 150 backbones: tlserve backbones --only 'zoo/*PART*', or --all" in unasked.stdout


def test_a_licence_of_many_lines_is_one_short_cell_in_a_pipe_and_whole_in_json(
    here: dict[str, str],
) -> None:
    (folder,) = json.loads(here["TLSERVE_PLUGIN_FOLDERS"])
    plugin = Path(folder) / "tiny.py"
    plugin.write_text(PLUGIN.replace('"CC0-1.0"', '"Some terms\\n" * 30'))
    row = run("backbones", "--only", "tiny/large", env=here).stdout.splitlines()[1]
    assert row.endswith("Some terms Some…")
    assert len(row) < 120
    (line,) = json.loads(run("backbones", "--only", "tiny/large", "--json", env=here).stdout)
    assert line["licence"] == "Some terms\n" * 30


@pytest.mark.parametrize(
    ("line", "is_told"),
    [(RESNET, False), (replace(RESNET, row_width=None), True), (replace(RESNET, licence=None), True)],
)
def test_what_a_blank_means_is_told_where_there_is_one(
    line: BackboneLine, is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    show_backbones(chosen([line], everything=False))
    told = "-: not known before it is loaded; tlserve backbones show NAME\n"
    assert (told in capsys.readouterr().err) is is_told


@pytest.mark.parametrize(
    "pattern", ["resnet", "RESNET50", "few", "few/resnet50", "few/*", "*net5?", "res*5?"]
)
def test_only_takes_a_part_of_the_name_or_a_pattern_for_all_of_it(pattern: str) -> None:
    assert matches(RESNET, pattern)


@pytest.mark.parametrize("pattern", ["vit", "resnet?", "f?w", "["])
def test_only_leaves_out_what_does_not_fit(pattern: str) -> None:
    assert not matches(RESNET, pattern)


@pytest.mark.parametrize(("pattern", "fits"), [("bad", True), ("bad/*", True), ("few/*", False), ("*", True)])
def test_a_broken_plugin_answers_for_its_names(pattern: str, fits: bool) -> None:
    assert matches(BROKEN, pattern) is fits


def test_only_also_narrows_json_and_finding_nothing_fails(colours: Colours) -> None:
    result = run("backbones", "--only", "nan", "--json", "--address", colours.address)
    assert [one["name"] for one in json.loads(result.stdout)] == ["nano"]
    result = run("backbones", "--only", "zebra", "--address", colours.address)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no backbone has 'zebra' in its name" in result.stderr


@pytest.mark.parametrize("command", ["show", "inspect"])
def test_what_else_can_be_asked_about_backbones_explains_itself(command: str) -> None:
    assert command in run("backbones", "--help").stdout
    assert "--json" in run("backbones", command, "--help", env={"NO_COLOR": "1", "TERM": "dumb"}).stdout


def test_all_about_one_backbone_of_a_daemon(colours: Colours) -> None:
    result = run("backbones", "show", "nano", "--address", colours.address)
    said = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if len(line.split()) > 1)
    assert result.stdout.splitlines()[0] == "nano"
    assert said["licence"] == "MIT"
    assert said["taps"] == "early 8, features 16"
    assert said["row"] == "24 numbers, 48 bytes for each cached image"
    assert said["fine-tuning"] == "yes"
    assert said["build"] == "/state/backbones/0 (5.0 MB)"
    assert said["speed"].endswith("tlserve backbones show nano --measure")
    assert said["Use"] == "it: tlserve serve --backbone nano ..."
    assert result.stderr == ""


def test_a_measurement_of_a_daemon_is_shown(colours: Colours) -> None:
    result = run("backbones", "show", "nano", "--measure", "--address", colours.address)
    assert "100 images/s in batches of 32 (a processor, 2 threads, " in result.stdout


def test_an_unknown_backbone_is_one_line_with_near_names(colours: Colours) -> None:
    result = run("backbones", "show", "nanoo", "--address", colours.address)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == ["tlserve: no plugin offers 'nanoo'; did you mean nano?"]


def test_options_before_the_word_show_are_refused_since_they_would_do_nothing(colours: Colours) -> None:
    result = run("backbones", "--address", colours.address, "show", "nano")
    assert result.exit_code == 2
    assert "write it behind 'show'" in result.stderr


def test_without_a_daemon_a_backbone_is_measured_and_then_listed_with_its_speed(
    here: dict[str, str], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    before = run("backbones", "--only", "tiny/*", "--state", state, env=here)
    small, large = (line.split() for line in before.stdout.splitlines()[1:])
    assert small == ["tiny/small", *"-----"]
    assert large == ["tiny/large", "8", "36", "10", "-", "CC0-1.0"]

    measured = run("backbones", "show", "tiny/small", "--measure", "--json", "--state", state, env=here)
    found = json.loads(measured.stdout)
    assert (found["name"], found["row_width"], found["trainable"]) == ("tiny/small", 10, False)
    assert [speed["batch_size"] for speed in found["speeds"]] == [1, 32]
    assert Path(found["build_folder"]).parent == state / "backbones"

    after = run("backbones", "--only", "tiny/small", "--state", state, "--json", env=here)
    (line,) = json.loads(after.stdout)
    assert (line["licence"], line["n_parameters"], line["row_width"]) == ("CC0-1.0", 36, 10)
    assert line["images_per_second"] == found["speeds"][1]["images_per_second"]


def test_without_a_state_folder_showing_makes_none(here: dict[str, str], tmp_path: Path) -> None:
    state = tmp_path / "nowhere"
    result = run("backbones", "show", "tiny/small", "--state", state, env=here)
    assert "not made yet" in result.stdout
    assert not state.exists()
    unknown = run("backbones", "show", "tiny/smal", "--state", state, env=here)
    assert unknown.exit_code == 1
    assert "there is no 'smal'; did you mean small?" in unknown.stderr


def test_measured_without_a_state_folder_its_build_is_called_temporary(
    here: dict[str, str], tmp_path: Path
) -> None:
    state = tmp_path / "nowhere"
    result = run("backbones", "show", "tiny/small", "--measure", "--state", state, env=here)
    assert f"There is no state directory {state}: the build measured here was temporary." in result.stderr
    assert "parameters     36\n" in result.stdout
    assert not state.exists()


def test_what_is_waited_for_is_said_once_it_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    with said_if_slow(["never"], seconds=60):
        pass
    deadline = time.monotonic() + 20
    said = ""
    with said_if_slow(["one", "two"], seconds=0.01):
        while "two" not in said and time.monotonic() < deadline:
            time.sleep(0.01)
            said += capsys.readouterr().err
    assert said == "one\ntwo\n"


@pytest.mark.parametrize(
    ("name", "fetches"),
    [
        ("torchvision/resnet50", True),
        ("timm/vit.openai@random", False),
        ("timm/vit@my.safetensors", False),
        ("onnx:model.onnx", False),
    ],
)
def test_a_download_is_announced_where_there_may_be_one(name: str, fetches: bool) -> None:
    first, *others = waiting_words(name, measure=True, machine="this machine")
    assert ("download" in first) is fetches
    assert others[-1] == "Other work on this machine makes the numbers smaller."


def test_the_input_is_told_in_words() -> None:
    mean, std = (127.5, 127.5, 127.5), (58.395, 57.12, 57.375)
    cropped = ImageSpec(height=96, width=128, resize_short_side=146, mean=mean, std=std)
    assert input_in_words(cropped) == (
        "128 x 96 pixels, RGB, NCHW: the middle of the picture resized to a short side of 146 (bilinear)"
    )
    assert normalisation_in_words(cropped) == "(pixel - 127.5) / [58.395, 57.12, 57.375]"
    squeezed = replace(cropped, resize_short_side=None, crop="none", channel_order="BGR", layout="NHWC")
    assert input_in_words(squeezed) == "128 x 96 pixels, BGR, NHWC: squeezed to that size (bilinear)"


def test_a_trial_of_precision_says_its_numbers_and_where_they_were_measured() -> None:
    trial = PrecisionTrial(
        "int8", "int8", "int8: taken", 1000, hardware="a processor", decided_at=86_400 * 200.5
    )
    assert trial_in_words(trial) == "int8: taken (1,000 training images, a processor, 1970-07-20)"
    untried = replace(trial, tried="", reason="no VNNI", n_images=0)
    assert trial_in_words(untried) == "no VNNI (a processor, 1970-07-20)"


def test_a_speed_says_how_where_and_when() -> None:
    speed = Speed("backbone", 1, 1234.5, "cuda:0", "a GPU", 1, 86_400 * 200.5)
    assert speed_in_words(speed) == "1,234 images/s one by one (a GPU, 1970-07-20)"
    files = replace(speed, of="files", batch_size=0, images_per_second=4.23, device="cpu")
    assert speed_in_words(files) == (
        "4.2 images/s from files to rows, while learning (a GPU, 1 thread, 1970-07-20)"
    )
