"""`tuneyard init`: a commented job file to start from."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.cli._options import quoted
from launcher.errors import JobError, MachineError

TEMPLATE = """\
# A fine-tune with Tuneyard. Every setting: docs/job-file.md, or `tuneyard schema --markdown`.
# Relative paths are relative to this file. `auto` lets the plan decide and say why.
name: {name}

model:
  path: {model}              # a folder in Hugging Face layout, or a name on the hub

method:
  kind: lora                 # or full: train every weight
  r: 16
  lora_alpha: 32
  target_modules: all-linear

data:
  train:
    - path: {data}           # a file, a glob, a folder, or a dataset on the hub
  eval: {{split: 0.02}}        # hold out this share of the rows
  max_length: 2048           # tokens in a pack, and the longest conversation
  overlong: drop             # or truncate, split, error

training:
  num_train_epochs: 2
  tokens_per_step: auto      # tokens in one optimizer step, over all ranks
  learning_rate: auto
  lr_scheduler_type: cosine
  warmup_steps: 0.03         # below 1: a share of all steps

evaluation:
  every_steps: 100
  # generate: prompts.jsonl  # prompts with answers, scored on the finished model

checkpoint: {{every_minutes: auto, keep: 2}}

resources:
  gpu: auto                  # none trains on the CPU
  engine: auto               # zero0 to zero3, or fsdp2

cluster: {{profile: local}}
"""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default="job.yaml")
@click.option("--name", default="my-run", show_default=True, help="Name of the run.")
@click.option("--model", default="path/to/model", show_default=True, help="The model to tune.")
@click.option("--data", default="path/to/train.jsonl", show_default=True, help="The rows to train on.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def init(file: Path, name: str, model: str, data: str, force: bool) -> None:
    """Write a commented job file to start from, FILE or job.yaml."""
    if file.exists() and not force:
        raise JobError(f"{file} exists already", "Name another file, or replace it with --force.")
    try:
        file.write_text(TEMPLATE.format(name=name, model=model, data=data), encoding="utf-8")
    except OSError as error:
        raise MachineError(f"{file}: cannot be written: {error.strerror}") from error
    click.echo(f"wrote {file}\nNext: edit it, then tuneyard plan {quoted(file)}")
