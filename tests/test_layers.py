"""Who may import whom; DESIGN section 4."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxy

ROOT = Path(proxy.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

PURE = ("audio", "websocket")
IMPURE = {
    *("asyncio", "concurrent", "select", "selectors", "signal", "socket", "ssl", "subprocess"),
    *("aiohttp", "h11", "httpx", "multiprocessing", "redis", "structlog", "threading", "uvloop"),
    *("http", "urllib", "websockets", "os", "time"),
}

# Of our own: what each part may import besides itself. Who is not listed may import everything.
ALLOWED = {
    "errors": set(),
    "values": {"audio"},
    "loop": set(),
    "logs": set(),
    "config": {"audio", "errors", "values"},
    "audio": {"errors"},
    "websocket": {"audio", "errors"},
    "http": {"audio", "websocket", "config", "errors", "values"},
    "tunnel": {"audio", "websocket", "http", "config", "errors", "values"},
    "control": {"audio", "websocket", "config", "errors", "values"},
    "client": {"audio", "websocket", "errors"},
    "compression": {"audio", "websocket", "control", "config", "errors"},
}
KNOW_ALL = {"analyze", "app", "cli", "commands", "demo", "fleet", "workers", "__init__", "__main__"}

LONGEST = 400


def part_of(name: str) -> str:
    """The part that a module of ours belongs to: `websocket` of `proxy.websocket.frames`."""
    return [*name.split("."), "__init__"][1]


def name_of(file: Path) -> str:
    """The dotted name of a module or package."""
    path = file.relative_to(ROOT.parent).with_suffix("")
    return ".".join(path.parts[:-1] if path.name == "__init__" else path.parts)


def imports(file: Path) -> Iterator[str]:
    """The dotted names that a file imports anywhere: in functions and for type checkers too."""
    package = name_of(file) if file.name == "__init__.py" else name_of(file).rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: None if node.level < 2 else 1 - node.level]
            base = [*above, *filter(None, [node.module])] if node.level else [node.module or ""]
            # `from proxy import app` imports a module; `from proxy.app import App` a name of one.
            yield from (".".join([*base, alias.name]) for alias in node.names)


def test_every_part_is_known() -> None:
    assert {part_of(name_of(file)) for file in MODULES} <= {*ALLOWED, *KNOW_ALL}


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_those_below_it(part: str) -> None:
    files = [file for file in MODULES if part_of(name_of(file)) == part]
    assert files
    seen = {
        (name_of(file), part_of(imported))
        for file in files
        for imported in imports(file)
        if imported.split(".")[0] == "proxy"
    }
    assert {(name, other) for name, other in seen if other not in {part, *ALLOWED[part]}} == set()


@pytest.mark.parametrize("part", PURE)
def test_the_pure_parts_know_no_sockets_no_loop_and_no_clock(part: str) -> None:
    imported = {
        (name_of(file), name.split(".")[0])
        for file in MODULES
        if part_of(name_of(file)) == part
        for name in imports(file)
    }
    assert {(file, name) for file, name in imported if name in IMPURE} == set()


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_no_module_is_long(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_imports_of_every_kind_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of imports itself: a rule that sees nothing forbids nothing."""
    file = tmp_path / "proxy" / "audio" / "sample.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import socket, ssl as tls\n"
        "from proxy import app\n"
        "from ..tunnel import tunnel\n"
        "from .codec import Codec\n"
        "def late():\n"
        "    from proxy.control.flags import Flags\n"
    )
    monkeypatch.setattr("tests.test_layers.ROOT", tmp_path / "proxy")
    assert set(imports(file)) == {
        "socket",
        "ssl",
        "proxy.app",
        "proxy.tunnel.tunnel",
        "proxy.audio.codec.Codec",
        "proxy.control.flags.Flags",
    }
