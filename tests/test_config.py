from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError

from proxy.config import AdminSettings, Settings, default_state_dir, load, parse_switch
from proxy.errors import ConfigError
from proxy.values import Address, parse_address

BACKEND = {"backend": "http://127.0.0.1:8000"}

Toml = Callable[[str], dict[str, str]]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("AUDIO_PROXY_") or name.upper() == "ENABLE_WS_COMPRESSION":
            monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> Toml:
    """Options that name a TOML file with this text."""

    def write(text: str) -> dict[str, str]:
        (tmp_path / "proxy.toml").write_text(text)
        return {"config": str(tmp_path / "proxy.toml")}

    return write


def read(**options: Any) -> Settings:
    return load(Settings, {**BACKEND, **options})


# Which source is the strongest.


@pytest.mark.parametrize(
    ("name", "by_toml", "by_env", "by_flag"),
    [
        ("listen", '"a:1"', "b:2", "c:3"),
        ("stall_timeout", "1", "2", "3.5"),
        ("max_connections", "1", "2", "3"),
        ("backend_ca", '"/a"', "/b", "/c"),
        ("trusted_proxies", '["10.0.0.0/8"]', "11.0.0.0/8,unix", "12.0.0.0/8"),
        ("query_parameter", '"a"', "b", "c"),
        ("host_header", '"a"', "b", "c"),
        ("pcm_layout", '["s16le/8000/1"]', "/a=u8/8000/1,*=s16le/16000/1", "s16le/24000/1"),
    ],
)
def test_a_flag_beats_the_environment_which_beats_the_file(
    monkeypatch: pytest.MonkeyPatch, toml: Toml, name: str, by_toml: str, by_env: str, by_flag: str
) -> None:
    file = toml(f"{name} = {by_toml}")
    seen = [read(), read(**file)]
    monkeypatch.setenv(f"AUDIO_PROXY_{name.upper()}", by_env)
    seen += [read(**file), read(**file, **{name: by_flag})]
    values = [getattr(settings, name) for settings in seen]
    assert len(set(values)) == 4
    monkeypatch.delenv(f"AUDIO_PROXY_{name.upper()}")
    assert values[2] == getattr(read(**{name: by_env}), name)
    assert values[3] == getattr(read(**{name: by_flag}), name)


@pytest.mark.parametrize("variable", ["ENABLE_WS_COMPRESSION", "AUDIO_PROXY_ENABLE_WS_COMPRESSION"])
@pytest.mark.parametrize("strongest", [True, False])
def test_the_switch_has_two_variables(
    monkeypatch: pytest.MonkeyPatch, toml: Toml, variable: str, strongest: bool
) -> None:
    text = {True: "true", False: "false"}
    assert read().enable_ws_compression is True
    file = toml(f"enable_ws_compression = {text[not strongest]}")
    assert read(**file).enable_ws_compression is not strongest
    monkeypatch.setenv(variable, text[strongest])
    assert read(**file).enable_ws_compression is strongest
    flag = {"enable_ws_compression": text[not strongest]}
    assert read(**file, **flag).enable_ws_compression is not strongest


def test_the_file_may_be_named_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, toml: Toml, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUDIO_PROXY_CONFIG", toml("max_connections = 7")["config"])
    assert read().max_connections == 7
    (tmp_path / "other.toml").write_text("max_connections = 8")
    assert read(config=str(tmp_path / "other.toml")).max_connections == 8


@pytest.mark.parametrize(
    "name",
    ["LISTEN", "ADMIN_TOKEN", "MAX_CONNECTIONS", "ENABLE_WS_COMPRESSION", "STATE_DIR", "CONFIG"],
)
def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    default = read()
    monkeypatch.setenv(f"AUDIO_PROXY_{name}", "")
    assert read() == default


def test_the_contracts_defaults() -> None:
    settings = read()
    assert str(settings.listen) == "127.0.0.1:8080"
    assert str(settings.admin) == "127.0.0.1:9090"
    assert settings.query_parameter == "audio_compression"
    assert settings.max_audio_bytes == 4 * 1024 * 1024
    assert (settings.handshake_timeout, settings.close_timeout, settings.stall_timeout) == (
        10,
        10,
        60,
    )
    assert settings.flags_file == default_state_dir() / "flags.json"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read().max_connections = 5


