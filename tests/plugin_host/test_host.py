"""Finding and loading plugins: what users may write, and what a broken plugin can and cannot do."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tlserve.core.errors import BackboneNotFound, BackboneProblem
from tlserve.plugin_api import ENTRY_POINT_GROUP
from tlserve.plugin_host import PluginHost

GOOD = """
from tests.plugin_host.tiny import with_info
from tlserve.plugin_api import UnknownArchitecture, WeightsUnavailable

class TinyPlugin:
    def names(self):
        return ("", "wide", "FILE.bin")

    def load(self, rest):
        if rest == "gone":
            raise WeightsUnavailable("weights are gone; get them from the cellar")
        if rest not in ("", "wide") and not rest.endswith(".bin"):
            raise UnknownArchitecture(f"tiny has no {rest}; it has wide")
        return with_info(name="tiny" if not rest else f"tiny/{rest}")

PLUGIN = TinyPlugin()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.py").write_text(GOOD)
    return tmp_path


def host_of(folder: Path) -> PluginHost:
    return PluginHost([folder], entry_points=())


def test_a_single_file_in_a_folder_is_a_plugin(folder: Path) -> None:
    host = host_of(folder)
    assert [entry.name for entry in host.catalogue()] == ["tiny", "tiny/wide", "tiny:FILE.bin"]
    assert host.load("tiny").info.name == "tiny"
    assert host.load("tiny/wide").info.name == "tiny/wide"


def test_what_follows_the_first_separator_may_hold_any_character(folder: Path) -> None:
    host = host_of(folder)
    assert host.load("tiny:/a b/c:d/é.bin").info.name == "tiny//a b/c:d/é.bin"
    assert host.plugin_of("tiny:/a b/c:d/é.bin") == "tiny"


def test_running_a_plugin_file_leaves_nothing_in_its_folder(folder: Path) -> None:
    host_of(folder).load("tiny")
    assert [path.name for path in folder.iterdir()] == ["tiny.py"]


def test_classes_in_a_plugin_file_can_be_pickled_and_made_dataclasses(folder: Path) -> None:
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    source += "@dataclass\nclass A:\n    x: int\n"
    (folder / "tiny.py").write_text(source + GOOD)
    assert host_of(folder).load("tiny").info.name == "tiny"


def test_new_changed_and_removed_files_count_at_once(folder: Path) -> None:
    host = host_of(folder)
    host.load("tiny")
    (folder / "tiny.py").write_text(GOOD.replace('"wide"', '"taller"'))
    (folder / "other.py").write_text(GOOD)
    assert host.load("tiny/taller").info.name == "tiny/taller"
    with pytest.raises(BackboneNotFound):
        host.load("tiny/wide")
    assert host.plugin_of("other/wide") == "other"
    (folder / "other.py").unlink()
    with pytest.raises(BackboneNotFound):
        host.plugin_of("other/wide")


def test_a_file_that_was_not_touched_is_not_run_again(folder: Path) -> None:
    (folder / "tiny.py").write_text(f"with open({str(folder / 'runs')!r}, 'a') as f: f.write('x')\n{GOOD}")
    host = host_of(folder)
    for _ in range(3):
        host.load("tiny")
    assert (folder / "runs").read_text() == "x"


def test_a_mended_file_works_without_a_reload(folder: Path) -> None:
    (folder / "tiny.py").write_text(GOOD.replace('("", "wide")', "(1 / 0)"))
    host = host_of(folder)
    with pytest.raises(BackboneProblem, match="ZeroDivisionError"):
        host.load("tiny/wide")
    (folder / "tiny.py").write_text(GOOD)
    assert host.load("tiny/wide").info.name == "tiny/wide"


def test_reload_sees_new_changed_and_removed_files(folder: Path) -> None:
    host = host_of(folder)
    host.load("tiny")
    (folder / "tiny.py").write_text(GOOD.replace('"wide"', '"tall"'))
    (folder / "other.py").write_text(GOOD)
    host.reload()
    names = [entry.name for entry in host.catalogue()]
    assert "tiny/tall" in names
    assert "other/wide" in names
    (folder / "tiny.py").unlink()
    host.reload()
    with pytest.raises(BackboneNotFound):
        host.load("tiny")


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[EntryPoint]:
    package = tmp_path / "site" / "tlserve_test_installed.py"
    package.parent.mkdir()
    package.write_text(GOOD)
    sys.path.insert(0, str(package.parent))
    yield EntryPoint("installed", "tlserve_test_installed:TinyPlugin", ENTRY_POINT_GROUP)
    sys.path.remove(str(package.parent))
    sys.modules.pop("tlserve_test_installed", None)


