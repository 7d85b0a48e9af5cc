"""Puts weights, configurations and catalog entries inside the package of a wheel; a checkout has them beside it.

Everything else about the build is in pyproject.toml.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithShipped(build_py):
    """The usual build, then the folders that `blastdet.core.model_card.shipped` looks for."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder in ("weights", "configs", "datasets"):
            shutil.copytree(folder, Path(self.build_lib, "blastdet", "_shipped", folder), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithShipped})
