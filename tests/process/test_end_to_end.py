"""The user's path through the command line: submit, preempted, resume, export; and what wrong input prints."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.held_out import held_out
from tests.support.ranks import run_on_ranks

JOB = """
name: tiny
model: {{path: ./model{tokens}}}
method: {method}
data:
  train: [{{path: ./{data}}}]
  chat_template: {template}
  eval: {{split: 0.1}}
  max_length: 512
training: {{max_steps: 60, learning_rate: 0.01, tokens_per_step: 2048, full_determinism: true}}
checkpoint: {{every_steps: 15}}
logging: {{every_seconds: 0}}
resources: {{gpu: none, cpu_ranks: 2, engine: {engine}}}
"""


def job(method: str, data: str, engine: str, tokens: str = "") -> str:
    template = "alpaca" if tokens else "chatml"  # Alpaca's turns end with the tokenizer's eos_token
    return JOB.format(method=method, tokens=tokens, template=template, data=data, engine=engine)


def tuneyard(*arguments: Any, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from launcher.cli import main; main()", *map(str, arguments)]
    path = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": path, "DS_ACCELERATOR": "cpu"} | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def alpaca_rows(rng: random.Random) -> list[dict[str, str]]:
    return [
        {"instruction": " ".join(rng.choices(tiny.WORDS, k=6)), "input": "x", "output": rng.choice(tiny.WORDS)}
        for _ in range(300)
    ]


def tool_rows(rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for _ in range(300):
        call = {"name": "look_up", "arguments": {"word": rng.choice(tiny.WORDS)}}
        turns = [
            {"from": "human", "value": rng.choice(tiny.WORDS)},
            {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": rng.choice(tiny.WORDS)},
            {"from": "gpt", "value": rng.choice(tiny.WORDS)},
        ]
        tools = [{"name": "look_up", "description": "finds", "parameters": {}}]
        rows.append({"conversations": turns, "tools": json.dumps(tools)})
    return rows


def loss_of_export(run_dir: str) -> dict[str, Any]:
    """Held-out loss of the exported model, loaded by Transformers or PEFT and nothing of ours, and a merged one."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainer.config import read_trainer_config

    run = Path(run_dir)
    config = read_trainer_config(run)
    AutoTokenizer.from_pretrained(run / "model").apply_chat_template([{"role": "user", "content": "hi"}])

    is_adapter = (run / "model" / "adapter_config.json").exists()
    loader = AutoPeftModelForCausalLM if is_adapter else AutoModelForCausalLM
    result = {"adapter": is_adapter, "loss": held_out(loader.from_pretrained(run / "model"), run, config)}
    if (run / "merged").exists():
        result["merged"] = held_out(AutoModelForCausalLM.from_pretrained(run / "merged"), run, config)
    return result


NEW_TOKENS = "eos_token: <|end_of_answer|>, added_tokens: [<|end_of_answer|>, <|spare|>]"
WHOLE = "{kind: lora, r: 4, target_modules: all-linear, modules_to_save: [embed_tokens, lm_head]}"
CASES = [
    ("{kind: full}", "", "tools.json", "zero2", 0.8),
    (WHOLE, f", {NEW_TOKENS}", "alpaca.json", "fsdp2", 0.98),  # adapters on a random base, new tokens
]