def test_an_entry_point_may_name_a_class(installed: EntryPoint) -> None:
    host = PluginHost(entry_points=[installed, installed])
    assert host.load("installed/wide").info.name == "tiny/wide"


def test_two_plugins_with_one_prefix_are_both_named_and_others_go_on(
    folder: Path, installed: EntryPoint
) -> None:
    (folder / "installed.py").write_text(GOOD)
    host = PluginHost([folder], entry_points=[installed])
    with pytest.raises(BackboneProblem, match=r"two plugins.*tlserve_test_installed.*installed\.py"):
        host.load("installed/wide")
    assert [entry.plugin for entry in host.catalogue() if entry.error] == ["installed"]
    assert host.load("tiny").info.name == "tiny"


def test_two_files_with_one_name_are_both_named_until_one_goes(folder: Path) -> None:
    more = folder / "more"
    more.mkdir()
    (more / "tiny.py").write_text(GOOD)
    host = PluginHost([folder, more], entry_points=())
    both = f"file {folder}/tiny.py and file {more}/tiny.py"
    with pytest.raises(BackboneProblem) as caught:
        host.load("tiny")
    assert str(caught.value) == f"two plugins claim the prefix 'tiny': {both}; rename or remove one"
    (entry,) = host.catalogue()
    assert entry.error == str(caught.value)
    assert host.claimed_by("tiny") == (f"file {folder}/tiny.py", f"file {more}/tiny.py")
    assert host.claimed_by("other") == ()
    (more / "tiny.py").unlink()
    assert host.load("tiny").info.name == "tiny"


def test_a_folder_that_is_named_twice_counts_once(folder: Path) -> None:
    host = PluginHost([folder, folder / ".", folder], entry_points=())
    assert host.load("tiny").info.name == "tiny"


PANIC = "type('PanicException', (BaseException,), {})('boom')"
"""As a library in Rust raises it: what is no Exception."""

