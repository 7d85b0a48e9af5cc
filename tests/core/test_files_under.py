"""One rule for links in all walks over folders: they are followed, and no folder is read twice."""

from __future__ import annotations

import os
from pathlib import Path

from made import image_file

from blastdet.core.atomic_io import files_under
from blastdet.datasets.archives import open_source
from blastdet.imaging.io import find_images


def test_linked_files_and_folders_are_followed_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for path in (root / "b" / "1.jpg", elsewhere / "2.jpg", root / ".hidden" / "3.jpg"):
        image_file(path)
    (root / "a").symlink_to("b")  # the folder itself is read, not the link to it
    (root / "c").symlink_to(elsewhere)
    (root / "b" / "up").symlink_to("..")
    (root / "self").symlink_to(".")
    (root / "d.jpg").symlink_to(elsewhere / "2.jpg")
    right = [root / "b" / "1.jpg", root / "c" / "2.jpg", root / "d.jpg"]
    assert sorted(files_under(root, hidden=False)) == right
    assert find_images(root) == right
    with open_source(root) as members:
        assert [member.name for member in members] == [".hidden/3.jpg", "b/1.jpg", "c/2.jpg", "d.jpg"]


def test_two_links_to_one_folder_are_one(tmp_path: Path) -> None:
    image_file(tmp_path / "elsewhere" / "1.jpg")
    root = tmp_path / "root"
    root.mkdir()
    for name in ("x", "y"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    assert [os.path.relpath(path, root) for path in files_under(root)] == ["x/1.jpg"]
