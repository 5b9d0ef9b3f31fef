"""Files of prompts that are answered after training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.data.prompts import read_prompts
from trainer.errors import UserError

USER = [{"role": "user", "content": "2 + 2?"}]


def write(file: Path, *rows: Any) -> Path:
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return file


def test_a_prompt_has_a_conversation_an_answer_a_tag_and_a_place(tmp_path: Path) -> None:
    file = write(
        tmp_path / "p.jsonl", {"messages": USER, "answer": 4, "tag": "sums"}, "", {"messages": USER, "answer": "x"}
    )
    first, second = read_prompts(file)
    assert (first.answer, first.tag, first.place) == ("4", "sums", f"{file}:1")
    assert first.conversation.messages[-1]["content"] == "2 + 2?"
    assert (second.tag, second.place) == ("all", f"{file}:3")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": USER}, "`answer` must be text that is not empty"),
        ({"messages": USER, "answer": "  "}, "`answer` must be text that is not empty"),
        ({"messages": USER, "answer": True}, "`answer` must be text that is not empty"),
        ({"messages": [*USER, {"role": "assistant", "content": "4"}], "answer": "4"}, "must end where the model is to"),
        ({"messages": [], "answer": "4"}, "must end where the model is to"),
        ("[]", "it is no object"),
        ("{", "not a prompt"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, row: Any, reason: str) -> None:
    file = write(tmp_path / "p.jsonl", {"messages": USER, "answer": "4"}, row)
    with pytest.raises(UserError, match=reason) as raised:
        read_prompts(file)
    assert raised.value.where == f"{file}:2"


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff\xfe"], ids=["absent", "empty", "blank", "binary"])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "p.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError):
        read_prompts(file)