BROKEN = {
    "syntax": ("def (", "SyntaxError"),
    "raises": ("raise RuntimeError('boom')", "RuntimeError: boom"),
    "exits": ("import sys; sys.exit(3)", "SystemExit"),
    "panics": (f"raise {PANIC}", "PanicException: boom"),
    "empty": ("", "no variable PLUGIN"),
    "attribute": ("import os; os.nothing", "AttributeError"),
    "not_a_plugin": ("PLUGIN = 3", "int, which has no `names`"),
    "constructor": ("class PLUGIN:\n    def __init__(self): raise KeyError('k')", "KeyError"),
    "names_raise": ("class PLUGIN:\n    load = print\n    def names(self): 1/0", "ZeroDivisionError"),
    "names_panic": (
        f"class PLUGIN:\n    load = print\n    def names(self): raise {PANIC}",
        "PanicException: boom",
    ),
    "names_are_a_text": (
        "class PLUGIN:\n    load = print\n    def names(self): return 'ab'",
        "list or tuple",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_an_entry_with_its_error(case: str, folder: Path) -> None:
    source, reason = BROKEN[case]
    (folder / f"{case}.py").write_text(source)
    entries = {entry.plugin: entry for entry in host_of(folder).catalogue()}
    assert reason in (entries[case].error or "")
    assert entries["tiny"].error is None


def test_a_file_that_does_not_load_tells_the_line_in_it(folder: Path) -> None:
    """That of the plugin's author, however deep in a library it went wrong, and whatever ran it."""
    sources = {
        "asks": "import os\n\nos.no_such\n",
        "calls": "import json\n\ndef read():\n    return json.loads('[')\n\nPLUGIN = read()\n",
        "made": "class PLUGIN:\n    def __init__(self):\n        missing_name\n",
        "spelt": "PLUGIN = (\n",
        "leaves": "import sys\nsys.exit('no GPU')\n",
    }
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    errors = {entry.plugin: entry.error or "" for entry in host_of(folder).catalogue()}
    assert errors["asks"].endswith("AttributeError: module 'os' has no attribute 'no_such' (line 3)")
    assert errors["calls"].endswith("(char 1) (line 4)")
    assert errors["made"].endswith("NameError: name 'missing_name' is not defined (line 3)")
    assert errors["spelt"].endswith("SyntaxError: '(' was never closed (spelt.py, line 1)")
    assert errors["leaves"].endswith("SystemExit: no GPU (line 2)")


LOADS = {
    "raises": ("raise OSError('disk on fire')", "OSError: disk on fire"),
    "exits": ("raise SystemExit(1)", "SystemExit"),
    "panics": (f"raise {PANIC}", "PanicException: boom"),
    "gives_none": ("return None", "NoneType"),
    "bad_digest": ("return tiny.with_info(weights_sha256='abc')", "64 lower-case hex"),
    "more_parameters_than_there_are": ("return tiny.with_info(n_parameters=2**63)", "n_parameters"),
    "too_wide": (
        "return tiny.with_info(taps=(tiny.Tap('x', 2**31 - 1), tiny.Tap('features', 1)))",
        "widths of all taps",
    ),
    "too_high": (
        "return tiny.with_info(image=tiny.replace(tiny.IMAGE, height=2**31, resize_short_side=None))",
        "image.height",
    ),
    "foreign_numbers": (
        "import numpy; return tiny.with_info(image=tiny.replace(tiny.IMAGE, std=(numpy.float32(1),) * 3))",
        "image.std",
    ),
    "two_means": ("return tiny.with_info(image=tiny.replace(tiny.IMAGE, mean=(1.0, 2.0)))", "image.mean"),
    "no_number": (
        "return tiny.with_info(image=tiny.replace(tiny.IMAGE, mean=(1.0, 2.0, float('nan'))))",
        "image.mean",
    ),
    "half_a_pixel": (
        "return tiny.with_info(image=tiny.replace(tiny.IMAGE, resize_short_side=10.5))",
        "image.resize_short_side",
    ),
    "no_features": ("return tiny.with_info(taps=(tiny.Tap('x', 1),))", "'features'"),
    "no_info": ("return tiny.TinyBackbone(info=None)", "BackboneInfo"),
}


@pytest.mark.parametrize("case", LOADS)
def test_a_broken_load_names_the_plugin_and_the_promise(case: str, folder: Path) -> None:
    body, reason = LOADS[case]
    (folder / "bad.py").write_text(
        "from tests.plugin_host import tiny\n"
        f"class PLUGIN:\n    def names(self): return ('',)\n    def load(self, rest):\n        {body}\n"
    )
    with pytest.raises(BackboneProblem, match="plugin 'bad'") as caught:
        host_of(folder).load("bad")
    assert reason in str(caught.value)


def test_the_plugins_own_errors_keep_their_advice(folder: Path) -> None:
    host = host_of(folder)
    with pytest.raises(BackboneNotFound, match="it has wide"):
        host.load("tiny/huge")
    with pytest.raises(BackboneProblem, match="from the cellar"):
        host.load("tiny/gone")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("wide", "tiny/wide"),
        ("/path/to/net.onnx", "plugins here: tiny"),
        ("", "plugins here: tiny"),
        ("tiny!", "tiny"),
    ],
)
def test_an_unknown_name_is_answered_with_what_there_is(name: str, advice: str, folder: Path) -> None:
    with pytest.raises(BackboneNotFound, match=advice):
        host_of(folder).load(name)


def test_a_bare_onnx_path_is_answered_with_how_to_write_it(folder: Path) -> None:
    (folder / "onnx.py").write_text(GOOD)
    with pytest.raises(BackboneNotFound, match=r"write onnx:/a/net\.onnx"):
        host_of(folder).load("/a/net.onnx")


def test_a_missing_folder_is_an_entry_not_an_error(tmp_path: Path) -> None:
    (entry,) = PluginHost([tmp_path / "nowhere"], entry_points=()).catalogue()
    assert "nowhere cannot be read: No such file" in (entry.error or "")


def test_a_folder_that_cannot_even_be_asked_for_is_an_entry_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    folders = [tmp_path / "loop", tmp_path / ("x" * 300)]
    entries = PluginHost(folders, entry_points=()).catalogue()
    assert ["cannot be read: " in (entry.error or "") for entry in entries] == [True, True]


def test_the_first_party_plugins_are_found_when_tlserve_is_installed() -> None:
    installed = {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
    if not {"nano", "onnx", "torchvision"} <= installed:
        pytest.skip("tlserve is not installed here: no entry points")
    entries = PluginHost().catalogue()
    assert [entry for entry in entries if entry.error] == []
    assert {"nano", "onnx:FILE.onnx", "torchvision/resnet50"} <= {entry.name for entry in entries}


def test_files_with_a_leading_underscore_are_not_plugins(folder: Path) -> None:
    (folder / "_private.py").write_text("raise RuntimeError")
    assert {entry.plugin for entry in host_of(folder).catalogue()} == {"tiny"}
