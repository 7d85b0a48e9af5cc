"""What the operator of a service may set. The command line fills it; every process of the service reads it."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from blastdet.core.errors import ConfigError, shown

_ENVIRONMENT = "BLASTDET_SERVICE"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class ServiceSettings(BaseModel):
    """Settings of a service.

    Examples
    --------
    >>> settings = ServiceSettings(data="smears")
    >>> settings.is_loopback, settings.database_url
    (True, 'sqlite:///smears/blastdet.db')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", min_length=1, max_length=255, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="0: any free port")
    data: Path = Field(Path("blastdet-data"), description="folder of database, queue and files")
    database: str | None = Field(None, description="postgresql://...; default: SQLite in the folder")
    workers: int = Field(1, ge=1, le=64, description="processes that analyze smears")
    engines: int = Field(0, ge=0, le=64, description="processes that answer /detect; 0: by the number of cores")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?)$")
    weights: dict[str, str] = Field(default={}, description="further models: name -> weights folder")

    auth: Literal["auto", "none", "users", "proxy"] = "auto"
    auth_header: str | None = Field(None, pattern=r"^[A-Za-z][A-Za-z0-9-]{0,60}$", description="user name of a proxy")
    trusted_proxies: tuple[str, ...] = Field(default=(), description="networks of the proxy, as CIDR")
    allowed_hosts: tuple[str, ...] = Field(default=(), description="names under which browsers reach the service")
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    session_hours: float = Field(12, gt=0, le=24 * 365)

    keep_days: float | None = Field(None, gt=0, le=36500, description="smears are deleted after so many days")
    max_upload_mb: float = Field(8192, gt=0, le=10**7)
    max_detect_mb: float = Field(64, gt=0, le=4096)
    requests_per_minute: int = Field(3000, ge=0, description="of one user or address; 0: no limit")
    logins_per_minute: int = Field(10, ge=0)

    silence_seconds: float = Field(30, gt=0, description="in which the head of a request comes, and its body goes on")
    user_disk_gb: float | None = Field(None, gt=0, description="smears and unfinished uploads of one user")

    memory_mb: int = Field(4096, ge=256, description="of one process that decodes and computes, beside its models")
    stall_seconds: float = Field(180, gt=0, description="without progress, after which a computation is ended")
    overview_seconds: float = Field(600, gt=0, description="in which a large TIFF is reduced")
    attempts: int = Field(3, ge=1, le=10, description="of a job whose process died")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            ipaddress.ip_network(one, strict=False)
        return value

    @field_validator("database")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"^(postgres(ql)?(\+psycopg)?|sqlite)://", value):
            raise ValueError("expected postgresql://user:password@host/name")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> ServiceSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("expected both a certificate and a key, got one of them")
        if (self.auth == "proxy" or self.auth_header) and not (self.auth_header and self.trusted_proxies):
            raise ValueError("expected the header and the network of the proxy with it")
        if self.auth_header and self.auth not in ("auto", "proxy"):
            raise ValueError(f"expected no header of a proxy with auth {self.auth}")
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service, under a name of this machine."""
        return is_loopback(self.host) and all(is_loopback(name) for name in self.allowed_hosts)

    @property
    def database_url(self) -> str:
        """URL for SQLAlchemy."""
        if self.database is None:
            return f"sqlite:///{self.data / 'blastdet.db'}"
        return re.sub(r"^postgres(ql)?(\+psycopg)?://", "postgresql+psycopg://", self.database)

    @property
    def scheme(self) -> str:
        """``https`` where the service has a certificate of its own."""
        return "http" if self.tls_certificate is None else "https"

    @property
    def max_upload(self) -> int:
        """Bytes of the largest smear."""
        return int(self.max_upload_mb * 2**20)

    @property
    def user_disk(self) -> int | None:
        """Bytes that the smears of one user may take."""
        return None if self.user_disk_gb is None else int(self.user_disk_gb * 2**30)

    @property
    def max_detect(self) -> int:
        """Bytes of the largest image of ``/detect``."""
        return int(self.max_detect_mb * 2**20)

    def host_names(self) -> tuple[str, ...] | None:
        """Host names that requests may carry; ``None`` for any."""
        if self.allowed_hosts or self.is_loopback:
            return (*self.allowed_hosts, *_LOOPBACK_NAMES, self.host)
        return None

    def to_environment(self) -> dict[str, str]:
        """For a child process; a database URL holds a password, and every user of a machine sees arguments."""
        return {**os.environ, _ENVIRONMENT: self.model_dump_json()}

    @classmethod
    def from_environment(cls) -> ServiceSettings:
        """The settings of this child process."""
        return cls.model_validate_json(os.environ[_ENVIRONMENT])


def make_settings(**values: Any) -> ServiceSettings:
    """Settings from options; ``None`` leaves a default.

    Raises
    ------
    ConfigError
        The option, what was expected and what was given.
    """
    try:
        return ServiceSettings(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "serve"
        said = first["msg"].removeprefix("Value error, ")
        got = f", got {shown(first['input'])}" if first["loc"] and first["loc"][0] != "database" else ""
        raise ConfigError(f"{name}: {said}{got}") from None


def is_loopback(host: str) -> bool:
    """Whether an address or a host name is of this machine only."""
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
