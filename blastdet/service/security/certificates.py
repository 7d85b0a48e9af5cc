"""The certificate of the service and its key, looked at before anything is opened."""

from __future__ import annotations

import ssl
import stat
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


def doubts(certificate: Path | None, key: Path | None) -> list[str]:
    """What browsers or an auditor will say against a pair of `check_pair`: a line each."""
    if certificate is None or key is None:
        return []
    found = []
    if (why := _refusal(certificate, key)) is not None:
        line = f"expected a certificate that clients accept, got one of which they say: {why}. Get another one"
        found.append(f"{_named(certificate)} (--tls-certificate): {line}")
    if (mode := key.stat().st_mode) & stat.S_IROTH:
        line = f"expected a key that only the account of the service can read, got mode {stat.S_IMODE(mode):o}"
        found.append(f"{_named(key)} (--tls-key): {line}, which everybody can. Set it: chmod 600 KEY")
    return found


def _refusal(certificate: Path, key: Path) -> str | None:
    """Why a client that trusts just this certificate refuses it, such as "certificate has expired"."""
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.load_cert_chain(certificate, key)
    theirs.load_verify_locations(certificate)
    theirs.check_hostname = False
    theirs.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client, server = theirs.wrap_bio(back, there), ours.wrap_bio(there, back, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:  # the other one's turn
            pass
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    return None


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
