"""The documentation is true: its commands run, its links resolve, its generated pages are fresh.

A page's ```console blocks are executed in order in one folder; each line that starts with ``$ `` is a command, what
follows is the output it must give, where ``...`` stands for anything. ```python blocks are executed too. A comment
before a block says what is special about it: ``<!-- slow -->``, ``<!-- realdata -->``, ``<!-- exit 2 -->`` (the exit
code of its last command), ``<!-- file: NAME -->`` (the block is written to that file), ``<!-- not run: why -->``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from lookalike import allidb1

REPO = Path(__file__).resolve().parent.parent
DOCS = REPO / "docs"
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
EXECUTED = (
    REPO / "README.md",
    DOCS / "tutorial.md",
    *sorted((DOCS / "how-to").glob("*.md")),
    DOCS / "api" / "README.md",
)
PAGES = sorted(
    [*REPO.glob("*.md"), *DOCS.rglob("*.md"), *(REPO / "datasets").rglob("*.md")], key=lambda page: page.as_posix()
)

_FENCE = re.compile(r"(?ms)(?:^<!-- (?P<note>[^\n]*) -->\n+)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    kind: str
    note: str
    text: str

    @property
    def name(self) -> str:
        """Page and line, as pytest shows them."""
        return f"{self.page.relative_to(REPO).as_posix()}:{self.line}"

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command of a console block with the output expected (empty: any)."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            while command.endswith("\\"):
                more, _, output = output.partition("\n")
                command = command[:-1] + more.lstrip()
            yield command, output.strip()


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, with the comment before each."""
    if not page.is_file():
        return []
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: m.start("kind")].count("\n") + 1, m["kind"], m["note"] or "", m["text"])
        for m in _FENCE.finditer(text)
    ]


def _runnable() -> list[object]:
    found = []
    for page in EXECUTED:
        for block in blocks(page):
            runs = block.kind in ("console", "python") or block.note.startswith("file:")
            if runs and not block.note.startswith("not run"):
                marks = [getattr(pytest.mark, name) for name in ("slow", "realdata") if name in block.note.split()]
                found.append(pytest.param(block, marks=marks, id=block.name))
    return found


