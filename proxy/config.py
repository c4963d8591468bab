"""Settings: read once at start, frozen. A flag beats the environment, which beats the TOML file."""

from __future__ import annotations

import os
import re
import ssl
import tomllib
from fnmatch import fnmatchcase
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from proxy.audio.settings import AudioSettings
from proxy.errors import ConfigError
from proxy.values import (
    UNIX,
    Address,
    IPNetwork,
    LayoutRule,
    RolloutKey,
    parse_address,
    parse_layout_rules,
    parse_names,
    parse_networks,
    parse_rollout_key,
    parse_workers,
)

PREFIX = "AUDIO_PROXY_"

_VISIBLE = re.compile(r"[!-~]*")

T = TypeVar("T", bound="AdminSettings")


def default_state_dir() -> Path:
    """`/var/lib/audio-proxy` for root, else `audio-proxy` under XDG_STATE_HOME."""
    if os.geteuid() == 0:
        return Path("/var/lib/audio-proxy")
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "audio-proxy"


# At most a day: the kernel counts some of them in 31 bits of milliseconds.
Seconds = Annotated[float, Field(gt=0, le=86_400)]

# NoDecode: it is text also in the environment, where pydantic-settings would read JSON.
ListenAddress = Annotated[Address, NoDecode, BeforeValidator(parse_address)]


