"""From a dataset and a detections file to the report: the two commands, the Python API, and the page in a browser."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result
from lookalike import allidb1

import blastdet
from blastdet.cli import cli
from blastdet.core.constants import RESEARCH_USE
from blastdet.core.errors import BlastdetError, ConfigError, DependencyError
from blastdet.core.types import CELL_CLASSES, Dataset, Detections, Sample
from blastdet.datasets.formats import registry
from blastdet.datasets.formats.coco_results import read_results
from blastdet.evaluation.comparison import compare
from blastdet.evaluation.evaluate import EvaluateOptions, Evaluation, evaluate
from blastdet.evaluation.predict import Predictions, from_model
from blastdet.evaluation.reporting.html_report import render
from blastdet.imaging.io import write_image
from blastdet.inference.model import Model
from blastdet.models.fake_detector import MARKS, FakeDetector, fake_card

MPP = (0.5, 0.5)


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images with marks of pure colour, as COCO; the last two belong to one group."""
    folder, rng, samples = tmp_path_factory.mktemp("marks"), np.random.default_rng(0), []
    for i in range(6):
        image, boxes, labels = np.full((160, 200, 3), 230, np.uint8), [], []
        for name, x in zip(MARKS, (10, 70, 130), strict=True):
            y, side = int(rng.integers(10, 100)), {"wbc": 30, "rbc": 15, "platelet": 6}[name]
            image[y : y + side, x : x + side] = MARKS[name]
            boxes.append((x, y, x + side, y + side))
            labels.append(CELL_CLASSES.index(name))
        write_image(folder / f"smear{i}.png", image)
        truth = Detections(boxes, label=labels)
        group = f"g{min(i, 4)}"
        samples.append(Sample(folder / f"smear{i}.png", (200, 160), MPP, group, "test", None, tuple(MARKS), truth))
    registry.write(Dataset("marks", folder, tuple(samples)), folder / "coco", "coco")
    return folder / "coco"


def _document(dataset: Dataset, keep: Callable[[int], bool] = lambda _: True) -> dict[str, Any]:
    """Detections as `blastdet detect --format coco` writes them: the truth, with some left out."""
    images = [{"id": i + 1, "file_name": s.path.name, "width": 200, "height": 160} for i, s in enumerate(dataset)]
    rows = []
    for i, sample in enumerate(dataset):
        assert sample.truth is not None
        for (x1, y1, x2, y2), label in zip(sample.truth.boxes_xyxy.tolist(), sample.truth.label.tolist(), strict=True):
            if keep(len(rows)):
                box = [x1, y1, x2 - x1, y2 - y1]
                rows.append({"image_id": i + 1, "category_id": label + 1, "bbox": box, "score": 0.9 - 0.01 * i})
            else:
                rows.append({"image_id": i + 1, "category_id": label + 1, "bbox": [0, 0, 9, 9], "score": 0.6})
    rows = [{"id": n + 1, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0, **r} for n, r in enumerate(rows)]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CELL_CLASSES)]
    return {"images": images, "annotations": rows, "categories": categories}


