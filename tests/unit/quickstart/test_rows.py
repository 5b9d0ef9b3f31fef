"""The quickstart's rows: right answers, nothing leaked from the held-out prompts, tokens that survive a round trip."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM, AutoTokenizer

QUICKSTART = Path(__file__).resolve().parents[3] / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))

import prepare  # noqa: E402
from skills import SKILLS  # noqa: E402

pytestmark = pytest.mark.models

MILLIMETRES_OR_GRAMS = {"mm": 1, "cm": 10, "dm": 100, "m": 1000, "km": 1_000_000, "g": 1, "kg": 1000}
ORDER = re.compile(
    r"(?P<name>\w+) from (?P<city>\w+) wants (?P<count>\d+) (?P<colour>\w+) (?P<item>\w+), order (?P<order>\d+)"
)
ROWS = 1500


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A prepared folder."""
    folder = tmp_path_factory.mktemp("quickstart")
    prepare.prepare(folder, seed=7, rows=ROWS)
    return folder


@pytest.fixture(scope="module")
def train(out) -> list[dict]:
    """The training rows as written."""
    return read(out / "data" / "train.jsonl")


@pytest.fixture(scope="module")
def held_out(out) -> list[dict]:
    """The held-out prompts as written."""
    return read(out / "data" / "heldout.jsonl")


@pytest.fixture(scope="module")
def tokenizer(out):
    """The tokenizer, as any user would load it."""
    return AutoTokenizer.from_pretrained(out / "model")


def read(path: Path) -> list[dict]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def complete(row: dict) -> list[dict]:
    """The conversation with its last answer, for either kind of row."""
    if "answer" not in row:
        return row["messages"]
    return [*row["messages"], {"role": "assistant", "content": row["answer"]}]


def calculate(left: int, sign: str, right: int) -> str:
    """The sum, written out."""
    return f"{left} {sign} {right} = {left + right if sign == '+' else left - right}"


def solve(question: str, before: str | None, first: str) -> str | list[str]:
    """The answer, worked out from the question, the answer before it and the first question."""
    if match := re.fullmatch(r"What is (\d+) ([+-]) (\d+)\?", question):
        return calculate(int(match[1]), match[2], int(match[3]))
    if match := re.fullmatch(r"What is that ([+-]) (\d+)\?", question):
        return calculate(int(before.split()[-1]), match[1], int(match[2]))
    if match := re.fullmatch(r"Sort these words: (.*)", question):
        return sorted(match[1].split(", "))
    if match := re.fullmatch(r"Which of them is (first|last)\?", question):
        return before.split(", ")[0 if match[1] == "first" else -1]
    if match := re.fullmatch(r"Convert (\d+) (\w+) to (\w+)\.", question):
        value, source, target = match.groups()
        result, rest = divmod(int(value) * MILLIMETRES_OR_GRAMS[source], MILLIMETRES_OR_GRAMS[target])
        assert rest == 0
        return f"{result} {target}"
    return json.dumps(field_of(question, first))


def field_of(question: str, first: str) -> dict[str, str | int]:
    """The field that the question asks for, from the order in the conversation's first question."""
    field = re.match(r"(?:Give|And) the (\w+)", question)[1]
    value = ORDER.search(first)[field]
    return {field: int(value) if value.isdigit() else value}


def write(answer: str | list[str], system: str | None) -> str:
    """The answer in the form that the system prompt asks for."""
    listed = ", ".join(answer) if isinstance(answer, list) else answer
    if system == "Answer as JSON.":
        return json.dumps(answer if isinstance(answer, list) else {"answer": answer})
    return {
        None: listed,
        "Answer in upper case.": listed.upper(),
        "Answer with the first word only.": listed.split(",")[0],
        "Answer in a full sentence.": f"The answer is {listed}.",
    }[system]


