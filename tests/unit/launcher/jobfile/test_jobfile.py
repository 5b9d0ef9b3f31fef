"""Bad job files, one clear line for each mistake; good ones, read as they are meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.jobfile import JobFileError, load_job
from launcher.jobfile.schema import json_schema
from launcher.planner.plan import make_plan
from launcher.site.hardware import Machine

HEAD = "name: quick\nmodel: {path: model}\n"
DATA = "data: {train: [{path: train.jsonl}]}\n"

# What stands in the file, then every line that the user sees, without the file's name.
BAD_JOBS = {
    "unknown key": (
        HEAD + DATA + "training:\n  learning_rat: 1.0e-4\n",
        ["5: training.learning_rat: unknown setting. Did you mean learning_rate?"],
    ),
    "key of another section": (
        HEAD + DATA + "training: {max_length: 100}\n",
        ["4: training.max_length: unknown setting. It is data.max_length."],
    ),
    "key of another tool": (
        HEAD + DATA + "training:\n  per_device_train_batch_size: 4\n",
        [
            "5: training.per_device_train_batch_size: unknown setting. It is training.tokens_per_step here: tokens, "
            "not rows: rows in a step (per device x accumulation x devices) x mean tokens of a row; "
            "resources.micro_batch is packs in one forward pass."
        ],
    ),
    "misspelled section": (
        HEAD + DATA + "trainig: {seed: 1}\n",
        ["4: trainig: unknown setting. Did you mean training?"],
    ),
    "unknown key in a list": (
        HEAD + "data:\n  train:\n    - path: train.jsonl\n      wieght: 2\n",
        ["6: data.train[0].wieght: unknown setting. Did you mean weight?"],
    ),
    "missing section": (
        "name: quick\n" + DATA,
        ["1: model: is missing. Add `model: {path: FOLDER}`."],
    ),
    "missing key": (
        "name: quick\nmodel:\n  dtype: auto\n" + DATA,
        ["2: model.path: is missing. Add `path: FOLDER`."],
    ),
    "empty list": (
        HEAD + "data:\n  train: []\n",
        ["4: data.train: must be a list with at least one entry (got [])"],
    ),
    "wrong kind of section": (
        HEAD + DATA + "loss: token\n",
        ["4: loss: must be a section of `setting: value` lines (got 'token')"],
    ),
    "wrong word": (
        HEAD + "data:\n  train: [{path: train.jsonl}]\n  overlong: dropp\n",
        [
            "5: data.overlong: must be one of drop, truncate, split, error (got 'dropp'). Did you mean drop?",
        ],
    ),
    "float for a whole number": (
        HEAD + DATA + "training: {tokens_per_step: 1e6}\n",
        ["4: training.tokens_per_step: must be a whole number or auto (got 1000000.0). Write 1000000."],
    ),
    "number in quotes": (
        HEAD + DATA + "training: {weight_decay: '0.1'}\n",
        ["4: training.weight_decay: must be a number (got '0.1'). Write it without quotes."],
    ),
    "yes for a number": (
        HEAD + DATA + "resources: {grace_seconds: true}\n",
        ["4: resources.grace_seconds: must be a whole number or auto (got true)"],
    ),
    "out of bounds": (
        HEAD + DATA + "loss:\n  label_smoothing: 1\n",
        ["5: loss.label_smoothing: must be a number below 1 (got 1)"],
    ),
    "infinite": (
        HEAD + DATA + "training: {max_grad_norm: .inf}\n",
        ["4: training.max_grad_norm: must be a finite number (got inf)"],
    ),
    "bad name": (
        "name: Support_70B\nmodel: {path: model}\n" + DATA,
        [
            "1: name: must be lower-case letters, digits and dashes, with a letter or digit at both ends "
            "(got 'Support_70B')"
        ],
    ),
    "bad walltime": (
        HEAD + DATA + "resources: {walltime: 4 hours}\n",
        ["4: resources.walltime: must be a time such as 90m, 4h or 2d (got '4 hours')"],
    ),
    "adapter settings in a full fine-tune": (
        HEAD + DATA + "method:\n  kind: full\n  r: 8\n",
        ["4: method: r only act with `kind: lora`; remove them or set it"],
    ),
    "null where a value is needed": (
        HEAD + DATA + "training:\n  seed:\n",
        ["5: training.seed: must be a whole number (got null)"],
    ),
    "missing data file": (
        HEAD + "data:\n  train:\n    - path: trian.jsonl\n",
        ["5: data.train[0].path: no such file or folder (got 'trian.jsonl'). Nearest in {dir}: train.jsonl."],
    ),
    "glob without a match": (
        HEAD + "data:\n  train:\n    - path: rows/*.jsonl\n",
        ["5: data.train[0].path: no such file or folder (got 'rows/*.jsonl'). The pattern matches nothing in {dir}."],
    ),
    "missing model": (
        "name: quick\nmodel:\n  path: ./modell\n" + DATA,
        ["3: model.path: no such file or folder (got './modell'). Nearest in {dir}: model."],
    ),
    "folder without a model": (
        "name: quick\nmodel: {path: empty-model}\n" + DATA,
        ["2: model.path: {dir}/empty-model is no model folder: it holds no config.json"],
    ),
    "unknown model type": (
        "name: quick\nmodel: {path: odd-model}\n" + DATA,
        [
            "2: model.path: its config.json: unknown model type 'lama', and it cannot be counted: Transformers does "
            "not know it either. Nearest known types: llama, olmo2, gemma. Install a release of Transformers that "
            "does. Or put all its safetensors files into the folder: their headers are enough"
        ],
    ),
    "model without a tokenizer": (
        "name: quick\nmodel: {path: no-tokenizer}\n" + DATA,
        [
            "2: model.path: {dir}/no-tokenizer holds no tokenizer (looked for tokenizer.json, tokenizer.model, "
            "vocab.json, tokenizer_config.json)"
        ],
    ),
    "model that is a file": (
        "name: quick\nmodel: {path: train.jsonl}\n" + DATA,
        ["2: model.path: is a file; name the folder that holds it ({dir})"],
    ),
    "everything at once": (
        "name: quick\nmodel: {path: nowhere}\ndata:\n  train: [{path: gone.jsonl}]\n  max_length: 4\nfoo: 1\n",
        [
            "2: model.path: no such file or folder (got 'nowhere'). Looked in {dir}.",
            "4: data.train[0].path: no such file or folder (got 'gone.jsonl'). Nearest in {dir}: train.jsonl.",
            "5: data.max_length: must be a number of at least 8 (got 4)",
            "6: foo: unknown setting. Known here: name, model, method, data, training, loss, evaluation, "
            "checkpoint, logging, resources, cluster.",
        ],
    ),
    "empty": ("", ["1: the file is empty. Start one with `tuneyard init`."]),
    "only a comment": ("# later\n", ["1: the file is empty. Start one with `tuneyard init`."]),
    "a list": (
        "- name: quick\n",
        ["1: a job file is a mapping of settings (got [{'name': 'quick'}]). Start one with `tuneyard init`."],
    ),
    "a tab": (
        "name: quick\nmodel:\n\tpath: model\n",
        ["3: a tab; YAML is indented with spaces. Replace it by spaces."],
    ),
    "twice": (
        HEAD + DATA + "name: other\n",
        ["4: name: given twice in the same section. Keep one of them."],
    ),
    "colon in a value": (
        "name: quick\nmodel:\n  path: a: b\n",
        [
            "3: a colon where no setting can begin. Put a value that contains a colon in quotes, and line up settings "
            "of one section."
        ],
    ),
    "crooked indentation": (
        "name: quick\nmodel:\n    path: model\n  dtype: auto\n",
        ["4: indentation does not line up. Give all settings of one section the same indentation."],
    ),
    "open brace": (
        "name: quick\nmodel: {path: model\n",
        ["3: a `{` that is never closed properly. Separate settings with commas and close with `}`."],
    ),
    "two documents": (
        HEAD + DATA + "---\nname: two\n",
        ["4: a second YAML document begins here. Keep one job in one file."],
    ),
    "a tag": (
        "name: !!python/object:os.system x\nmodel: {path: model}\n" + DATA,
        ["1: name: has a YAML tag (tag:yaml.org,2002:python/object:os.system). Write the value without a tag."],
    ),
}


def messages(path: Path) -> list[str]:
    """What the user sees, without the file's name in front."""
    with pytest.raises(JobFileError) as caught:
        load_job(path)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