@pytest.fixture(scope="module")
def sandboxes(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """A folder for each page, like a checkout after installation, with a look-alike of ALL-IDB1 beside it."""
    points = {"Im001_1": [(400, 400), (900, 700)], "Im002_1": [(600, 500)]}
    folders = {page: tmp_path_factory.mktemp(f"{page.parent.name}-{page.stem}") for page in EXECUTED}
    for folder in folders.values():
        for name in ("datasets", "configs"):
            shutil.copytree(REPO / name, folder / name)
        allidb1(folder / "ALL_IDB1", ["Im001_1", "Im002_1", "Im034_0"], points)
        (folder / "guard").mkdir()
        (folder / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    return folders


# Imported by every Python that a page starts, and executed in this one. A library may swallow the error, so the attempt
# is noted as well.
GUARD = """
import pathlib, sys
log_file = pathlib.Path(__file__).with_name("network.log")
def watch(event, args):
    if log_file is None or event not in ("socket.connect", "socket.getaddrinfo"):
        return
    where = args[1] if event == "socket.connect" else args[:2]
    if isinstance(where, tuple) and where[0] not in (None, "localhost", "127.0.0.1", "::1"):
        with open(log_file, "a") as log:
            log.write(f"{event} {where}\\n")
        raise OSError(f"network: {event} {where}")
sys.addaudithook(watch)
"""


# A Python hook cannot be taken away again: it is set once, and does nothing while it has no file to write to.
_guarded: dict[str, Any] = {"__file__": __file__}


def _environment(folder: Path, data: Path) -> dict[str, str]:
    return {
        "BLASTDET_DATA": str(data),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "guard"),
        "PYTHONIOENCODING": "utf-8",
        "COLUMNS": "120",
    }


def _in_a_process(words: list[str], folder: Path, data: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **_environment(folder, data)}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _in_this_process(command: str, folder: Path, data: Path) -> subprocess.CompletedProcess[str]:
    """A command of blastdet without a process of its own, which saves the seconds that its packages take to load."""
    from blastdet.cli import cli

    if "watch" not in _guarded:
        exec(GUARD, _guarded)
        _guarded["log_file"] = None
    with contextlib.chdir(folder), warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # as in a process of its own
        for name, value in _environment(folder, data).items():
            patch.setenv(name, value)
        words = [os.path.expandvars(word) for word in shlex.split(command)]
        patch.setitem(_guarded, "log_file", folder / "guard" / "network.log")
        done = CliRunner().invoke(cli, words[1:])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def _needs_a_process(block: Block, command: str) -> bool:
    """Whether it is not blastdet alone, or on the page that a new user types from, or a training, which forks."""
    words = command.split()
    if block.page == REPO / "README.md" or words[0] != "blastdet" or words[1] == "train":
        return True
    return bool(set("|<>;&*`") & set(command))


def _run(words: list[str] | str, folder: Path, data: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a sandbox; fails if it reached for the network."""
    run = _in_this_process(words, folder, data) if isinstance(words, str) else _in_a_process(words, folder, data)
    log = folder / "guard" / "network.log"
    attempts = log.read_text(encoding="utf-8") if log.is_file() else ""
    log.unlink(missing_ok=True)
    assert not attempts, f"{words} reached for the network: {attempts}"
    return run


@pytest.mark.parametrize("block", _runnable())
def test_block_does_what_the_page_says(block: Block, sandboxes: dict[Path, Path], data_dir: Path) -> None:
    sandbox = sandboxes[block.page]
    if block.note.startswith("file:"):
        (sandbox / block.note.removeprefix("file:").strip()).write_text(block.text, encoding="utf-8")
        return
    if block.kind == "python":
        steps: list[tuple[list[str] | str, str]] = [([sys.executable, "-W", "error", "-c", block.text], "")]
    else:
        shell = ["bash", "-c"]
        steps = [([*shell, c] if _needs_a_process(block, c) else c, output) for c, output in block.commands()]
    code = int(re.search(r"exit (\d+)", block.note).group(1)) if "exit" in block.note else 0  # type: ignore[union-attr]
    for number, (words, expected) in enumerate(steps, start=1):
        run = _run(words, sandbox, data_dir)
        output = run.stdout + run.stderr
        assert run.returncode == (code if number == len(steps) else 0), f"{words}\n{output}"
        assert matches(expected, output), f"{words}\nexpected:\n{expected}\n\nfound:\n{output}"


def test_guard_notes_an_attempt_even_if_it_is_swallowed(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError: pass"
    with pytest.raises(AssertionError, match=r"reached for the network: .*192\.0\.2\.1"):
        _run([sys.executable, "-c", code], tmp_path, data_dir)


def test_guard_notes_an_attempt_here(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only while a command of a page runs."""
    import socket

    def reach() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection(("192.0.2.1", 80), 0.01)

    (tmp_path / "guard").mkdir()
    _in_this_process("blastdet --version", tmp_path, data_dir)
    reach()
    assert not (tmp_path / "guard/network.log").exists()
    with monkeypatch.context() as patch:
        patch.setitem(_guarded, "log_file", tmp_path / "guard/network.log")
        reach()
    assert "192.0.2.1" in (tmp_path / "guard/network.log").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(
    notebook: Path, sandboxes: dict[Path, Path], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLASTDET_SMALL", "1")
    run = _run([sys.executable, str(DOCS / "run_notebook.py"), str(notebook)], sandboxes[EXECUTED[0]], data_dir)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_use_the_api_and_are_small(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert not re.search(r"subprocess|os\.system|CliRunner|^[!%]", code, re.MULTILINE), "use the Python API"
    has_outputs = any(cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    assert has_outputs == (notebook.name != "train-and-evaluate.ipynb"), "all but the one that trains have outputs"
    assert not re.search("/(home|root|tmp|work)/|Warning", notebook.read_text(encoding="utf-8"))
    assert notebook.stat().st_size < 300_000


def test_every_public_name_has_its_place_in_the_api_pages() -> None:
    import blastdet

    shown = set(
        re.findall(r"^::: ([\w.]+)$", "\n".join(p.read_text("utf-8") for p in (DOCS / "api").glob("*.md")), re.M)
    )
    for name in blastdet.__all__:
        if name != "__version__":
            found = getattr(blastdet, name)
            documented = {f"{found.__module__}.{found.__qualname__}", found.__module__} & shown
            assert documented, f"blastdet.{name} is on no page in docs/api"
    overview = (DOCS / "api" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`blastdet\.(\w+)`", overview)) == set(blastdet.__all__) - {"__version__"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation site, built strictly: a broken link or an undocumented parameter is an error."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    run = subprocess.run(words, cwd=REPO, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.mark.slow
def test_site_loads_nothing_from_elsewhere_and_can_be_searched(site: Path, browser: Any) -> None:
    """Opened from the folder, without a server: every page, at the width of a phone; then a search."""
    asked: list[str] = []
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.on("request", lambda request: asked.append(request.url))
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri(), wait_until="load")
        spare = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert spare <= 0, f"{path.relative_to(site)} is wider than a phone by {spare} px"
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto((site / "index.html").as_uri())
    page.click("input[name=query]")
    page.locator("input[name=query]").press_sequentially("glossary", delay=40)  # as a person types: search has to start
    page.wait_for_selector(".md-search-result__item", state="attached", timeout=60_000)
    page.close()
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


def matches(expected: str, output: str) -> bool:
    """Whether an output is the one a page shows; ``...`` stands for anything, the width of gaps is free."""

    def words(text: str) -> str:
        return " ".join(text.split())

    if not expected:
        return True
    parts = [re.escape(words(part)) for part in expected.split("...")]
    return re.fullmatch(" ?.* ?".join(parts), words(output)) is not None


def test_matches_tells_outputs_apart() -> None:
    assert matches("wbc ... 9\n...", "wbc    10   9\nrbc 3")
    assert matches("a\n...\nb", "a b")
    assert not matches("wbc 9", "wbc 10")
    assert not matches("... failed", "all done")


def test_every_shown_command_is_run_or_says_why_not() -> None:
    for page in PAGES:
        for block in blocks(page):
            shows = block.kind in ("bash", "sh", "shell", "console", "python")
            executed = page in EXECUTED or block.note.startswith("not run")
            assert not shows or executed, f"{block.name}: a command outside the pages that are executed"
            assert block.kind not in ("bash", "sh", "shell"), f"{block.name}: use a console block, which is executed"
            if block.note.startswith("not run"):
                assert re.fullmatch(r"not run: .{10,}", block.note), f"{block.name}: say why it is not run"


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    """Pages as docs/generate.py writes them now; a process of its own, since click remembers help options."""
    words = [sys.executable, str(DOCS / "generate.py"), "--print"]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    pages: dict[str, str] = json.loads(run.stdout)
    return pages


def test_generated_files_are_fresh(generated: dict[str, str]) -> None:
    reference = {f"reference/{page.name}" for page in (DOCS / "reference").glob("*.md")}
    assert reference <= set(generated), "run `make docs`"
    stale = [name for name, text in generated.items() if (DOCS / name).read_text(encoding="utf-8") != text]
    assert not stale, f"{stale}: run `make docs`"


def test_generated_pages_show_no_python_internals(generated: dict[str, str]) -> None:
    assert not [name for name, text in generated.items() if re.search(r"FieldInfo|Annotated\[|NoneType", text)]
    row = next(line for line in generated["reference/config.md"].splitlines() if line.startswith("| `folds`"))
    assert "| `int` (≥ 2, ≤ 100) or `laboratories` or `null` |" in row


def test_every_command_has_a_page_and_an_example_and_exit_codes(generated: dict[str, str]) -> None:
    from blastdet.cli import COMMANDS

    for name in COMMANDS:
        text = generated[f"reference/{name}.md"]
        assert f"Usage: blastdet {name}" in text
        assert f"  blastdet {name} " in text.replace("$ blastdet", "  blastdet"), f"{name}: --help shows no example"
        assert "Exit codes" in text, f"{name}: --help names no exit codes"


def test_every_command_is_used_in_the_executed_pages() -> None:
    from blastdet.cli import COMMANDS

    shown = [command for page in EXECUTED for b in blocks(page) if b.kind == "console" for command, _ in b.commands()]
    for name in COMMANDS:
        assert any(f"blastdet {name} " in command for command in shown), f"{name}: in no page that is executed"


def _links(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())
def test_links_resolve(page: Path) -> None:
    for link in _links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert target.is_relative_to(REPO), f"{page.name}: {link} leaves the repository"
        if anchor:
            assert anchor in _anchors(target), f"{page.name}: no heading for {link}"


def test_pages_named_in_code_exist() -> None:
    files = [*(REPO / "blastdet").rglob("*.py"), *(REPO / "configs").glob("*.yaml"), *PAGES, REPO / "Makefile"]
    for file in files:
        for name in re.findall(r"\bdocs/[\w/.-]*\.(?:md|py|yaml|jpg)\b", file.read_text(encoding="utf-8")):
            assert (REPO / name).is_file(), f"{file.relative_to(REPO)}: {name} does not exist"


def test_every_decision_is_listed() -> None:
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    decisions = sorted(page.name for page in (DOCS / "decisions").glob("0*.md"))
    assert [f"{number:04d}" for number in range(1, len(decisions) + 1)] == [name[:4] for name in decisions]
    for name in decisions:
        assert f"({name})" in index, f"{name} is not in the list of decisions"


def test_pages_name_no_machine() -> None:
    index = re.compile(r"--(?:extra-)?index-url|pypi\.\w+|/simple\b")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(?:work|root|home/\w+|tmp)/", text), page
        assert not index.search(text), page


def test_readme_is_one_screen() -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 75
    for words in ("make demo", "make test", "AGPL-3.0-or-later", "Not for use in diagnostic procedures"):
        assert words in text
    picture = re.search(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert picture, "README shows no picture"
    if (REPO / picture.group(1)).is_file():  # test_links_resolve fails where it is missing
        assert (REPO / picture.group(1)).stat().st_size < 300_000
