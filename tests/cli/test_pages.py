"""Pages and files for operators must not drift from the code."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from tlserve.observe import Metrics
from tlserve.settings import ModelFile, Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
TABLE_LINE = re.compile(r"^\| `(\w+)` \|(?: `([^`]*)` \|)? (.+) \|$", re.MULTILINE)


def tables() -> tuple[dict[str, str], set[str]]:
    """({daemon setting: default}, {model setting}) as docs/configuration.md lists them."""
    page = (ROOT / "docs/configuration.md").read_text()
    of_daemon, of_model = page.split("## Settings of one model")
    return (
        {name: default for name, default, _ in TABLE_LINE.findall(of_daemon)},
        {name for name, _, _ in TABLE_LINE.findall(of_model)},
    )


def in_toml(value: object) -> str:
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value)


def test_every_setting_of_the_daemon_stands_in_the_table_with_its_default() -> None:
    documented, _ = tables()
    assert documented == {name: in_toml(field.default) for name, field in Settings.model_fields.items()}


def test_every_setting_of_a_model_stands_in_the_table() -> None:
    _, documented = tables()
    assert documented == set(ModelFile.model_fields)


def test_the_example_settings_of_the_page_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    blocks = re.findall(r"```toml\n# tlserve.toml\n(.*?)```", page, re.DOTALL)
    for block in blocks:
        file = tmp_path / "tlserve.toml"
        file.write_text(block)
        load_settings({}, file)
    for block in re.findall(r"```toml\n# watch/.*?\n(.*?)```", page, re.DOTALL):
        ModelFile.model_validate(tomllib.loads(block))
    monkeypatch.setenv("TLSERVE_PLUGIN_FOLDERS", '["/etc/tlserve/plugins"]')
    assert load_settings({}, file).plugin_folders == (Path("/etc/tlserve/plugins"),)


def test_the_deployed_settings_file_is_accepted() -> None:
    load_settings({}, ROOT / "deploy/tlserve.toml")


def test_alerts_ask_for_metrics_that_exist() -> None:
    asked = set(re.findall(r"\btlserve_\w+", (ROOT / "deploy/tlserve-rules.yml").read_text()))
    families = list(Metrics().registry.collect())
    known = {
        f"{family.name}{suffix}"
        for family in families
        for suffix in ("", "_total", "_bucket", "_sum", "_count")
    }
    assert asked
    assert asked <= known
