"""How far a preparation is: bytes of the files and rows, whatever was tokenised before."""

import gzip
import json
from pathlib import Path

import pytest

from trainer.config import SourceConfig
from trainer.data.read.extent import Extent
from trainer.data.read.sources import read_chunks


@pytest.mark.parametrize("done_before", [False, True])
def test_the_last_chunk_is_at_the_end_of_the_files(tmp_path: Path, done_before: bool) -> None:
    rows = [json.dumps({"prompt": "p" * 50, "completion": str(n)}) + "\n" for n in range(9000)]
    (tmp_path / "a.jsonl").write_text("".join(rows[:4000]))
    (tmp_path / "b.jsonl").write_text("".join(rows[4000:]))
    sources = [SourceConfig(path=str(tmp_path / "*.jsonl"))]
    extent, chunks = Extent(sources), list(read_chunks(sources))
    assert len(chunks) > 2
    for chunk in chunks:
        extent.passed(chunk, counted=not done_before or chunk is chunks[-1])
    megabytes, seen = extent.at(1 if done_before else len(chunks))
    assert extent.total_megabytes == pytest.approx(sum(map(len, rows)) / 1e6)
    assert megabytes == pytest.approx(extent.total_megabytes, rel=0.03)
    assert seen == 9000


def test_of_packed_files_only_whole_ones_count(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps({"prompt": "p" * 500, "completion": "c"}) + "\n" for _ in range(10)))
    sources = [SourceConfig(path=str(tmp_path / "*.gz"))]
    extent = Extent(sources)
    for chunk in read_chunks(sources):
        extent.passed(chunk, counted=True)
    assert extent.total_megabytes is not None
    assert extent.at(1) == (0.0, 10)
    assert extent.at(2) == (pytest.approx(extent.total_megabytes / 2, rel=0.1), 20)
