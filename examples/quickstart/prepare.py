"""Generate what the quickstart trains on: instruction rows, held-out prompts, a tokenizer and a small random model.

    python examples/quickstart/prepare.py OUT_DIR [--seed 7] [--rows 6000] [--once]

The same seed and number of rows give the same files, byte for byte. With --once, what is there is left alone, and
OUT_DIR appears whole: several machines that share it may do this at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this without a word, while packages load, too

from chat_tokenizer import MIN_FREQUENCY, train_tokenizer
from skills import SKILLS, Conversation, Fact, vocabulary
from small_model import build_model

HELD_OUT_PROMPTS = 200
ATTEMPTS_PER_ROW = 1000


def draw(rng: Random, sizes: dict[str, int], banned: frozenset[Fact] = frozenset()) -> list[Conversation]:
    """Distinct conversations, `sizes[tag]` of each skill, none of which uses a banned fact."""
    rows = [row for tag, size in sizes.items() for row in draw_skill(rng, tag, size, banned)]
    rng.shuffle(rows)
    return rows


def deal(count: int, shares: dict[str, float]) -> dict[str, int]:
    """`count` rows dealt to the skills by share; the last skill takes what rounding leaves."""
    sizes = {tag: round(count * share / sum(shares.values())) for tag, share in shares.items()}
    sizes[list(sizes)[-1]] += count - sum(sizes.values())
    return sizes


def draw_skill(rng: Random, tag: str, size: int, banned: frozenset[Fact]) -> Iterator[Conversation]:
    """`size` distinct conversations of one skill."""
    seen: set[str] = set()
    for _ in range(size * ATTEMPTS_PER_ROW):
        if len(seen) == size:
            return
        row = SKILLS[tag][0](rng)
        key = json.dumps(row.prompt)
        if key not in seen and not row.facts & banned:
            seen.add(key)
            yield row
    if len(seen) < size:
        raise SystemExit(f"prepare: {tag} has fewer than {size} distinct rows; ask for fewer with --rows")


def generate(seed: int, rows: int) -> tuple[list[Conversation], list[Conversation]]:
    """Training rows in the skills' shares; held-out prompts, equally many of each, that these do not give away."""
    held_out = draw(Random(f"held-out {seed}"), deal(HELD_OUT_PROMPTS, dict.fromkeys(SKILLS, 1.0)))
    needed = frozenset(fact for row in held_out for fact in row.needed)
    sizes = deal(rows, {tag: share for tag, (_, share) in SKILLS.items()})
    return draw(Random(f"train {seed}"), sizes, banned=needed), held_out


def training_row(row: Conversation) -> dict[str, Any]:
    """A row in messages format."""
    return {"messages": row.messages, "tag": row.tag}


def held_out_row(row: Conversation) -> dict[str, Any]:
    """A prompt and the answer that counts as right."""
    return {"messages": row.prompt, "answer": row.answer, "tag": row.tag}


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def texts(rows: Iterable[Conversation]) -> Iterator[str]:
    """What the tokenizer learns from: every word often enough to become a token, roles and contents."""
    yield from vocabulary() * MIN_FREQUENCY
    for row in rows:
        for message in row.messages:
            yield f"{message['role']}\n"
            yield message["content"]


def prepare(out: Path, seed: int, rows: int) -> None:
    """Write data and model under `out`."""
    train, held_out = generate(seed, rows)
    write_jsonl(out / "data" / "train.jsonl", map(training_row, train))
    write_jsonl(out / "data" / "heldout.jsonl", map(held_out_row, held_out))
    tokenizer = train_tokenizer(texts(train))
    model = build_model(tokenizer, seed)
    tokenizer.save_pretrained(out / "model")
    model.save_pretrained(out / "model")
    print(
        f"prepare: {len(train)} rows, {len(held_out)} held-out prompts, vocabulary {len(tokenizer)}, "
        f"{model.num_parameters():,} parameters in {out}"
    )


def prepare_once(out: Path, seed: int, rows: int) -> None:
    """Write beside `out`, and rename; who comes second throws its own away."""
    beside = out.with_name(f".{out.name}-{socket.gethostname()}-{os.getpid()}")
    if not out.exists():
        prepare(beside, seed, rows)
    try:
        if not out.exists():
            beside.rename(out)
    except OSError:
        if not out.exists():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(f"prepare: {out} is there")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write data/ and model/ to")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--once", action="store_true", help="leave what is there alone")
    arguments = parser.parse_args()
    write = prepare_once if arguments.once else prepare
    write(arguments.out, arguments.seed, arguments.rows)


if __name__ == "__main__":
    main()
