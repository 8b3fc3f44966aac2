"""What holds for the command line as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import run
from tlserve import __version__
from tlserve.cli.failing import exit_code
from tlserve.cli.options import LEARNING_HELP, learning_flags
from tlserve.core.errors import SettingsError, TlserveError
from tlserve.settings import Settings, load_settings

COMMANDS = [
    "serve",
    "train",
    "views",
    "classify",
    "models",
    "versions",
    "report",
    "compare",
    "retrain",
    "export",
    "promote",
    "rollback",
    "pin",
    "promotion",
    "adopt",
    "watch",
    "backbones",
    "bench",
    "doctor",
    "demo",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 5


def test_the_version_is_printed() -> None:
    assert run("--version").stdout == f"tlserve {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from tlserve.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'grpc', 'onnxruntime', 'sklearn', 'numpy', 'PIL', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


def every_error(kind: type[TlserveError] = TlserveError) -> list[type[TlserveError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in every_error(child))]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_an_exit_code(kind: type[TlserveError]) -> None:
    error = kind.__new__(kind)
    assert exit_code(error) == (2 if issubclass(kind, SettingsError) else 1)


def test_unknown_commands_and_options_are_wrong_use() -> None:
    assert run("sevre").exit_code == 2
    assert run("models", "--jsno").exit_code == 2


def test_a_setting_that_cannot_work_is_wrong_use_and_one_line() -> None:
    result = run("serve", "--grpc", "nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("tlserve: settings: grpc:")
    assert len(result.stderr.splitlines()) == 1


def test_an_unknown_setting_in_the_environment_does_no_harm() -> None:
    assert run("models", "--address", "127.0.0.1:1", env={"TLSERVE_COLOUR": "red"}).exit_code == 1


def test_flags_of_learning_say_what_the_settings_say() -> None:
    assert {name: Settings.model_fields[name].description for name in LEARNING_HELP} == LEARNING_HELP


@pytest.mark.parametrize("command", ["serve", "train"])
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--precision", "int4"),
        ("--head", "tree"),
        ("--strategy", "magic"),
        ("--augment", "flip,magic"),
        ("--views", "-1"),
        ("--unfreeze", "0"),
    ],
)
def test_a_flag_of_learning_that_cannot_work_is_wrong_use(
    command: str, flag: str, value: str, tmp_path: Path
) -> None:
    folder = [] if command == "serve" else [tmp_path]
    result = run(command, *folder, "--state", tmp_path / "state", flag, value)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"tlserve: settings: {flag.removeprefix('--')}")
    assert len(result.stderr.splitlines()) == 1


def test_flags_of_learning_become_settings() -> None:
    flags = learning_flags(head="ridge", strategy=None, augment="flip, crop", views=5, unfreeze="3")
    settings = load_settings(flags)
    assert (settings.head, settings.strategy, settings.views, settings.unfreeze) == ("ridge", "auto", 5, 3)
    assert settings.augment == ("flip", "crop")
