"""Training configurations as YAML files. One file describes one run completely."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from blastdet.core.errors import ConfigError, one_line, shown
from blastdet.datasets.annotations.files import parse_yaml
from blastdet.datasets.locations import expand_variables
from blastdet.training.config import ClassifyConfig, LoopConfig, TrainConfig

Note = Callable[[str], None]
"""Receives lines for the user, such as those about entries that changed their name."""


_RENAMED = {"share": "sampling_weight", "val_share": "val_fraction"}
_RENAMED |= {"augment.paste": "copy_paste", "augment.pile": "rbc_overlap", "augment.squeeze": "aspect_jitter"}
"""Entries of version 0.1 by their old name; ``share`` is one of a dataset, below ``data.N``."""


def with_current_names(content: Any, note: Note = lambda line: None, path: str = "") -> Any:
    """A configuration as read from YAML or a card, with the entries of version 0.1 under their names of today.

    Raises `ConfigError` if an entry is given under both names.

    Examples
    --------
    >>> with_current_names({"augment": {"paste": 0.5}, "data": [{"path": "a", "share": 2}]}, print)
    note: augment.paste is now augment.copy_paste
    note: share is now sampling_weight
    {'augment': {'copy_paste': 0.5}, 'data': [{'path': 'a', 'sampling_weight': 2}]}
    """
    if isinstance(content, list):
        return [with_current_names(entry, note, path) for entry in content]
    if not isinstance(content, dict) or path == "options":
        return content
    renamed = {}
    for key, value in content.items():
        below = "augment." if path == "augment" else ""
        now = _RENAMED.get(f"{below}{key}", key)
        if now != key and now in content:
            raise ConfigError(f"{below}{key}: expected {below}{now}, its name of today, got both. Remove {below}{key}")
        if now != key:
            note(f"note: {below}{key} is now {below}{now}")
            key = now
        renamed[key] = with_current_names(value, note, str(key))
    return renamed


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a detector's training from YAML; errors as `read_any`."""
    config = read_any(path, overrides)
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"{path}: task: expected detect, got {config.task}")
    return config


def read_any(
    path: Path, overrides: Sequence[str] = (), data: Sequence[Path] = (), note: Note = lambda line: None
) -> TrainConfig | ClassifyConfig:
    """A training configuration from YAML; its ``task`` is ``detect`` (default) or ``classify``.

    Raises `ConfigError`: one line that names the file and the entry, what was expected and what was given.

    Parameters
    ----------
    path : Path
        An entry ``extends`` names another file beside this one; its entries apply where this file has none.
    overrides : sequence of str
        ``key=value`` with a YAML value; ``augment.mosaic=0`` sets a nested entry, ``data.0.sampling_weight=2`` one in
        a list.
    data : sequence of Path
        Datasets, or folders of crops, to use instead of those in the file; the run is named after the first.
    note : callable
        Receives one line for each entry that is given under an old name.
    """
    notes: list[str] = []
    content = _merged(path, notes.append)
    if data:
        split = {} if content.get("task") == "classify" else {"split": "auto"}
        places = [os.path.abspath(item) for item in data]  # noqa: PTH100 - resolve() fails on loops of links
        content["data"] = [{"path": place, **split} for place in places]
        content["name"] = f"{content.get('name', path.stem)}-{Path(places[0]).name}"
    for override in overrides:
        _set(content, override, notes.append)
    for line in dict.fromkeys(notes):
        note(line)
    return _validated(content, path)


def _validated(content: dict[str, Any], path: Path) -> TrainConfig | ClassifyConfig:
    kind = ClassifyConfig if content.get("task") == "classify" else TrainConfig
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = get_close_matches(entry, kind.model_fields, 1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{path}: {entry}: unknown entry{hint}") from error
        given = f" (got {shown(first['input'], 80)})" if entry else ""
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path}: {entry or 'configuration'}: {message}{given}") from error


def _content(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    extended = f" (extended by {above[0]})" if above else ""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}{extended}: cannot be read ({error})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not YAML ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(content).__name__}")
    return content


def _merged(path: Path, note: Note, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Entries of a file, and those of the file that it extends where it has none."""
    given = _content(path, above)
    try:
        content: dict[str, Any] = with_current_names(given, note)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if "extends" not in content:
        return content
    name = content.pop("extends")
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigError(f"{path}: extends: expected the name of one file beside it, got {shown(name)}")
    base = path.parent / name
    if any(base.resolve() == other.resolve() for other in (path, *above)):
        raise ConfigError(f"{path}: extends: {name} extends this file in turn")
    return {**_merged(base, note, (path, *above)), **content}


def to_yaml(config: LoopConfig) -> str:
    """The configuration as YAML that `read_any` takes."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def expand(path: str, base: Path) -> Path:
    """A path of a configuration: variables expanded, relative to `base`.

    ``BLASTDET_DATA`` need not be set: see `blastdet.datasets.locations.data_dir`. Raises `ConfigError` if a variable is
    not set.
    """
    if (base / path).exists():  # a name may contain a $
        return base / path
    expanded = expand_variables(path)
    if "$" in expanded:
        raise ConfigError(f"{path}: environment variable not set")
    return base / Path(expanded).expanduser()


def _set(content: dict[str, Any], override: str, note: Note) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override:.200}: expected key=value")
    *parents, last = key.strip().split(".")
    section = parents[0] if parents[:1] == ["augment"] else ""
    node: Any = content
    try:
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        if isinstance(node, list):
            node[int(last)] = with_current_names(parse_yaml(value), note)
        else:
            node |= with_current_names({last: parse_yaml(value)}, note, section)
    except (IndexError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"--set {override:.200}: no such entry ({one_line(error)})") from error
