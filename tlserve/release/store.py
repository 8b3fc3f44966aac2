"""The versions on disk: publish, load, list, retire; and LIVE, which says which one answers.

``models/<model>/<n>/`` appears whole or not at all; its head and manifest never change afterwards, and its
report only becomes fuller. The trainer publishes, the daemon writes LIVE and retires; each cleans up only
what its own crashes may have left. The daemon imports this module: no onnx, torch or scikit-learn here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tlserve.core.errors import (
    BadModelName,
    CorruptState,
    StoreUnavailable,
    TlserveError,
    UnknownVersion,
)
from tlserve.core.head import Head
from tlserve.core.types import check_model_name
from tlserve.release.disk import fill_folder, replace_file, store_errors, sync_folder
from tlserve.release.head_file import head_from_bytes, head_to_bytes
from tlserve.release.listing import row_of, unreadable_row
from tlserve.release.live import LiveState, highest_number, live_from_json, live_to_json
from tlserve.release.manifest import (
    Draft,
    Manifest,
    Version,
    VersionRow,
    manifest_from_json,
    manifest_of,
    manifest_to_json,
)
from tlserve.release.retention import versions_to_retire

LIVE = "LIVE"
HEAD = "head.safetensors"
MANIFEST = "manifest.json"
REPORT = "report.json"
PAGE = "report.html"
_PUBLISHING = ".publishing-"
_RETIRING = ".retiring-"


class VersionStore:
    """All versions of all models, under one folder (``state/models``), made on the first publish."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._live_files: dict[str, tuple[bytes, LiveState]] = {}
        """What LIVE of a model held when it was last read or written: one promotion reads it often."""

    # -- reading

    def models(self) -> list[str]:
        """Models with at least one version or a LIVE file, sorted."""
        return sorted(name for name in _names(self._models_dir) if self._has_something(name))

    def versions(self, model: str) -> list[int]:
        """Published numbers, ascending; empty for an unknown model."""
        return sorted(int(name) for name in _names(self._folder(model)) if _is_number(name))

    def manifest(self, model: str, version: int) -> Manifest:
        """Raises UnknownVersion, or CorruptState when the file does not hold what it must."""
        path = self._version_folder(model, version) / MANIFEST
        data = self._read(model, version, path)
        try:
            manifest = manifest_from_json(data)
        except ValueError as exc:
            raise _corrupt_version(path, model, version, exc) from exc
        if (manifest.model, manifest.version) != (model, version):
            told = f"it is the manifest of {manifest.model!r} version {manifest.version}"
            raise _corrupt_version(path, model, version, told)
        return manifest

    def load(self, model: str, version: int) -> Version:
        """The whole version. Raises UnknownVersion or CorruptState.

        A damaged report does not keep a version from answering: it is replaced by ``{"error": ...}``,
        and `report` raises.
        """
        manifest = self.manifest(model, version)
        head = self.head(manifest)
        try:
            report = self.report(model, version)
        except CorruptState as exc:
            report = {"error": str(exc)}
        return Version(manifest, head, report)

    def head(self, manifest: Manifest) -> Head:
        """The head of the version with this manifest, checked against its digest: all that answering needs.

        Raises UnknownVersion or CorruptState.
        """
        model, version = manifest.model, manifest.version
        path = self._version_folder(model, version) / HEAD
        data = self._read(model, version, path)
        if hashlib.sha256(data).hexdigest() != manifest.head_sha256:
            raise _corrupt_version(path, model, version, "its sha256 is not the one in the manifest")
        try:
            return head_from_bytes(data)
        except ValueError as exc:
            raise _corrupt_version(path, model, version, exc) from exc

    def report(self, model: str, version: int) -> dict[str, Any]:
        """What training and judging had to say; raises UnknownVersion or CorruptState."""
        path = self._version_folder(model, version) / REPORT
        data = self._read(model, version, path)
        try:
            report = json.loads(data)
        except ValueError as exc:
            raise _corrupt_version(path, model, version, exc) from exc
        if not isinstance(report, dict):
            raise _corrupt_version(path, model, version, "not an object")
        return report

    def page(self, model: str, version: int) -> str | None:
        """The report as an HTML page; None while it is not written. Raises UnknownVersion."""
        try:
            return self._read(model, version, self.page_path(model, version)).decode()
        except CorruptState:
            return None

    def page_path(self, model: str, version: int) -> Path:
        """Where the page is, or will be."""
        return self._version_folder(model, version) / PAGE

    def rows(self, model: str) -> list[VersionRow]:
        """One row a version, ascending. An unreadable version is a row that says so, never an error."""
        state = self.live(model)
        rows = (self._row(model, number, state) for number in self.versions(model))
        return [row for row in rows if row is not None]

    def row(self, model: str, version: int) -> VersionRow | None:
        """As `rows`, one of them; None for a version that is not there."""
        return self._row(model, version, self.live(model))

    def _row(self, model: str, version: int, state: LiveState) -> VersionRow | None:
        try:
            return row_of(self.manifest(model, version), state)
        except CorruptState as exc:
            return unreadable_row(version, state, str(exc))
        except UnknownVersion:
            return None  # retired since the listing

    # -- publishing: the trainer

    def publish(self, model: str, head: Head, draft: Draft, report: Mapping[str, Any]) -> Manifest:
        """Make `head` the next version and return its manifest; it is durable and whole from then on.

        Numbers are never reused. A job that already published gets its version back. Raises
        StoreUnavailable (disk full, no permission) with nothing left behind, CorruptState for a damaged
        LIVE, ValueError for a head or report that cannot be written.
        """
        folder = self._folder(model)
        with store_errors(folder, "publish in"):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder, _PUBLISHING)
        published = self._published_by(model, draft.job_id)
        if published is not None:
            return published
        head_bytes = head_to_bytes(head)
        head_sha256 = hashlib.sha256(head_bytes).hexdigest()
        number = max((*self.versions(model), highest_number(self.live(model)))) + 1
        manifest = manifest_of(model, number, draft, head, head_sha256)
        files = {HEAD: head_bytes, MANIFEST: manifest_to_json(manifest), REPORT: report_bytes(report)}
        _publish_folder(folder, str(number), files)
        return manifest

    def complete_report(self, model: str, version: int, report: Mapping[str, Any], page: str) -> None:
        """Replace the report of a published version by a fuller one, and put its page beside it.

        What was judged and what answers, manifest and head, never change. Raises UnknownVersion when the
        version was retired meanwhile, StoreUnavailable, ValueError for a report that cannot be written.
        """
        folder = self._version_folder(model, version)
        self.manifest(model, version)
        with store_errors(folder, "write the report in"):
            replace_file(folder / REPORT, report_bytes(report))
            replace_file(folder / PAGE, page.encode())

    def _published_by(self, model: str, job_id: str) -> Manifest | None:
        for number in reversed(self.versions(model)):
            try:
                manifest = self.manifest(model, number)
            except (CorruptState, UnknownVersion):
                continue
            if manifest.job_id == job_id:
                return manifest
        return None

    # -- which one answers, and which ones go: the daemon

    def live(self, model: str) -> LiveState:
        """What LIVE says; an empty state without one. Raises CorruptState."""
        path = self._folder(model) / LIVE
        try:
            with store_errors(path, "read"):
                data = path.read_bytes()
            known = self._live_files.get(model)
            if known is None or known[0] != data:
                known = self._live_files[model] = data, live_from_json(data)
            return known[1]
        except StoreUnavailable as exc:
            if isinstance(exc.__cause__, FileNotFoundError | NotADirectoryError):
                return LiveState()
            raise
        except ValueError as exc:
            published = ", ".join(map(str, self.versions(model))) or "none"
            raise CorruptState(
                f"{path} does not say which version is live ({exc}); delete it, then choose a version with: "
                f"tlserve promote {model} N (published: {published})"
            ) from exc

    def write_live(self, model: str, state: LiveState) -> int:
        """Replace LIVE; a reader, or a crash, sees the old one or the new one. Returns how many versions are
        on disk.

        Raises UnknownVersion when the live version is not there, StoreUnavailable.
        """
        known = self.versions(model)
        if state.live is not None and state.live not in known:
            raise UnknownVersion(model, str(state.live), tuple(known))
        path = self._folder(model) / LIVE
        with store_errors(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            data = live_to_json(state)
            replace_file(path, data)
        self._live_files[model] = data, state
        return len(known)

    def retire(self, model: str, keep_versions: int, leased: Collection[int] = ()) -> list[int]:
        """Delete what `versions_to_retire` names; returns the numbers, ascending."""
        folder = self._folder(model)
        numbers = self.versions(model)
        state = self.live(model)
        fast = self._superseded(model, numbers, state.promoted) if len(numbers) > keep_versions else ()
        gone = versions_to_retire(numbers, state, keep_versions=keep_versions, leased=leased, fast=fast)
        with store_errors(folder, "retire versions in"):
            for number in gone:
                (folder / str(number)).rename(folder / f"{_RETIRING}{number}-{uuid.uuid4().hex}")
            _remove_leftovers(folder, _RETIRING)
        return gone

    def refines(self, model: str, version: int) -> bool:
        """Whether a version would take the place of a fast one that is live, made of the same images.

        Raises UnknownVersion or CorruptState.
        """
        live = self.live(model).live
        return live is not None and self.manifest(model, live).is_refined_by(self.manifest(model, version))

    def _superseded(self, model: str, numbers: Sequence[int], promoted: Sequence[int]) -> list[int]:
        """The fast ones of which a refined one was promoted; of damaged ones nobody knows."""
        manifests = []
        for number in numbers:
            with contextlib.suppress(TlserveError):
                manifests.append(self.manifest(model, number))
        refined = [manifest for manifest in manifests if manifest.version in promoted]
        return [one.version for one in manifests if any(one.is_refined_by(other) for other in refined)]

    # -- paths

    def _folder(self, model: str) -> Path:
        return self._models_dir / check_model_name(model)

    def _version_folder(self, model: str, version: int) -> Path:
        return self._folder(model) / str(version)

    def _has_something(self, name: str) -> bool:
        try:
            return bool(self.versions(name)) or (self._folder(name) / LIVE).exists()
        except BadModelName:
            return False

    def _read(self, model: str, version: int, path: Path) -> bytes:
        try:
            with store_errors(path, "read"):
                return path.read_bytes()
        except StoreUnavailable as exc:
            if not isinstance(exc.__cause__, FileNotFoundError | NotADirectoryError):
                raise
            if not path.parent.is_dir():
                raise UnknownVersion(model, str(version), tuple(self.versions(model))) from exc
            raise _corrupt_version(path, model, version, "the file is missing") from exc


def report_bytes(report: Mapping[str, Any]) -> bytes:
    """report.json; raises ValueError for what JSON cannot say."""
    return json.dumps(report, indent=1, allow_nan=False).encode() + b"\n"


def _corrupt_version(path: Path, model: str, version: int, what: object) -> CorruptState:
    return CorruptState(
        f"{path} is damaged ({what}); restore it from a backup, or delete the folder {path.parent} and, "
        f"if version {version} was live, choose another with: tlserve promote {model} N"
    )


def _publish_folder(folder: Path, name: str, files: Mapping[str, bytes]) -> None:
    aside = folder / f"{_PUBLISHING}{uuid.uuid4().hex}"
    with store_errors(folder / name, "publish"):
        try:
            fill_folder(aside, files)
            aside.rename(folder / name)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync_folder(folder)


def _remove_leftovers(folder: Path, prefix: str) -> None:
    for name in _names(folder):
        if name.startswith(prefix):
            shutil.rmtree(folder / name)


def _names(folder: Path) -> list[str]:
    """The subfolders of `folder`; none when it does not exist."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise StoreUnavailable(f"cannot list {folder}: {exc.strerror or exc}") from exc


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and not name.startswith("0")
