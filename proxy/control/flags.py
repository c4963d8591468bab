"""The operator's flags: one immutable record, replaced whole while tunnels run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from proxy.audio.codec import KNOWN
from proxy.errors import ConflictError, FlagsError


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


def _parse_rules(value: object) -> object:
    """A record for each pattern of paths, also as JSON; kept in their order."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"JSON is expected: {error}") from error
    if not isinstance(value, Mapping):
        raise ValueError('flags by path are expected, such as {"/ws/*": {"enabled": false}}')
    for pattern in value:
        if not isinstance(pattern, str) or not pattern.startswith(("/", "*")):
            raise ValueError(f"{pattern!r} is no pattern of paths: '/' or '*' begins it")
    return value


Algorithms = Annotated[tuple[str, ...], BeforeValidator(_parse_algorithms)]
Integer = Annotated[int, BeforeValidator(_no_switch)]
Number = Annotated[float, BeforeValidator(_no_switch)]


class PathFlags(BaseModel):
    """Flags that are different on some paths; None: as everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool | None = None
    min_size: Annotated[Integer, Field(ge=0, le=1 << 31)] | None = None
    min_gain: Annotated[Number, Field(ge=0, lt=1)] | None = None
    level: Annotated[Integer, Field(ge=0, le=3)] | None = None
    algorithms: Algorithms | None = None
    rollout_percent: Annotated[Number, Field(ge=0, le=100)] | None = None
    shadow: bool | None = None


class Flags(BaseModel):
    """What may change while the proxy runs. It reaches the next chunk of every connection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="compress at all")
    min_size: Integer = Field(
        default=1024, ge=0, le=1 << 31, description="smaller chunks are sent as they are, in bytes"
    )
    min_gain: Number = Field(
        default=0.03, ge=0, lt=1, description="least saving, as a share of the frames as they came"
    )
    level: Integer = Field(default=1, ge=0, le=3, description="0, fastest, to 3, smallest")
    algorithms: Algorithms = Field(default=KNOWN, description="algorithms that clients may have")
    rollout_percent: Number = Field(
        default=100, ge=0, le=100, description="share of the clients that asked that get it"
    )
    shadow: bool = Field(
        default=False, description="compress and count what it would save, send what came"
    )
    paths: Annotated[dict[str, PathFlags], BeforeValidator(_parse_rules)] = Field(
        default={}, description="other flags for some paths; the first pattern that fits counts"
    )

    def on(self, pattern: str) -> Flags:
        """The record for the paths of one of the patterns of `paths`."""
        rule = self.paths[pattern]
        return self.model_copy(update=rule.model_dump(exclude_none=True))

    def as_record(self) -> dict[str, Any]:
        """As JSON has it; of `paths` what was said, and no more."""
        rules = {
            pattern: rule.model_dump(mode="json", exclude_none=True)
            for pattern, rule in self.paths.items()
        }
        return {**self.model_dump(mode="json"), "paths": rules}

    def updated(self, changes: Mapping[str, Any]) -> Self:
        """A new record with `changes` made, from text or JSON values.

        Raises FlagsError, which names each flag that is wrong and what it takes.
        """
        try:
            return type(self).model_validate({**self.as_record(), **changes})
        except ValidationError as error:
            raise FlagsError("; ".join(_explain(problem) for problem in error.errors())) from error


@dataclass(frozen=True)
class Revision:
    """A record of flags as a store keeps it."""

    flags: Flags
    number: int = 0
    """One more with each change."""
    by: str | None = None
    """By which interface it was made; None: by somebody else's hand, or by nobody."""

    def changed(self, changes: Mapping[str, Any], by: str, expected: int | None) -> Revision:
        """The next one, or this one where that changes nothing.

        `expected`: the number that whoever makes the changes has seen.

        Raises FlagsError, ConflictError where somebody else was faster.
        """
        if expected is not None and expected != self.number:
            whom = f" by {self.by}" if self.by else ""
            raise ConflictError(
                f"revision: the flags were changed{whom} in the meantime, they are at revision "
                f"{self.number} and not at {expected}: look at them again"
            )
        after = self.flags.updated(changes)
        return self if after == self.flags else Revision(after, self.number + 1, by)

    def to_json(self) -> bytes:
        """As a store keeps it: the flags, and what is said of them."""
        about = {"revision": self.number, "changed_by": self.by}
        return json.dumps({**self.flags.as_record(), **about}, indent=2).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes, first: Flags) -> Revision:
        """Read what `to_json` wrote, or what somebody typed; flags left out are as in `first`.

        Raises FlagsError.
        """
        try:
            record = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise FlagsError(f"not JSON: {error}") from error
        if not isinstance(record, dict):
            raise FlagsError("not a JSON object")
        number, by = record.pop("revision", 0), record.pop("changed_by", None)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise FlagsError("revision: a whole number is expected")
        return cls(first.updated(record), number, by if isinstance(by, str) else None)


def differences(before: Flags, after: Flags) -> dict[str, tuple[Any, Any]]:
    """By flag, what it was and what it is, of those that are not the same."""
    old, new = before.as_record(), after.as_record()
    return {name: (old[name], new[name]) for name in new if old[name] != new[name]}


class LiveFlags:
    """Holds the record in force; whoever needs it reads `current` each time anew."""

    __slots__ = ("_listeners", "changed_by", "current", "revision")

    def __init__(self, first: Flags) -> None:
        self.current = first
        self.revision = 0
        """The number of what is in force."""
        self.changed_by: str | None = None
        """Who made it, as `Revision.by`."""
        self._listeners: list[Callable[[], None]] = []

    def take(self, revision: Revision) -> dict[str, tuple[Any, Any]]:
        """Put a record in force. Returns what has changed: by flag, what it was and what it is."""
        changes = differences(self.current, revision.flags)
        self.revision, self.changed_by = revision.number, revision.by
        if changes:
            self.current = revision.flags
            for listener in self._listeners:
                listener()
        return changes

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called after each change."""
        self._listeners.append(listener)


class Variants:
    """What a record means for one connection: by its path, its place in the roll-out, its switch.

    The same connection always gets the same object of one record: the data path looks at that.
    """

    def __init__(self, flags: Flags) -> None:
        self._rules = [(pattern, *_pair(flags.on(pattern))) for pattern in flags.paths]
        self._usual = _pair(flags)

    def of(self, path: str, place: float, *, is_on: bool) -> Flags:
        """`place`: the client's in the roll-out, 0 to 100; those below `rollout_percent` are in."""
        on, off = self._pair_of(path)
        return on if is_on and place < on.rollout_percent else off

    def percent_of(self, path: str) -> float:
        """The share of the clients on a path that the roll-out includes."""
        return self._pair_of(path)[0].rollout_percent

    def _pair_of(self, path: str) -> tuple[Flags, Flags]:
        for pattern, on, off in self._rules:
            if fnmatchcase(path, pattern):
                return on, off
        return self._usual


def _pair(flags: Flags) -> tuple[Flags, Flags]:
    return flags, flags.model_copy(update={"enabled": False})


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or "flags"
    if problem["type"] == "extra_forbidden":
        known = (PathFlags if len(problem["loc"]) > 1 else Flags).model_fields
        return f"{name}: there is no such flag; there are {', '.join(known)}"
    return f"{name}: {problem['msg'].removeprefix('Value error, ')}"