@pytest.mark.parametrize(("method", "tokens", "data", "engine", "learns"), CASES)
def test_submit_preempt_resume_export(
    tmp_path: Path, method: str, tokens: str, data: str, engine: str, learns: float
) -> None:
    tiny.make_model(tmp_path / "model")
    (tmp_path / "tools.json").write_text(json.dumps(tool_rows(random.Random(0))))
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca_rows(random.Random(0))))
    (tmp_path / "job.yaml").write_text(job(method, data, engine, tokens))

    submitted = tuneyard("submit", "job.yaml", "--detach", "--json", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert submitted.returncode == 0, submitted.stderr
    (run,) = (tmp_path / "runs").iterdir()
    wait_for_step(run, 20)
    os.kill(json.loads((run / "agent.lock").read_text())["pid"], signal.SIGTERM)
    attempt = wait_for_outcome(run, 0)
    assert attempt["outcome"] == "preempted"
    assert attempt["last_checkpoint_step"] == attempt["last_step"] >= 20

    imported = modules_in(run / "logs" / "attempt-000" / "rank-00001.log")
    assert "torch" in imported and "bitsandbytes.functional" not in imported
    assert ("peft.tuners" in imported) is ("lora" in method)

    early = tuneyard("fetch", run.name, cwd=tmp_path)
    assert early.returncode == 2 and "has no model yet" in early.stderr

    resumed = tuneyard("resume", run.name, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    progress = json.loads((run / "progress.json").read_text())
    assert (progress["state"], progress["step"], progress["exactness"]) == ("finished", 60, "bit-exact")
    assert progress["resumed_from"] == attempt["last_step"]
    planned = json.loads((run / "plan.json").read_text())["prediction"]["trainable_parameters"]
    assert sum(progress["trained_parameters"].values()) == pytest.approx(planned, rel=0.01), "but for new tokens"
    assert progress["caution"] is None
    lines = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert sorted(line["step"] for line in lines if "loss" in line) == list(range(1, 61)), "no step lost, none twice"
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-5:]) < learns * 5 * losses[0]

    fetched = tuneyard("fetch", run.name, "--json", cwd=tmp_path)
    assert (tmp_path / json.loads(fetched.stdout)["model"]).samefile(run / "model")
    merged = tuneyard("export", run.name, "--merge", "--output", run / "merged", cwd=tmp_path)
    assert merged.returncode == 0, merged.stderr
    (exported,) = run_on_ranks(loss_of_export, 1, str(run), distributed=False)
    reported = [line["eval_loss"] for line in lines if "eval_loss" in line][-1]
    assert exported["adapter"] is ("lora" in method)
    assert exported["loss"] == pytest.approx(reported, rel=1e-5)
    assert exported["merged"] == pytest.approx(reported, rel=1e-4)
    assert "<svg" in (run / "report.html").read_text()
    assert list((run / "tensorboard").glob("events.*"))
    assert tuneyard("resume", run.name, cwd=tmp_path).returncode == 2


def test_sixty_rows_with_all_defaults_train_an_adapter(tmp_path: Path) -> None:
    """Step 1 learns, few steps are warned of, and what the plan counts is what comes."""
    from safetensors.numpy import load_file

    tiny.make_model(tmp_path / "model")
    (tmp_path / "rows.json").write_text(json.dumps(alpaca_rows(random.Random(0))[:60]))
    text = "name: sixty\nmodel: {path: ./model}\nmethod: {kind: lora}\ndata: {train: [{path: ./rows.json}]}\n"
    (tmp_path / "job.yaml").write_text(text + "resources: {gpu: none, cpu_ranks: 2}\n")
    done = tuneyard("submit", "job.yaml", cwd=tmp_path, TUNEYARD_COUNTED=str(tmp_path / "counted"))
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    plan, progress = (json.loads((run / name).read_text()) for name in ("plan.json", "progress.json"))
    assert plan["steps"]["is_exact"] and plan["steps"]["number"] == progress["step"] >= 1
    assert plan["warnings"] and "warning:" in done.stdout
    adapter = load_file(run / "model" / "adapter_model.safetensors")
    untouched = [name for name, weights in adapter.items() if "lora_B" in name and not weights.any()]
    assert not untouched, "B starts at zero: what is zero still has learned nothing"
    assert len(list((tmp_path / "counted").iterdir())) == 1, "the next plan knows the lengths"


def modules_in(log: Path) -> set[str]:
    """What PYTHONPROFILEIMPORTTIME wrote to a log."""
    lines = log.read_text().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        progress = json.loads((run / "progress.json").read_text()) if (run / "progress.json").exists() else {}
        if progress.get("state") == "training" and progress["step"] >= step:
            return
        failure = (run / "failure.json").read_text() if (run / "failure.json").exists() else ""
        assert not failure, failure
        time.sleep(0.05)
    raise AssertionError("the run did not get that far")


