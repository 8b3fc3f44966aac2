"""`tlserve new-backbone`: a plugin that works at once, to be made one's own from there."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from tlserve.cli.options import ConfigFile
from tlserve.cli.scaffold.drawing import Names, package_files, single_files
from tlserve.cli.terminal import say, show
from tlserve.core.errors import SettingsError, StoreUnavailable

_GOOD_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def new_backbone(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What users will write: `--backbone NAME` or `NAME/...`.")
    ],
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where to put it; made if missing.")
    ] = Path(),
    single_file: Annotated[
        bool, typer.Option("--single-file", help="One .py file for a folder of plugins, not a package.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Write a working backbone plugin, a package with a test, to be made your own."""
    names = Names(name)
    _check_free(names, config)
    if single_file:
        files = single_files(names)
        _write(folder, files)
        steps = _steps_of_file(names, folder.absolute())
    else:
        target = folder / names.distribution
        if target.exists():
            raise SettingsError(
                f"{target} is there already and is left as it is; choose another NAME or --folder"
            )
        _write(target, package_files(names))
        steps = _steps_of_package(names, target)
    show(str(folder / f"{name}.py" if single_file else target))
    say("It works as it is, with a small network of random numbers. Next:")
    for step in steps:
        say(f"  {step}")
    say("Then put your network in its place: docs/plugins.md says what a backbone promises.")


def _check_free(names: Names, config: Path | None) -> None:
    """Raises SettingsError for a name that cannot be, or is, another plugin's."""
    from tlserve.plugin_host import PluginHost
    from tlserve.settings import load_settings

    if not _GOOD_NAME.fullmatch(names.prefix):
        raise SettingsError(
            f"{names.prefix!r} cannot be a backbone's name: letters, digits, and '.', '_' or '-' between them"
        )
    host = PluginHost(load_settings({}, config).plugin_folders)
    claims = [*host.claimed_by(names.prefix), *host.claimed_by(names.prefix.lower())]
    if claims:
        raise SettingsError(f"the name {names.prefix!r} is taken by {claims[0]}; choose another")
    if importlib.util.find_spec(names.module) is not None:
        raise SettingsError(f"a Python module {names.module!r} is installed already; choose another name")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """All files or none. Raises SettingsError if one is there already, StoreUnavailable if it cannot be."""
    for file in files:
        if (folder / file).exists():
            raise SettingsError(f"{folder / file} is there already and is left as it is; choose another NAME")
    is_new, written = not folder.exists(), list[Path]()
    try:
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            with (folder / file).open("xb") as out:
                written.append(folder / file)
                out.write(content)
    except OSError as exc:
        for path in written:
            path.unlink(missing_ok=True)
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise StoreUnavailable(f"cannot write the plugin to {folder}: {exc}") from exc


def _steps_of_package(names: Names, target: Path) -> list[str]:
    return [
        f"cd {shlex.quote(str(target))}",
        "pip install -e '.[test]'",
        "pytest",
        "tlserve backbones",
        f"tlserve serve --backbone {names.prefix} --watch DIR --state DIR",
    ]


def _steps_of_file(names: Names, folder: Path) -> list[str]:
    path = folder / f"{names.prefix}.py"
    check = (
        "from pathlib import Path; from tlserve.testing import check_plugin; "
        f"check_plugin(Path({str(path)!r}))"
    )
    folders = shlex.quote(json.dumps([str(folder)]))
    return [
        f"python -c {shlex.quote(check)}",
        f"export TLSERVE_PLUGIN_FOLDERS={folders}",
        "tlserve backbones",
        f"tlserve serve --backbone {names.prefix} --watch DIR --state DIR",
    ]