# What is wrong is named.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backend", "127.0.0.1:8000"),
        ("backend", "ftp://host/"),
        ("backend", "http://"),
        ("backend", "http://[::1/"),
        ("backend", "http://host:99999"),
        ("backend", "http://host/?q=1"),
        ("backend", "http://host/#f"),
        ("backend", "http://user:secret@host/"),
        ("backend", "http://:secret@host/"),
        ("backend", "http://host/two words"),
        ("backend", "http://host/naïve"),
        ("backend", "unix:"),
        ("listen", "8080"),
        ("listen", ":8080"),
        ("listen", "[]:8080"),
        ("listen", "host:"),
        ("listen", "host:http"),
        ("listen", "host:65536"),
        ("listen", "host:-1"),
        ("listen", "host:٨٠"),
        ("listen", "unix:"),
        ("admin", "9090"),
        ("trusted_proxies", "10.0.0.0/33"),
        ("trusted_proxies", "proxy.example"),
        ("trusted_proxies", "10.0.0.0/8,"),
        ("host_header", "a\r\nX-Evil: 1"),
        ("query_parameter", ""),
        ("enable_ws_compression", "maybe"),
        ("handshake_timeout", "0"),
        ("handshake_timeout", "nan"),
        ("handshake_timeout", "soon"),
        ("stall_timeout", "-1"),
        ("stall_timeout", "inf"),
        ("close_timeout", "0"),
        ("max_connections", "0"),
        ("max_connections", "many"),
        ("max_audio_bytes", "1023"),
        ("pcm_layout", "s16le"),
        ("opus_bitrate", "5999"),
        ("opus_raw", "perhaps"),
        ("opus_flush_ms", "0"),
    ],
)
def test_a_wrong_value_is_named_with_its_flag_and_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    prefix = f"{name} (--{name.replace('_', '-')}, AUDIO_PROXY_{name.upper()}): "
    with pytest.raises(ConfigError) as caught:
        read(**{name: value})
    assert str(caught.value).startswith(prefix)
    assert "secret" not in str(caught.value)
    if value:
        monkeypatch.setenv(f"AUDIO_PROXY_{name.upper()}", value)
        with pytest.raises(ConfigError) as caught:
            load(Settings, {} if name == "backend" else BACKEND)
        assert str(caught.value).startswith(prefix)


@pytest.mark.parametrize(
    ("line", "name", "takes"),
    [
        ("listen = 8080", "listen", "HOST:PORT"),
        ('listen = {host = "h", port = 99999}', "listen", "HOST:PORT"),
        ("trusted_proxies = 5", "trusted_proxies", ""),
        ("trusted_proxies = [5]", "trusted_proxies", ""),
        ("max_connections = 1.5", "max_connections", "integer"),
        ("pcm_layout = 5", "pcm_layout", "s16le/24000/1"),
        ("pcm_layout = [5]", "pcm_layout", "ENCODING/RATE/CHANNELS"),
        ('stall_timeout = "soon"', "stall_timeout", "number"),
    ],
)
def test_a_wrong_value_in_the_file_is_named_with_what_it_takes(
    toml: Toml, line: str, name: str, takes: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**toml(line))
    assert str(caught.value).startswith(f"{name} (--")
    assert takes in str(caught.value)


def test_an_unknown_key_in_the_file_is_named(toml: Toml) -> None:
    with pytest.raises(ConfigError, match=r"^lissten: there is no such setting$"):
        read(**toml('lissten = "127.0.0.1:1"'))


@pytest.mark.parametrize("text", ["listen =", "\xff", "[", "listen = 'a:1'\nlisten = 'b:2'"])
def test_a_file_that_is_no_toml_is_named(toml: Toml, text: str) -> None:
    file = toml(text)
    with pytest.raises(ConfigError, match=f"^config: cannot read {file['config']}: "):
        read(**file)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^config: cannot read {tmp_path}/none: "):
        read(config=str(tmp_path / "none"))


def test_the_backend_must_be_set() -> None:
    with pytest.raises(ConfigError, match=r"^backend \(--backend, AUDIO_PROXY_BACKEND\): must be"):
        load(Settings, {})


def test_everything_wrong_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read(listen="x", stall_timeout="-1", max_connections="0")
    assert [line.partition(" ")[0] for line in str(caught.value).splitlines()] == [
        "listen",
        "stall_timeout",
        "max_connections",
    ]


@pytest.mark.parametrize("name", ["tls_cert", "tls_key"])
def test_certificate_and_key_go_together(name: str) -> None:
    with pytest.raises(ConfigError, match="tls_cert and tls_key go together"):
        read(**{name: "/file.pem"})


# The admin port.


