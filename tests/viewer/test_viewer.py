"""The page of a run in a real browser: gallery, keys, corrections, hostile names, many boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.datasets.apply_corrections import replay_corrections
from blastdet.datasets.corrections import Correction, read_corrections
from blastdet.imaging.io import open_smear, read_image, write_image
from blastdet.viewer.pictures import CROP, write_picture, write_sheet
from blastdet.viewer.viewer_page import KIND_INDEX, kinds, page_data, page_text

NAMES = ["lymphocyte", "lymphocyte", "monocyte", "blast", "unsure", "rbc", "rbc", "platelet"]


def image_data(folder: Path, name: str = "a.png", kind_names: list[str] = NAMES) -> dict[str, Any]:
    """An image with discs in a row, and its columns for the page."""
    width = 40 + 40 * len(kind_names)
    rgb = np.full((120, width, 3), 235, np.uint8)
    boxes = [(20.0 + 40 * i, 40.0, 50.0 + 40 * i, 70.0) for i in range(len(kind_names))]
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        rgb[int(y1) : int(y2), int(x1) : int(x2)] = (90 + 15 * (i % 8), 60, 150)
    path = folder / name
    write_image(path, rgb)
    white = [i for i, kind in enumerate(kind_names) if kind not in ("rbc", "platelet")]
    with open_smear(path) as source:
        write_picture(source, folder / "page/images/0.jpg")
        rows = write_sheet(source, [boxes[i] for i in white], (0.4, 0.4), folder / "page/cells/0.jpg")
    n = len(kind_names)
    p = [0.95 - 0.1 * (i % 5) if i in white else None for i in range(n)]
    from blastdet.core.model_card import sha256_of

    image: dict[str, Any] = {"name": name, "file": "page/images/0.jpg", "sheet": "page/cells/0.jpg"}
    image |= {"sheet_rows": rows, "sha256": sha256_of(path), "width": width, "height": 120, "mpp": [0.4, 0.4]}
    image |= {"about": "", "notes": [], "row": [], "thumb": {str(row): k for k, row in enumerate(white)}}
    image |= {"box": [side for box in boxes for side in box], "kind": [KIND_INDEX[kind] for kind in kind_names]}
    return image | {"score": [0.9] * n, "p": p, "blast": p, "unlike": [], "likely": {}}


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def opened(browser: Any, folder: Path, **data: Any) -> Any:
    """A page in the browser; anything that it loads from elsewhere, and every error, is noted in `faults`."""
    path = folder / "index.html"
    path.write_text(page_text(page_data(**{"title": "run", "id": folder.name, **data})), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda asked: page.faults.append(asked.url) if "file:" not in asked.url else None)
    page.on("console", lambda said: page.faults.append(said.text) if said.type == "error" else None)
    page.goto(path.as_uri())
    return page


def lines_of(page: Any, folder: Path) -> list[Correction]:
    (folder / "c.jsonl").write_text(page.evaluate("exported()"), encoding="utf-8")
    return read_corrections(folder / "c.jsonl")


def test_the_keys_1_to_9_are_the_types_and_the_keys_fit_the_classes():
    keys = {kind["key"]: kind for kind in kinds() if kind["key"]}
    assert [keys[str(k)]["name"] for k in (1, 2, 9)] == ["blast", "lymphocyte", "smudge"]
    assert {kind["class"] for kind in keys.values()} == set(CELL_CLASSES)
    assert not keys["1"]["type"] and keys["8"]["type"] == "erythroblast"


def test_names_end_no_script_and_are_searched_for_no_mark():
    text = page_text(page_data(title="</script><!--/*SCRIPT*/", images=[]))
    assert "</script><!--" not in text and text.count("</script>") == 1


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="colour"):
        page_data(title="a", images=[], colour="red")


def test_a_crop_shows_22_um_whatever_the_cell(tmp_path):
    rgb = np.full((200, 200, 3), 255, np.uint8)
    rgb[75:125, 75:125] = 0  # 50 px of 0.2 µm: 10 µm
    write_image(tmp_path / "a.png", rgb)
    with open_smear(tmp_path / "a.png") as source:
        assert write_sheet(source, [(90, 90, 110, 110)], (0.2, 0.2), tmp_path / "s.png") == 1
        assert write_sheet(source, [], None, tmp_path / "none.png") == 0
    sheet = read_image(tmp_path / "s.png")
    assert sheet.shape == (CROP["px"], CROP["px"] * CROP["columns"], 3)
    dark = (sheet[:, : CROP["px"]].mean(axis=2) < 128).sum() ** 0.5
    assert dark == pytest.approx(CROP["px"] * 10 / CROP["um"], abs=2)
    assert not (tmp_path / "none.png").exists()


@pytest.mark.browser
def test_the_gallery_sorts_by_type_and_doubt_and_hides_red_cells(browser, tmp_path):
    page = opened(browser, tmp_path, images=[image_data(tmp_path)])
    heads = page.locator(".group h3 span").all_inner_texts()
    assert heads == ["unsure", "blast", "lymphocyte", "monocyte"]
    cells = page.locator(".group:has(h3:has-text('lymphocyte')) .cell")
    assert [cells.nth(i).get_attribute("data-cell") for i in range(2)] == ["0/1", "0/0"]  # 0.85 before 0.95
    cells.first.click()
    assert page.locator("#viewer").is_visible() and page.inner_text("#chosen") == "lymphocyte"
    assert not page.locator("#filters input[data-kind=rbc]").is_checked()
    page.keyboard.press("h")
    assert page.locator("#filters input[data-kind=rbc]").is_checked()
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert page.evaluate("document.activeElement.dataset.cell") == "0/1"  # where one was before
    page.close()
    assert not page.faults


@pytest.mark.browser
def test_keys_relabel_one_and_many_and_undo(browser, tmp_path):
    page = opened(browser, tmp_path, images=[image_data(tmp_path)])
    page.focus('[data-cell="0/4"]')
    page.keyboard.press("4")
    (line,) = lines_of(page, tmp_path)
    assert (line.op, line.old_class, line.new_class, line.new_type) == ("class", "", "wbc", "neutrophil")
    assert line.box_xyxy == (180, 40, 210, 70)
    page.click('[data-cell="0/0"]', modifiers=["Control"])
    page.click('[data-cell="0/1"]', modifiers=["Control"])
    assert page.inner_text("#picked") == "2 cells"
    page.keyboard.press("9")
    assert [line.new_type for line in lines_of(page, tmp_path)] == ["neutrophil", "smudge", "smudge"]
    page.keyboard.press("z")
    assert [line.new_type for line in lines_of(page, tmp_path)] == ["neutrophil"]
    page.keyboard.press("z")
    assert lines_of(page, tmp_path) == [] and page.locator("#undo").is_disabled()
    page.focus('[data-cell="0/3"]')
    page.keyboard.press("Delete")
    assert [line.op for line in lines_of(page, tmp_path)] == ["delete"]
    page.reload()
    assert page.inner_text("#count") == "1"
    page.close()
    assert not page.faults


@pytest.mark.browser
def test_arrows_go_through_the_cells_in_both_views(browser, tmp_path):
    page = opened(browser, tmp_path, images=[image_data(tmp_path)])
    page.focus('[data-cell="0/4"]')
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.cell") == "0/3"
    page.keyboard.press("Enter")
    assert page.inner_text("#chosen") == "blast"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#chosen") == "lymphocyte"
    page.keyboard.press("2")  # goes on to the next one
    assert page.inner_text("#done2").startswith("1 of 5") and page.evaluate("viewer.row") == 0
    page.close()


@pytest.mark.browser
def test_a_confirmed_image_is_a_labelled_image(browser, tmp_path):
    """Uncertain cells stay open until each has a type; red cells that are not shown are not confirmed."""
    image = image_data(tmp_path)
    page = opened(browser, tmp_path, images=[image])
    page.evaluate("location.hash = '0'")
    page.wait_for_selector("#viewer:visible")
    page.click("#confirm")
    assert page.inner_text("#fault") == "1 uncertain cell is left: give each a type."
    page.keyboard.press("2")
    page.click("#confirm")
    lines = lines_of(page, tmp_path)
    page.close()
    assert {line.old_class for line in lines if line.op == "annotate"} == {"blast", "wbc", "platelet"}
    sample = Sample(tmp_path / "a.png", (image["width"], 120), (0.4, 0.4))
    after, counts = replay_corrections(Dataset("d", tmp_path, (sample,)), lines)
    (found,) = after
    assert found.annotated == ("blast", "wbc", "platelet") and counts["annotated completely"] == 3
    assert found.truth is not None and found.truth.counts() == {"blast": 1, "wbc": 4, "rbc": 0, "platelet": 1}
    assert sorted(found.truth.cell_type.tolist()) == ["", "", "lymphocyte", "lymphocyte", "lymphocyte", "monocyte"]


def test_an_image_without_cells_can_be_annotated(tmp_path):
    image = image_data(tmp_path)
    sample = Sample(tmp_path / "a.png", (image["width"], 120))
    line = Correction(image="a.png", image_sha256=image["sha256"], op="annotate", old_class="wbc")
    (found,), _ = replay_corrections(Dataset("d", tmp_path, (sample,)), [line])
    assert found.annotated == ("wbc",) and found.truth is not None and len(found.truth) == 0
    (back,), _ = replay_corrections(
        Dataset("d", tmp_path, (replace(found, truth=Detections.empty()),)), [line, replace(line, op="unannotate")]
    )
    assert back.annotated == ()


@pytest.mark.browser
def test_hostile_names_are_shown_as_text(browser, tmp_path):
    image = image_data(tmp_path) | {"name": '"><img src=x onerror=alert(1)></script>', "notes": ["<b>note</b>"]}
    page = opened(browser, tmp_path, images=[image], heading="</title><script>alert(1)</script>")
    assert page.inner_text("#title").startswith("</title>")
    assert page.locator("img[src=x]").count() == 0 and "onerror" in page.inner_text("#images")
    page.close()
    assert not page.faults


@pytest.mark.browser
def test_a_missing_image_is_named(browser, tmp_path):
    page = opened(browser, tmp_path, images=[image_data(tmp_path) | {"file": "page/images/gone #1.jpg"}])
    page.click(".cell >> nth=0")
    page.wait_for_function("document.getElementById('fault').textContent.includes('gone #1.jpg')")
    page.close()


@pytest.mark.browser
def test_20_000_boxes_are_shown_and_selected(browser, tmp_path):
    image = image_data(tmp_path)
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, [image["width"] - 3, 117], (20_000, 2)).round(1)
    n = len(corner) + len(NAMES)
    image["box"] += np.concatenate([corner, corner + 2], axis=1).round(1).ravel().tolist()
    image["kind"] += [KIND_INDEX["rbc"]] * len(corner)
    image |= {"score": [0.5] * n, "p": [None] * n, "blast": [None] * n}
    page = opened(browser, tmp_path, images=[image])
    page.click('[data-cell="0/3"]')
    page.keyboard.press("h")
    assert page.inner_text("#filters label:has(input[data-kind=rbc]) b") == "20,002"
    page.mouse.click(*page.evaluate("viewer.place(155, 55)"))
    assert page.inner_text("#chosen") in ("blast", "rbc")
    page.mouse.wheel(0, -400)
    page.mouse.move(500, 400)
    page.mouse.down()
    page.mouse.move(560, 430, steps=3)
    page.mouse.up()
    page.close()
    assert not page.faults


def test_every_page_says_research_use_only():
    text = page_text(page_data(title="a", images=[]))
    data, _ = json.JSONDecoder().raw_decode(text, text.index("const DATA = ") + len("const DATA = "))
    assert data["notice"].startswith("For Research Use Only") and text.count("data-notice") >= 3