@pytest.fixture(scope="module")
def found(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detections file in which every fifth cell is misplaced."""
    path = tmp_path_factory.mktemp("found") / "found.coco.json"
    path.write_text(json.dumps(_document(registry.read(data), lambda n: n % 5 != 4)))
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def evaluated(data: Path, found: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """Result of the command, and its output folder."""
    out = tmp_path_factory.mktemp("evaluated") / "new" / "report"
    return run("evaluate", "--data", data, "--detections", found, "--out", out), out


@pytest.mark.slow
def test_evaluate_writes_table_json_csv_and_page(evaluated: tuple[Result, Path]) -> None:
    result, out = evaluated
    assert result.exit_code == 0, result.output
    assert re.search(r"^wbc +6 +0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", result.output, re.MULTILINE)
    assert "per cell, class-aware matching, IoU ≥ 0.5, score ≥ 0.5" in result.output
    names = {path.name for path in out.iterdir()}
    tables = {"per_class.csv", "figures.csv", "confusion.csv", "precision_recall.csv", "froc.csv"}
    assert names == {"report.html", "plots", "metrics.json"} | tables
    plots = sorted((out / "plots").iterdir())
    assert len(plots) == 6 and plots[0].name.startswith("1-")
    assert all(ElementTree.parse(plot).getroot().tag.endswith("svg") for plot in plots)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["notice"] == RESEARCH_USE
    one = metrics["evaluations"][0]
    assert one["average_precision"]["checked_against"].startswith("pycocotools 2.")
    assert "5 groups" in one["average_precision"]["intervals"]
    rows = {row["class"]: row for row in _rows(out / "per_class.csv")}
    assert float(rows["all"]["AP50"]) == one["average_precision"]["rows"][-1]["AP50"]
    blind = one["confusion"][0]
    assert (blind["matching"], blind["iou"], blind["thresholds"]["wbc"]) == ("class-blind", 0.5, 0.5)
    assert np.array(blind["matrix"])[:-1].sum() == 18


def test_evaluate_a_model(data: Path, tmp_path: Path) -> None:
    """A detector that finds the marks exactly, through the Python API: everything from image to figure runs."""
    dataset, models = registry.read(data), Model(FakeDetector(fake_card(mpp=0.5)), tmp_path)
    done: list[int] = []
    predictions = from_model(models, dataset, mpp=(0.5, 0.5), progress=lambda: done.append(1))
    evaluation = evaluate(dataset, predictions, options=EvaluateOptions(resamples=5))
    assert len(done) == len(dataset)
    assert evaluation.rows[-1]["AP"] == pytest.approx(1)
    assert predictions.about["card"]["name"] == "fake"
    assert predictions.thresholds == dict.fromkeys(MARKS, 0.5)
    assert from_model(models, dataset, threshold=0.25).thresholds == dict.fromkeys(MARKS, 0.25)


def test_an_unreadable_image_is_an_error_or_is_listed(data: Path, tmp_path: Path) -> None:
    dataset, models = registry.read(data), Model(FakeDetector(fake_card(mpp=0.5)), tmp_path)
    gone = replace(dataset.samples[0], path=tmp_path / "gone.png")
    broken = replace(dataset, samples=(gone, *dataset.samples[1:]))
    with pytest.raises(BlastdetError, match=r"gone\.png"):
        from_model(models, broken)
    failed: list[str] = []
    predictions = from_model(models, broken, failed=failed)
    assert len(failed) == 1 and "gone.png" in failed[0]
    assert [len(part) for part in predictions.candidates] == [0, 3, 3, 3, 3, 3]


@pytest.mark.slow
def test_several_datasets_are_rows_of_one_table(data: Path, tmp_path: Path) -> None:
    """Without --weights and --detections the shipped default model runs."""
    other = tmp_path / "other"
    shutil.copytree(data, other)
    places = ("--data", data, "--data", other)
    result = run("evaluate", *places, "--out", tmp_path / "r", "--mpp", "0.5", "--device", "cpu")
    assert result.exit_code == 0, result.output
    rows = [row for row in _rows(tmp_path / "r" / "per_class.csv") if row["class"] == "all"]
    assert len(rows) == 2 and rows[0]["AP"] == rows[1]["AP"]
    page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert page.count('<h2 id="part-') == 2
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())["evaluations"][0]
    assert metrics["model"]["card"]["name"] == "default"
    for option in ("--detections", "--images", "--other", "--corrections"):
        refused = run("evaluate", *places, option, data, "--out", tmp_path / "r2")
        assert refused.exit_code == 2 and f"{option}: expected one --data with this option, got 2" in refused.output
    assert not (tmp_path / "r2").exists()


def test_subgroups_by_size_ascend_and_facts_are_not_empty(data: Path) -> None:
    sides, label = (30, 40, 5, 17), [1, 1, 3, 3]  # white cells of 12 and 16 µm, platelets of 2 and 7 µm
    boxes = [[50 * i, 0, 50 * i + side, side] for i, side in enumerate(sides)]
    first = next(iter(registry.read(data)))
    truth = Detections(boxes, label=label)
    samples = [replace(first, truth=truth, mpp=(0.4, 0.4), annotated=("wbc", "platelet"))]
    found = (Detections(boxes, label=label, score=[0.9] * 4),)
    about: dict[str, Any] = {
        "card": {
            "name": "x", "probe": "", "trials": [], "calibration": None, "text": "y" * 400,
            "thresholds": {"wbc": {"value": 0.123456, "chosen_on": "val"}, "rbc": {"value": 0.5, "chosen_on": "val"}},
            "metrics": [{"metric": "AP50", "value": 0.75, "ci95": None, "sha256": "0123456789abcdef" * 4}],
            "training": {"seed": 7, "config": {"lr": 0.1, "augment": {"scale": [0.5, 2.0], "paste": True}}},
        }
    }  # fmt: skip
    predictions = Predictions("x", found, {"wbc": 0.5, "platelet": 0.5}, about=about)
    result = evaluate(Dataset("sized", data, tuple(samples)), predictions, options=EvaluateOptions(resamples=5))
    page = render([result])
    section = page.partition("Subgroups")[2].partition("Counts per image")[0]
    ends = re.findall(r"(under 5|5–10|10–15|15 µm and over)", section)
    assert len(ends) > 1
    assert ends == sorted(ends, key=["under 5", "5–10", "10–15", "15 µm and over"].index)
    assert "data: images" in page and "y…" in page
    assert page.count("IoU ≥ 0.5, score ≥ 0.5") == 1  # the rule of matching, once
    assert not re.search("card: (probe|trials|calibration)|ci95", page)
    facts = html.unescape(re.sub("<[^>]+>", " ", page.partition("Data and model")[2].partition("</body>")[0]))
    assert not set("{}[]'") & set(facts), "a Python literal in the report"
    words = " ".join(facts.split())
    for expected in (
        "card: thresholds value chosen on wbc 0.1235 val rbc 0.5 val",
        "card: metrics metric value sha256 AP50 0.75 0123456789ab…",
        "card: training: config: augment scale: 0.5, 2 paste: yes",
    ):
        assert expected in words


def test_an_option_is_read_under_its_old_name(data: Path, found: Path, tmp_path: Path) -> None:
    result = run("evaluate", "--data", data, "--format", "coco", "--detections", found, "--out", tmp_path / "r")
    assert result.exit_code == 0 and "note: --format is now --from" in result.output
    equals = run("evaluate", "--data", data, "--format=voc", "--detections", found, "--out", tmp_path / "r2")
    assert equals.exit_code == 2 and "expected annotation files of this format" in equals.output


def test_a_dataset_without_cells_gives_no_warning(data: Path, tmp_path: Path) -> None:
    """Warnings are errors in these tests: a plot without curves must not ask for a legend."""
    empty = [replace(sample, truth=Detections.empty()) for sample in registry.read(data)]
    nothing = Dataset("empty", data, tuple(empty))
    found = tuple(Detections([[0, 0, 9, 9]], label=[1], score=[0.9]) for _ in empty)
    page = render([evaluate(nothing, Predictions("x", found, {"wbc": 0.5}), options=EvaluateOptions(resamples=5))])
    assert "Evaluation: x" in page


@pytest.mark.slow
def test_compare_two_files(data: Path, found: Path, tmp_path: Path) -> None:
    perfect = tmp_path / "perfect.json"
    perfect.write_text(json.dumps(_document(registry.read(data))))
    result = run("compare", found, perfect, "--data", data, "--out", tmp_path / "r")
    assert result.exit_code == 0, result.output
    rows = _rows(tmp_path / "r" / "comparison.csv")
    everything = next(row for row in rows if row["class"] == "all" and row["figure"] == "AP50")
    assert float(everything["value_B"]) == pytest.approx(1)
    assert float(everything["difference"]) > 0 and everything["verdict"] == "B higher"
    assert "paired bootstrap over 5 groups" in everything["interval"]
    assert "Differences" in (tmp_path / "r" / "report.html").read_text()


def test_a_model_does_not_differ_from_itself(data: Path, found: Path) -> None:
    dataset = registry.read(data)
    candidates = tuple(read_results(found, dataset))
    evaluation = evaluate(
        dataset, Predictions("x", candidates, dict.fromkeys(MARKS, 0.5)), options=EvaluateOptions(resamples=50)
    )
    for difference in compare(evaluation, evaluation, resamples=50).differences:
        interval = difference.interval
        assert (interval.low, interval.high, difference.verdict) == (0, 0, "cannot be told apart")
    fewer = replace(dataset, samples=dataset.samples[:5])
    other = evaluate(
        fewer, Predictions("y", candidates[:5], dict.fromkeys(MARKS, 0.5)), options=EvaluateOptions(resamples=50)
    )
    with pytest.raises(ConfigError, match="expected two evaluations of the same images, got x on marks and y on marks"):
        compare(evaluation, other)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda d: d["annotations"][0].update(score=float("nan")), "score"),
        (lambda d: d["annotations"][0].update(bbox=[900, 0, 9, 9]), "expected boxes within the image of 200 x 160 px"),
        (lambda d: d["annotations"][0].update(image_id=99), "99"),
        (lambda d: d["images"].pop(), "expected all images of marks, got 5 of 6"),
        (lambda d: [r.update(category_id=1) for r in d["annotations"]], "Annotated: wbc, rbc, platelet"),
    ],
)
def test_bad_detections_are_one_line_and_leave_nothing(
    change: Callable[[dict[str, Any]], Any], line: str, data: Path, tmp_path: Path
) -> None:
    document = _document(registry.read(data))
    change(document)
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(document))
    result = run("evaluate", "--data", data, "--detections", bad, "--out", tmp_path / "r")
    assert result.exit_code == 2, result.output
    assert line in result.output and "bad.json" in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_missing_options_are_errors(data: Path, found: Path, tmp_path: Path) -> None:
    split = run("evaluate", "--data", data, "--split", "val", "--detections", found, "--out", tmp_path)
    assert split.exit_code == 2 and "Splits in this dataset: test" in split.output
    for words in (("evaluate", "--detections", found), ("compare", found, found)):
        taken = run(*words, "--data", data, "--out", found)
        assert taken.exit_code == 2 and "expected a folder, got a file" in taken.output
    scale = run("evaluate", "--data", data, "--mpp", "big", "--detections", found, "--out", tmp_path)
    assert (
        scale.exit_code == 2
        and "expected data, auto, X or X,Y (µm/px between 0.001 and 100), got 'big'" in scale.output
    )


@pytest.mark.parametrize("module", ["pycocotools.coco", "matplotlib", "jinja2"])
def test_a_missing_package_is_named(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    truth = Detections([(0, 0, 10, 10)])
    sample = Sample(tmp_path / "gone.png", (200, 160), None, annotated=("wbc",), truth=truth)
    data = Dataset("gone", tmp_path, (sample,))
    with pytest.raises(DependencyError, match=rf"{module.split('.')[0]}: not installed. Run: .*blastdet\[evaluate\]'"):
        render([evaluate(data, Predictions("x", (truth,), {"wbc": 0.5}), options=EvaluateOptions(resamples=5))])


def test_missing_images_only_remove_the_crops(tmp_path: Path) -> None:
    truth = Detections([(0, 0, 10, 10)])
    sample = Sample(tmp_path / "gone.png", (200, 160), None, annotated=("wbc",), truth=truth)
    data = Dataset("gone", tmp_path, (sample,))
    page = render(
        [
            evaluate(
                data,
                Predictions("<b>x</b>", (Detections.empty(),), {"wbc": 0.5}),
                options=EvaluateOptions(resamples=20),
            )
        ]
    )
    assert "image not found" in page and "wbc missed" in page
    assert "<b>x</b>" not in page and "&lt;b&gt;x&lt;/b&gt;" in page
    assert "no figures by cell size" in page


def test_page_with_blasts_shows_the_tests_of_allidb(tmp_path: Path) -> None:
    truth = Detections([(10, 10, 110, 110), (10, 10, 110, 110)], label=[0, 1])
    samples = [
        Sample(tmp_path / f"{i}.png", (200, 160), (0.1, 0.1), None, None, label, ("blast", "wbc"), truth[[i]])
        for i, label in enumerate(("all", "healthy"))
    ]
    data = Dataset("two", tmp_path, tuple(samples))
    predictions = Predictions("perfect", (truth[[0]], truth[[1]]), {"blast": 0.5, "wbc": 0.5})
    page = render([evaluate(data, predictions, options=EvaluateOptions(resamples=20))])
    assert "image test, at least 1 blast" in page and "cell test" in page
    assert "FROC" in page


@pytest.fixture
def evaluation(data: Path, found: Path) -> Evaluation:
    dataset = registry.read(data)
    candidates = tuple(read_results(found, dataset))
    return evaluate(
        dataset, Predictions("x", candidates, dict.fromkeys(MARKS, 0.5)), options=EvaluateOptions(resamples=50)
    )


def test_an_evaluation_as_a_data_frame(evaluation: Evaluation) -> None:
    frame = evaluation.to_pandas().set_index("class")
    assert frame.index.tolist() == ["wbc", "rbc", "platelet", "all"]
    assert frame["n"].tolist() == [6, 6, 6, 18]
    named = {figure.name: figure for figure in evaluation.cells["class-aware"]["rbc"]}
    for column, figure in {"precision": "precision", "recall": "sensitivity", "F1": "F1"}.items():
        expected = (named[figure].value, named[figure].interval.low, named[figure].interval.high)
        assert tuple(frame.loc["rbc", [column, f"{column}_lower", f"{column}_upper"]]) == expected
        assert np.isnan(frame.loc["all", column])
    assert frame.loc["all", "AP50"] == evaluation.ap.figures()["AP50"]
    assert frame.loc["all", "AP50:95"] == evaluation.ap.figures()["AP"]
    assert (frame["AP50_lower"] <= frame["AP50"]).all() and (frame["AP50"] <= frame["AP50_upper"]).all()


def test_an_evaluation_shows_itself(evaluation: Evaluation) -> None:
    assert repr(evaluation).startswith("x on marks: 6 images\n") and "per cell, class-aware" in repr(evaluation)
    table = ElementTree.fromstring(evaluation._repr_html_())
    rows = [[cell.text for cell in row] for row in table.findall("tbody/tr")]
    assert [row[:2] for row in rows] == [["wbc", "6"], ["rbc", "6"], ["platelet", "6"], ["all", "18"]]
    assert RESEARCH_USE in str(table.find("caption").text)  # type: ignore[union-attr]


def test_a_comparison_as_table_data_frame_and_report(evaluation: Evaluation, tmp_path: Path) -> None:
    comparison = blastdet.compare(evaluation, evaluation, names=("first <b>", "second"), resamples=20)
    frame = comparison.to_pandas()
    assert (frame["A"] == "first <b>").all() and (frame["difference"] == 0).all()
    assert repr(comparison).startswith("A first <b>, B second on marks: 6 images\n")
    assert "first &lt;b&gt;" in comparison._repr_html_()
    written = comparison.report(tmp_path / "out")
    assert all(path.exists() for path in written) and written[-1].name == "comparison.csv"
    assert len(_rows(written[-1])) == len(frame)


def test_an_earlier_report_is_only_replaced_with_overwrite(
    data: Path, found: Path, evaluation: Evaluation, tmp_path: Path
) -> None:
    (tmp_path / "froc.csv").write_text("of another program")
    words = ("evaluate", "--data", data, "--detections", found, "--out", tmp_path)
    refused = run(*words)
    assert refused.exit_code == 2, refused.output
    line = "froc.csv: exists already. Choose another --out, or replace it with --overwrite"
    assert line in refused.output and "AP50" not in refused.output  # before anything is measured
    with pytest.raises(ConfigError, match=r"froc\.csv: exists already\. Choose another folder, or pass overwrite=True"):
        evaluation.report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["froc.csv"]
    assert (tmp_path / "froc.csv").read_text() == "of another program"
    evaluation.report(tmp_path, overwrite=True)
    assert (tmp_path / "froc.csv").read_text().startswith("model,data")
    again = run("compare", found, found, *words[1:3], *words[5:])
    assert again.exit_code == 2 and "report.html: exists already" in again.output


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_too_long_a_name_is_refused_before_anything_is_measured(
    data: Path, found: Path, tmp_path: Path, command: str
) -> None:
    files = (found, found) if command == "compare" else ("--detections", found)
    refused = run(command, "--data", data, *files, "--out", tmp_path / "missing" / ("a" * 300))
    assert refused.exit_code == 2 and "expected a name of at most 230 bytes, got 300" in refused.output
    assert "AP50" not in refused.output and not list(tmp_path.iterdir())


def test_the_report_of_the_api_equals_that_of_the_command(
    data: Path, found: Path, evaluated: tuple[Result, Path], tmp_path: Path
) -> None:
    evaluation = blastdet.evaluate(registry.read(data), found)
    written = evaluation.report(str(tmp_path / "r"))
    assert {path.name for path in written} == {path.name for path in evaluated[1].iterdir()}
    for name in ("metrics.json", "report.html", "figures.csv"):
        assert (tmp_path / "r" / name).read_bytes() == (evaluated[1] / name).read_bytes()


def test_the_iou_of_the_confusion_matrices(data: Path) -> None:
    """Boxes with an IoU of 0.6 are found at 0.5 and false at 0.7; average precision stays."""
    dataset = registry.read(data)
    shrunk = []
    for sample in dataset:
        assert sample.truth is not None
        boxes = sample.truth.boxes_xyxy.copy()
        boxes[:, 2] = boxes[:, 0] + 0.6 * (boxes[:, 2] - boxes[:, 0])
        shrunk.append(sample.truth.with_columns(boxes_xyxy=boxes, score=np.full(len(boxes), 0.9)))
    predictions = Predictions("x", tuple(shrunk), dict.fromkeys(MARKS, 0.5))
    loose, strict = (
        evaluate(dataset, predictions, options=EvaluateOptions(iou=iou, resamples=5)) for iou in (0.5, 0.7)
    )
    assert loose.confusions[0].matrix.trace() == 18 and strict.confusions[0].matrix.trace() == 0
    assert loose.ap.figures() == strict.ap.figures()


def test_what_cannot_be_evaluated_is_an_error(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"model: expected a model, predictions, .* got int"):
        evaluate(registry.read(data), 3)


def test_evaluation_has_no_global_side_effects() -> None:
    """No pyplot, no backend, no logging: these belong to the user's program."""
    code = (
        "import logging, sys, importlib, pkgutil, blastdet.evaluation as package\n"
        "for module in pkgutil.walk_packages(package.__path__, 'blastdet.evaluation.'):\n"
        "    importlib.import_module(module.name)\n"
        "assert 'matplotlib' not in sys.modules and not logging.getLogger().handlers\n"
        "from blastdet.evaluation.reporting.plots import svg\n"
        "import matplotlib\n"
        "before = matplotlib.rcParams['font.size'], matplotlib.rcParams['svg.fonttype']\n"
        "svg(lambda axes: axes.plot([0, 1]), 'line')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert (matplotlib.rcParams['font.size'], matplotlib.rcParams['svg.fonttype']) == before\n"
        "assert not logging.getLogger().handlers\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_page_is_the_same_every_time(data: Path, found: Path, tmp_path: Path, evaluated: tuple[Result, Path]) -> None:
    run("evaluate", "--data", data, "--detections", found, "--out", tmp_path)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    for path in written:
        assert path.read_bytes() == (evaluated[1] / path.relative_to(tmp_path)).read_bytes()


def test_page_in_a_browser(evaluated: tuple[Result, Path], browser: Any) -> None:
    """No request, no message on the console, no sideways scrolling; dark, light and on paper."""
    address = (evaluated[1] / "report.html").as_uri()
    asked: list[str] = []
    colours = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme, viewport={"width": 800, "height": 900})
        page.on("console", lambda message: asked.append(message.text))
        page.on("pageerror", lambda error: asked.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert page.evaluate("document.documentElement.scrollWidth") <= 800
        assert page.locator("h2").first.inner_text() == "In words"
        crops = page.locator(".crops figure").count()
        assert crops > 0 and page.locator(".crops image").count() == crops
        for plot in page.locator(".plots svg").all():
            box = plot.bounding_box()
            assert box is not None and box["height"] > 100
        assert scheme == "light" or len(page.pdf()) > 10_000
        page.close()
    assert colours == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}
    assert [url for url in asked if url != address and not url.startswith("data:")] == []


def test_look_alike_of_allidb1_without_boxes(tmp_path: Path) -> None:
    """Truth of centroids only: squares of 15 µm stand in for boxes, the two official tests are printed."""
    allidb1(tmp_path / "set", ["Im001_1", "Im037_0"], {"Im001_1": [(300, 300), (900, 600)]})
    side, rows = 120, []
    for number, (x, y) in enumerate([(300, 300), (905, 610), (1500, 200)], 1):
        box = [x - side / 2, y - side / 2, side, side]
        rows.append({"id": number, "image_id": "Im001_1", "category_id": 1, "bbox": box, "score": 0.9})
    (tmp_path / "found.json").write_text(json.dumps(rows))
    words = ("evaluate", "--data", tmp_path / "set", "--split", "all", "--detections", tmp_path / "found.json")
    result = run(*words, "--mpp", "0.125", "--out", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert re.search(r"image test, at least 1 blast: TP 1, FN 0, TN 1, FP 0, errors 0, sens", result.output)
    assert re.search(r"cell test: TP 2, FN 0, sensitivity 1.000 .*, false blasts 1$", result.output, re.MULTILINE)
    assert "boxes with several centroids" not in result.output
    assert "no centroids of the other white cells (--other)" in result.output
    test = json.loads((tmp_path / "r" / "metrics.json").read_text())["evaluations"][0]["cell_test"]
    assert (test["tp"], test["tn"], test["CE"], test["false_blasts"]) == (2, None, None, 1)


@pytest.mark.slow
def test_corrected_and_published_labels_are_both_evaluated(data: Path, found: Path, tmp_path: Path) -> None:
    dataset = registry.read(data)
    sample = next(s for s in dataset if s.path.stem == "smear0")
    assert sample.truth is not None
    operation = {"image": sample.path.name, "op": "remove", "class": "wbc", "reason": "made up"}
    box = sample.truth.with_classes("wbc").boxes_xyxy[0].tolist()
    (tmp_path / "fix.json").write_text(json.dumps({"corrections": [{**operation, "box_xyxy": box}]}))
    fix = ("--corrections", tmp_path / "fix.json")
    result = run("evaluate", "--data", data, "--detections", found, *fix, "--out", tmp_path / "r")
    assert result.exit_code == 0, result.output
    rows = [row for row in _rows(tmp_path / "r" / "per_class.csv") if row["class"] == "wbc"]
    assert [(row["data"].partition(" (")[2], row["n_truth"]) for row in rows] == [
        ("", "6"),
        ("corrected by fix.json)", "5"),
    ]
