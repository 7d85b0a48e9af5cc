"""Write docs/reference/: the commands from their --help, outputs and settings from the code that has them.

`make docs` runs it. tests/test_docs.py fails when a page is stale, or when a command or a field has no words.
What the code cannot say about its fields lies in fields.yaml, field by field; a field without words, or words
without a field, is an error.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

DOCS = Path(__file__).resolve().parent
REFERENCE = DOCS / "reference"
WIDTH = 100
HEAD = "<!-- Written by docs/generate.py: change the code or docs/fields.yaml, then run `make docs`. -->\n"

# Objects whose keys are data (classes, file names, packages), not fields.
OPEN = {"versions", "model.files", "model.second_stage.files", "model.second_stage.thresholds", "parameters.thresholds"}
OPEN |= {"counts", "per_mm2", "per_field_of_0.038_mm2"}


def pages() -> dict[str, str]:
    """All pages: file name below docs/reference/ -> text."""
    from blastdet.cli import COMMANDS

    words = yaml.safe_load((DOCS / "fields.yaml").read_text(encoding="utf-8"))
    made = {f"{name}.md": command_page(name) for name in COMMANDS}
    made["outputs.md"] = outputs_page(words)
    made["config.md"] = models_page("Training configuration", "config", words)
    made["card.md"] = models_page("Model card", "card", words)
    made["README.md"] = index_page(COMMANDS)
    return {name: HEAD + "\n" + text for name, text in made.items()}


def index_page(commands: Mapping[str, str]) -> str:
    """List of all pages of the reference."""
    lines = ["# Reference", "", "| command | what it does |", "|---|---|"]
    lines += [f"| [`blastdet {name}`]({name}.md) | {words} |" for name, words in commands.items()]
    lines += [
        "",
        "- [Outputs of `detect`](outputs.md): every field of the JSON, CSV, COCO and GeoJSON files",
        "- [Training configuration](config.md): every entry of the YAML file",
        "- [Model card](card.md): every entry of `card.json`",
    ]
    return "\n".join(lines) + "\n"


def command_page(name: str) -> str:
    """Help of one command, and of the commands below it."""
    from blastdet.cli import cli

    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    parts = [f"# blastdet {name}\n"]
    for title, text in _helps(command, f"blastdet {name}", None):
        heading = "" if title == f"blastdet {name}" else f"## {title}\n\n"
        parts.append(f"{heading}```text\n{text}\n```\n")
    return "\n".join(parts)


def _helps(command: click.Command, path: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    context = click.Context(command, parent, info_name=path if parent is None else path.split()[-1])
    context.terminal_width = WIDTH
    context.help_option_names = ["-h", "--help"]
    yield path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _helps(below, f"{path} {name}", context)


def outputs_page(words: Mapping[str, Any]) -> str:
    """Fields of what `detect` writes, taken from files that it wrote about a made-up picture."""
    found = written_fields()
    text = ["# Outputs of `detect`\n", words["outputs_intro"].strip() + "\n"]
    for kind, fields in found.items():
        section = words["outputs"][kind]
        _must_agree(fields, section["fields"], f"outputs.{kind}")
        text += [f"## {section['title']}\n", section["about"].strip() + "\n", "| field | meaning |\n|---|---|"]
        text += [f"| `{field}` | {section['fields'][field]} |" for field in fields]
        text.append("")
    return "\n".join(text).rstrip() + "\n"


def written_fields() -> dict[str, list[str]]:
    """Field names of each output format, read from real files."""
    import numpy as np

    from blastdet.datasets.crop_dataset import CropRow
    from blastdet.imaging.io import write_image
    from blastdet.inference.pipeline import Models, Options, detect_smear
    from blastdet.inference.writers import coco_entry, write_coco, write_smear
    from blastdet.models.fake_classifier import FakeClassifier
    from blastdet.models.fake_detector import MARKS, FakeDetector

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "smear.png")
        canvas = np.full((96, 96, 3), 255, np.uint8)
        canvas[10:30, 10:30] = MARKS["wbc"]  # an erythroblast, says the fake classifier
        canvas[50:80, 50:80] = (0, 60, 255)  # and it is unsure of this one
        write_image(picture, canvas)
        detector = FakeDetector()
        report = detect_smear(picture, Models(detector, Path(folder), FakeClassifier()), Options(mpp=(0.5, 0.5)))
        report = replace(report, warnings=("for the documentation",))
        files = write_smear(report, "smear.png", Path(folder, "smear"), ("json", "csv", "geojson"))
        by_suffix = {file.suffix: file.read_text(encoding="utf-8") for file in files}
        coco = write_coco([coco_entry(report, "smear.png")], detector.card.classes, Path(folder, "c.json"))
        return {
            "json": list(_flat(json.loads(by_suffix[".json"]))),
            "csv": next(csv.reader(by_suffix[".csv"].splitlines())),
            "coco": list(_flat(json.loads(coco.read_text(encoding="utf-8")))),
            "geojson": list(_flat(json.loads(by_suffix[".geojson"]))),
            "crops": list(CropRow.__dataclass_fields__),
        }


def _flat(value: Any, path: str = "") -> Iterator[str]:
    """Paths of all fields of a JSON document; of a list, those that any entry has."""
    if isinstance(value, dict) and path not in OPEN:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from _flat({key: inner for entry in value for key, inner in entry.items()}, f"{path}[]")
    else:
        yield path


def models_page(title: str, section: str, words: Mapping[str, Any]) -> str:
    """Fields of pydantic models as tables, the main one first."""
    models = _models(section)
    text = [f"# {title}\n", words[section]["about"].strip() + "\n"]
    for model in models:
        text.append(f"## {model.__name__}\n")
        text.append(" ".join((model.__doc__ or "").split("\n\n")[0].split()) + "\n")
        text.append("| field | type | default | meaning |\n|---|---|---|---|")
        given = words[section].get(model.__name__, {})
        silent = [name for name, field in model.model_fields.items() if not field.description]
        _must_agree(silent, given, f"{section}.{model.__name__}")
        for name, field in model.model_fields.items():
            row = (f"`{name}`", _type(field), _default(field), field.description or given[name])
            text.append(f"| {' | '.join(row)} |")
        text.append("")
    return "\n".join(text).rstrip() + "\n"


def _models(section: str) -> list[type[BaseModel]]:
    from blastdet.core import model_card
    from blastdet.training import config

    if section == "config":
        return [
            config.TrainConfig,
            config.DataConfig,
            config.AugmentConfig,
            config.ClassifyConfig,
            config.CropsConfig,
            config.CropAugmentConfig,
        ]
    return [
        model_card.Card,
        model_card.InputSpec,
        model_card.Threshold,
        model_card.RejectionRule,
        model_card.Calibration,
        model_card.ValidationCounts,
        model_card.Training,
        model_card.DataSource,
        model_card.Metric,
    ]


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    plain = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else ""
    name = plain or str(annotation).replace("typing.", "")
    for module in ("blastdet.core.model_card.", "blastdet.training.config."):
        name = name.replace(module, "")
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [f"{sign} {getattr(m, key):g}" for m in field.metadata for key, sign in signs.items() if hasattr(m, key)]
    limits += [f"at least {m.min_length}" for m in field.metadata if getattr(m, "min_length", None)]
    return f"`{name}`".replace("|", "\\|") + (f", {', '.join(limits)}" if limits else "")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _must_agree(fields: Iterable[str], words: Mapping[str, str], where: str) -> None:
    missing, idle = sorted(set(fields) - set(words)), sorted(set(words) - set(fields))
    if missing or idle:
        raise SystemExit(f"docs/fields.yaml: {where}: no words for {missing}, no field for {idle}")


def main() -> None:
    """Write all pages, and remove those of commands that are gone; with ``--print``, show them as JSON instead."""
    made = pages()
    if sys.argv[1:] == ["--print"]:
        json.dump(made, sys.stdout)
        return
    REFERENCE.mkdir(exist_ok=True)
    for name, text in made.items():
        (REFERENCE / name).write_text(text, encoding="utf-8", newline="\n")
    for page in REFERENCE.glob("*.md"):
        if page.name not in made:
            page.unlink()
    sys.stdout.write(f"{len(made)} pages written to {REFERENCE}\n")


if __name__ == "__main__":
    main()
