"""Which filesystems tell of changes: those that the local kernel makes itself.

A network or virtual-machine share changes behind the kernel's back; there only looking again helps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "davfs")
_CLUSTER = ("ceph", "glusterfs", "lustre", "beegfs", "gpfs", "ocfs2", "gfs2")
_VIRTUAL_MACHINE = ("9p", "vboxsf", "prl_fs", "vmhgfs", "drvfs", "virtiofs")
SILENT = frozenset((*_NETWORK, *_CLUSTER, *_VIRTUAL_MACHINE, "fuse"))
"""Any `fuse.*` is taken for silent too: most are remote (sshfs, rclone, s3fs)."""


@dataclass(frozen=True, slots=True)
class Mount:
    folder: str
    kind: str

    @property
    def silent(self) -> bool:
        return self.kind in SILENT or self.kind.startswith("fuse.")


def silent_mount(mountinfo: str, folder: str) -> Mount | None:
    """The mount that keeps changes in `folder` (absolute, real) or below it from being seen, or None.

    mountinfo: the text of /proc/self/mountinfo.
    """
    mounts = list(_mounts(mountinfo))
    under = [mount for mount in mounts if _contains(mount.folder, folder)]
    # Of two mounts on one folder the later one covers the earlier.
    own = max(reversed(under), key=lambda mount: len(mount.folder), default=None)
    below = [mount for mount in mounts if mount.folder != folder and _contains(folder, mount.folder)]
    return next((mount for mount in [own, *below] if mount is not None and mount.silent), None)


def _mounts(mountinfo: str) -> Iterator[Mount]:
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) > 4 and kinds[0]:
            yield Mount(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]), kinds[0])


def _contains(outer: str, inner: str) -> bool:
    return outer in ("/", inner) or inner.startswith(outer + "/")
