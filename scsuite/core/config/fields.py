"""The definition of an option: its default, range and help in a dataclass field, and the check of each value.

In: values from the command line, a YAML file, a checkpoint or Python. Out: a valid `Config`, or a UsageError.
`cli.options` turns the same fields into Typer options; nothing here imports typer, torch or numpy.
"""

import math
import operator
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, Self, TypedDict, TypeGuard, TypeVar, Unpack, get_args, get_origin

from scsuite.core.errors import InputError, UsageError, did_you_mean

# The groups of --help, in their order.
DATA, LEARNING_RATE, RECIPE, COMPUTE, OUTPUT = GROUPS = ("Data", "Learning rate", "Recipe", "Compute", "Output")

_BOUNDS = {"gt": (">", operator.gt), "ge": (">=", operator.ge), "lt": ("<", operator.lt), "le": ("<=", operator.le)}
_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class OptionSettings(TypedDict, total=False):
    """What `option` takes besides default, group and help: bounds, choices, and the form on the command line."""

    gt: float
    ge: float
    lt: float
    le: float
    choices: tuple[str, ...]
    names: tuple[str, ...]  # on the command line, if not derived from the field's name
    metavar: str
    env: str  # environment variable that gives the default
    is_path: bool
    keywords: tuple[str, ...]  # values that are not paths although `is_path`
    allow_auto: bool  # the word `auto` means None
    is_argument: bool  # words without an option before them: `report RUN...`


def option(default: Any, group: str, help: str, **settings: Unpack[OptionSettings]) -> Any:  # noqa: A002 - Typer's word
    """Return a field of a configuration."""
    metadata = {"group": group, "help": help, **settings}
    return field(default=default, metadata=metadata) if default is not MISSING else field(metadata=metadata)


def flag_name(item: Field[Any]) -> str:
    """Return the option's first name on the command line: `batch_size` is `--bs`, `lr_max` is `--lr-max`."""
    names: tuple[str, ...] = item.metadata.get("names", ())
    return names[0] if names else "--" + item.name.rstrip("_").replace("_", "-")


def is_finite_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a finite number. A bool, which is an int in Python, is not."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max  # False for NaN


def parse_number(
    value: Any, number_type: type[int] | type[float], flag: str, allow_auto: bool = False
) -> int | float | None:
    """Parse a number. int() and float() alone would also accept 1_0, and would read 1e-400 as 0.

    None stands for `auto`. Raises UsageError for anything else.
    """
    if allow_auto and value in ("auto", None):
        return None
    text = value
    if not isinstance(value, str):  # from a configuration file, where true and false are ints in Python
        is_truncated = number_type is int and isinstance(value, float)
        text = str(value) if isinstance(value, bool) or is_truncated else repr(value)
    try:
        if "_" in text or not text.isascii() or text != text.strip():
            raise ValueError
        number = number_type(text)
        if number == 0 and any(digit in "123456789" for digit in text.lower().partition("e")[0]):
            raise ValueError  # too small for a float: it would become another number
    except ValueError:
        expected = "a whole number" if number_type is int else "a number" + " or auto" * allow_auto
        raise UsageError("option", flag, expected=expected, found=repr(value), hint="See --help.") from None
    if number == 0 and math.copysign(1, number) < 0:
        raise UsageError("option", flag, expected="0 without a minus sign", found=repr(value), hint="See --help.")
    return number


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base class of all configurations: checks every field against its type, bounds and choices."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None or type(None) not in get_args(item.type):
                _check_field(item, value)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON, with lists for tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration that `to_dict` gave; names that this class does not have are ignored."""
        names = {item.name for item in fields(cls)}
        return cls(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n in names})

    @classmethod
    def from_saved(cls, values: Mapping[str, Any], where: object) -> Self:
        """Return the configuration that the file `where` holds. Raises InputError for a value that is not valid."""
        try:
            return cls.from_dict(values)
        except UsageError as error:
            raise InputError(
                "settings", where, expected=f"for {error.where} {error.expected}", found=error.found,
                hint="The file was edited; use the original.",
            ) from None  # fmt: skip


C = TypeVar("C", bound=Config)


def document_fields(config_class: type[C]) -> type[C]:
    """List the fields with type, help and default in the class's docstring, in place of `All fields, by keyword.`"""
    lines = []
    for item in fields(config_class):
        type_name = item.type.__name__ if isinstance(item.type, type) else str(item.type)
        default = "" if item.default is None else f" Default: {item.default!r}."
        choices = f" One of {', '.join(item.metadata['choices'])}." if "choices" in item.metadata else ""
        lines.append(f"        {item.name} ({type_name}): {item.metadata['help']}{choices}{default}")
    doc = config_class.__doc__ or ""  # empty under python -OO
    config_class.__doc__ = doc.replace("        All fields, by keyword.", "\n".join(lines))
    return config_class


def _check_field(item: Field[Any], value: Any) -> None:
    flag, choices = flag_name(item), item.metadata.get("choices")
    if choices:
        if value not in choices:
            hint = did_you_mean(value, choices, otherwise="See --help.")
            raise UsageError("option", flag, expected=f"one of {', '.join(choices)}", found=repr(value), hint=hint)
        return
    type_ = base_type(item)
    if type_ is not None and not _has_type(type_, value):
        raise UsageError("option", flag, expected=_TYPE_NAMES[type_], found=repr(value), hint="See --help.")
    if value == "":
        raise UsageError("option", flag, expected="a value", found="an empty one", hint="Leave the option out.")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_bounds(item, value, is_integer=type_ is int)


def _check_bounds(item: Field[Any], value: float, is_integer: bool) -> None:
    bounds = [(*_BOUNDS[name], item.metadata[name]) for name in _BOUNDS if name in item.metadata]
    is_finite = is_integer or is_finite_number(value)  # an int may be above the largest float
    if not is_finite or not all(compare(value, bound) for _, compare, bound in bounds):
        number = "a whole number" if isinstance(value, int) else "a finite number"
        limits = " and ".join(f"{sign} {bound}" for sign, _, bound in bounds)
        raise UsageError(
            "option", flag_name(item), expected=f"{number} {limits}".strip(), found=value, hint="See --help."
        )


def base_type(item: Field[Any]) -> type[bool] | type[int] | type[float] | type[str] | None:
    """Return the type that a value must have; None for a tuple, which is not checked."""
    if get_origin(item.type) is tuple:
        return None
    types = (item.type, *get_args(item.type))  # `int`, or the parts of `int | None`
    return next((type_ for type_ in (bool, int, float, str) if type_ in types), None)


def _has_type(type_: type, value: Any) -> bool:
    if isinstance(value, bool):  # an int in Python
        return type_ is bool
    return isinstance(value, int | float if type_ is float else type_)
