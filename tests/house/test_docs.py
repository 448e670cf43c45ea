"""README.md and docs/ say what is true: command lines parse, names exist, links lead somewhere, defaults are right."""

from __future__ import annotations

import argparse
import ast
import configparser
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnkd.cli import command
from nnkd.plugin import options, registry

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FLAGS = {"-a": "aggregator", "-s": "sampler", "-tr": "student", "-as": "auxiliary_scheduler"}
TRAINING = (
    ("nnkd/training/options.py", "TrainingOptions"),
    ("plugins/nnkd_unet/unet_trainer.py", "UNetOptions"),
    ("plugins/nnkd_hsnet/trainer.py", "HSNetOptions"),
    ("plugins/nnkd_networks/swin_trainer.py", "SwinUNETROptions"),
    ("plugins/nnkd_networks/mamba_trainer.py", "MambaUNetOptions"),
    ("plugins/nnkd_unet/punet_trainer.py", "PUNetOptions"),
    ("plugins/nnkd_litemedsam/slices/options.py", "SliceOptions"),
    ("plugins/nnkd_litemedsam/slices/options.py", "BoxOptions"),
    ("plugins/nnkd_litemedsam/slices/options.py", "DistillOptions"),
)
THIRD_PARTY = (ROOT / "tests" / "third_party", ROOT / "tests" / "third_party_student")
EXAMPLE = ("tests/third_party_student/nnkd_dilated/trainer.py", "DilatedOptions")
PLAN_VALUES = {"batch_size", "patch_size"}  # --set takes these too; they go into the plans
NNUNETS = {"nnUNetTrainer"}  # students that are nnU-Net's own


def commands() -> dict[str, str]:
    """Module by console script, from setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options.entry_points"]["console_scripts"].strip().splitlines()
    return {name.strip(): target.split(":")[0].strip() for name, target in (line.split("=") for line in lines)}


def code(text: str) -> Iterator[str]:
    """The lines of fenced and indented code of a Markdown page, continued lines joined; then its inline code."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^ {4}.*\n)+", rest, flags=re.MULTILINE)
    for block in (*fenced, *indented):
        yield from re.sub(r"[\\`]\n\s*", " ", block).splitlines()
    yield from (inline for inline in re.findall(r"`([^`\n]+)`", rest) if " " in inline)


def command_lines(page: Path) -> list[str]:
    """Every nnKD command of a page with its arguments; templates with ... or NAME are none. Variables become 0."""
    parts = [
        re.sub(r"\$\w+", "0", part.strip())
        for line in code(page.read_text(encoding="utf-8"))
        for part in (*re.split(r"&&|\|| {3,}", line.strip()), *re.findall(r"\((nnKD_.*?)\)", line))
    ]
    return [part for part in parts if part.startswith("nnKD_") and "..." not in part and " NAME" not in part]


LINES = [(page.name, line) for page in PAGES for line in command_lines(page)]


class Parsed(Exception):  # noqa: N818 - nothing went wrong
    """The command line was understood; the command would start now."""


@pytest.fixture
def stopped(monkeypatch):
    """Commands stop where they would start to work, except for handing on to a conversion's own command line."""

    def run(action, arguments, *_):
        if hasattr(arguments, "conversion"):
            return action(arguments)
        raise Parsed

    monkeypatch.setattr(command, "run", run)


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line[:60]}" for page, line in LINES])
def test_command_lines_parse(page, line, stopped):
    name, *arguments = shlex.split(line, comments=True)
    module = importlib.import_module(commands()[name])
    with pytest.raises(Parsed):
        module.main(arguments)


def test_there_are_command_lines():
    assert {line.split()[0] for _, line in LINES} == set(commands())


@pytest.mark.parametrize(
    "line", ["nnKD_split -d 701 --no_such_option", "nnKD_train 701 2d", "nnKD_aggregate -o x -d 7"]
)
def test_a_wrong_command_line_would_be_seen(line, stopped):
    name, *arguments = line.split()
    with pytest.raises(SystemExit):
        importlib.import_module(commands()[name]).main(arguments)


