"""The command line's options, made from the configurations: one Annotated alias a field, shared by inheritance.

In: a configuration class. Out: a Typer command whose function takes the finished configuration and the OutputOptions options.
Nothing here imports torch, and a name, default, range or help text is written only in `core.config`.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from scsuite.core.config import Config, flag_name
from scsuite.core.errors import UsageError
from scsuite.core.files import read_yaml

C = TypeVar("C", bound=Config)
T = TypeVar("T")


@dataclass(frozen=True)
class OutputOptions:
    """Where a command's answer goes, and which configuration options were given rather than left at their defaults."""

    runs_dir: Path
    name: str | None
    json: bool
    quiet: bool
    given: frozenset[str]


def _some_text(flag: str, value: T) -> T:
    if value == "":
        raise UsageError("option", flag, expected="a value", found="an empty one", hint="Leave the option out.")
    return value


def _runs_dir(value: Any) -> Path:
    try:
        return Path(_some_text("--runs-dir", value)).expanduser()
    except RuntimeError as error:
        raise UsageError(
            "option", "--runs-dir", expected="a home folder for ~", found=f"{value}: {error}", hint="Write it out."
        ) from None


RunsDirOption = Annotated[
    Path,
    typer.Option(envvar="SCSUITE_RUNS", parser=_runs_dir, metavar="DIR", help="Where run directories go."),
]
NameOption = Annotated[str | None, typer.Option(help="Ends the run directory's name. (default: the data's name)")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def _read_config(context: typer.Context, path: str | None) -> str | None:
    """Values of a file become the options' defaults: defaults < file < flags."""
    if path is None:
        return None
    _some_text("--config", path)
    values = {name.replace("-", "_").rstrip("_"): value for name, value in read_yaml(path, "configuration").items()}
    known: dict[str, str] = {}
    for parameter in context.command.params:  # by the field's name, as config.yaml has it, and by the flags'
        for name in (str(parameter.name), *parameter.opts):
            known[name.strip("-_").replace("-", "_")] = str(parameter.name)
    del known["config"]
    if unknown := sorted(set(values) - set(known)):
        raise UsageError(
            "configuration", path, expected=f"options of {context.info_name}", found=", ".join(unknown),
            hint="Mend or remove them.",
        )  # fmt: skip
    if twice := [name for name in values if [known[other] for other in values].count(known[name]) > 1]:
        raise UsageError(
            "configuration", path, expected="each option once", found=" and ".join(twice), hint="Remove one of them."
        )
    context.default_map = {known[name]: value for name, value in values.items() if value is not None}
    return path


ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        callback=_read_config,
        is_eager=True,
        metavar="FILE.yaml",
        help="Options from a file; flags win over it.",
    ),
]

_OUTPUT = {
    "runs_dir": (RunsDirOption, Path("runs")),
    "name": (NameOption, None),
    "config": (ConfigOption, None),
    "json": (JsonOption, False),
    "quiet": (QuietOption, False),
    "debug": (DebugOption, False),
}


