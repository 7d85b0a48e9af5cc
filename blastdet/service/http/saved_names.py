"""Names under which browsers save files: what people called a smear, as far as a header and a disk can bear it."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

# Not on a disk: separators, what Windows forbids, control characters, and marks that turn the direction of reading,
# with which "gpj.exe" looks like "exe.jpg". Letters of any script stay, joiners between them too.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
_PLAIN = re.compile(r"[^A-Za-z0-9._ -]")
_MOST_BYTES = 180  # of a stem; file systems have room for 255, with a suffix and the " (1)" of a browser


def disposition(name: str, suffix: str = "", how: str = "attachment") -> str:
    """A Content-Disposition header: the name in ASCII for old programs, and as it is (RFC 6266).

    Parameters
    ----------
    name : str
        Of a smear; anything that its users typed.
    suffix : str
        Of the service, such as ``.report.pdf``.
    how : str
        ``attachment``, or ``inline`` for what is shown.

    Examples
    --------
    >>> print(disposition("Müller 3", ".pdf"))
    attachment; filename="Muller 3.pdf"; filename*=UTF-8''M%C3%BCller%203.pdf
    """
    stem = unicodedata.normalize("NFC", _FORBIDDEN.sub("_", name)).strip(" .")
    stem = stem.encode()[:_MOST_BYTES].decode(errors="ignore").strip(" .") or "smear"
    letters = (one for one in unicodedata.normalize("NFKD", stem) if not unicodedata.combining(one))
    plain = _PLAIN.sub("_", "".join(letters)).strip(" .") or "smear"
    return f"{how}; filename=\"{plain}{suffix}\"; filename*=UTF-8''{quote(stem + suffix, safe='')}"
