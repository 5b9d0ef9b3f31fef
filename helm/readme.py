"""Writes the chart's README from the comments in its values.yaml: `python -m helm.readme`. A test compares the two."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHART = Path(__file__).parent / "tuneyard"
_KEY = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: (?P<default>.*))?")
_HEAD = """<!-- Generated from values.yaml by `python -m helm.readme`. -->
# The chart

One release is one run. By hand, with the image that [docs/container.md](../../docs/container.md) tells how to build:

```
helm install my-run helm/tuneyard --set image=registry.example.com/me/tuneyard:0.2.0 --set-file job=job.yaml
helm test my-run --logs
helm uninstall my-run          # saves and ends it; the claim with the checkpoints stays
```

`tuneyard submit` does the same with the values that follow from the plan. More: [docs/helm.md](../../docs/helm.md).

| value | default | what it is |
|---|---|---|
"""


@dataclass(frozen=True)
class Value:
    """One line of values.yaml that can be set, and the comment above it."""

    name: str
    default: str
    doc: str


def values(text: str) -> Iterator[Value]:
    """All values in their order, by their full names."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
        elif found := _KEY.fullmatch(line):
            path = [*path[: len(found["indent"]) // 2], found["key"]]
            if found["default"] is not None:
                yield Value(".".join(path), found["default"], documentation(comment))
            comment = []
        else:
            comment = []


def documentation(comment: list[str]) -> str:
    """What stands behind `--` in the comment above a value."""
    text = " ".join(comment)
    return text.partition("-- ")[2].replace("|", "\\|")


def readme(text: str) -> str:
    return _HEAD + "".join(f"| `{value.name}` | `{value.default}` | {value.doc} |\n" for value in values(text))


def main() -> None:
    text = readme((CHART / "values.yaml").read_text(encoding="utf-8"))
    (CHART / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
