"""The plugin in docs/plugins.md works as printed there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np

from tlserve.plugin_api import ImageSpec
from tlserve.plugin_host import PluginHost, make_build
from tlserve.runtime import BackboneSession, choose_device, reference_pixels
from tlserve.testing import CHECKS, PLUGIN_CHECKS, check_plugin

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"


def plugin_of_the_guide() -> str:
    """The source of `edges`."""
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[0]


def test_the_guides_plugin_keeps_every_promise_and_becomes_a_build(tmp_path: Path) -> None:
    (tmp_path / "edges.py").write_text(plugin_of_the_guide(), encoding="utf-8")
    host = PluginHost([tmp_path], entry_points=())
    assert [(entry.name, entry.error) for entry in host.catalogue()] == [("edges", None)]
    backbone = host.load("edges")
    check_plugin(tmp_path / "edges.py")
    device = choose_device("cpu")
    session = BackboneSession.open(make_build(backbone, "edges", tmp_path / "backbones", device), device)
    rows = session.rows(reference_pixels(backbone.info.image))
    session.close()
    assert rows.shape == (8, 12)
    assert np.isfinite(rows).all()


def test_the_guide_names_every_field_of_a_description() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert [field.name for field in fields(ImageSpec) if f"`image.{field.name}`" not in text] == []


def test_the_guide_names_every_check() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert [check.name for check in (*CHECKS, *PLUGIN_CHECKS) if f"`{check.name}`" not in text] == []
