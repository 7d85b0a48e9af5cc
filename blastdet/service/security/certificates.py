"""The certificate of the service and its key, looked at before anything is opened."""

from __future__ import annotations

import ssl
from pathlib import Path

from blastdet.core.errors import ConfigError, in_a_line, one_line

_LONGEST = 2**20  # bytes of a PEM file that are looked at


class _HasPassphraseError(Exception):
    """OpenSSL asks for the passphrase of a key."""


def check_pair(certificate: Path | None, key: Path | None) -> None:
    """Load a certificate and its key as the web process will; nothing without them.

    Raises
    ------
    ConfigError
        The file, what was expected of it and what it is.
    """
    if certificate is None or key is None:
        return
    found_certificate = _text(certificate, "--tls-certificate", "a certificate")
    found_key = _text(key, "--tls-key", "the key of the certificate")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _ask)
        return
    except _HasPassphraseError:
        line = "expected a key without a passphrase, got one with. Write it plain: openssl pkey -in KEY -out PLAIN"
        raise ConfigError(f"{_named(key)} (--tls-key): {line}") from None
    except (OSError, ValueError) as error:  # as `ssl.SSLError` is
        why = one_line(error)
    if "CERTIFICATE-----" not in found_certificate:
        got = "a key. Are --tls-certificate and --tls-key swapped?" if _is_key(found_certificate) else "another file"
        raise ConfigError(f"{_named(certificate)} (--tls-certificate): expected a certificate in PEM, got {got}")
    if not _is_key(found_key):
        got = "a certificate" if "CERTIFICATE-----" in found_key else "another file"
        raise ConfigError(f"{_named(key)} (--tls-key): expected a key in PEM, got {got}")
    if "MISMATCH" in why or "NO_CERTIFICATE_ASSIGNED" in why:  # OpenSSL says the latter of a key of another kind
        line = f"expected the key of {_named(certificate)}, got that of another certificate"
        raise ConfigError(f"{_named(key)} (--tls-key): {line}")
    raise ConfigError(
        f"{_named(certificate)} and {_named(key)}: expected a certificate in PEM and its key, got what OpenSSL cannot "
        f"read ({why})"
    )


def _ask() -> str:
    raise _HasPassphraseError  # instead of waiting for somebody at a terminal


def _text(path: Path, option: str, what: str) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_LONGEST).decode("latin-1")
    except FileNotFoundError:
        raise ConfigError(f"{_named(path)} ({option}): expected {what} in PEM, got no such file") from None
    except OSError as error:
        raise ConfigError(f"{_named(path)} ({option}): expected {what} in PEM, got {one_line(error)}") from None


def _is_key(text: str) -> bool:
    return "PRIVATE KEY-----" in text


def _named(path: Path) -> str:
    return in_a_line(str(path), 200)