# --- names ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plugins() -> registry.Registry:
    """nnkd's own plugins, and the examples that the pages show."""
    found = registry.Registry()
    ours = ("basic", "fairness", "hsnet", "litemedsam", "networks", "sam", "sat", "totalsegmentator", "ucb", "unet")
    for module in (*(f"nnkd_{name}" for name in ours), "nnkd_example", "nnkd_dilated"):
        with pytest.MonkeyPatch.context() as patch:
            for folder in THIRD_PARTY:
                patch.syspath_prepend(folder)
            found.add(module, importlib.import_module(module))
    return found


def values(words: list[str], flag: str) -> list[str]:
    """What follows every occurrence of a flag, up to the next flag."""
    found = []
    for start in [i for i, word in enumerate(words) if word == flag]:
        for word in words[start + 1 :]:
            if re.match(r"--?[A-Za-z]", word):
                break
            found.append(word)
    return found


def test_names_in_command_lines_exist(plugins):
    for page, line in LINES:
        words = shlex.split(line, comments=True)
        if words[0] == "nnKD_predict_teachers":
            wanted = [("teacher", word.rpartition("=")[2]) for word in values(words, "-t")]
        else:
            wanted = [(kind, word) for flag, kind in FLAGS.items() for word in values(words, flag)[:1]]
        for kind, name in wanted:
            assert name in NNUNETS.union(plugins.names(kind)), f"{page}: {line}: there is no {kind} '{name}'"


def test_options_in_command_lines_exist(plugins):
    known = {*PLAN_VALUES, *(name for file, cls in (*TRAINING, EXAMPLE) for name in defaults(file, cls))}
    for page, line in LINES:
        words = shlex.split(line, comments=True)
        aliases = dict(word.split("=") if "=" in word else (word, word) for word in values(words, "-t"))
        for setting in values(words, "--set"):
            owner, _, option = setting.partition("=")[0].rpartition(".")
            if not owner:
                allowed = known
            elif words[0] == "nnKD_predict_teachers":
                allowed = {"channel", *options.options_of(plugins.load("teacher", aliases[owner]))}
            else:
                kinds = (FLAGS[flag] for flag in ("-s", "-as") if owner in values(words, flag))
                kind = next(kinds, "aggregator")
                allowed = set(options.options_of(plugins.load(kind, owner)))
            assert option in allowed, f"{page}: {line}: there is no option '{setting}'"


def test_the_readme_lists_every_plugin_with_its_licence():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| `-\w+` \|.*\| ([^|]+) \|$", text, flags=re.MULTILINE))
    own = registry.Registry()
    for name in (
        "basic",
        "litemedsam",
        "sam",
        "totalsegmentator",
        "sat",
        "hsnet",
        "unet",
        "networks",
        "fairness",
        "ucb",
    ):
        own.add(name, importlib.import_module(f"nnkd_{name}"))
    assert table == {r.entry.name: r.entry.licence for r in own.entries}


# --- the options of a training ----------------------------------------------------------------------------------


