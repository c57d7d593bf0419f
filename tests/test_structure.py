"""The house rules that code can check: which package may import which, and that importing does nothing."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCIENCE = sorted((ROOT / "fulora").rglob("*.py"))
CARRIED = [f for f in SCIENCE if f.relative_to(ROOT / "fulora").parts[0] in ("diffusion", "classify", "evaluate")]


def imported(file: Path) -> set[str]:
    """Return the top-level packages a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_the_science_imports_neither_ray_nor_the_sweeps():
    assert SCIENCE
    assert {str(f): bad for f in SCIENCE if (bad := imported(f) & {"ray", "sweeps"})} == {}


def _modules(files: list[Path]) -> list[str]:
    return [name for name in map(module_of, files) if not name.endswith("__main__")]


def test_what_is_carried_to_a_bare_machine_imports_without_ray_pyarrow_and_pandas():
    program = "import sys\nfor name in ('ray', 'pyarrow', 'pandas', 'sweeps', 'tyro'): sys.modules[name] = None\n"
    program += "".join(f"import {name}\n" for name in _modules(CARRIED))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["fulora.recipes", "fulora.cli", "sweeps.cli"])
def test_importing_a_command_loads_no_heavy_library_and_writes_nothing(module, tmp_path):
    heavy = ("torch", "diffusers", "transformers", "timm", "ray", "matplotlib", "sklearn", "scipy")
    program = f"import {module}, sys; print([n for n in {heavy!r} if n in sys.modules])"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(file: Path, modules: set[str]) -> set[str]:
    """Return the modules of our own that a file imports anywhere in it, those for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            of_module = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            found |= of_module or {node.module}
    return (found & modules) - {module_of(file)}


ROOMS = (
    "core", "engine", "sources", "ranks", "images", "grid", "scores", "cost", "report", "publish", "console",
)  # fmt: skip
"""The rooms of sweeps: each may import those before it. The modules beside them (`study`, `run`, `cli`, ...) may all.
"""
AGAINST = {
    ("sweeps.sources.audit", "sweeps.images.rows"): "the audit of all images reads the synthetic ones",
    (
        "sweeps.ranks.candidate",
        "sweeps.images.draw",
    ): "a candidate is scored by images drawn as any set is",
    ("sweeps.console.status", "sweeps.study"): "`plan` prints the study that it plans",
    ("sweeps.cost.estimate", "sweeps.study"): "what is estimated is a study's plan",
}
"""Imports against the direction, and why."""


def room_of(module: str) -> int:
    """Return where a module of sweeps stands among the rooms."""
    room = module.split(".")[1] if "." in module else ""
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def test_a_room_imports_only_rooms_before_it():
    files = {module_of(file): file for file in sorted((ROOT / "sweeps").rglob("*.py"))}
    assert {f.name for f in (ROOT / "sweeps").iterdir() if f.is_dir() and (f / "__init__.py").is_file()} == set(ROOMS)
    pairs = {(name, other) for name, file in files.items() for other in imported_modules(file, set(files))}
    assert len(pairs) > 200
    assert {pair for pair in pairs if room_of(pair[0]) < room_of(pair[1])} == set(AGAINST)


def test_only_the_engine_imports_ray():
    importing = {file.relative_to(ROOT).parts[:2] for file in ROOT.glob("sweeps/**/*.py") if "ray" in imported(file)}
    assert importing == {("sweeps", "engine")}


@pytest.mark.parametrize("package", ["fulora", "sweeps"])
def test_no_modules_import_each_other_in_a_circle(package):
    files = {module_of(file): file for file in sorted((ROOT / package).rglob("*.py"))}
    graph = {name: imported_modules(file, set(files)) for name, file in files.items()}
    assert sum(map(len, graph.values())) > len(graph) / 2
    assert list(TopologicalSorter(graph).static_order())


def test_every_dependency_is_pinned_by_name_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    normal = {re.split(r"[\[<>=!~ ]", d)[0].lower().replace("_", "-") for d in wanted}
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert normal - pinned == set()


def test_fulora_installs_without_what_only_sweeps_needs():
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
    alone, every = (
        {re.split(r"[\[<>=]", one)[0] for one in listed}
        for listed in (content["dependency-groups"]["science"], content["project"]["dependencies"])
    )
    of_fulora, of_sweeps = (
        {names.get(name, name) for file in (ROOT / package).rglob("*.py") for name in imported(file)}
        for package in ("fulora", "sweeps")
    )
    more = every - alone
    assert "ray" in more and alone < every
    assert not of_fulora & more and more <= of_sweeps
    assert alone - of_fulora <= {"accelerate", "torchvision"}, "diffusers' and timm's own needs"


def code_of(markdown: str) -> list[str]:
    """Return the lines of code blocks and the inline code of a text, comments left out."""
    lines = [line.split("#")[0] for line in markdown.splitlines() if line.startswith("    ")]
    prose = "\n".join(line for line in markdown.splitlines() if not line.startswith("    "))
    return lines + re.findall(r"`([^`]+)`", prose)


def commands_named(program: str, markdown: str) -> set[str]:
    """Return the words after a program's name in a text's code: `sweeps lora | sample RECIPE` names two."""
    found = [re.search(rf"(?:^|[\s/]){program} +([a-z][a-z-]*(?: \| [a-z-]+)*)", code) for code in code_of(markdown)]
    return {word for match in found if match for word in match[1].split(" | ")}


def test_the_readme_names_every_command_and_no_other():
    from fulora.cli import COMMANDS
    from sweeps.cli import COMMANDS as SWEEPS

    readme = (ROOT / "README.md").read_text()
    assert commands_named("sweeps", readme) == set(SWEEPS)
    assert commands_named("fulora", readme) == set(COMMANDS)
    assert commands_named("sweeps", "    sweeps fly runs/demo   # no verb\n`sweeps` decides") == {"fly"}


def test_the_readme_names_make_targets_that_are_there():
    named = commands_named("make", (ROOT / "README.md").read_text())
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def private_names(file: Path) -> list[str]:
    """Return the private names of the packages that a file imports, reads, replaces or names in a text."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            found += [a.name for a in node.names if a.name.startswith("_") or "._" in (node.module or "")]
        elif isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr, re.IGNORECASE):
            owner = ast.unparse(node.value)
            found += [f"{owner}.{node.attr}"] if owner not in ("self", "cls", "os") else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "getattr")):
            values = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            found += [value for value in values if value.rpartition(".")[2].startswith("_")]
    return found


ON_TORCHS_OWN = {ROOT / "tests/fulora/pretended_card.py"}
"""Stands on private interfaces of torch, as its docstring says; test_pretended_card.py fails where they change."""


def test_tests_use_no_private_names():
    files = sorted(set((ROOT / "tests").rglob("*.py")) - ON_TORCHS_OWN)
    assert {str(f.relative_to(ROOT)): bad for f in files if (bad := private_names(f))} == {}


def test_no_file_is_longer_than_300_lines():
    files = [file for folder in ("fulora", "sweeps", "tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert {str(f.relative_to(ROOT)): n for f in files if (n := len(f.read_text().splitlines())) > 300} == {}
