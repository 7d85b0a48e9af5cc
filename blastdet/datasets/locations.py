"""Where datasets are stored: one rule for ``blastdet data get``, for configurations and for `read_dataset`."""

from __future__ import annotations

import os
from pathlib import Path
from string import Template

from blastdet.datasets import catalog

VARIABLE = "BLASTDET_DATA"
"""Environment variable that names the folder of datasets."""


def data_dir() -> Path:
    """Folder that holds one folder per dataset.

    Returns
    -------
    Path
        The value of the environment variable ``BLASTDET_DATA`` if it is set and not empty, otherwise ``data`` below
        the current folder. The folder need not exist. The dataset ``bccd`` is in ``data_dir() / "bccd"``.
    """
    return Path(os.environ.get(VARIABLE) or "data").expanduser()


def expand_variables(path: str) -> str:
    """A path with its environment variables replaced; ``${BLASTDET_DATA}`` is `data_dir`, set or not.

    The environment is only read. A variable that is not set stays in the text.
    """
    return Template(path).safe_substitute({**os.environ, VARIABLE: str(data_dir().absolute())})


def missing(path: Path) -> str:
    """The error for a dataset that is not there: where it was looked for and, if the catalog has it, how to get it."""
    line = f"{path}: no such file or folder"
    entry = catalog.CATALOG / f"{path.name}.yaml"
    is_listed = path.parent.absolute() == data_dir().absolute() and os.path.isfile(entry)  # noqa: PTH113  # too long a name
    if not is_listed:
        is_name = str(path) == path.name and not path.suffix
        return f"{line}, and no dataset of that name. List datasets with: blastdet data list" if is_name else line
    return (
        f"{line}. Get it with: blastdet data get {path.name}. Or set {VARIABLE} to the folder that holds your datasets"
    )
