"""The page of a run in a real browser: gallery, keys, corrections, hostile names, many boxes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from viewing import NAMES, chosen_kind, image_data, lines_of, opened

from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.datasets.apply_corrections import replay_corrections
from blastdet.datasets.corrections import Correction
from blastdet.imaging.io import open_smear, read_image, write_image
from blastdet.viewer.pictures import CROP, write_sheet
from blastdet.viewer.viewer_page import KIND_INDEX, kinds, page_data, page_text


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
    assert page.locator("#viewer").is_visible() and chosen_kind(page) == "lymphocyte"
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
    page = opened(browser, tmp_path, images=[image_data(tmp_path) | {"given": [0.4, 0.4]}])
    page.focus('[data-cell="0/4"]')
    page.keyboard.press("4")
    (line,) = lines_of(page, tmp_path)
    assert (line.op, line.old_class, line.new_class, line.new_type) == ("class", "", "wbc", "neutrophil")
    assert line.box_xyxy == (180, 40, 210, 70) and line.mpp == (0.4, 0.4)
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
def test_a_key_without_a_selected_cell_says_so_and_nothing_is_exported(browser, tmp_path):
    page = opened(browser, tmp_path, images=[image_data(tmp_path)])
    assert page.locator("#export").is_disabled()
    page.keyboard.press("4")
    assert page.inner_text("#saved") == "No cell is selected: click one first."
    page.evaluate("location.hash = '0'")
    page.wait_for_selector("#viewer", state="visible")
    page.wait_for_function("document.querySelector('#about').textContent !== null && viewer.isOpen()")
    page.wait_for_timeout(300)  # the image is loaded, which clears the line
    page.keyboard.press("4")
    assert page.inner_text("#fault") == "No cell is selected: click one first."
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#fault") == ""
    page.keyboard.press("4")
    page.keyboard.press("Escape")
    assert page.locator("#export").is_enabled() and page.inner_text("#count") == "1"
    page.close()
    assert not page.faults


@pytest.mark.browser
def test_no_text_of_a_tile_is_cut(browser, tmp_path):
    likely = {"0": [["lymphocyte", 0.5], ["immature_granulocyte", 0.4]], "4": [["immature_granulocyte", 0.4]]}
    page = opened(browser, tmp_path, images=[image_data(tmp_path) | {"likely": likely}])
    assert "or immature granulocyte" in page.inner_text("#groups")
    for size in (64, 104):
        page.evaluate(f"document.documentElement.style.setProperty('--thumb', '{size}px')")
        cut = "[...document.querySelectorAll('.words *')].filter((one) => one.scrollWidth > one.clientWidth + 1)"
        assert page.evaluate(cut + ".map((one) => one.textContent)") == []
    page.close()


@pytest.mark.browser
def test_arrows_go_through_the_cells_in_both_views(browser, tmp_path):
    page = opened(browser, tmp_path, images=[image_data(tmp_path)])
    page.focus('[data-cell="0/4"]')
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.cell") == "0/3"
    page.keyboard.press("Enter")
    assert chosen_kind(page) == "blast"
    page.keyboard.press("ArrowRight")
    assert chosen_kind(page) == "lymphocyte"
    page.keyboard.press("2")  # goes on to the next one
    page.wait_for_function("document.querySelector('#done2').innerText.startsWith('1 of 5')")
    page.wait_for_function("viewer.row === 0")
    page.close()


@pytest.mark.browser
def test_undo_goes_back_to_the_cell(browser, tmp_path):
    page = opened(browser, tmp_path, images=[image_data(tmp_path, kind_names=["unsure"] * 4)])
    page.focus('[data-cell="0/3"]')
    for key in "12z3":
        page.keyboard.press(key)
    lines = lines_of(page, tmp_path)
    assert [(line.box_xyxy[0], line.new_class, line.new_type) for line in lines] == [
        (140, "blast", ""),
        (100, "wbc", "monocyte"),
    ]
    page.keyboard.press("Enter")  # in the viewer, too
    page.wait_for_function("viewer.row === 1")
    for key in "12z4":
        page.keyboard.press(key)
    assert [line.new_type for line in lines_of(page, tmp_path)] == ["", "monocyte", "", "neutrophil"]
    page.close()
    assert not page.faults


@pytest.mark.browser
def test_going_on_skips_reviewed_cells(browser, tmp_path):
    page = opened(browser, tmp_path, images=[image_data(tmp_path, kind_names=["unsure", "unsure", "blast", "blast"])])
    page.focus('[data-cell="0/1"]')
    page.keyboard.press("1")
    page.keyboard.press("1")  # the last unsure one; both are first among the blasts now
    assert page.evaluate("document.activeElement.dataset.cell") == "0/3"
    page.keyboard.press("o")
    page.keyboard.press("o")
    done = page.evaluate("exported()")
    assert len(done.splitlines()) == 4 and page.inner_text("#done").startswith("4 of 4")
    assert page.evaluate("document.activeElement.dataset.cell") == "0/2"  # none is left: it stays
    page.close()
    assert not page.faults


@pytest.mark.browser
def test_a_confirmed_image_is_a_labelled_image(browser, tmp_path):
    """Uncertain cells stay open until each has a type; red cells that are not shown are not confirmed."""
    image = image_data(tmp_path)
    page = opened(browser, tmp_path, images=[image])
    page.evaluate("location.hash = '0'")
    page.wait_for_selector("#viewer:visible")
    page.click("#confirm")
    assert page.inner_text("#fault") == "1 uncertain cell is left: give it a type."
    page.keyboard.press("2")
    page.click("#confirm")
    lines = lines_of(page, tmp_path)
    page.close()
    assert {line.old_class for line in lines if line.op == "annotate"} == {"blast", "wbc", "platelet"}
    sample = Sample(tmp_path / "a.png", (image["width"], 120), (0.4, 0.4))
    after, counts = replay_corrections(Dataset("d", tmp_path, (sample,)), lines)
    (found,) = after
    assert found.annotated == ("blast", "wbc", "platelet") and counts["complete classes, summed over images"] == 3
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
    assert chosen_kind(page) in ("blast", "rbc")
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


@pytest.mark.browser
def test_right_as_it_is_keeps_what_is_shown(browser, tmp_path):
    """On a page without annotations, O makes a cell what the model found; on a relabelled one, what it was made."""
    image = image_data(tmp_path)
    page = opened(browser, tmp_path, images=[image])
    page.evaluate("correct([[0, 0], [0, 2]], 'ok')")  # lymphocyte and monocyte
    page.evaluate("correct([[0, 1]], 'class', 'blast')")
    page.evaluate("correct([[0, 1], [0, 4]], 'ok')")  # of an uncertain one, nobody knows what it is
    lines = lines_of(page, tmp_path)
    assert [(line.op, line.new_class, line.new_type) for line in lines] == [
        ("class", "wbc", "lymphocyte"),
        ("class", "wbc", "monocyte"),
        ("class", "blast", ""),
    ]
    page.focus('[data-cell="0/4"]')
    page.keyboard.press("o")
    assert page.inner_text("#saved") == "This cell is uncertain: give it a type first."
    assert page.evaluate("document.activeElement.dataset.cell") == "0/4"  # it stays there
    page.evaluate("correct([[0, 3]], 'delete'), correct([[0, 3]], 'ok')")  # it stays deleted
    assert [line.op for line in lines_of(page, tmp_path)] == ["class", "class", "class", "delete"]
    page.close()
    assert not page.faults


@pytest.mark.browser
def test_only_classes_that_the_model_looks_for_and_that_are_shown_are_complete(browser, tmp_path):
    image = image_data(tmp_path, kind_names=["wbc", "wbc", "rbc"])
    page = opened(browser, tmp_path, images=[image], classes=["wbc", "rbc", "platelet"])
    page.evaluate("location.hash = '0'")
    page.wait_for_selector("#viewer:visible")
    page.uncheck("#filters input[data-kind=platelet]")  # none was found, and nobody looked for one
    page.click("#confirm")
    assert page.inner_text("#fault") == "Image confirmed. Complete: white cells."
    assert [line.old_class for line in lines_of(page, tmp_path) if line.op == "annotate"] == ["wbc"]
    page.evaluate("correct([[0, 1]], 'forget')")  # one that nobody looked at: not complete any more
    assert [line.op for line in lines_of(page, tmp_path)] == ["class"]
    page.keyboard.press("z")
    assert [line.op for line in lines_of(page, tmp_path)].count("annotate") == 1
    page.close()


@pytest.mark.browser
def test_a_hidden_type_is_not_complete(browser, tmp_path):
    page = opened(browser, tmp_path, images=[image_data(tmp_path, kind_names=["lymphocyte", "blast"])])
    page.evaluate("location.hash = '0'")
    page.wait_for_selector("#viewer:visible")
    page.uncheck("#filters input[data-kind=lymphocyte]")
    page.click("#confirm")
    lines = lines_of(page, tmp_path)
    page.close()
    assert [(line.op, line.new_class or line.old_class) for line in lines] == [
        ("class", "blast"),
        ("annotate", "blast"),
        ("annotate", "platelet"),
    ]


@pytest.mark.browser
def test_no_class_is_complete_while_an_uncertain_cell_is_hidden(browser, tmp_path):
    page = opened(browser, tmp_path, images=[image_data(tmp_path, kind_names=["unsure", "blast", "lymphocyte"])])
    page.evaluate("confirmImage(0, (kind) => kind !== UNSURE)")
    complete = [line.old_class for line in lines_of(page, tmp_path) if line.op == "annotate"]
    page.close()
    assert complete == []  # it may be anything


@pytest.mark.browser
def test_corrections_of_another_model_or_page_are_not_restored(browser, tmp_path):
    image = image_data(tmp_path)
    context = browser.new_context()
    page = opened(context, tmp_path, images=[image], model_sha256="a" * 64)
    page.evaluate("correct([[0, 0]], 'class', 'blast')")
    old = [KIND_INDEX["wbc"]] * len(NAMES)
    for data, n in (
        ({"model_sha256": "b" * 64}, 0),
        ({"model_sha256": "a" * 64, "mode": "review", "images": [image | {"old": old}]}, 0),
        ({"model_sha256": "a" * 64}, 1),
    ):
        again = opened(context, tmp_path, **{"images": [image], **data})
        assert again.evaluate("corrections.size") == n, data
    context.close()


@pytest.mark.browser
def test_an_image_with_cells_that_another_threshold_found_is_not_complete(browser, tmp_path):
    image = image_data(tmp_path, kind_names=["wbc", "wbc"])
    first = image | {"box": image["box"][:4], "kind": image["kind"][:1], "thumb": {}}
    context = browser.new_context()
    page = opened(context, tmp_path, images=[first])
    page.evaluate("confirmImage(0, () => true)")
    assert len(lines_of(page, tmp_path)) == 1 + len(CELL_CLASSES)
    page = opened(context, tmp_path, images=[image])
    assert "wbc" not in [line.old_class for line in lines_of(page, tmp_path)]
    context.close()


@pytest.mark.browser
def test_a_cell_drawn_on_another_is_that_one(browser, tmp_path):
    page = opened(browser, tmp_path, images=[image_data(tmp_path)])
    assert page.evaluate("addCell(0, [20.2, 40, 50, 70.4], 'blast')") == 0
    (line,) = lines_of(page, tmp_path)
    assert (line.op, line.new_class, line.box_xyxy) == ("class", "blast", (20, 40, 50, 70))
    page.evaluate("correct([[0, 1]], 'move', '', [60, 10, 90, 40])")
    assert page.evaluate("addCell(0, [60, 40, 90, 70], 'blast')") == -1
    page.close()


def test_a_name_that_is_not_utf8_is_on_the_page(tmp_path):
    text = page_text(page_data(title="a", images=[{"name": "a\udcff.png"}]))
    assert b'"a?.png"' in text.encode()