class _TomlFile(PydanticBaseSettingsSource):
    """The TOML file, read strictly: a file that was named must exist and must parse."""

    def __init__(self, settings_class: type[BaseSettings], path: str | None) -> None:
        super().__init__(settings_class)
        self._path = path

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the whole file is given at once

    def __call__(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            with open(self._path, "rb") as file:
                return tomllib.load(file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"config: cannot read {self._path}: {error}") from error


class AdminSettings(BaseSettings):
    """What the commands need that talk to a running proxy."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore"
    )

    config: Path | None = Field(None, description="TOML file with settings, keys as listed here.")
    admin: ListenAddress = Field(
        Address("127.0.0.1", 9090), description="Address of the admin port, HOST:PORT."
    )
    admin_token: SecretStr | None = Field(
        None, description="Token that every admin request must carry; needed beyond loopback."
    )
    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="Folder that keeps the flags and what the workers share.",
    )
    store: SecretStr | None = Field(
        None,
        description="Where a fleet keeps its flags: redis://, rediss:// or unix:// URL of a Redis "
        "server; in the state folder otherwise.",
    )

    @field_validator("admin")
    @classmethod
    def _check_admin(cls, value: Address) -> Address:
        if value.path is not None:
            raise ValueError("a Unix socket is not offered for it; HOST:PORT is expected")
        return value

    @field_validator("admin_token")
    @classmethod
    def _check_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        token = value.get_secret_value().strip()
        if not re.fullmatch("[ -~]*", token):
            raise ValueError("letters, digits and signs of ASCII are expected")
        return SecretStr(token) if token else None

    @field_validator("store")
    @classmethod
    def _check_store(cls, value: SecretStr | None) -> SecretStr | None:
        url = value.get_secret_value() if value is not None else ""
        if not url:
            return None
        if urlsplit(url).scheme not in ("redis", "rediss", "unix"):  # its password is not shown
            raise ValueError("a redis://, rediss:// or unix:// URL is expected")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """In order of strength."""
        path = init_settings().get("config") or os.environ.get(PREFIX + "CONFIG") or None
        return init_settings, env_settings, _TomlFile(settings_cls, path)

    @property
    def flags_file(self) -> Path:
        """Where the file store keeps the flags."""
        return self.state_dir / "flags.json"


class Settings(AdminSettings):
    """All settings of `audio-proxy run`. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(extra="forbid")

    backend: str = Field(
        description="The backend: http://, https://, ws:// or wss:// URL (a base path is kept), "
        "or unix:PATH."
    )
    listen: ListenAddress = Field(
        Address("127.0.0.1", 8080), description="Public address, HOST:PORT or unix:PATH."
    )
    tls_cert: Path | None = Field(None, description="Certificate chain for clients, PEM.")
    tls_key: Path | None = Field(None, description="Private key of --tls-cert, PEM.")
    backend_ca: Path | None = Field(
        None, description="CA certificates to trust for the backend, PEM; the system's otherwise."
    )
    host_header: str | None = Field(
        None, description="Host header for the backend, instead of the client's."
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_networks)] = Field(
        (),
        description="Peers whose forwarding headers are kept and appended to: networks, "
        "comma-separated, or 'unix' for all who come through a Unix socket.",
    )
    query_parameter: str = Field(
        "audio_compression", min_length=1, description="Query parameter that clients opt in with."
    )
    enable_ws_compression: bool = Field(
        True,
        validation_alias=AliasChoices(
            "enable_ws_compression", PREFIX + "ENABLE_WS_COMPRESSION", "ENABLE_WS_COMPRESSION"
        ),
        description="First value of the flag 'enabled', while no flags are stored yet.",
    )
    handshake_timeout: Seconds = Field(
        10.0, description="Seconds for the backend to accept and to answer a request."
    )
    stall_timeout: Seconds = Field(
        60.0, description="Seconds after which a peer that accepts nothing is let go."
    )
    close_timeout: Seconds = Field(
        10.0, description="Seconds for one side to close after the other has."
    )
    rollout_by: Annotated[RolloutKey, NoDecode, BeforeValidator(parse_rollout_key)] = Field(
        RolloutKey("address"),
        description="What keeps a client's place in the roll-out: address, cookie:NAME, "
        "header:NAME or query:NAME; the address where a client has it not.",
    )
    show_addresses: bool = Field(
        True, description="Whether the admin port shows the addresses of clients."
    )
    admin_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_names)] = Field(
        (),
        description="Names that the admin port may be called by, beside localhost and IP "
        "addresses; comma-separated.",
    )
    price_per_gb: float | None = Field(
        None,
        ge=0,
        description="What a gigabyte of traffic costs: the dashboard shows what is saved in money.",
    )
    currency: str = Field("USD", min_length=1, max_length=8, description="Of price_per_gb.")
    log_format: Literal["text", "json"] = Field("text", description="Of the log: text or json.")
    workers: Annotated[int, BeforeValidator(parse_workers)] = Field(
        1, ge=1, le=1024, description="Processes that serve; 'auto': one for each core."
    )
    drain_timeout: Seconds = Field(
        30.0, description="Seconds that lessons may go on for once the proxy is told to stop."
    )
    drain_idle: Seconds = Field(
        2.0, description="Seconds of silence, the backend's word the last, that end one earlier."
    )
    write_buffer: int = Field(
        64 * 1024,
        ge=4096,
        description="Bytes that may wait for one side before the other is read no further.",
    )
    max_connections: int = Field(
        8_000, ge=1, description="Client connections served at once; further ones get a 503."
    )
    max_audio_bytes: int = Field(
        4 * 1024 * 1024, ge=1024, description="Largest chunk that is put together and compressed."
    )
    pcm_layout: Annotated[tuple[LayoutRule, ...], NoDecode, BeforeValidator(parse_layout_rules)] = (
        Field(
            (),
            description="Layout of raw PCM: ENCODING/RATE/CHANNELS such as s16le/24000/1, or "
            "PATTERN=LAYOUT for some paths; comma-separated, the first that matches counts.",
        )
    )
    opus_bitrate: int = Field(
        24_000, ge=6_000, le=256_000, description="Bits a second of Opus speech."
    )
    opus_raw: bool = Field(
        False, description="Whether raw PCM whose layout is set may become Opus too, with loss."
    )
    opus_flush_ms: int = Field(
        60, ge=1, le=10_000, description="Milliseconds without audio that end a stretch of speech."
    )

    @field_validator("backend")
    @classmethod
    def _check_backend(cls, value: str) -> str:
        if value.startswith(UNIX) and value != UNIX:
            return value
        url = urlsplit(value)
        if url.scheme not in ("http", "https", "ws", "wss") or not url.hostname:
            raise ValueError(f"{value!r} is no http(s):// or ws(s):// URL and no unix:PATH")
        if url.query or url.fragment or "@" in url.netloc:
            raise ValueError("a query, a fragment or credentials have no place in it")
        if not _VISIBLE.fullmatch(url.path):
            raise ValueError("its path has a character that must be percent-encoded")
        if url.port == 0:  # raises ValueError where it is no port
            raise ValueError("port 0 cannot be connected to")
        try:
            url.hostname.encode("idna")
        except UnicodeError as error:
            raise ValueError(f"{url.hostname!r} is no host name: {error}") from error
        return value

    @field_validator("host_header")
    @classmethod
    def _check_host(cls, value: str | None) -> str | None:
        if value is not None and (not value or not _VISIBLE.fullmatch(value)):
            raise ValueError(f"{value!r} is no host name")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            if network != "unix":
                ip_network(network, strict=False)
        return tuple(value)

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: set both or neither")
        if not self.admin.is_loopback and not self.admin_token:
            raise ValueError(
                f"admin: {self.admin} is reachable from other machines, so an admin_token must "
                "be set (--admin-token, AUDIO_PROXY_ADMIN_TOKEN)"
            )
        return self

    def audio_settings(self, path: str) -> AudioSettings:
        """What is decided for connections to a path of a request."""
        rules = (rule.layout for rule in self.pcm_layout if fnmatchcase(path, rule.pattern))
        return AudioSettings(
            self.max_audio_bytes,
            next(rules, None),
            self.opus_bitrate,
            self.opus_raw,
        )

    @cached_property
    def trusted_networks(self) -> tuple[IPNetwork, ...]:
        """`trusted_proxies` but for the word `unix`."""
        return tuple(ip_network(n, strict=False) for n in self.trusted_proxies if n != "unix")

    def server_tls(self) -> ssl.SSLContext | None:
        """TLS towards clients. Raises ConfigError where the files cannot be used."""
        if self.tls_cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"tls_cert, tls_key: cannot use {self.tls_cert} with {self.tls_key}: {error}"
            ) from error
        return context

    def backend_tls(self) -> ssl.SSLContext | None:
        """TLS towards the backend. Raises ConfigError where `backend_ca` cannot be used."""
        if urlsplit(self.backend).scheme not in ("https", "wss"):
            return None
        try:
            return ssl.create_default_context(cafile=self.backend_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"backend_ca: cannot use {self.backend_ca}: {error}") from error


def load(settings_class: type[T], options: dict[str, Any]) -> T:
    """Read settings; `options` are the command line's, None where not given.

    Raises ConfigError, which names each setting that is wrong and what it takes.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return settings_class(**given)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from error


def _explain(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    name = str(problem["loc"][0]).lower().removeprefix(PREFIX.lower())
    if problem["type"] == "missing":
        message = "must be set"
    elif problem["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    option = name.replace("_", "-")
    return f"{name} (--{option}, {PREFIX}{name.upper()}): {message}"


def parse_switch(name: str, value: str | None) -> bool:
    """Read an environment variable that is true or false; True where it is not set.

    Raises ConfigError, which names it.
    """
    if not value:
        return True
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{name}: {value!r} is neither true nor false") from error
