"""What is wrong with a request, in one line: the place, what was expected and what it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError

from blastdet.core.errors import counted, in_a_line, shown

_EXPECTED = {
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "string_type": "text",
    "string_pattern_mismatch": "text that fits {pattern}",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
"""Kind of an error of pydantic -> what was expected, with values of its context."""

_STARTS = {"float_": "a number", "int_": "a whole number", "bool_": "true or false"}
_LENGTHS = {"too_short": "at least {}", "too_long": "at most {}"}
_SECRET = ("password", "old", "new")
_OBJECTS = ("model_type", "model_attributes_type", "dict_type")
_MOST = 500


def line_of(error: RequestValidationError, content_type: str = "") -> str:
    """What is wrong with a request, in one line.

    Parameters
    ----------
    error : RequestValidationError
    content_type : str
        Of the request.

    Examples
    --------
    >>> fault = {"type": "less_than_equal", "loc": ("query", "limit"), "msg": "", "input": 900, "ctx": {"le": 200}}
    >>> line_of(RequestValidationError([fault]))
    'limit: expected at most 200, got 900'
    """
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"body: expected JSON ({first.get('ctx', {}).get('error', 'cannot be read')})"[:_MOST]
    places = [in_a_line(str(part)) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    where = ".".join(places) or "body"
    if isinstance(first.get("input"), bytes) and first["type"] in _OBJECTS:  # not read as JSON: nothing said it is
        sent = in_a_line(content_type) or "none"
        return f"body: expected JSON with the header Content-Type: application/json, got Content-Type: {sent}"[:_MOST]
    if first["type"] == "missing":
        return f"{where}: expected {'a value' if places else 'JSON'}, got none"[:_MOST]
    if first["type"] == "value_error":  # ours, which says what it got
        return f"{where}: {_said(first)}"[:_MOST]
    if first["type"] == "extra_forbidden":
        return f"{where}: expected a field that this request knows, got another"[:_MOST]
    value = first.get("input")
    is_secret = isinstance(value, str) and places[-1:] and places[-1] in _SECRET
    got = counted(len(str(value)), "character") if is_secret else shown(value)
    return f"{where}: {_said(first)}, got {got}"[:_MOST]


def _said(fault: Mapping[str, Any]) -> str:
    kind, context = str(fault["type"]), fault.get("ctx", {})
    if kind in _EXPECTED:
        return "expected " + _EXPECTED[kind].format(**context)
    for start, words in _STARTS.items():
        if kind.startswith(start):
            return f"expected {words}"
    for end, words in _LENGTHS.items():
        if kind.endswith(end) and (length := context.get("max_length", context.get("min_length"))) is not None:
            return "expected " + words.format(counted(length, "character" if kind.startswith("string") else "item"))
    said = str(fault["msg"]).removeprefix("Value error, ")
    return said[:1].lower() + said[1:] if said[1:2].islower() else said