def options(config_class: type[C], **more: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make `function(config, output, **more)` a Typer command with an option for each field of `config_class`.

    `more` are further options, Annotated alias by name, default None, that are not part of the configuration.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(context: typer.Context, **values: Any) -> None:
            given = frozenset(name for name in values if _was_given(context, name))
            _refuse_empty(values)
            _take_extra(config_class, context, values)
            extra = {name: values.pop(name) for name in more}
            kept = {name: values.pop(name) for name in _OUTPUT}
            output = OutputOptions(kept["runs_dir"], kept["name"], kept["json"], kept["quiet"], given)
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            function(config_class(**_located(config_class, values)), output, **extra)

        parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        parameters += _parameters(config_class)
        parameters += [_parameter(name, alias, None) for name, alias in more.items()]
        parameters += [_parameter(name, alias, default) for name, (alias, default) in _OUTPUT.items()]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        del command.__wrapped__  # else its annotations would be read instead
        return command

    return decorate


def _located(config_class: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """Paths that exist become absolute: a run is resumed and evaluated from other directories too."""
    paths = {item.name: item.metadata.get("words", ()) for item in fields(config_class) if item.metadata.get("path")}
    return {
        name: str(Path(value).absolute())
        if value not in paths.get(name, (value,)) and value and _exists(value)
        else value
        for name, value in values.items()
    }


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # no path at all; what reads it says so
        return False


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP")


def _refuse_empty(values: Mapping[str, Any]) -> None:
    """An empty text is a variable that a script left unset; as a path it would be the current directory."""
    for name in ("name", "resume"):
        _some_text("--" + name, values.get(name))


def _take_extra(config_class: type[Config], context: typer.Context, values: dict[str, Any]) -> None:
    """Arguments without an option go to the one that takes many, if it was given: `--images a.png b.png`."""
    if not context.args:
        return
    many = next((item for item in fields(config_class) if values[item.name] and isinstance(item.default, tuple)), None)
    unknown = next((text for text in context.args if text.startswith("-") or many is None), None)
    if many is None or unknown is not None:
        raise UsageError(
            "command line", context.command_path, expected="options as in --help", found=f"the argument {unknown}",
            hint=f"See {context.command_path} --help.",
        )  # fmt: skip
    values[many.name] = [*values[many.name], *context.args]


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _parameters(config_class: type[Config]) -> list[inspect.Parameter]:
    hints = get_type_hints(config_class)
    return [_option_of(item, hints[item.name]) for item in fields(config_class)]


def _option_of(item: Field[Any], hint: Any) -> inspect.Parameter:
    facts = item.metadata
    kind = (
        next((arg for arg in get_args(hint) if arg is not type(None)), hint)
        if get_origin(hint) is not tuple
        else list[str]
    )
    names = facts.get("flags") or ((f"{flag_name(item)}/--no{flag_name(item)[1:]}",) if kind is bool else (flag_name(item),))
    settings: dict[str, Any] = {"help": _help(item), "envvar": facts.get("env"), "metavar": facts.get("metavar")}
    if kind in (int, float):
        settings["parser"] = _number_parser(kind, flag_name(item), bool(facts.get("auto")))
        settings["metavar"] = facts.get("metavar") or ("RATE|auto" if facts.get("auto") else kind.__name__.upper())
    default = ... if item.default is MISSING else list(item.default) if kind == list[str] else item.default
    if facts.get("auto"):
        settings["show_default"] = "auto"
    alias = Annotated[*(kind if kind == list[str] else hint, typer.Option(*names, **settings))]  # type: ignore[valid-type]
    empty = inspect.Parameter.empty
    return _parameter(item.name, alias, empty if default is ... else default)


def _help(item: Field[Any]) -> str:
    choices = item.metadata.get("choices")
    text = str(item.metadata["help"])
    return f"{text} One of {', '.join(choices)}." if choices and choices[0] not in text else text


def _number_parser(kind: type[int] | type[float], flag: str, auto: bool) -> Callable[[Any], int | float | None]:
    def number(value: Any) -> int | float | None:
        return _number(kind, flag, auto, value)

    return number  # a function, not a partial: click asks a parser for its name


def _number(kind: type[int] | type[float], flag: str, auto: bool, value: Any) -> int | float | None:
    """A number as people write it; Python's own reading would also take 1_0, and 1e-400 for 0."""
    if auto and value in ("auto", None):
        return None
    if not isinstance(value, str):
        # From a configuration file, where a truth value is an int to Python.
        text = str(value) if isinstance(value, bool) or (kind is int and isinstance(value, float)) else repr(value)
    else:
        text = value
    try:
        if "_" in text or not text.isascii() or text != text.strip():
            raise ValueError
        number = kind(text)
        if number == 0 and any(digit in "123456789" for digit in text.lower().partition("e")[0]):
            raise ValueError  # too small for a float: it would become another number
    except ValueError:
        expected = "a whole number" if kind is int else "a number" + (" or auto" if auto else "")
        raise UsageError("option", flag, expected=expected, found=repr(value), hint="See --help.") from None
    if number == 0 and math.copysign(1, number) < 0:
        raise UsageError("option", flag, expected="a number without a sign at 0", found=repr(value), hint="See --help.")
    return number
