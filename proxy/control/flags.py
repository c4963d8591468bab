"""The operator's flags: one immutable record, replaced whole while tunnels run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from proxy.audio.algorithms import KNOWN
from proxy.errors import FlagsError


def _parse_algorithms(value: object) -> tuple[str, ...]:
    """Names, or a text of names with commas; each known, in lower case, once.

    Known, not installed: machines that share their flags need not have the same codecs.
    """
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise ValueError(f"names of algorithms are expected: {', '.join(KNOWN)}")
    for name in names:
        if not isinstance(name, str) or name.strip().lower() not in KNOWN:
            raise ValueError(f"{name!r} is no algorithm; there are {', '.join(KNOWN)}")
    return tuple(dict.fromkeys(name.strip().lower() for name in names))


def _no_switch(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is expected")
    return value


Algorithms = Annotated[tuple[str, ...], BeforeValidator(_parse_algorithms)]
Integer = Annotated[int, BeforeValidator(_no_switch)]
Number = Annotated[float, BeforeValidator(_no_switch)]


class Flags(BaseModel):
    """What may change while the proxy runs. It reaches the next chunk of every connection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="compress at all")
    min_size: Integer = Field(
        default=1024, ge=0, description="smaller chunks are sent as they are, in bytes"
    )
    min_gain: Number = Field(
        default=0.03, ge=0, lt=1, description="least saving, as a share of the frames as they came"
    )
    level: Integer = Field(default=1, ge=0, le=3, description="0, fastest, to 3, smallest")
    algorithms: Algorithms = Field(default=KNOWN, description="algorithms that clients may have")

    def updated(self, changes: Mapping[str, Any]) -> Flags:
        """A new record with `changes` made, from text or JSON values.

        Raises FlagsError, which names each flag that is wrong and what it takes.
        """
        try:
            return Flags.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            raise FlagsError("; ".join(_explain(problem) for problem in error.errors())) from error

    def to_json(self) -> bytes:
        """As the store keeps it."""
        return json.dumps(self.model_dump(), indent=2).encode() + b"\n"


def parse_flags(data: bytes, first: Flags) -> Flags:
    """Read what `to_json` wrote, or what somebody typed; flags left out are as in `first`.

    Raises FlagsError.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FlagsError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise FlagsError("not a JSON object")
    return first.updated(record)


class LiveFlags:
    """Holds the record in force; whoever needs it reads `current` each time anew."""

    __slots__ = ("current",)

    def __init__(self, first: Flags) -> None:
        self.current = first


def _explain(problem: Any) -> str:
    name = problem["loc"][0] if problem["loc"] else "flags"
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such flag; there are {', '.join(Flags.model_fields)}"
    return f"{name}: {problem['msg'].removeprefix('Value error, ')}"
