"""The command line's options, made from the configurations.

In: a configuration class. Out: a Typer command whose function takes the configuration and the `OutputOptions`.
Nothing here imports torch; a name, default, range or help text is written only in `core.config`.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from scsuite.cli.common_options import COMMON_OPTIONS, OutputOptions
from scsuite.cli.config_file import name_config_file
from scsuite.cli.option_values import absolute_paths, check_non_empty, collect_trailing_files, is_explicit, value_source
from scsuite.cli.outcome import Outcome
from scsuite.cli.output_files import check_different_files
from scsuite.cli.streams import print_loading, safe_streams
from scsuite.core.config import Config, DataConfig, NetworkConfig, flag_name, parse_number

C = TypeVar("C", bound=Config)

__all__ = ["OutputOptions", "options"]


def options(config_class: type[C], **extra_options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make `function(config, output, **extra_options)` a Typer command with an option for each field of the class.

    `extra_options` are further options, Annotated alias by name, default None, that are not part of the configuration.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(context: typer.Context, **values: Any) -> None:
            explicit = frozenset(name for name in values if is_explicit(context, name))
            with name_config_file(context):
                check_non_empty(values)
            collect_trailing_files(config_class, context, values)
            extra_values = {name: values.pop(name) for name in extra_options}
            common = {name: values.pop(name) for name in COMMON_OPTIONS}
            outcome = context.obj if isinstance(context.obj, Outcome) else Outcome(json=common["json"])
            outcome.json |= common["json"]  # the file of --config can ask for it too
            output = OutputOptions(
                common["runs_dir"], common["name"], common["json"], common["quiet"], explicit, outcome
            )
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
            # Without the defaults of the parser: the configuration has the same ones, and its recipe may have others.
            values = {name: value for name, value in values.items() if value_source(context, name) != "DEFAULT"}
            with name_config_file(context):
                config = config_class(**absolute_paths(config_class, values))
                for name in ("out", "csv") if common["config"] else ():
                    check_different_files(
                        f"--{name}", getattr(config, name, None), "another file than --config", [common["config"]]
                    )
                outcome.seed = getattr(config, "seed", None)
                if isinstance(config, DataConfig | NetworkConfig):
                    print_loading(output)
                with safe_streams():
                    function(config, output, **extra_values)

        hints = get_type_hints(config_class)
        parameters = [_parameter("context", typer.Context, inspect.Parameter.empty)]
        parameters += [_make_option(item, hints[item.name]) for item in fields(config_class)]
        parameters += [_parameter(name, alias, None) for name, alias in extra_options.items()]
        parameters += [_parameter(name, alias, default) for name, (alias, default) in COMMON_OPTIONS.items()]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.config_class = config_class  # type: ignore[attr-defined]  # for cli.config_file
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        del command.__wrapped__  # else its annotations would be read instead
        return command

    return decorate


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _make_option(item: Field[Any], hint: Any) -> inspect.Parameter:
    """Return the parameter of a field: its flags, help and parser in an Annotated alias."""
    flag, settings = flag_name(item), item.metadata
    takes_many = get_origin(hint) is tuple
    base_type = next((arg for arg in get_args(hint) if arg is not type(None)), hint)
    names = settings.get("names") or ((f"{flag}/--no{flag[1:]}",) if base_type is bool else (flag,))
    metavar = f"[{'|'.join(settings['choices'])}]" if "choices" in settings else settings.get("metavar")
    help_text, extra = settings["help"], dict[str, Any]()
    if base_type in (int, float):
        allow_auto = bool(settings.get("allow_auto"))
        extra["parser"] = _number_parser(base_type, flag, allow_auto)
        metavar = (metavar or ("N" if base_type is int else "X")) + "|auto" * allow_auto
        extra["show_default"] = not allow_auto
        help_text += " [default: auto]" * allow_auto
    alias = typer.Option(
        *names, help=help_text, envvar=settings.get("env"), metavar=metavar,
        rich_help_panel=settings["group"], **extra,
    )  # fmt: skip
    default: Any = inspect.Parameter.empty if item.default is MISSING else item.default
    if settings.get("is_argument"):
        argument = typer.Argument(
            help=help_text, metavar=metavar, show_default=False, rich_help_panel=settings["group"]
        )
        return _parameter(item.name, Annotated[list[str], argument], list(default))
    if takes_many:
        return _parameter(item.name, Annotated[list[str], alias], list(default))
    return _parameter(item.name, Annotated[hint, alias], default)


def _number_parser(
    number_type: type[int] | type[float], flag: str, allow_auto: bool
) -> Callable[[Any], int | float | None]:
    def number(value: Any) -> int | float | None:
        return parse_number(value, number_type, flag, allow_auto)

    return number  # a function, not a partial: click asks a parser for its name
