"""What one trainer keeps of one model's folder between two looks, so that the next costs what changed.

In memory only: the catalog knows the same, and is read again where a memory is new or in doubt.
"""

from __future__ import annotations

from collections.abc import Hashable

from tlserve.ingest.knowledge import Knowledge


class FolderMemory:
    """Made empty, one for each model; only `reconcile` reads and fills it. Not thread-safe."""

    def __init__(self) -> None:
        self._knowledge: Knowledge | None = None
        self._of: Hashable = None

    def take(self, of: Hashable) -> Knowledge | None:
        """What is known of this, if anything; forgotten here until it is kept again.

        So a look that ends early leaves nothing that might be wrong.
        """
        knowledge, self._knowledge = self._knowledge, None
        return knowledge if self._of == of else None

    def keep(self, knowledge: Knowledge, of: Hashable) -> None:
        self._knowledge, self._of = knowledge, of
