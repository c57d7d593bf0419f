"""The house rules that code can check: which package may import which, and that importing does nothing."""

import ast
import re
import subprocess
import sys
import tomllib
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
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in files]
    return [name for name in names if not name.endswith("__main__")]


def test_what_is_carried_to_a_bare_machine_imports_without_ray_pyarrow_and_pandas():
    program = "import sys\nfor name in ('ray', 'pyarrow', 'pandas', 'sweeps', 'tyro'): sys.modules[name] = None\n"
    program += "".join(f"import {name}\n" for name in _modules(CARRIED))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["fulora.recipes", "fulora.cli", "sweeps.cli"])
def test_importing_a_command_loads_no_heavy_library_and_writes_nothing(module, tmp_path):
    heavy = ("torch", "diffusers", "transformers", "timm", "ray", "matplotlib", "sklearn")
    program = f"import {module}, sys; print([n for n in {heavy!r} if n in sys.modules])"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_dependency_is_pinned_by_name_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    normal = {re.split(r"[\[<>=!~ ]", d)[0].lower().replace("_", "-") for d in wanted}
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert normal - pinned == set()


def test_the_commands_the_readme_names_are_there():
    from sweeps.cli import VERBS

    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in readme and re.search(rf"^{target}:", makefile, re.MULTILINE)
    named = set(re.findall(r"sweeps (\w+) ", readme)) & set(VERBS)
    assert {"run", "plan", "status", "export", "report"} <= named