def defaults(file: str, cls: str) -> dict[str, object]:
    """Fields of a dataclass with their defaults, read without importing torch and nnU-Net (4 s)."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls)
    return {n.target.id: ast.literal_eval(n.value) for n in body if isinstance(n, ast.AnnAssign)}


HEADINGS = (
    "nnUNetTrainerKD",
    "nnUNetTrainerUNet",
    "nnUNetTrainerHSNet",
    "nnUNetTrainerSwinUNETR",
    "nnUNetTrainerMambaUNet",
    "nnUNetTrainerPUNet",
    "trainers on slices",
    "nnUNetTrainerLiteMedSAM",
    "nnUNetTrainerRepViTDistill",
)


@pytest.mark.parametrize(("heading", "source"), list(zip(HEADINGS, TRAINING, strict=True)))
def test_the_option_tables_are_the_codes(heading, source):
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    section = re.search(rf"^### Options of {heading}$(.*?)(?=^#|\Z)", text, flags=re.MULTILINE | re.DOTALL).group(1)
    table = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, flags=re.MULTILINE))
    expected = defaults(*source)
    assert list(table) == list(expected)
    for name, default in expected.items():
        said = table[name] if isinstance(default, str) else ast.literal_eval(table[name].capitalize())  # true -> True
        assert (type(said), said) == (type(default), default), name


# --- links ------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} links to {file}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in PAGES if p.parent.name == "docs" and f"(docs/{p.name})" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    """Paths such as `nnkd/data/dataset.py`, from the repository's root or, for plugins, from theirs."""
    roots = (ROOT, ROOT / "plugins", *THIRD_PARTY)
    named = re.findall(
        r"(?<![\w/])(?:nnkd\w*|plugins|tests|benchmarks|dataset_conversion)/[\w/]+\.py",
        page.read_text(encoding="utf-8"),
    )
    assert [path for path in named if not any((root / path).is_file() for root in roots)] == []


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or stands in one."""
    module, _, inside = dotted.rpartition(".")
    try:
        if importlib.util.find_spec(dotted):
            return True
    except ModuleNotFoundError:  # its parent is no package
        pass
    return bool(module) and hasattr(importlib.import_module(module), inside)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_named_exist(page):
    """Dotted names such as `nnkd.votes.bits` or `nnkd.votes.bits.fit`, braces left out."""
    named = re.findall(r"`(nnkd(?:_[a-z]+)?(?:\.\w+)+)(?:\([^`]*\))?`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not name.startswith("nnkd_example") and not exists(name)] == []


# --- names outside command lines ----------------------------------------------------------------------------------

FOREIGN_FLAGS = {  # of nnU-Net's commands, of pip, of SAT
    "-pfile", "-pl", "--npz", "--rcd_dir", "--val", "--val_best", "--disable_checkpointing", "--no-index",
    "--find-links",
}  # fmt: skip
USERS_FILES = {"FILE.json", "pytorch_model.bin"}  # what a user, or a publisher, calls as he likes
ENDINGS = "jsonl|json|tsv|csv|html|png|pth|pt|b2nd|npz|onnx|safetensors|sh|zip|pkl|bin"


def inline(page: Path) -> list[str]:
    """A page's inline code."""
    text = re.sub(r"^```\w*\n.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`]+)`", text)


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Every option of every command and conversion."""
    found: set[str] = set()
    original = argparse._ActionsContainer.add_argument

    def add_argument(self, *names, **keywords):
        found.update(name for name in names if name.startswith("-"))
        return original(self, *names, **keywords)

    conversions = (f"nnkd_dataset_conversion.{file.stem}" for file in (ROOT / "dataset_conversion").glob("*.py"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse._ActionsContainer, "add_argument", add_argument)
        for module in (*commands().values(), *conversions):
            if main := getattr(importlib.import_module(module), "main", None):
                with pytest.raises(SystemExit):
                    main(["--help"])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_named_exist(page, flags):
    """In inline code that is no command line of ours, such as `--box_margin`; of benchmarks: they are read, not run."""
    benchmarks = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "benchmarks").glob("*.py"))
    known = flags | FOREIGN_FLAGS | set(re.findall(r'"(--?\w[\w-]*)"', benchmarks))
    pieces = [piece for piece in inline(page) if not re.match(r"(pip|nox|pytest|python -m|nnUNetv2_|#|git)", piece)]
    named = {flag for piece in pieces for flag in re.findall(r"(?<![\w\]}-])(--?[A-Za-z]\w*(?:-\w+)*)", piece)}
    assert sorted(named - known) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_entries_that_are_named_exist(page, plugins):
    """`-t litemedsam`, `-a staple` and the like, and options of entries, such as `majority.ties`."""
    kinds = {"-t": "teacher", **FLAGS}
    for piece in inline(page):
        for flag, name in re.findall(r"(?:^| )(-as|-tr|-t|-a|-s) ([a-z]\w*|nnUNetTrainer\w+)(?= |$)", piece):
            if not piece.startswith(("nnKD_", "nox ")) and name != "none":
                assert name in NNUNETS.union(plugins.names(kinds[flag])), f"there is no {kinds[flag]} '{name}'"
        if setting := re.fullmatch(r"([a-z]\w*)\.([a-z]\w*)(=.*)?", piece):
            for kind in ("teacher", "aggregator", "sampler", "auxiliary_scheduler"):
                if setting[1] in plugins.names(kind):
                    assert setting[2] in {"channel", *options.options_of(plugins.load(kind, setting[1]))}, piece


@pytest.fixture(scope="module")
def constants() -> str:
    """All strings of the code, one a line, f-strings with their gaps left out."""
    found: set[str] = set()
    for folder in ("nnkd", "plugins", "dataset_conversion", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    tables = [file.read_text(encoding="utf-8") for file in (ROOT / "nnkd").rglob("*.json")]
    return "\n".join([*found, *tables])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_on_disk_that_are_named_are_written_or_read(page, constants):
    """`consensus.json`, and the trees of files: some string of the code has that name, or its end after a word in
    capitals that stands for a name."""
    text = page.read_text(encoding="utf-8")
    trees = re.findall(r"^```text\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    names = {name for part in (*inline(page), *trees) for name in re.findall(rf"[\w.-]+\.(?:{ENDINGS})\b", part)}
    here = {file.name for folder in ("docs", "benchmarks", "tests") for file in (ROOT / folder).rglob("*.*")}
    missing = []
    for name in names - USERS_FILES - here:
        end = re.sub(
            r"^(?:[A-Z]+_)*[A-Z]+(?=[_.])|^nnUNetPlans(?:_(?:2d|NAME))?(?=[_.])|(?<=fold_)[X0](?=\.)", "", name
        )
        stem, _, ending = end.rpartition(".")
        if end not in constants and not (stem and f"{stem}" in constants and f".{ending}" in constants):
            missing.append(name)
    assert missing == []


def definitions(file: Path) -> set[str]:
    """Names of the functions, methods, classes and constants of a module."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    constants = {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    return constants | {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


