"""Which changes concern which model, which mounts keep silent, which pictures are near duplicates."""

from __future__ import annotations

import pytest

from tests.ingest.model_folder import Flowers, picture
from tlserve.ingest.groups import NearDuplicates
from tlserve.ingest.mounts import silent_mount
from tlserve.ingest.names import model_touched

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /data rw shared:1 - nfs4 server:/export rw
31 22 0:31 / /data/local\\040disk rw - xfs /dev/sdb rw
32 22 0:32 / /media/phone rw - fuse.sshfs me@there rw
33 22 0:33 / /covered rw - cifs //nas/share rw
34 33 0:34 / /covered rw - ext4 /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("path", "is_directory", "model"),
    [
        ("flowers", True, "flowers"),
        ("flowers", False, None),
        ("my flowers", True, None),
        ("_archive", True, None),
        (".git", True, None),
        ("", True, None),
        ("flowers/daisy", True, "flowers"),
        ("flowers/_inbox", True, None),
        ("flowers/_inbox/1.jpg", False, None),
        ("flowers/model.toml", False, "flowers"),
        ("flowers/notes.txt", False, None),
        ("flowers/daisy/1.jpg", False, "flowers"),
        ("flowers/daisy/2024/1.jpg", False, "flowers"),
        ("flowers/daisy/.1.jpg", False, None),
        ("flowers/daisy/1.jpg.part", False, None),
        ("flowers/.cache/1.jpg", False, None),
    ],
)
def test_a_change_concerns_the_model_whose_images_or_settings_it_may_touch(
    path: str, is_directory: bool, model: str | None
) -> None:
    assert model_touched(path, is_directory=is_directory) == model


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/me", None),
        ("/data/photos", "nfs4"),
        ("/data/local disk/photos", None),
        ("/media/phone", "fuse.sshfs"),
        ("/media", "fuse.sshfs"),
        ("/covered/photos", None),
        ("/database", None),
    ],
)
def test_a_network_share_at_above_or_below_a_folder_keeps_silent(folder: str, kind: str | None) -> None:
    mount = silent_mount(MOUNTS, folder)
    assert (mount and mount.kind) == kind


def test_near_duplicates_join_the_group_of_the_first() -> None:
    near = NearDuplicates()
    fingerprint = 0x0F1E_2D3C_4B5A_6978
    group = near.group_of("a" * 64, fingerprint)
    assert near.group_of("b" * 64, fingerprint ^ 1 << 63 ^ 1) == group
    assert near.group_of("c" * 64, fingerprint ^ 7) != group
    assert NearDuplicates([group, "d" * 64]).group_of("e" * 64, fingerprint ^ 2) == group


def test_groups_do_not_creep() -> None:
    near = NearDuplicates()
    names = [near.group_of(str(n), 0x0F1E_2D3C_4B5A_6978 ^ (1 << n) - 1) for n in range(9)]
    assert len(set(names)) >= 3


def test_a_flat_picture_is_like_no_other() -> None:
    near = NearDuplicates()
    assert near.group_of("a", 0) == "a"
    assert near.group_of("b", -1) == "b"


def test_fingerprints_may_be_signed() -> None:
    near = NearDuplicates()
    assert near.group_of("a", 0xF0F0_F0F0_F0F0_F0F0 - (1 << 64)) == near.group_of("b", 0xF0F0_F0F0_F0F0_F0F0)


def test_files_in_no_class_are_named(flowers: Flowers) -> None:
    picture(flowers.folder / "loose.jpg", 901)
    (flowers.folder / "model.toml").write_text("")
    found = [problem for problem in flowers.reconcile().problems if problem.kind == "not_in_a_class"]
    assert [problem.reason.split(",")[0] for problem in found] == ["1 file lies in the model's folder itself"]
