"""Review: cells and views, export of corrections, the page in a real browser, and suggestions."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from made import voc, voc_xml
from PIL import Image
from viewing import chosen_kind

from blastdet.cli import cli
from blastdet.core.errors import FormatError
from blastdet.core.model_card import sha256_of
from blastdet.core.types import Detections
from blastdet.datasets.apply_corrections import replay_corrections
from blastdet.datasets.corrections import Correction, append_corrections, read_corrections
from blastdet.datasets.formats import registry
from blastdet.evaluation.confusion import confusion
from blastdet.evaluation.evaluate import describe_data
from blastdet.imaging.io import open_smear, write_image
from blastdet.imaging.stain_normalization import normalize_stain
from blastdet.inference.second_stage import classify_cells
from blastdet.models.classifier import load_classifier
from blastdet.review.cells import VIEWS, compare_cells, in_view, repeated_fields
from blastdet.review.corrected_dataset import export_corrected
from blastdet.review.embedding import embed_cells, project
from blastdet.review.page import write_page
from blastdet.review.review import make_review
from blastdet.review.suggest import suggest

THRESHOLDS = {"blast": 0.5, "wbc": 0.5, "rbc": 0.5}


def test_each_view_shows_its_kind_of_error(made):
    dataset, predictions = made
    _, cells = compare_cells(dataset, predictions)
    shown = {name: [(c.sample, c.kind) for c in in_view(cells, name)] for name in VIEWS}
    assert shown["missed"] == shown["missed_blasts"][-1:] == [(0, "missed")]
    assert shown["false"] == [(1, "false")]
    assert sorted(shown["false_blasts"]) == [(1, "false"), (2, "confused")]
    assert shown["confused"] == [(2, "confused")]
    assert shown["low_iou"] == [(3, "hit")]
    assert [c.detection for c in in_view(cells, "uncertain")] == [7]


def test_cells_agree_with_the_confusion_matrix(made):
    dataset, predictions = made
    _, cells = compare_cells(dataset, predictions)
    matrix = confusion(dataset, predictions.candidates, ("blast", "wbc"), THRESHOLDS).matrix
    for i, truth in enumerate(("blast", "wbc", "")):
        for j, found in enumerate(("blast", "wbc", "")):
            assert matrix[i, j] == sum((c.true_class, c.detected_class) == (truth, found) for c in cells)


@pytest.mark.parametrize("seed", range(5))
def test_swapped_labels_rank_among_the_likely_label_errors(made, seed):
    """Of 5 % of labels that were swapped, at least half are in the first 10 % of the likely label errors."""
    dataset, predictions = made
    rng = np.random.default_rng(seed)
    swapped = set(map(tuple, rng.permutation([(s, t) for s in range(4) for t in range(20)])[:4]))
    samples = []
    for s, sample in enumerate(dataset):
        label = sample.truth.label.copy()
        for t in range(20):
            label[t] = 1 - label[t] if (s, t) in swapped else label[t]
        samples.append(replace(sample, truth=sample.truth.with_columns(label=label)))
    _, cells = compare_cells(replace(dataset, samples=tuple(samples)), predictions)
    first = sorted(cells, key=lambda c: -c.suspicion)[: len(cells) // 10]
    assert len({(c.sample, c.truth) for c in first} & swapped) >= 2


def _correction(dataset, sample, box, op, **changes):
    path = dataset.samples[sample].path
    words = {"who": "A", "when": "2026-01-01T00:00:00Z", "image": path.name, "image_sha256": sha256_of(path)}
    return Correction(**words, box_xyxy=tuple(float(v) for v in box), op=op, **changes)


def test_a_page_replaces_nothing_but_a_page(made, tmp_path):
    """Corrections next to the page, and other folders with a file of the same name, are not deleted."""
    from blastdet.review.page import check_page

    dataset, predictions = made
    file = write_page(make_review(dataset, predictions), tmp_path / "page")
    lead = "4 images, 80 annotated cells, 80 detected."  # one missed, one false
    assert f'"lead":"{lead}' in file.read_text(encoding="utf-8")
    check_page(tmp_path / "page")
    for name, text in (("corrections.jsonl", "mine"), ("images/mine.jpg", "mine"), ("index.html", "<p>mine")):
        before = (tmp_path / "page" / name).read_text() if name == "index.html" else None
        (tmp_path / "page" / name).write_text(text)
        with pytest.raises(FormatError, match=f"{Path(name).name}: not part of a review page"):
            check_page(tmp_path / "page")
        (tmp_path / "page" / name).unlink() if before is None else (tmp_path / "page" / name).write_text(before)
    check_page(tmp_path / "page")
    check_page(tmp_path / "nowhere")


def test_images_without_annotations_are_suggested(made, tmp_path):
    dataset, predictions = made
    plain = registry.read(dataset.root, "images")
    assert len(plain) == 4 and all(sample.truth is None for sample in plain)
    assert len(suggest(plain, predictions, 9)) == 4
    empty = replace(dataset, samples=tuple(replace(s, truth=Detections.empty()) for s in dataset))
    assert len(suggest(empty, predictions, 9)) == 4


def test_the_command_exports_what_was_corrected(made, tmp_path):
    dataset, _ = made
    registry.write(dataset, tmp_path / "set", "coco")
    placed = registry.read(tmp_path / "set")
    boxes = placed.samples[0].truth.boxes_xyxy
    append_corrections(
        tmp_path / "c.jsonl", [_correction(placed, 0, boxes[0], "delete"), _correction(placed, 0, boxes[1], "ok")]
    )
    words = ["review", "export", "--data", "set", "--corrections", "c.jsonl", "--to", "coco", "--to", "yolo", "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
        assert "80 before review, 79 after" in done.output
        again = CliRunner().invoke(cli, [*words[:-1], "again", "--data", "out"])
        assert again.exit_code == 0 and "79 before review, 79 after" in again.output, again.output
        full = CliRunner().invoke(cli, words)
        assert full.exit_code == 2 and "not empty" in full.output
        assert CliRunner().invoke(cli, [*words, "--overwrite"]).exit_code == 0
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/corrections.jsonl").write_text("")
        foreign = CliRunner().invoke(cli, [*words[:-1], "mine", "--overwrite"])
        assert foreign.exit_code == 2 and "not overwritten" in foreign.output
        Path("empty.jsonl").write_text("")
        empty = CliRunner().invoke(cli, ["review", "export", "--data", "set", "--corrections", "empty.jsonl", "same"])
        assert empty.exit_code == 2 and "empty.jsonl: no corrections, so nothing was exported" in empty.output
        assert not Path("same").exists()
    written = registry.read(tmp_path / "out")
    assert sum(len(sample.truth) for sample in written) == 79
    assert read_corrections(tmp_path / "out/corrections.jsonl") == read_corrections(tmp_path / "c.jsonl")
    # What a report says of its data:
    assert "corrected by review: 80 cells before, 79 after; 1 confirmed, 1 deleted" in describe_data(written)["notes"]


def test_an_export_has_the_scale_that_the_review_was_given(made, tmp_path):
    dataset, predictions = made
    box, lines, data = dataset.samples[0].truth.boxes_xyxy[0], tmp_path / "c.jsonl", tmp_path / "data"
    append_corrections(lines, [_correction(dataset, 0, box, "class", new_class="wbc", mpp=(0.25, 0.25))])
    data.mkdir()
    for path in tmp_path.glob("s?.png"):
        shutil.copy(path, data)
    words = ["review", "export", "--data", str(data), "--from", "images", "--corrections", str(lines)]
    done = CliRunner().invoke(cli, [*words, str(tmp_path / "out")])
    assert "scale as the review was given it: 1 image, 0.25 µm/px. 3 images without a scale" in done.output
    assert sorted(str(sample.mpp) for sample in registry.read(tmp_path / "out")) == ["(0.25, 0.25)", *["None"] * 3]
    assert CliRunner().invoke(cli, [*words, "--mpp", "0.5", str(tmp_path / "all")]).exit_code == 0
    assert {sample.mpp for sample in registry.read(tmp_path / "all")} == {(0.5, 0.5)}
    append_corrections(lines, [_correction(dataset, 0, box, "class", new_class="wbc", mpp=(0.2, 0.25))])
    two = CliRunner().invoke(cli, [*words, str(tmp_path / "two")])
    assert two.exit_code == 2 and "reviewed at 0.25,0.25 and 0.2,0.25 µm/px. Pass the right one as --mpp" in two.output
    review = make_review(dataset, predictions, mpp=(0.25, 0.25))
    assert write_page(review, tmp_path / "page").read_text("utf-8").count('"given":[0.25,0.25]') == 4


def test_a_folder_for_corrections_gives_a_one_line_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["review", "--data", "x", "--weights", "default", "--out", str(tmp_path), "--port", "5999"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2 and "expected a file for the corrections, got a folder" in done.output
    with pytest.raises(FormatError, match="cannot be written"):
        append_corrections(tmp_path, [Correction("a", "b", "c", "0" * 64, (0, 0, 9, 9), "ok")])


def test_duplicate_boxes_and_repeated_fields(made):
    dataset, predictions = made
    first = dataset.samples[0]
    again = Detections.concatenate([first.truth, Detections([first.truth.boxes_xyxy[3] + 2], label=[1])])
    samples = (replace(first, truth=again, group="g"), replace(dataset.samples[1], group="g"), *dataset.samples[2:])
    dataset, cells = compare_cells(replace(dataset, samples=samples), predictions)
    twice = in_view(cells, "duplicates")
    assert sorted(cell.truth for cell in twice) == [3, 20] and {cell.sample for cell in twice} == {0}
    assert repeated_fields(dataset, ["a", "b", "c", "d"]) == [0, 1]
    assert repeated_fields(dataset, ["a", "b", "c", "c"]) == [2, 3, 0, 1]


def test_the_second_stage_embeds_every_nucleated_cell(made):
    """The shipped classifier, at drawn discs, which are like nothing that it learnt."""
    dataset, predictions = made
    dataset, cells = compare_cells(dataset, predictions)
    classifier = load_classifier("differential", "cpu")
    seen, embedding = embed_cells(dataset, cells, classifier)
    assert [cell.box for cell in seen] == [cell.box for cell in cells]
    assert sorted(embedding.rows) == list(range(len(cells)))
    assert embedding.features.shape[1] > 8 and np.isfinite(embedding.features).all()
    assert all(cell.novelty > 0 for cell in seen)
    source = open_smear(dataset.samples[cells[0].sample].path)
    with normalize_stain(source, classifier.card.input.colour) as sample:
        found = Detections([cells[0].box], label=[1])
        judged = classify_cells(sample, found, dataset.samples[cells[0].sample].mpp, classifier)
    assert bool(judged.unsure[0]) or seen[0].novelty <= 1  # the same limit as in `detect`
    points, method = project(embedding.features)
    assert points.shape == (len(cells), 2) and method == "t-SNE"
    np.testing.assert_array_equal(points, project(embedding.features)[0])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--data: expected a dataset, got none"),
        (["--data", "x"], "expected either --weights or --detections"),
        (["--data", "x", "--html", "y"], "expected either --weights or --detections"),
        (
            ["export", "--data", "x", "--corrections", "c.jsonl", "--to", "voc", "o"],
            "expected format coco or yolo, got voc",
        ),
        (["export", "--data", "x", "--corrections", "nowhere.jsonl", "o"], "nowhere.jsonl: cannot be read"),
        (
            ["--data", "x", "export", "--data", "x", "--corrections", "c.jsonl", "o"],
            "--data before export",
        ),
        (
            ["--data", "x", "--weights", "default", "--database-uri", "foo"],
            "--database-uri: expected an address that starts with mongodb://, got foo",
        ),
        (["--data", "x", "--weights", "default", "--out", "test.py"], "test.py: line 1: not JSON"),
    ],
)
def test_bad_usage_gives_a_one_line_error(words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test.py").write_text("print()\n")
    done = CliRunner().invoke(cli, ["review", *words])
    assert done.exit_code == 2 and line in done.output and len(done.output.strip().splitlines()) == 1, done.output


@pytest.fixture
def page(made, tmp_path, browser):
    """The page of the four images, open in a real browser."""
    dataset, predictions = made
    file = write_page(make_review(dataset, predictions), tmp_path / "page")
    context = browser.new_context(viewport={"width": 1300, "height": 1100}, offline=True)
    opened = context.new_page()
    opened.set_default_timeout(120_000)  # on a busy machine
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda request: faults.append(request.url) if "file:" not in request.url else None)
    opened.goto(file.as_uri())
    yield opened
    assert not [fault for fault in faults if not fault.startswith("blob:")]
    context.close()


def test_what_uses_the_browser_is_marked_without_a_word(request, browser):
    """Where there is no Chromium, the mark skips it."""
    assert request.node.get_closest_marker("browser") is not None


def _exported(page, tmp_path: Path) -> list[Correction]:
    with page.expect_download() as waiting:
        page.click("#export")
    waiting.value.save_as(tmp_path / "exported.jsonl")
    return read_corrections(tmp_path / "exported.jsonl")


def test_the_page_shows_corrects_and_exports(page, made, tmp_path):
    dataset, _ = made
    page.fill("#who", "Reviewer B")
    page.click("button[data-view=missed]")
    assert page.locator(".cell").count() == 1 and "Missed · label blast" in page.inner_text(".cell")
    page.wait_for_timeout(500)
    with Image.open(io.BytesIO(page.locator(".cell .pic").screenshot())) as crop:
        assert np.asarray(crop.convert("L")).std() > 5  # the cell is drawn
    page.click("button[data-view=confused]")
    page.focus(".cell")
    page.keyboard.press("1")  # blast
    assert page.locator(".cell.done").count() == 1
    page.click("button[data-view=false]")
    page.focus(".cell")
    page.keyboard.press("i")
    page.reload()  # as after closing the browser
    assert page.inner_text("#count") == "2" and page.input_value("#who") == "Reviewer B"
    lines = _exported(page, tmp_path)
    assert {(line.who, line.op, line.new_class) for line in lines} == {
        ("Reviewer B", "class", "blast"),
        ("Reviewer B", "ignore", "blast"),  # not annotated: an ignored region of that class
    }
    after, counts = replay_corrections(dataset, lines)
    assert counts == {"relabelled": 1, "added": 1, "ignored": 1}
    assert after.samples[1].truth.ignore.sum() == 1
    page.click("button[data-view=confused]")
    page.focus(".cell")
    page.keyboard.press("u")  # as it was before
    assert page.inner_text("#count") == "1"


def test_boxes_are_moved_drawn_and_deleted_on_the_image(page, made, tmp_path):
    dataset, _ = made
    page.click("button[data-view=missed]")
    page.click(".cell")
    page.uncheck("#advance")
    page.wait_for_timeout(300)

    def at(x: float, y: float) -> list[float]:
        return page.evaluate("([x, y]) => viewer.place(x, y)", [x, y])

    def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
        there = at(*end)
        page.mouse.move(*at(*start))
        page.mouse.down()
        page.mouse.move(*there, steps=4)
        page.mouse.up()

    page.keyboard.press("f")
    page.wait_for_timeout(100)
    drag((25, 25), (31, 33))  # the first cell, by its middle
    page.select_option("#draw", "wbc")
    drag((250, 205), (290, 245))
    page.mouse.click(*at(85, 25))  # the second cell
    page.keyboard.press("Delete")
    lines = _exported_in_viewer(page, tmp_path)
    by_op = {(line.op, line.new_box_xyxy is not None): line for line in lines}
    assert by_op["ok", True].new_box_xyxy == pytest.approx((11, 13, 51, 53), abs=1)  # its class is what it was
    assert by_op["class", False].box_xyxy == pytest.approx((250, 205, 290, 245), abs=1)
    after, counts = replay_corrections(dataset, lines)
    assert counts == {"moved": 1, "added": 1, "deleted": 1}
    assert len(after.samples[0].truth) == 20
    assert chosen_kind(page) == "no cell"
    drag((85, 25), (95, 35))  # what is deleted stays where it is, and deleted
    assert _exported_in_viewer(page, tmp_path) == lines
    page.evaluate("viewer.fit()")
    page.keyboard.press("z")  # the deletion is withdrawn, and its cell is selected
    page.wait_for_timeout(100)
    drag((85, 25), (91, 25))
    page.keyboard.press("0")  # the class that it has keeps the move
    (moved,) = (line for line in _exported_in_viewer(page, tmp_path) if line.box_xyxy == (65, 5, 105, 45))
    assert (moved.op, moved.new_class) == ("class", "wbc")
    assert moved.new_box_xyxy == pytest.approx((71, 5, 111, 45), abs=1)
    page.keyboard.press("o")  # right where it is now
    assert replay_corrections(dataset, _exported_in_viewer(page, tmp_path))[1]["moved"] == 2
    page.keyboard.press("i")
    drag((91, 25), (91, 31))
    (ignored,) = (line for line in _exported_in_viewer(page, tmp_path) if line.box_xyxy == (65, 5, 105, 45))
    assert (ignored.op, ignored.new_class, ignored.old_class) == ("ignore", "", "wbc")
    assert ignored.new_box_xyxy == pytest.approx((71, 11, 111, 51), abs=1)
    assert chosen_kind(page) == "ignored"


def _exported_in_viewer(page, tmp_path: Path) -> list[Correction]:
    (tmp_path / "now.jsonl").write_text(page.evaluate("exported()"), encoding="utf-8")
    return read_corrections(tmp_path / "now.jsonl")


def test_a_moved_box_stays_a_blast_where_the_model_knows_none(made, tmp_path, browser):
    """A detector alone finds nucleated cells: blasts are shown as white cells, and stay blasts in the dataset."""
    dataset, predictions = made
    white = [found.with_columns(label=np.ones(len(found), np.int64)) for found in predictions.candidates]
    predictions = replace(predictions, candidates=tuple(white), nucleated=True)
    file = write_page(make_review(dataset, predictions), tmp_path / "page")
    opened = browser.new_page()
    opened.goto(file.as_uri())
    row = opened.evaluate("images[0].kind.findIndex((kind, row) => boxOf(images[0], row)[0] === 125)")
    opened.evaluate("(row) => { correct([[0, row]], 'move', '', [128, 5, 168, 45]); correct([[0, row]], 'ok'); }", row)
    lines = _exported_in_viewer(opened, tmp_path)
    opened.close()
    after, counts = replay_corrections(dataset, lines)
    assert counts == {"moved": 1} and after.samples[0].truth.counts() == dataset.samples[0].truth.counts()


def test_a_page_of_images_whose_names_are_not_utf8(made, tmp_path):
    dataset, predictions = made
    path = dataset.samples[0].path.rename(tmp_path / "s\udcff.png")
    dataset = replace(dataset, samples=(replace(dataset.samples[0], path=path), *dataset.samples[1:]))
    assert '"s?.png"' in write_page(make_review(dataset, predictions), tmp_path / "page").read_text("utf-8")


def test_ignored_regions_are_shown_and_can_be_counted_again(made, tmp_path, browser):
    dataset, predictions = made
    ignore = np.arange(20) == 1
    samples = [replace(s, truth=s.truth.with_columns(ignore=ignore)) for s in dataset]
    dataset = replace(dataset, samples=tuple(samples))
    file = write_page(make_review(dataset, predictions), tmp_path / "page")
    opened = browser.new_page(viewport={"width": 1300, "height": 1100})
    opened.goto(file.as_uri())
    opened.click("button[data-view=missed]")
    opened.click(".cell")
    opened.keyboard.press("f")
    opened.wait_for_timeout(200)
    assert opened.locator("#filters input[data-kind=ignored]").is_checked()
    opened.mouse.click(*opened.evaluate("viewer.place(85, 25)"))
    assert chosen_kind(opened) == "ignored"
    opened.keyboard.press("0")
    after, counts = replay_corrections(dataset, _exported_in_viewer(opened, tmp_path))
    opened.close()
    assert not after.samples[0].truth.ignore.any() and counts == {"counted again": 1}


def test_the_type_that_a_reviewer_gives_arrives_in_the_dataset(page, made, tmp_path):
    """A key of a type corrects class and type; the next correction of the cell replaces both."""
    dataset, _ = made
    page.click("button[data-view=confused]")
    page.focus(".cell")
    page.keyboard.press("3")
    (line,) = _exported(page, tmp_path)
    assert (line.op, line.new_class, line.new_type) == ("class", "wbc", "monocyte")
    after, _ = replay_corrections(dataset, [line])
    row = int(np.abs(after.samples[2].truth.boxes_xyxy - np.array(line.box_xyxy)).max(axis=1).argmin())
    assert after.samples[2].truth.cell_type[row] == "monocyte"
    again, _ = replay_corrections(after, [replace(line, new_class="blast", new_type="")])
    assert again.samples[2].truth.cell_type[row] == ""


def test_suggestions_are_uncertain_and_unlike_the_labelled_images(made):
    dataset, predictions = made
    odd = replace(dataset.samples[3], truth=None)
    write_image(odd.path, np.full((250, 310, 3), 90, np.uint8))
    plain = replace(dataset.samples[2], truth=None)
    found = list(predictions.candidates)
    found[3] = found[3].with_columns(blast_probability=np.full(20, 0.5))
    dataset = replace(dataset, samples=(*dataset.samples[:2], plain, odd))
    chosen = suggest(dataset, replace(predictions, candidates=tuple(found)), 5)
    assert [c.sample for c in chosen] == [3, 2]  # only unlabelled images
    assert (
        "20 of 20 nucleated cells uncertain" in chosen[0].reason
        and "standard deviations from the nearest" in chosen[0].reason
    )


def test_a_dataset_is_exported_by_its_name(tmp_path, monkeypatch):
    voc(tmp_path / "sets/bccd", {"BloodImage_1": voc_xml([("WBC", 1, 1, 20, 20)])})
    monkeypatch.setenv("BLASTDET_DATA", str(tmp_path / "sets"))
    right = Correction(image="BloodImage_1.jpg", box_xyxy=(0, 0, 20, 20), op="ok", old_class="wbc")
    append_corrections(tmp_path / "c.jsonl", [right])
    summary = export_corrected("bccd", [tmp_path / "c.jsonl"], tmp_path / "out")
    assert (summary.n_before, summary.n_after) == (1, 1) and (tmp_path / "out/annotations").is_dir()
    with pytest.raises(FormatError, match="contains the source"):
        export_corrected("bccd", [tmp_path / "c.jsonl"], tmp_path / "sets")
