"""How the code base is built: rooms, floors and arrows of every package, and what makes it hard to read.

A room is a module or a folder that lies directly in a package. An arrow goes from a room to another one that it imports
(lazily or not). Floors are the rooms of the longest path along arrows; an import cycle counts with all of its rooms.

    python -m benchmarks.structure [--json | --picture] [ROOT]
"""

import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import click

PACKAGES = ("rundir", "launcher", "cluster", "trainer")
DOCUMENT_KEYS = (
    "attempt",
    "outcome",
    "restart",
    "step",
    "reason",
    "started_at",
    "ended_at",
    "exit_code",
    "plan",
    "nodes",
)
"""Keys of a run directory's documents whose literal spellings are counted (`d["attempt"]`, `d.get("attempt")`)."""


def modules(root: Path) -> dict[str, Path]:
    """Dotted name of every module of the product, with its file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def import_names(path: Path, package: Sequence[str]) -> Iterator[str]:
    """Full names of all that a file imports, lazily or not; `package` is the one that it lies in."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The product's modules that one module imports."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for full in import_names(path, package):
        target = full if full in known else full.rpartition(".")[0]  # a name in a module, or the module itself
        if target in known and target != name:
            yield target


@cache
def _all_imports(modules: tuple[tuple[str, Path], ...]) -> frozenset[tuple[str, str]]:
    """Every pair of modules of which the first imports the second; the files are parsed once for all folders."""
    known = dict(modules)
    return frozenset((name, target) for name, path in modules for target in imported(name, path, known))


def arrows_of(folder: str, known: dict[str, Path]) -> set[tuple[str, str]]:
    """Pairs of rooms of one folder, the first importing the second; the folder's own `__init__` is no room."""

    def room(module: str) -> str | None:
        inside = module.removeprefix(f"{folder}.")
        return inside.split(".")[0] if inside != module else None

    pairs = ((room(name), room(target)) for name, target in _all_imports(tuple(known.items())))
    return {(a, b) for a, b in pairs if a and b and a != b}


def reachable(arrows: set[tuple[str, str]]) -> dict[str, set[str]]:
    """For each room, all rooms that can be reached along arrows."""
    after: dict[str, set[str]] = {}
    for a, b in arrows:
        after.setdefault(a, set()).add(b)
        after.setdefault(b, set())
    found = {}
    for start in after:
        seen: set[str] = set()
        todo = list(after[start])
        while todo:
            if (room := todo.pop()) not in seen:
                seen.add(room)
                todo.extend(after[room])
        found[start] = seen
    return found


def cycles_and_floors(arrows: set[tuple[str, str]]) -> tuple[list[list[str]], int]:
    """The import cycles (strongly connected rooms), and the number of floors."""
    reached = reachable(arrows)
    group = {room: frozenset({room, *(o for o in reached[room] if room in reached[o])}) for room in reached}

    @cache
    def height(members: frozenset[str]) -> int:
        below = {group[b] for a, b in arrows if a in members} - {members}
        return len(members) + max((height(lower) for lower in below), default=0)

    circles = [sorted(members) for members in set(group.values()) if len(members) > 1]
    return sorted(circles), max((height(members) for members in group.values()), default=1)