COUNTED_BY_TORCH = "unknown model type"


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.models) if case == COUNTED_BY_TORCH else case for case in BAD_JOBS],
)
def test_bad_job(case: str, write_job: Callable[..., Path], job_folder: Path) -> None:
    text, expected = BAD_JOBS[case]
    path = write_job(text)
    assert messages(path) == [line.replace("{dir}", str(job_folder)) for line in expected]


def test_bytes_that_are_not_utf8(write_job: Callable[..., Path]) -> None:
    path = write_job(b"name: quick\nmodel: {path: caf\xe9}\n")
    assert messages(path) == ["2: byte 0xe9 is not UTF-8. Save as UTF-8."]


def test_control_character(write_job: Callable[..., Path]) -> None:
    assert messages(write_job("name: quick\nmodel: \x00\n")) == ["2: a control character (0x00). Delete it."]


def test_files_that_cannot_be_read(write_job: Callable[..., Path], job_folder: Path) -> None:
    write_job()
    missing = job_folder / "jobb.yaml"
    assert messages(missing) == [f"1: no such file. In {job_folder} there is: job.yaml."]
    assert messages(job_folder / "model") == ["1: is a folder, not a job file. Name the YAML file inside it."]


def test_billion_laughs(write_job: Callable[..., Path]) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    found = messages(write_job("\n".join(lines)))
    assert len(found) == 1
    assert "repeats itself through aliases" in found[0]


