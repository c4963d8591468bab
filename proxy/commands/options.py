"""Settings as options of a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from proxy.config import AdminSettings


def options_of(settings_class: type[AdminSettings]) -> Callable[[Callable[..., None]], Any]:
    """Give a command one option per setting. It gets them as keywords, None where not given."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        settings = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    str | None,
                    typer.Option("--" + name.replace("_", "-"), help=_help(name, settings_class)),
                ],
            )
            for name in settings_class.model_fields
        ]

        def run(**values: Any) -> None:
            command(**values)

        run.__doc__ = command.__doc__
        run.__name__ = command.__name__
        run.__signature__ = inspect.Signature([*own, *settings])  # type: ignore[attr-defined]
        return run

    return decorate


def _help(name: str, settings_class: type[AdminSettings]) -> str:
    field = settings_class.model_fields[name]
    text = field.description or ""
    if field.default is None or field.is_required():
        return text
    default = field.get_default(call_default_factory=True)
    if default in ((), ""):
        return text
    return f"{text} Default: {str(default).lower() if isinstance(default, bool) else default}."
