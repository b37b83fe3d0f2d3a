"""Lines about what was done to images on the way to 32 x 32, and about files that are no images.

In: decoded images, names of files. Out: notes for people.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from scsuite.core.dataset.image_file import DecodedImage
from scsuite.core.dataset.split import SIZE, count_text

_MAX_SILENT_CUT = 0.1  # mean fraction of the area that may be cut away without a note


@dataclass
class ImageChanges:
    """Counts over the images that were added: resized ones, the area that was cut away, other changes."""

    num_images: int = 0
    num_resized: int = 0
    cut_fractions: float = 0.0  # the sum over the resized images
    others: Counter[str] = field(default_factory=Counter)

    def add(self, decoded: DecodedImage) -> None:
        """Count an image."""
        self.num_images += 1
        self.num_resized += decoded.is_resized
        self.cut_fractions += decoded.cut_fraction
        if decoded.note:
            self.others[decoded.note] += 1

    def notes(self) -> list[str]:
        """Return a line for each kind of change."""
        lines = []
        if self.num_resized:
            mean_cut = self.cut_fractions / self.num_resized
            cut = f"; {100 * mean_cut:.0f} % of their area was cut away on average (--fit pad keeps it)"
            resized = f"{self.num_resized:,} of {self.num_images:,} images were resized to {SIZE} x {SIZE}"
            lines.append(resized + cut * (mean_cut > _MAX_SILENT_CUT))
        return lines + [f"{n:,} of {self.num_images:,} images: {note}" for note, n in self.others.most_common()]


def non_images_note(names: Sequence[str]) -> str:
    """Return a line about files that were skipped: how many, of which kinds, and the first."""
    suffixes = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in names)
    counts = ", ".join(f"{suffix} {count:,}" for suffix, count in suffixes.most_common(5))
    return f"{skipped_files_text(len(names))} ({counts}; the first is {names[0]})"


def skipped_files_text(number: int) -> str:
    """Say that so many files do not have the suffix of an image."""
    many = "files that are not images by their names were skipped"
    return count_text(number, "file that is not an image by its name was skipped", many)
