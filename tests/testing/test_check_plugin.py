"""Each check of plugins passes on a sound one, in a file or a package, and catches a broken one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tlserve_nano

from tlserve.testing import CHECKS, PLUGIN_CHECKS, CheckFailed, check_plugin

GOOD = """
import hashlib, os, sys, time
from dataclasses import replace
from pathlib import Path
from tests.plugin_host.tiny import INFO, TinyBackbone, tiny_model
from tlserve.plugin_api import BackboneFacts, UnknownArchitecture, WeightsUnavailable

class TinyPlugin:
    def names(self):
        return ("", "wide", "FILE.bin")

    def load(self, rest):
        if rest.endswith(".bin"):
            if not Path(rest).exists() or Path(rest).read_bytes() != b"sound":
                raise WeightsUnavailable(f"no weights in {rest}; get them from the cellar")
        elif rest not in ("", "wide"):
            raise UnknownArchitecture(f"tiny has no {rest!r}; it has wide")
        name = f"tiny/{rest}" if rest else "tiny"
        seed = len(rest)
        digest = hashlib.sha256(bytes([seed])).hexdigest()
        info = replace(INFO, name=name, weights_sha256=digest)
        return TinyBackbone(info, lambda: tiny_model(seed=seed))

    def facts(self, rest):
        return BackboneFacts(licence="CC0-1.0", n_parameters=36, height=8, width=8, row_width=10)