def exchanges(messages: list[dict]) -> Iterator[tuple[str, str, str | None, str | None]]:
    """Question, answer, the answer before it, and the system prompt."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    turns = [message["content"] for message in messages if message["role"] != "system"]
    for index in range(0, len(turns), 2):
        yield turns[index], turns[index + 1], turns[index - 1] if index else None, system


def knowledge(row: dict, last: bool = False) -> Iterator[tuple]:
    """What remembering this row, or its last answer alone, would give away; read from its text."""
    asked = list(exchanges(complete(row)))
    if row["tag"] == "follow_up" and last and "=" in row["answer"]:
        asked = asked[-1:]
    for question, answer, _, _ in asked:
        if match := re.search(r"(\d+) ([+-]) (\d+) = (\d+)", answer):
            yield "sum", frozenset((int(match[1] if match[2] == "+" else match[4]), int(match[3])))
        elif question.startswith("Sort"):
            yield "words", frozenset(question.removeprefix("Sort these words: ").split(", "))
        elif question.startswith("Convert"):
            yield "quantity", frozenset((question.split()[1] + question.split()[2], answer.replace(" ", "")))
        elif match := ORDER.search(question):
            yield "number", match["order"]
            yield "order", match.groups()[:-1]


def test_every_answer_is_right(train, held_out):
    for row in train + held_out:
        for question, answer, before, system in exchanges(complete(row)):
            assert answer == write(solve(question, before, complete(row)[bool(system)]["content"]), system)


def test_no_training_row_gives_a_held_out_answer_away(train, held_out):
    asked = {json.dumps(complete(row)[:-1]) for row in train}
    assert not asked & {json.dumps(row["messages"]) for row in held_out}
    known = {fact for row in train for fact in knowledge(row)}
    assert not known & {fact for row in held_out for fact in knowledge(row, last=True)}


def test_sizes_and_tags(train, held_out):
    assert len(train) == len({json.dumps(row["messages"]) for row in train}) == ROWS
    assert len(held_out) == len({json.dumps(row["messages"]) for row in held_out}) == 200
    for tag in SKILLS:
        assert sum(row["tag"] == tag for row in held_out) >= 33
        assert sum(row["tag"] == tag for row in train) >= 0.05 * ROWS


def test_the_same_seed_gives_the_same_bytes(out, tmp_path):
    prepare.prepare(tmp_path, seed=7, rows=ROWS)
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert {str(path) for path in files} >= {"data/train.jsonl", "model/model.safetensors", "model/tokenizer.json"}
    for path in files:
        assert (tmp_path / path).read_bytes() == (out / path).read_bytes(), path


def test_another_seed_gives_other_rows(train):
    other, _ = prepare.generate(seed=8, rows=ROWS)
    assert {json.dumps(row.messages) for row in other} != {json.dumps(row["messages"]) for row in train}


def test_tokens_decode_back_and_the_mask_covers_answer_and_end(train, tokenizer):
    job = YAML(typ="safe").load(QUICKSTART / "job.yaml")
    for row in train:
        messages = row["messages"]
        tokens = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = tokens["input_ids"], tokens["assistant_masks"]
        assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False)
        supervised = tokenizer.decode([token for token, kept in zip(ids, mask, strict=True) if kept])
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        assert supervised == "".join(f"{answer}{tokenizer.eos_token}" for answer in answers)
        assert len(ids) <= job["data"]["max_length"]


def test_prompts_and_answers_fit_what_may_be_generated(held_out, tokenizer):
    job = YAML(typ="safe").load(QUICKSTART / "job.yaml")
    for row in held_out:
        ids = tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True)["input_ids"]
        answer = tokenizer(row["answer"] + tokenizer.eos_token)["input_ids"]
        assert len(answer) <= job["evaluation"]["max_new_tokens"]
        assert len(ids) + len(answer) <= job["data"]["max_length"]


def test_digits_stay_apart(tokenizer):
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]


def test_the_model_loads_and_knows_its_end_token(out, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id


def test_of_several_who_prepare_at_once_one_does(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.prepare_once(tmp_path / "work", seed=7, rows=ROWS)
    again = (tmp_path / "work" / "data" / "train.jsonl").read_bytes()
    assert again == (out / "data" / "train.jsonl").read_bytes()
    (tmp_path / "work" / "data" / "train.jsonl").write_text("left alone")
    prepare.prepare_once(tmp_path / "work", seed=8, rows=ROWS)
    assert (tmp_path / "work" / "data" / "train.jsonl").read_text() == "left alone"
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    assert capsys.readouterr().out.count("is there") == 2