PLACES = re.split(r"\n(?=\d+\. |\||- |\n)", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("place", [p for p in PLACES if ".py`" in p], ids=lambda place: place.strip()[:40])
def test_what_the_tour_names_stands_in_the_file_before_it(place):
    """`nnkd/votes/bits.py`, `fit`: the function stands in the last file that was named before it."""
    file, missing = None, []
    for name in re.findall(r"`([^`]+)`", place):
        if name.endswith(".py"):
            file = ROOT / name
        elif file and re.fullmatch(r"_?[a-z]\w*", name) and name not in definitions(file):
            missing.append(name)
    assert missing == []


# --- limits ---------------------------------------------------------------------------------------------------------

LIMITING = r"\b(no command|not yet|only|at most|no more than|not tested|not seeded)\b"


def limits() -> list[str]:
    """The points of docs/limits.md."""
    text = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    return [" ".join(point.split()) for point in re.split(r"^- ", text, flags=re.MULTILINE)[1:]]


@pytest.mark.parametrize("point", limits(), ids=lambda point: point[:40])
def test_a_limit_names_the_test_that_fails_when_it_falls(point):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", point)
    assert named or not re.search(LIMITING, point, flags=re.IGNORECASE), "no test is named"
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file} has no {name}"


def test_the_versions_of_nnunet_that_are_named_are_those_required():
    """docs/limits.md names one, setup.cfg a range that holds no other."""
    said = re.search(r"nnunetv2 (\d+)\.(\d+)", " ".join(limits()))
    major, minor = said.groups()
    wanted = f"nnunetv2>={major}.{minor},<{major}.{int(minor) + 1}"
    assert wanted in (ROOT / "setup.cfg").read_text(encoding="utf-8").split()