@pytest.mark.parametrize("admin", ["0.0.0.0:9090", "[::]:9090", "192.0.2.1:9090", "host:9090"])
def test_beyond_loopback_the_admin_port_needs_a_token(
    monkeypatch: pytest.MonkeyPatch, admin: str
) -> None:
    with pytest.raises(ConfigError, match=r"^admin: .* an admin_token must be set"):
        read(admin=admin)
    with pytest.raises(ConfigError, match="an admin_token must be set"):
        read(admin=admin, admin_token="")
    assert str(read(admin=admin, admin_token="secret").admin) == admin
    monkeypatch.setenv("AUDIO_PROXY_ADMIN_TOKEN", "secret")
    assert str(read(admin=admin).admin) == admin


@pytest.mark.parametrize("admin", ["127.0.0.1:9090", "127.8.8.8:1", "[::1]:9090", "localhost:0"])
def test_on_loopback_it_needs_none(admin: str) -> None:
    assert str(read(admin=admin).admin) == admin


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(read(admin_token="secret"))


def test_the_commands_need_no_backend_and_know_the_same_file(toml: Toml) -> None:
    file = toml('backend = "http://127.0.0.1:8000"\nadmin = "127.0.0.1:7"\nstate_dir = "/s"')
    settings = load(AdminSettings, file)
    assert str(settings.admin) == "127.0.0.1:7"
    assert settings.flags_file == Path("/s/flags.json")


# Values.


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("proxy.example:65535", Address("proxy.example", 65535)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[2001:db8::1]:80", Address("2001:db8::1", 80)),
        ("unix:/run/proxy.sock", Address(path="/run/proxy.sock")),
        ("unix:relative:odd", Address(path="relative:odd")),
    ],
)
def test_addresses_are_read_and_written_alike(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text
    assert read(listen=text).listen == address


@pytest.mark.parametrize(
    "backend",
    [
        "http://127.0.0.1:8000",
        "https://tutor.example",
        "ws://tutor.example/base/path",
        "wss://[2001:db8::1]:8443/",
        "unix:/run/backend.sock",
    ],
)
def test_backends(backend: str) -> None:
    settings = read(backend=backend)
    assert settings.backend == backend
    assert (settings.backend_tls() is not None) is backend.startswith(("https:", "wss:"))


def test_trusted_proxies_are_networks_and_the_word_unix() -> None:
    settings = read(trusted_proxies="10.1.2.3/8, ::1 ,unix")
    assert settings.trusted_networks == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    assert "unix" in settings.trusted_proxies
    assert read().trusted_networks == ()


def test_the_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_state_dir() == Path("/state/audio-proxy")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_state_dir() == Path("/home/someone/.local/state/audio-proxy")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state_dir() == Path("/var/lib/audio-proxy")


@pytest.mark.parametrize(
    ("value", "on"),
    [(None, True), ("", True), ("true", True), ("1", True), ("false", False), ("OFF", False)],
)
def test_the_switch_of_the_python_api(value: str | None, on: bool) -> None:
    assert parse_switch("ENABLE_WS_COMPRESSION", value) is on


def test_the_switch_names_its_variable() -> None:
    with pytest.raises(ConfigError, match="ENABLE_WS_COMPRESSION: 'maybe' is neither"):
        parse_switch("ENABLE_WS_COMPRESSION", "maybe")


# TLS.


def test_tls_files_are_used(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    both = str(tmp_path / "both.pem")
    settings = read(
        backend="https://localhost",
        tls_cert=both,
        tls_key=both,
        backend_ca=str(tmp_path / "ca.pem"),
    )
    assert settings.server_tls() is not None
    towards_backend = settings.backend_tls()
    assert towards_backend is not None
    assert [ca["subject"] for ca in towards_backend.get_ca_certs()] != []
    assert read().server_tls() is None


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    for path in (str(tmp_path / "no.pem"), str(tmp_path / "none.pem")):
        with pytest.raises(ConfigError, match=f"^tls_cert, tls_key: cannot use {path}"):
            read(tls_cert=path, tls_key=path).server_tls()
        with pytest.raises(ConfigError, match=f"^backend_ca: cannot use {path}"):
            read(backend="https://host", backend_ca=path).backend_tls()


@pytest.mark.parametrize("backend", ["http://a..b", f"http://{'x' * 64}.example", "http://h:0"])
def test_a_backend_that_cannot_be_is_refused(backend: str) -> None:
    with pytest.raises(ConfigError, match=r"^backend \("):
        load(Settings, {"backend": backend})
