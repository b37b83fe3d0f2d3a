"""Reading CIFAR-10's pickles without unpickling: a stack machine that builds plain values and calls nothing.

In: the bytes of a batch. Out: dicts, lists, tuples, strings, numbers, and `PickledArray` for numpy's arrays.

The opcodes are parsed by the standard library's `pickletools`, which only looks; what they would do is done here, for
the few of them that such a file needs. Where a pickle names a callable it gets a `_Global`, which is inert: numpy's
`_reconstruct` and `dtype` and the codec that Python 3 writes around bytes are recognised by name and never invoked.
Source: the real files are Python 2's protocol 2 (https://www.cs.toronto.edu/~kriz/cifar.html).
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scsuite.core.files import FILE_BYTES_MAX

OPERATIONS_MAX = 200_000  # a batch of 10,000 images has some 30,000; a million take seconds
ENCODED_BYTES_MAX = FILE_BYTES_MAX  # by _codecs.encode, which can be asked for one text again and again
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"}
_TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_CONSTANTS = frozenset(_NUMBERS | _TEXTS | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"})
_LITERALS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_RECONSTRUCT = frozenset({"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"})


@dataclass(frozen=True)
class _Global:
    name: str  # "module attribute"


@dataclass(frozen=True)
class _Dtype:
    code: object


@dataclass
class PickledArray:
    """A numpy array as its pickle tells it: nothing of it is believed before `rows` has checked it."""

    state: object = field(default=None, repr=False)

    def rows(self, width: int) -> NDArray[np.uint8]:
        """The array as uint8 of shape (n, width).

        Raises ValueError when type, shape or number of bytes are not that.
        """
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            raise ValueError("an array without its contents")
        _, shape, dtype, is_fortran, raw = self.state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", "|u1", b"u1", b"|u1"):
            code = dtype.code if isinstance(dtype, _Dtype) and isinstance(dtype.code, str | bytes) else "unknown"
            raise ValueError(f"an array of type {str(code)[:20]}, not uint8")
        if not isinstance(shape, tuple) or len(shape) != 2 or not all(type(n) is int for n in shape):
            raise ValueError("an array that is not of two dimensions")
        data = raw.encode("latin-1") if isinstance(raw, str) else raw  # Python 2 wrote its bytes as a string
        if shape[1] != width or shape[0] < 0 or not isinstance(data, bytes) or len(data) != shape[0] * width:
            held = len(data) if isinstance(data, bytes) else "no"
            raise ValueError(f"an array of shape ({shape[0]}, {shape[1]}) over {held} bytes, not (n, {width})")
        return np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")


def read_pickle(data: bytes) -> object:
    """The value that these bytes hold. Nothing is imported or called, whatever they name.

    Raises ValueError for a pickle that is damaged, or that asks for anything but plain values and numpy's arrays.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= OPERATIONS_MAX:
                raise ValueError(f"a pickle of more than {OPERATIONS_MAX:,} operations")
            machine.run(opcode.name, argument)
        return machine.result()
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        # What the machine's own stack and memo raise on a pickle that does not add up.
        raise ValueError(f"a damaged pickle ({type(error).__name__})") from None


class _Machine:
    """The pickle machine of https://docs.python.org/3/library/pickletools.html, less whatever could call something."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}
        self.stopped = False
        self.encoded = 0  # bytes
        self.actions: dict[str, Callable[[Any], None]] = {
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
            "MARK": lambda _: self._mark(),
            "EMPTY_DICT": lambda _: self._push({}),
            "EMPTY_LIST": lambda _: self._push([]),
            "EMPTY_TUPLE": lambda _: self._push(()),
            "DICT": lambda _: self._set_items({}, self._to_mark()),
            "LIST": lambda _: self._push(self._to_mark()),
            "TUPLE": lambda _: self._push(tuple(self._to_mark())),
            "TUPLE1": lambda _: self._push(tuple(self._pop(1))),
            "TUPLE2": lambda _: self._push(tuple(self._pop(2))),
            "TUPLE3": lambda _: self._push(tuple(self._pop(3))),
            "APPEND": lambda _: self._append(self._pop(1)),
            "APPENDS": lambda _: self._append(self._to_mark()),
            "SETITEM": lambda _: self._set_items(None, self._pop(2)),
            "SETITEMS": lambda _: self._set_items(None, self._to_mark()),
            "MEMOIZE": lambda _: self._put(len(self.memo)),
            "STACK_GLOBAL": lambda _: self._global(" ".join(self._pop(2))),
            "GLOBAL": self._global,
            "REDUCE": lambda _: self._reduce(*self._pop(2)),
            "BUILD": lambda _: self._build(*self._pop(1)),
            "STOP": lambda _: self._stop(),
        }
        self.actions |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put)
        self.actions |= dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda key: self._push(self.memo[key]))

    def run(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(argument)
        elif name in _LITERALS:
            self.stack.append(_LITERALS[name])
        elif name in self.actions:
            self.actions[name](argument)
        else:
            raise ValueError(f"a pickle with the operation {name}")

    def result(self) -> Any:
        if not self.stopped or self.below or len(self.stack) != 1:
            raise ValueError("a pickle that ends too early")
        return self.stack[0]

    def _stop(self) -> None:
        self.stopped = True

    def _push(self, value: Any) -> None:
        self.stack.append(value)  # on the stack as it is once `value` has been taken from it

    def _mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def _append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError
        self.stack[-1].extend(items)

    def _set_items(self, new: dict[Any, Any] | None, items: list[Any]) -> None:
        if new is not None:
            self.stack.append(new)
        keys = items[::2]
        # Only text as a key: to hash a tuple that is a million levels deep would overflow the C stack.
        if type(self.stack[-1]) is not dict or len(items) % 2 or not all(type(key) in (str, bytes) for key in keys):
            raise TypeError
        self.stack[-1].update(zip(keys, items[1::2], strict=True))

    def _global(self, name: str) -> None:
        known = _RECONSTRUCT | {"numpy ndarray", "numpy dtype", "_codecs encode"}
        if name not in known:
            raise ValueError(f"a pickle that names {name.replace(' ', '.')[:80]}")
        self.stack.append(_Global(name))

    def _reduce(self, function: Any, arguments: Any) -> None:
        if type(function) is not _Global or type(arguments) is not tuple or not arguments:
            raise TypeError
        if function.name in _RECONSTRUCT:
            self.stack.append(PickledArray())
        elif function.name == "numpy dtype":
            self.stack.append(_Dtype(arguments[0]))
        elif function.name == "_codecs encode" and type(arguments[0]) is str:  # how protocols below 3 write bytes
            self.encoded += len(arguments[0])
            if self.encoded > ENCODED_BYTES_MAX:
                raise ValueError("a pickle of far more bytes than its file has")
            self.stack.append(arguments[0].encode("latin-1"))
        else:
            raise ValueError(f"a pickle that calls {function.name.replace(' ', '.')}")

    def _build(self, state: Any) -> None:
        if type(self.stack[-1]) is PickledArray:
            self.stack[-1].state = state
        elif type(self.stack[-1]) is not _Dtype:  # a dtype's own state is byte order and such: nothing for uint8
            raise TypeError
