"""Read the pickled batches of CIFAR-10 without running any code that a pickle names.

In: the bytes of one batch, whose md5 `cifar10.py` has checked. Out: a dict of lists, strings and one uint8 array.

The real files are Python 2's protocol 2 (https://www.cs.toronto.edu/~kriz/cifar.html) and name three objects of numpy.
`find_class` replaces these by functions that make nothing but uint8 arrays. It refuses every other name.
"""

import io
import pickle
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scsuite.core.errors import one_line

MAX_OPERATIONS = 50_000  # a batch of 10,000 images has about 30,100
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # numpy 1 and 2


class BatchUnpickler(pickle.Unpickler):
    """An unpickler that knows what a batch needs: plain values and at most one uint8 array."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._has_array = False

    def find_class(self, module: str, name: str, /) -> Any:
        """Return the replacement of one of the three allowed names. Raises UnpicklingError for any other."""
        if module in _ARRAY_MODULES and name == "_reconstruct":
            return self._make_array
        if (module, name) == ("numpy", "dtype"):
            return self._make_dtype
        if (module, name) == ("numpy", "ndarray"):
            return None  # an argument of _reconstruct, which needs no type here
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def _make_array(self, *_: object) -> NDArray[np.uint8]:
        """Return an empty array; numpy's `__setstate__` then sets shape and data, and checks that they agree."""
        if self._has_array:  # many arrays can share one string, so they could need far more memory than the file
            raise pickle.UnpicklingError("several arrays")
        self._has_array = True
        return np.empty(0, np.uint8)

    def _make_dtype(self, code: object, *_: object) -> np.dtype[np.uint8]:
        if code not in ("u1", "|u1"):
            raise pickle.UnpicklingError(f"an array of type {code if isinstance(code, str) else 'unknown'}, not uint8")
        return np.dtype(np.uint8)


def unpickle(data: bytes) -> object:
    """Return the value in these bytes. Raises ValueError for a pickle that is damaged or that is not a batch's."""
    try:
        _check_operations(data)
        return BatchUnpickler(data).load()
    except Exception as error:  # unpickling damaged bytes can raise nearly anything
        raise ValueError(f"a damaged or foreign pickle ({one_line(error)})") from None


def _check_operations(data: bytes) -> None:
    """Refuse a pickle that claims much more memory or nesting than a batch has: the C unpickler allocates first."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        memo_index = int(argument or 0) if operation.name in ("PUT", "LONG_BINPUT") else 0
        if max(count, memo_index) >= MAX_OPERATIONS:
            raise pickle.UnpicklingError(f"more than {MAX_OPERATIONS:,} operations")