PLUGIN = TinyPlugin()
"""
BROKEN = [
    ("is_a_plugin", "PLUGIN = TinyPlugin()", "PLUGIN = 3"),
    ("is_a_plugin", "PLUGIN = TinyPlugin()", "PLUGEN = TinyPlugin()"),
    ("names_are_listed", '("", "wide", "FILE.bin")', '"wide"'),
    ("names_are_listed", '("", "wide", "FILE.bin")', "()"),
    ("names_are_listed", '("", "wide", "FILE.bin")', '("wide", "wide")'),
    ("names_are_listed", '("", "wide", "FILE.bin")', '("wide ",)'),
    ("names_are_loaded", '("", "wide", "FILE.bin")', '("", "tall")'),
    ("names_are_loaded", "return TinyBackbone(info, lambda: tiny_model(seed=seed))", "return None"),
    ("unknown_name", "raise UnknownArchitecture(", "raise KeyError("),
    ("unknown_name", "; it has wide", ""),
    ("unknown_name", "raise UnknownArchitecture(", "print("),
    ("unknown_name", "raise UnknownArchitecture(", 'raise WeightsUnavailable("wide " '),
    ("unusable_weights", "not Path(rest).exists() or ", ""),
    ("unusable_weights", ' or Path(rest).read_bytes() != b"sound"', ""),
    ("unusable_weights", 'f"no weights in {rest}; get them from the cellar"', '"no weights"'),
    ("load_repeats", "name=name,", "name=name, build_version=str(time.time_ns()),"),
    ("facts_agree", "n_parameters=36", "n_parameters=35"),
    ("facts_agree", "row_width=10", "row_width=6"),
    ("info_names_the_backbone", 'else "tiny"', 'else "the tiny one"'),
    ("info_names_the_backbone", 'f"tiny/{rest}"', "rest"),
    ("digests_tell_apart", "bytes([seed])", "b'tiny'"),
    ("same_info_elsewhere", "bytes([seed])", "str(hash(str(seed))).encode()"),
    ("same_info_elsewhere", "name=name,", "name=name, weights_origin=f'process {os.getpid()}',"),
    ("same_info_elsewhere", "seed = len(rest)", "seed = len(rest) + len(sys.modules['pytest'].__name__)"),
    ("same_features_elsewhere", "seed = len(rest)", "seed = os.getpid() + len(rest)"),
    ("all_finite", "lambda: tiny_model(seed=seed)", "lambda: tiny_model(seed=seed, after=LOG)"),
]
LOG = 'from onnx import helper\nLOG = [helper.make_node("Log", ["y"], ["features"])]\n'


def plugin_file(folder: Path, source: str = GOOD) -> Path:
    path = folder / "tiny.py"
    path.write_text(source)
    return path


def test_a_sound_plugin_in_a_file_passes_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    check_plugin(plugin_file(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.py"]


@pytest.fixture
def package(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "tlserve_checked_tiny.py").write_text(GOOD)
    sys.path.insert(0, str(tmp_path))
    yield "tlserve_checked_tiny"
    sys.path.remove(str(tmp_path))
    sys.modules.pop("tlserve_checked_tiny", None)


def test_a_sound_plugin_in_a_package_passes_as_an_object_and_as_a_class(package: str) -> None:
    check_plugin(f"{package}:PLUGIN")
    check_plugin(f"{package}:TinyPlugin", ["wide"])


@pytest.mark.parametrize(("check", "sound", "broken"), BROKEN)
def test_a_broken_promise_is_caught_by_its_own_check(
    check: str, sound: str, broken: str, tmp_path: Path
) -> None:
    assert sound in GOOD
    source = (LOG + GOOD).replace(sound, broken)
    if check == "unknown_name":
        # A plugin of files may take an unknown name for a file that is missing.
        source = source.replace(', "FILE.bin"', "")
    path = plugin_file(tmp_path, source)
    with pytest.raises(CheckFailed) as caught:
        check_plugin(path, checks=[check])
    assert caught.value.check == check
    assert caught.value.found
    with pytest.raises(CheckFailed):
        check_plugin(path)


def test_every_check_is_proven_here() -> None:
    assert {check.name for check in PLUGIN_CHECKS} == {check for check, _, _ in BROKEN} - {"all_finite"}


def test_a_name_that_no_check_has_twice() -> None:
    names = [check.name for check in (*CHECKS, *PLUGIN_CHECKS)]
    assert sorted(set(names)) == sorted(names)


def test_what_the_other_process_said_is_told(tmp_path: Path) -> None:
    path = plugin_file(
        tmp_path, GOOD.replace("seed = len(rest)", "seed = len(rest) + len(sys.modules['pytest'].__name__)")
    )
    with pytest.raises(CheckFailed, match="the other process ended with KeyError: 'pytest'"):
        check_plugin(path, checks=["same_info_elsewhere"])


def test_the_backbone_that_breaks_a_promise_is_named(tmp_path: Path) -> None:
    source = LOG + GOOD.replace("seed=seed)", 'seed=seed, after=LOG if rest == "wide" else ())')
    with pytest.raises(CheckFailed, match=r"all_finite: .*; backbone 'wide': features has some"):
        check_plugin(plugin_file(tmp_path, source))
    check_plugin(plugin_file(tmp_path, source), [""])


def test_a_backbone_without_a_name_is_called_as_users_write_it(tmp_path: Path, package: str) -> None:
    source = LOG + GOOD.replace("seed=seed)", "seed=seed, after=LOG)")
    (tmp_path / f"{package}.py").write_text(source)
    for where in (plugin_file(tmp_path, source), f"{package}:PLUGIN"):
        with pytest.raises(CheckFailed, match=r"all_finite: .*; backbone 'tiny': features has some"):
            check_plugin(where, [""])
    path = plugin_file(tmp_path, GOOD.replace("name = ", "raise OSError('disk on fire')\n        name = "))
    with pytest.raises(CheckFailed, match=r"names_are_loaded: .*; 'tiny' raised OSError: disk on fire"):
        check_plugin(path)


@pytest.mark.parametrize(
    ("check", "sound", "leaving"),
    [
        ("is_a_plugin", "PLUGIN = TinyPlugin()", "sys.exit(0)"),
        ("names_are_listed", "return (", "sys.exit(0)\n        return ("),
        ("names_are_loaded", "name = f", "sys.exit(0)\n        name = f"),
        ("unknown_name", "raise UnknownArchitecture(", "sys.exit("),
        ("unusable_weights", "raise WeightsUnavailable(", "sys.exit("),
        ("same_info_elsewhere", "seed = len(rest)", "seed = 'pytest' in sys.modules or sys.exit(0)"),
    ],
)
def test_a_plugin_that_leaves_fails_its_check_and_ends_nothing_else(
    check: str, sound: str, leaving: str, tmp_path: Path
) -> None:
    assert sound in GOOD
    source = GOOD.replace(sound, leaving)
    path = plugin_file(tmp_path, source.replace(', "FILE.bin"', "") if check == "unknown_name" else source)
    with pytest.raises(CheckFailed, match=r"SystemExit|ended with exit code 0") as caught:
        check_plugin(path, ["wide"], checks=[check])
    assert caught.value.check == check


def test_a_plugin_of_files_only_wants_to_be_told_which(tmp_path: Path) -> None:
    path = plugin_file(tmp_path, GOOD.replace('("", "wide", "FILE.bin")', '("FILE.bin",)'))
    with pytest.raises(CheckFailed, match=r"say which names to prove, check_plugin\(where, \[NAME\]\)"):
        check_plugin(path, checks=["names_are_loaded"])
    (tmp_path / "mine.bin").write_bytes(b"sound")
    check_plugin(path, [str(tmp_path / "mine.bin")])


def spoiled_nano(content: bytes | None, folder: Path) -> Callable[[], object]:
    weights = folder / "weights.safetensors"
    if content is not None:
        weights.write_bytes(content)
    return lambda: tlserve_nano.NanoPlugin(weights).load("")


def test_calls_without_sound_weights_are_held_to_the_promise(tmp_path: Path) -> None:
    checks = ["unusable_weights"]
    for content in (None, b"", b"not safetensors"):
        check_plugin("tlserve_nano:PLUGIN", spoiled=[spoiled_nano(content, tmp_path)], checks=checks)
    with pytest.raises(CheckFailed, match=r"spoiled\[0\]: no error came"):
        check_plugin("tlserve_nano:PLUGIN", spoiled=[tlserve_nano.PLUGIN.names], checks=checks)
    with pytest.raises(CheckFailed, match=r"spoiled\[0\]: a ZeroDivisionError came instead"):
        check_plugin("tlserve_nano:PLUGIN", spoiled=[lambda: 1 / 0], checks=checks)


def test_a_place_that_is_neither_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="write package:OBJECT as in pyproject"):
        check_plugin("tlserve_nano")
    with pytest.raises(ValueError, match="no such checks: finite"):
        check_plugin(plugin_file(tmp_path), checks=["finite"])
