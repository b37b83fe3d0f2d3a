"""A policy that returns the image as it is, in a module of its own: a spawned worker imports what it needs, no more."""

from typing import Any

import numpy as np


class PlainPolicy:
    """Stands in for an albumentations policy."""

    def set_random_state(self, *_generators: object) -> None:
        """Draw nothing."""

    def __call__(self, image: np.ndarray[Any, Any]) -> dict[str, Any]:
        return {"image": image.astype(np.float32)}
