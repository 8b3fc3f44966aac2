"""What plugins say of their backbones before loading them, and what becomes of nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest

from tlserve.core.errors import BackboneNotFound
from tlserve.core.messages import BackboneEntry
from tlserve.plugin_host import PluginHost

PLUGIN = """
from tlserve.plugin_api import BackboneFacts, UnknownArchitecture

class Telling:
    def names(self):
        return ("small", "large")

    def load(self, rest):
        raise UnknownArchitecture("there is no such thing")

    def facts(self, rest):
        {body}

PLUGIN = Telling()
"""


def catalogue(folder: Path, body: str) -> tuple[BackboneEntry, ...]:
    (folder / "telling.py").write_text(PLUGIN.format(body=body))
    return PluginHost([folder], entry_points=()).catalogue()


def facts_of(entry: BackboneEntry) -> tuple[object, ...]:
    return entry.licence, entry.n_parameters, entry.height, entry.width, entry.row_width


def test_facts_stand_in_the_catalogue(tmp_path: Path) -> None:
    body = 'return BackboneFacts("MIT", 1000, 64, 96, 48) if rest == "large" else None'
    small, large = catalogue(tmp_path, body)
    assert facts_of(small) == (None,) * 5
    assert facts_of(large) == ("MIT", 1000, 64, 96, 48)


def test_one_fact_alone_will_do(tmp_path: Path) -> None:
    small, _ = catalogue(tmp_path, "return BackboneFacts(row_width=12)")
    assert facts_of(small) == (None, None, None, None, 12)


def test_whole_numbers_of_numpy_become_plain_ones(tmp_path: Path) -> None:
    small, _ = catalogue(tmp_path, "import numpy; return BackboneFacts(n_parameters=numpy.int64(7))")
    assert type(small.n_parameters) is int


@pytest.mark.parametrize(
    "body",
    [
        "raise RuntimeError('no idea')",
        "raise SystemExit",
        "return {'licence': 'MIT'}",
        "return BackboneFacts(licence=7, n_parameters='many', height=-1, width=1.5, row_width=True)",
        "return BackboneFacts(licence='', n_parameters=0)",
        "return BackboneFacts(n_parameters=2**63, height=2**31, width=2**31, row_width=2**31)",
        "raise type('PanicException', (BaseException,), {})('boom')",
    ],
)
def test_facts_that_break_or_make_no_sense_are_blanks(tmp_path: Path, body: str) -> None:
    entries = catalogue(tmp_path, body)
    assert [entry.name for entry in entries] == ["telling/small", "telling/large"]
    assert {facts_of(entry) for entry in entries} == {(None,) * 5}
    assert {entry.error for entry in entries} == {None}


def test_a_misspelt_prefix_is_answered_with_names_of_the_plugin_it_looks_like(tmp_path: Path) -> None:
    catalogue(tmp_path, "return None")
    host = PluginHost([tmp_path], entry_points=())
    with pytest.raises(BackboneNotFound, match=r"did you mean telling/small or telling/large\? plugins"):
        host.load("telin")
    (tmp_path / "telling.py").write_text("PLUGIN = None")
    with pytest.raises(BackboneNotFound, match=r"did you mean telling\? plugins"):
        host.load("tellingg")


def test_an_unknown_name_is_answered_with_near_ones_where_the_plugin_does_not(tmp_path: Path) -> None:
    catalogue(tmp_path, "return None")
    host = PluginHost([tmp_path], entry_points=())
    with pytest.raises(BackboneNotFound, match=r"no such thing; did you mean large\?"):
        host.load("telling/lrge")
    with pytest.raises(BackboneNotFound, match=r"no such thing$"):
        host.load("telling/zebra")
