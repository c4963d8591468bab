"""`audio-proxy flags`: at their store, or by way of a running proxy."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.commands.admin_port import NAME, AdminPort
from proxy.commands.options import options_of
from proxy.config import PREFIX, AdminSettings, load, parse_switch
from proxy.control.flags import Flags, Revision
from proxy.control.store import FileStore
from proxy.errors import FlagsError, StoreError

if TYPE_CHECKING:
    from proxy.control.redis_store import RedisStore

app = typer.Typer(help="Show or change the flags.", no_args_is_help=True)

ViaAdmin = Annotated[
    bool, typer.Option("--via-admin", help="Ask the proxy at --admin, not the store.")
]

_ABOUT = ("revision", "changed_by")
"""What stands beside the flags in what the admin port says of them."""


@app.command("get")
@options_of(AdminSettings)
def flags_get(via_admin: ViaAdmin = False, **options: str | None) -> None:
    """Show the flags that are stored. Their revision goes to standard error."""
    settings = load(AdminSettings, options)
    if via_admin:
        _print_record(AdminPort(settings).get("/flags", ("enabled", *_ABOUT)))
    else:
        _print_revision(asyncio.run(_read(settings)))


@app.command("set")
@options_of(AdminSettings)
def flags_set(
    changes: Annotated[list[str], typer.Argument(metavar="NAME=VALUE…")],
    if_revision: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Only where the flags are at this revision still; see get."
        ),
    ] = None,
    via_admin: ViaAdmin = False,
    **options: str | None,
) -> None:
    """Change flags: every running proxy with this store follows within a second.

    Shows them as they are then; their revision goes to standard error.
    """
    settings = load(AdminSettings, options)
    values = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise FlagsError(f"{change!r} is not NAME=VALUE")
        if name in _ABOUT:
            raise FlagsError(f"{name}: this is no flag; --if-revision says what you have seen")
        values[name] = value
    if via_admin:
        seen = {} if if_revision is None else {"revision": if_revision}
        _print_record(AdminPort(settings).patch("/flags", {**values, **seen}))
    else:
        _print_revision(asyncio.run(_change(settings, values, if_revision)))


async def _read(settings: AdminSettings) -> Revision:
    if settings.store is None:
        return _file(settings).read()
    async with _redis(settings.store.get_secret_value()) as store:
        return await store.read()


async def _change(
    settings: AdminSettings, values: Mapping[str, str], expected: int | None
) -> Revision:
    if settings.store is None:
        file = _file(settings)
        if settings.flags_file.exists():
            with _told_if_broken():
                file.read()
        return file.write(values, NAME, expected)
    async with _redis(settings.store.get_secret_value()) as store:
        with _told_if_broken(), suppress(StoreError):  # where it is away, the change says so
            await store.read()
        return await store.change(values, NAME, expected)


def _file(settings: AdminSettings) -> FileStore:
    return FileStore(settings.flags_file, _first_flags())


@asynccontextmanager
async def _redis(url: str) -> AsyncIterator[RedisStore]:
    """The store of a fleet. Nothing of it is kept here: this need not be one of its machines."""
    from proxy.control.redis_store import RedisStore

    with TemporaryDirectory() as folder:
        store = RedisStore(url, Path(folder) / "flags.json", _first_flags(), tells=False)
        try:
            yield store
        finally:
            await store.close()


@contextmanager
def _told_if_broken() -> Iterator[None]:
    try:
        yield
    except FlagsError as error:
        print(f"{error}; the flags not named here are set to their defaults", file=sys.stderr)


def _first_flags() -> Flags:
    """What is in force where nothing is stored yet, as `run` would say with this environment."""
    name = "ENABLE_WS_COMPRESSION"
    return Flags(enabled=parse_switch(name, os.environ.get(name) or os.environ.get(PREFIX + name)))


def _print_revision(revision: Revision) -> None:
    about = {"revision": revision.number, "changed_by": revision.by}
    _print_record({**revision.flags.as_record(), **about})


def _print_record(record: Mapping[str, Any]) -> None:
    """The flags as `set` takes them; beside them what is said of them."""
    for name, value in record.items():
        if name not in _ABOUT:
            compact = json.dumps(value, separators=(",", ":"))
            print(f"{name}={','.join(value) if isinstance(value, list) else compact}")
    by = f", by {record['changed_by']}" if record["changed_by"] else ""
    print(f"revision {record['revision']}{by}", file=sys.stderr)