def reduced(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that do not follow from others (the transitive reduction); of rooms in a cycle, all."""
    below = reachable(arrows)

    def follows(a: str, b: str) -> bool:
        others = {target for room, target in arrows if room == a} - {b}
        return any(b in below[other] and a not in below[other] for other in others)

    return {(a, b) for a, b in arrows if not follows(a, b)}


def picture(known: dict[str, Path]) -> list[str]:
    """The packages and their rooms as a Mermaid flowchart, with the arrows that do not follow from others."""
    lines = ["flowchart TD"]
    for package in PACKAGES:
        lines.append(f"  subgraph {package}")
        rooms = sorted({name.split(".")[1] for name in known if name.startswith(f"{package}.")} - {"__main__"})
        arrows = reduced({(a, b) for a, b in arrows_of(package, known) if a != "__main__"})
        lines += [f"    {package}.{room}[{room}]" for room in rooms if package != "rundir"]
        lines += [f"    {package}.{a} --> {package}.{b}" for a, b in sorted(arrows) if package != "rundir"]
        lines.append("  end")
    tops = {(name.split(".")[0], target.split(".")[0]) for name, target in _all_imports(tuple(known.items()))}
    return lines + [f"  {a} ==> {b}" for a, b in sorted(reduced({(a, b) for a, b in tops if a != b}))]


def folders(known: dict[str, Path]) -> list[str]:
    return [name for name, path in known.items() if path.name == "__init__.py"]


def shape(folder: str, known: dict[str, Path]) -> dict[str, object]:
    """Rooms, floors, arrows and cycles of one folder, and how many modules lie at its root."""
    rooms = {name.removeprefix(f"{folder}.").split(".")[0] for name in known if name.startswith(f"{folder}.")}
    arrows = arrows_of(folder, known)
    cycles, floors = cycles_and_floors(arrows)
    at_root = sum(1 for path in known[folder].parent.glob("*.py") if not path.stem.startswith("__"))
    return {"rooms": len(rooms), "floors": floors, "arrows": len(arrows), "cycles": cycles, "modules_at_root": at_root}


def private_once(known: dict[str, Path]) -> tuple[int, int]:
    """How many functions are private and used in one place only, and how many functions there are."""
    defined: Counter[str] = Counter()
    every = 0
    for path in known.values():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                every += 1
                if node.name.startswith("_") and not node.name.startswith("__"):
                    defined[node.name] += 1
    text = "\n".join(path.read_text(encoding="utf-8") for path in known.values())
    words = Counter(re.findall(r"\b_\w+\b", text))
    return sum(count for name, count in defined.items() if words[name] == 2 * count), every


def literal_keys(known: dict[str, Path]) -> dict[str, int]:
    """How often each key of the run directory's documents is spelled as a literal subscript or `.get` argument."""
    found: Counter[str] = Counter()
    for path in known.values():
        for node in ast.walk(tree(path)):
            key: ast.expr | None = None
            if isinstance(node, ast.Subscript):
                key = node.slice
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                key = node.args[0] if node.args else None
            if isinstance(key, ast.Constant) and key.value in DOCUMENT_KEYS:
                found[str(key.value)] += 1
    return dict(found.most_common())


def without_unit_test(root: Path, known: dict[str, Path]) -> list[str]:
    """Modules with code that no file below tests/unit imports by name."""
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (root / "tests" / "unit").rglob("*.py"))
    words = set(re.findall(r"[\w.]+", tests)) | {
        f"{base}.{name.strip().split(' ')[0]}"
        for base, names in re.findall(r"^\s*from ([\w.]+) import \(?([^)\n]+|[^)]+\))", tests, re.MULTILINE)
        for name in names.split(",")
    }
    return sorted(name for name, path in known.items() if path.name != "__init__.py" and name not in words)


def structure(root: Path) -> dict[str, object]:
    known = modules(root)
    texts = {name: path.read_text(encoding="utf-8") for name, path in known.items()}
    once, functions = private_once(known)
    lines = {name: len(text.splitlines()) for name, text in texts.items()}
    return {
        "lines": {
            package: sum(n for name, n in lines.items() if name.split(".")[0] == package) for package in PACKAGES
        },
        "modules": {package: sum(name.split(".")[0] == package for name in known) for package in PACKAGES},
        "files_over_400_lines": sorted(name for name, count in lines.items() if count > 400),
        "functions": functions,
        "private_functions_used_once": once,
        "dict_str_any": sum(text.count("dict[str, Any]") for text in texts.values()),
        "literal_document_keys": literal_keys(known),
        "modules_without_unit_test": {
            package: sum(name.split(".")[0] == package for name in without_unit_test(root, known))
            for package in PACKAGES
        },
        "folders": {folder: shape(folder, known) for folder in folders(known)},
    }


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path())
@click.option("--json", "as_json", is_flag=True)
@click.option("--picture", "as_picture", is_flag=True, help="Print a Mermaid flowchart: docs/architecture.md.")
def main(root: Path, as_json: bool, as_picture: bool) -> None:
    if as_picture:
        print("\n".join(picture(modules(root))))
        return
    found = structure(root)
    if as_json:
        json.dump(found, sys.stdout, indent=1)
        return
    shapes = found.pop("folders")
    for key, value in found.items():
        print(f"{key:32}{value}")
    print(f"{'folder':32}{'rooms':>7}{'floors':>8}{'arrows':>8}{'at root':>9}  cycles")
    assert isinstance(shapes, dict)
    for folder, row in shapes.items():
        cycles = "; ".join(" ".join(cycle) for cycle in row["cycles"]) or "-"
        print(f"{folder:32}{row['rooms']:7}{row['floors']:8}{row['arrows']:8}{row['modules_at_root']:9}  {cycles}")


if __name__ == "__main__":
    main()
