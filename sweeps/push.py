"""The command that uploads what a run made: an adapter, or the synthetic images.

In: a run's folder, a repository. Out: the repository's address; of a dry run, what would be uploaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fulora.errors import InputError, fault
from sweeps.commands import RunFolder, existing

if TYPE_CHECKING:
    from sweeps.publish.upload import Upload


@dataclass(frozen=True, kw_only=True, slots=True)
class Push:
    """Upload a run's adapter, or its synthetic images, with a card, to a repository of the Hugging Face hub."""

    run: RunFolder
    """Directory of the run, such as runs/demo."""
    to: str
    """Repository to upload to, OWNER/NAME; created where it does not exist."""
    rank: int | None = None
    """Rank of the adapter (default: the one the run samples with)."""
    images: bool = False
    """Upload the synthetic images as a dataset, with Croissant metadata, instead of the adapter."""
    licence: str | None = None
    """Licence of the images, an identifier of the hub such as cc-by-4.0 (default: mit for phantoms and the base that is
    bundled; to be given for any other)."""
    private: bool = False
    """Create a private repository; an existing one must be private."""
    dry_run: bool = False
    """Print the files, their sizes and the card; upload nothing and contact nothing."""

    def act(self) -> int:
        """Upload it, and print its address."""
        from sweeps.publish.hub import push

        upload = self._planned()
        print(upload.describe() if self.dry_run else push(upload))
        return 0

    def _planned(self) -> Upload:
        if not self.images:
            from sweeps.publish.upload import plan_upload

            if self.licence is not None:
                raise InputError(fault("licence", self.licence, "is that of images", "Add --images, or leave it out."))
            return plan_upload(existing(self.run), to=self.to, rank=self.rank, private=self.private)
        from sweeps.publish.dataset import plan_images

        if self.rank is not None:
            rule = "cannot be chosen with --images: the run draws one set to train on"
            raise InputError(fault("rank", self.rank, rule, "Leave --rank out."))
        return plan_images(existing(self.run), to=self.to, licence=self.licence, private=self.private)