def wait_for_outcome(run: Path, attempt: int) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        record = json.loads((run / "attempts.jsonl").read_text().splitlines()[attempt])
        if record["outcome"]:
            return record
        time.sleep(0.05)
    raise AssertionError("the attempt did not end")


def spoil(folder: Path, what: str) -> list[Any]:
    """Make one thing wrong; returns the arguments to submit with."""
    job = folder / "job.yaml"
    if what == "misspelt key":
        job.write_text(job.read_text().replace("learning_rate", "learning_rat"))
    elif what == "missing data file":
        (folder / "alpaca.json").rename(folder / "other.json")
    elif what == "broken row":
        rows = [json.dumps(row) for row in alpaca_rows(random.Random(0))]
        (folder / "alpaca.jsonl").write_text("\n".join([*rows[:6], rows[6][:-4], *rows[7:]]))
        job.write_text(job.read_text().replace("alpaca.json", "alpaca.jsonl"))
    elif what == "unknown model type":
        config = json.loads((folder / "model" / "config.json").read_text())
        (folder / "model" / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))
    elif what == "runs folder cannot be made":
        (folder / "file").touch()
        return ["submit", "job.yaml", "--runs", folder / "file" / "runs"]
    elif what == "no job file":
        job.unlink()
    return ["submit", "job.yaml"]


WRONG = [
    ("misspelt key", 2, r"job.yaml:10.*learning_rat.*learning_rate"),
    ("missing data file", 2, r"job.yaml:6.*alpaca.json"),
    ("broken row", 2, r"alpaca.jsonl:7: not valid JSON"),
    ("unknown model type", 2, r"lama.*llama"),
    ("runs folder cannot be made", 3, r"file/runs"),
    ("no job file", 2, r"job.yaml"),
]


@pytest.mark.parametrize(("what", "code", "words"), WRONG)
def test_wrong_input_ends_with_one_clear_message(tmp_path: Path, what: str, code: int, words: str) -> None:
    tiny.make_model(tmp_path / "model")
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca_rows(random.Random(0))))
    (tmp_path / "job.yaml").write_text(job("{kind: full}", "alpaca.json", "auto"))
    answer = tuneyard(*spoil(tmp_path, what), cwd=tmp_path)
    assert answer.returncode == code, answer.stderr
    assert re.search(words, answer.stderr, re.DOTALL), answer.stderr
    assert "Traceback" not in answer.stderr + answer.stdout
    assert not list((tmp_path / "runs").glob("*")) if (tmp_path / "runs").exists() else True


def test_ctrl_c_while_preparing_leaves_nothing_behind(tmp_path: Path) -> None:
    tiny.make_model(tmp_path / "model")
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca_rows(random.Random(0))))
    (tmp_path / "job.yaml").write_text(job("{kind: full}", "alpaca.json", "auto"))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-c", "from launcher.cli import main; main()", "submit", "job.yaml"]
    submit = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/progress.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    submit.send_signal(signal.SIGINT)
    _, said = submit.communicate(timeout=60)
    assert submit.returncode == 130, said
    assert "no run directory was kept" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "runs").iterdir())


def test_damaged_runs_and_brackets_in_messages_do_not_break_the_overview(tmp_path: Path) -> None:
    for name, plan in (("good", {"launch": {"backend": "local"}}), ("bad", {})):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "plan.json").write_text(json.dumps(plan))
        failure = {"kind": "crash", "message": "[/pytorch/gloo/pair.cc:545] Connection closed", "remedy": ""}
        facts = {"state": "training", "attempt": 0, "step": 3, "max_steps": 9, "heartbeat": 1.0}
        (run / "progress.json").write_text(json.dumps(facts))
        (run / "failure.json").write_text(json.dumps({"attempt": 0, **failure, "time": 2.0}))
    status = tuneyard("status", "good", cwd=tmp_path)
    assert status.returncode == 0, status.stderr
    assert "[/pytorch/gloo/pair.cc:545]" in status.stdout
    listed = tuneyard("list", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"bad +damaged", listed.stdout)
    assert "good" in listed.stdout
    assert "Traceback" not in tuneyard("status", "bad", cwd=tmp_path).stderr
