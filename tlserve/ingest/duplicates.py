"""What lies in a model's folder more than once, as the catalog knows it: no file is opened.

Copies share a digest, near duplicates a group of fingerprints (`ingest.groups`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tlserve.core.health import Alike, Duplicates
from tlserve.core.types import LabelledImage, Snapshot
from tlserve.ingest.catalog import Catalog

GROUPS_TOLD = 100


def duplicates(catalog: Catalog, snapshot: Snapshot, *, groups_told: int = GROUPS_TOLD) -> Duplicates:
    """The exact and near duplicates among the images of a snapshot.

    groups_told: how many groups are named of each kind, the first by path; all are counted.
    Two queries whatever the number of images (100,000: under a second). Raises as the catalog does.
    """
    used = {image.digest for image in snapshot.images}
    copies = [paths for digest, paths in catalog.copies(snapshot.model).items() if digest in used]
    near: list[list[str]] = []
    across: list[list[str]] = []
    for members in _near_groups(snapshot.images, catalog.group_of_each(snapshot.model)):
        paths = sorted(image.path for image in members)
        (near if len({image.label for image in members}) == 1 else across).append(paths)
    return Duplicates(*(_alike(groups, groups_told) for groups in (copies, near, across)))


def group_numbers(catalog: Catalog, model: str, images: Sequence[LabelledImage]) -> list[int]:
    """A number for each image, the same for near duplicates: (n_images,), counted from 0 as they come."""
    group_of = catalog.group_of_each(model)
    numbers: dict[str, int] = {}
    return [numbers.setdefault(group_of.get(image.digest, image.digest), len(numbers)) for image in images]


def _near_groups(
    images: Iterable[LabelledImage], group_of: Mapping[str, str]
) -> Iterable[Sequence[LabelledImage]]:
    members: dict[str, list[LabelledImage]] = {}
    for image in images:
        members.setdefault(group_of.get(image.digest, image.digest), []).append(image)
    return [group for group in members.values() if len(group) > 1]


def _alike(groups: Iterable[list[str]], groups_told: int) -> Alike:
    ordered = sorted(groups)
    return Alike(
        groups=tuple(tuple(paths) for paths in ordered[:groups_told]),
        n_groups=len(ordered),
        n_images=sum(map(len, ordered)),
    )
