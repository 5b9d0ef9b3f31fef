"""The shape of the code base: who may import whom, what stays light, how long a file or a function may be."""

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.structure import import_names, tree

ROOT = Path(__file__).parents[2]
OURS = {"launcher", "cluster", "trainer", "rundir", "benchmarks", "tests"}
HEAVY = {"torch", "transformers", "datasets", "deepspeed", "peft", "numpy"}
PACKAGES = ("launcher", "cluster", "trainer", "rundir")
TORCH_FREE = {
    "trainer.capabilities",
    "trainer.config",
    "trainer.errors",
    "trainer.data.prompts",
    "trainer.schedule_rules",
}
MAY_IMPORT: dict[str, set[str]] = {
    "launcher": {"cluster", "rundir"} | TORCH_FREE,
    "cluster": {"rundir"},
    "trainer": {"rundir"},
    "rundir": set(),
}
FILE_LINES, FUNCTION_LINES, MEDIAN_FUNCTION_LINES = 400, 75, 12

SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, lazily or not."""
    return import_names(path, path.relative_to(ROOT).parent.parts)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length in lines of every function in a file, nested ones included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def allowed(imported: str, package: str) -> bool:
    inside = MAY_IMPORT[package] | {package}
    return any(f"{imported}.".startswith(f"{target}.") for target in inside)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_arrows_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = [imported for imported in imports(path) if imported.partition(".")[0] in OURS]
    assert not [imported for imported in ours if not allowed(imported, package)]


ON_THE_SUBMITTING_MACHINE = {
    "cluster/slurm/submit/sbatch.py": {"submitit"},
    "cluster/kubernetes/client/api.py": {
        "kubernetes",
        "urllib3",
        "websocket",
        "yaml",
    },  # the client brings the others along
}
"""Files that need more than the standard library, and never run on a node."""


def test_cluster_and_rundir_need_the_standard_library_only() -> None:
    for path in (*(ROOT / "cluster").rglob("*.py"), *(ROOT / "rundir").rglob("*.py")):
        tops = {imported.partition(".")[0] for imported in imports(path)}
        more = ON_THE_SUBMITTING_MACHINE.get(name(path), set())
        assert tops <= sys.stdlib_module_names | {"cluster", "rundir"} | more, name(path)


@pytest.mark.parametrize(
    "modules",
    [
        "launcher, cluster",
        ", ".join(["trainer", *sorted(TORCH_FREE)]),
        "cluster.agent.__main__",
        "cluster.kubernetes.pod.__main__",
    ],
)
def test_imports_stay_light(modules: str) -> None:
    code = f"import sys, {modules}; print(*({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_importing_cluster_imports_no_backend() -> None:
    code = "import sys, cluster; print(*(name for name in sys.modules if name.startswith('cluster.')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cluster.contract", "cluster.errors"]


def test_the_backend_contract_fits_on_a_page() -> None:
    assert len((ROOT / "cluster/contract.py").read_text().splitlines()) < 100


def test_no_module_is_called_utils() -> None:
    assert not [name(path) for path in SOURCES if path.stem.strip("_") in ("utils", "util", "helpers", "common")]


def test_files_and_functions_stay_readable() -> None:
    files = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {path: lines for path, lines in files.items() if lines > FILE_LINES}
    lengths = {(name(path), function): lines for path in SOURCES for function, lines in functions(path)}
    assert not {where: lines for where, lines in lengths.items() if lines > FUNCTION_LINES}
    assert statistics.median(lengths.values()) <= MEDIAN_FUNCTION_LINES


def test_errors_are_never_swallowed() -> None:
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body):
                pytest.fail(f"{name(path)}:{node.lineno} swallows an error")


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by their base names; with two of one, the whole run fails before it begins."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
