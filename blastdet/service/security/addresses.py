"""Addresses of clients: each in one form, and what limits count as one client."""

from __future__ import annotations

import ipaddress


def is_address(text: str) -> bool:
    """Whether a text is the address of a machine."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def plain(address: str) -> str:
    """An address as people write it: a socket for all addresses names those of IPv4 as ``::ffff:10.0.0.5``.

    Examples
    --------
    >>> plain("::ffff:10.0.0.5"), plain("2001:db8::7"), plain("10.0.0.5")
    ('10.0.0.5', '2001:db8::7', '10.0.0.5')
    """
    if not address.startswith("::ffff:"):  # most do not: each request comes here
        return address
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return address if mapped is None else str(mapped)


def counted_as(address: str) -> str:
    """What limits count as one client: of IPv6 a network of 64 bits, in which one machine has as many as it wants.

    Examples
    --------
    >>> counted_as("2001:db8::7"), counted_as("2001:db8::8:9"), counted_as("10.0.0.5")
    ('2001:db8::/64', '2001:db8::/64', '10.0.0.5')
    """
    if ":" not in address or not is_address(address):
        return address
    return str(ipaddress.IPv6Network((int(ipaddress.IPv6Address(address)), 64), strict=False))
