"""Bodies that are images: raw, or the file of a form, read as they arrive and never held as a whole."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from urllib.parse import unquote

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from blastdet.service.security.callers import RefusedError
from blastdet.service.store.blobs import TooLargeError

AROUND = 2**16
"""Bytes that a form may have around its file."""

_LONGEST_HEAD = 8192
_EXTENDED = re.compile(r"filename\*\s*=\s*utf-8'[^']{0,20}'([^;\s\"]+)", re.IGNORECASE)


@dataclass
class ImageBody:
    """The image of a request.

    Parameters
    ----------
    request : Request
        With the image as its body, or as the first file of ``multipart/form-data``.
    """

    request: Request
    name: str = ""

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes of the image; `name` is known after the first.

        Raises
        ------
        RefusedError
            If the form cannot be read, has no file, or the client went away.
        """
        kind, options = parse_options_header(self.request.headers.get("content-type", ""))
        self.name = _name_of(self.request.headers.get("content-disposition", ""))
        try:
            if kind.lower() != b"multipart/form-data":
                async for piece in self.request.stream():
                    yield piece
                return
            boundary = options.get(b"boundary", b"")
            if not boundary or len(boundary) > 200:
                raise RefusedError(400, "form: expected a boundary of 1 to 200 bytes")
            async for piece in self._of_form(bytes(boundary)):
                yield piece
        except ClientDisconnect:
            raise RefusedError(400, "the upload broke off") from None

    async def _of_form(self, boundary: bytes) -> AsyncIterator[bytes]:
        form = _Form()
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        around = 0
        async for chunk in self.request.stream():
            try:
                parser.write(chunk)
            except (FormParserError, ValueError) as error:
                raise RefusedError(400, "form: cannot be read") from error
            self.name = form.name or self.name
            pieces = form.taken()
            around += len(chunk) - sum(map(len, pieces))
            if around > AROUND:
                raise RefusedError(413, f"form: expected at most {AROUND // 2**10} kB around its file, got more")
            for piece in pieces:
                yield piece
        if not form.has_file:
            raise RefusedError(422, "form: expected a file, got none")
        if not form.is_complete:
            raise RefusedError(400, "form: broke off before its end")


@dataclass
class _Form:
    """Collects the bytes of the first file of a form; other fields are ignored."""

    name: str = ""
    has_file: bool = False
    is_complete: bool = False
    _pieces: list[bytes] = field(default_factory=list)
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _is_file: bool = False

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def taken(self) -> list[bytes]:
        """What has arrived since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def _part_begin(self) -> None:
        self._is_file = False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._add(self._header, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._add(self._value, data[start:end])

    def _add(self, to: bytearray, data: bytes) -> None:
        to += data
        if len(to) > _LONGEST_HEAD:
            raise ValueError("header too long")

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition" and not self.has_file:
            _, options = parse_options_header(bytes(self._value))
            if b"filename" in options or b"filename*" in bytes(self._value):
                self._is_file = self.has_file = True
                self.name = _name_of(bytes(self._value).decode("utf-8", "replace"))
        self._header.clear()
        self._value.clear()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._pieces.append(data[start:end])

    def _part_end(self) -> None:
        self._is_file = False

    def _end(self) -> None:
        self.is_complete = True


def _name_of(disposition: str) -> str:
    """The file name of a Content-Disposition header; the library leaves out the extended form of RFC 5987."""
    if extended := _EXTENDED.search(disposition):
        return unquote(extended[1], errors="replace")
    _, options = parse_options_header(disposition.encode("utf-8", "replace"))
    return options.get(b"filename", b"").decode("utf-8", "replace")


async def whole_body(request: Request, most: int, take: Callable[[int], None]) -> tuple[bytes, str]:
    """An image that is small enough to hold, and its name; `TooLargeError` otherwise. `take` counts what is held."""
    body, content = ImageBody(request), bytearray()
    async for piece in body.pieces():
        take(len(piece))
        content += piece
        if len(content) > most:
            raise TooLargeError(most)
    return bytes(content), body.name