def test_broken_model_config(write_job: Callable[..., Path]) -> None:
    found = messages(write_job(old="path: model", new="path: broken-model"))
    assert len(found) == 1
    assert found[0].startswith("2: model.path: ")
    assert "config.json: not valid JSON: Expecting property name" in found[0]


def test_paths_are_relative_to_the_job_file(write_job: Callable[..., Path], job_folder: Path) -> None:
    job = load_job(write_job()).job
    assert job.model.path == str(job_folder / "model")
    assert job.data.train[0].path == str(job_folder / "train.jsonl")


def test_globs_become_absolute(write_job: Callable[..., Path], job_folder: Path) -> None:
    job = load_job(write_job(old="train.jsonl", new="'*.jsonl'")).job
    assert job.data.train[0].path == str(job_folder / "*.jsonl")


def test_hub_names_stay(write_job: Callable[..., Path]) -> None:
    job = load_job(write_job(old="path: model", new="path: meta-llama/Llama-3.1-8B")).job
    assert job.model.path == "meta-llama/Llama-3.1-8B"


def test_a_missing_file_in_a_folder_that_is_there_is_no_hub_name(write_job: Callable[..., Path]) -> None:
    found = messages(write_job(old="path: model", new="path: model/llama"))
    assert "no such file or folder (got 'model/llama')" in found[0]


def test_yaml_1_2_values(write_job: Callable[..., Path]) -> None:
    text = HEAD + DATA + "training: {learning_rate: 2e-4, seed: 0o17, weight_decay: 1}\n"
    training = load_job(write_job(text)).job.training
    assert (training.learning_rate, training.seed, training.weight_decay) == (2e-4, 15, 1.0)


def test_byte_order_mark_and_windows_line_ends(write_job: Callable[..., Path]) -> None:
    job = load_job(write_job(b"\xef\xbb\xbf" + (HEAD + DATA).replace("\n", "\r\n").encode())).job
    assert job.name == "quick"


def test_schema_of_the_job_file() -> None:
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["required"] == ["name", "model", "data"]
    rate = schema["$defs"]["TrainingConfig"]["properties"]["learning_rate"]
    assert {"const": "auto", "type": "string"} in rate["anyOf"]
    assert rate["description"]
    assert schema["$defs"]["LossConfig"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "prompts.jsonl: there are no prompts in the file"),
        ('{"messages": [{"role": "user", "content": "hi"}], "answer": "x"}\n{broken', "prompts.jsonl:2: not a prompt"),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "prompts.jsonl:1: not a prompt: `answer` must be text"),
        ('{"messages": [{"role": "user", "content": "hi"}], "answer": " "}', "prompts.jsonl:1: not a prompt: `answer`"),
        ('{"messages": [{"role": "assistant", "content": "hi"}], "answer": "x"}', "prompts.jsonl:1: not a prompt"),
        ('["hi"]', "prompts.jsonl:1: not a prompt: it is no object"),
    ],
)
def test_prompts_that_cannot_be_answered_are_said_before_anything_is_planned(
    write_job: Callable[[str], Path], lines: str, said: str
) -> None:
    job = write_job(HEAD + DATA + "evaluation: {generate: prompts.jsonl}\n")
    (job.parent / "prompts.jsonl").write_text(lines)
    with pytest.raises(JobFileError) as caught:
        load_job(job)
    (problem,) = caught.value.problems
    assert (problem.line, problem.key) == (4, "evaluation.generate")
    assert said in problem.message and "answer" in problem.remedy


def test_a_run_may_be_called_auto_and_a_number_that_nobody_means_is_refused(write_job: Callable[..., Path]) -> None:
    path = write_job(old="name: quick", new="name: auto")
    machine = Machine(num_cores=2, memory_bytes=16 * 1024**3)
    assert make_plan(load_job(path).job, machine).trainer.name == "auto"
    path = write_job(old="tokens_per_step: 8192", new="tokens_per_step: 8192, max_steps: 1" + "0" * 30)
    assert "larger than any setting" in messages(path)[0]
