"""The trainer's commands: `python -m trainer COMMAND RUN_DIR`, COMMAND being one of
`prepare | train | export | evaluate | held_out | checkpoints | inspect | measure`.

`python -m trainer shape MODEL_DIR` counts a model's tensors.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rundir.after_training import Part
from rundir.errors import EXIT_OK
from rundir.quantities import count
from trainer.capabilities import OWN, lacking
from trainer.config import TrainerConfig, read_trainer_config
from trainer.errors import UserError, run_reporting_user_errors
from trainer.run.finishing import finishing
from trainer.runtime.phase_clock import PhaseClock
from trainer.runtime.process import block_import, end_with_whoever_waits, heavy_imports, imports_blocked, log_to_stdout
from trainer.runtime.progress import ProgressWriter, record_failure

logger = logging.getLogger("trainer")


def main() -> int:
    end_with_whoever_waits()
    log_to_stdout()
    arguments = _parser().parse_args()
    attempt = int(os.environ.get("TUNEYARD_ATTEMPT", "0"))

    def command() -> int:
        try:
            config = None if arguments.command is _shape else _config(arguments.run_dir)
            code: int = arguments.command(arguments, config, attempt)
        except UserError as error:
            if arguments.recorded:
                record_failure(arguments.run_dir, attempt, "fatal", str(error), error.remedy)
            raise
        except Exception as error:
            if arguments.recorded:
                record_failure(arguments.run_dir, attempt, *_classified(error))
            raise
        return code

    return run_reporting_user_errors(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    commands = parser.add_subparsers(required=True)
    functions = (_prepare, _train, _export, _evaluate, _held_out, _checkpoints, _inspect, _measure, _shape)
    for name, function in ((function.__name__.removeprefix("_"), function) for function in functions):
        command = commands.add_parser(name)
        command.add_argument("run_dir", type=Path)
        command.set_defaults(command=function, recorded=name in ("prepare", "train"))
        if name in ("export", "held_out"):
            command.add_argument("--step", type=int)
        if name == "export":
            command.add_argument("--merge", action="store_true")
            command.add_argument("--output", type=Path)
        if name == "prepare":
            command.add_argument("--num-proc", type=int, help="Processes that tokenise, in place of the plan's.")
        if name == "checkpoints":
            command.add_argument("--verify", action="store_true")
            command.add_argument("--prune", type=int, metavar="KEEP")
        if name == "measure":
            command.add_argument("--rank", type=int, default=0)
            command.add_argument("--counted", action="store_true")
        if name == "evaluate":
            command.add_argument("--model", type=Path)
            command.add_argument("--prompts", type=Path)
            command.add_argument("--output", type=Path)
    return parser


def _config(run_dir: Path) -> TrainerConfig:
    try:
        return read_trainer_config(run_dir)
    except FileNotFoundError:
        raise UserError("not a run directory: there is no plan.json", where=str(run_dir)) from None
    except (ValidationError, KeyError, ValueError) as error:
        raise UserError(f"the plan cannot be read: {error}", where=str(run_dir / "plan.json")) from None


def _prepare(arguments: Any, config: TrainerConfig, attempt: int) -> int:
    from trainer.data.shards.fingerprint import cache_key, prepared_report
    from trainer.model_files.inspection_cache import inspected

    run_dir = arguments.run_dir
    if arguments.num_proc:
        execution = config.execution.model_copy(update={"num_proc": arguments.num_proc})
        config = config.model_copy(update={"execution": execution})
    progress = ProgressWriter(run_dir, attempt)
    progress.update(state="preparing")

    def report(line: str) -> None:
        logger.info(line)
        progress.pulse()

    preflight = prepared_report(run_dir, cache_key(config, run_dir / "data"))
    if preflight is None:  # only now look at the model, and load the tokenizer library: a resume is not to wait
        _refuse_unfit(config, inspected(run_dir, config.model)["verdict"])
        with heavy_imports(), imports_blocked(*(() if config.model.trust_remote_code else ("torch",))):
            from trainer.data.prepare import prepare

        preflight = prepare(run_dir, config, report)
    print(json.dumps(preflight, indent=1))
    return EXIT_OK


def _train(arguments: Any, config: TrainerConfig, attempt: int) -> int:
    block_import(*_unused(config))
    with heavy_imports():
        import torch
        import torch.distributed as dist

        from trainer.run.loop import TrainingRun

    faulthandler.register(signal.SIGQUIT, all_threads=True)  # the node agent asks for stacks when nothing moves
    phases = PhaseClock.of_this_process()
    phases.enter("rendezvous")
    ProgressWriter(arguments.run_dir, attempt, os.environ.get("RANK") == "0", phases).update(state="starting")
    backend = "gloo"
    if config.execution.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timedelta(minutes=10))
    TrainingRun(arguments.run_dir, config, attempt, phases).train()
    dist.destroy_process_group()
    return EXIT_OK


def _unused(config: TrainerConfig) -> tuple[str, ...]:
    """Packages that nothing of this run calls; a model's own code may call all."""
    if config.model.trust_remote_code:
        return ()
    if config.method.kind == "full":
        return "peft", "bitsandbytes"
    return () if config.method.quantization else ("bitsandbytes",)


def _export(arguments: Any, config: TrainerConfig, attempt: int) -> int:
    block_import(*_unused(config))
    with _noted(arguments.run_dir, Part.EXPORT, arguments.output):
        with heavy_imports():
            from trainer.checkpoint.export import export

        folder = export(arguments.run_dir, config, step=arguments.step, merge=arguments.merge, output=arguments.output)
    print(f"exported to {folder}")
    return EXIT_OK


def _noted(run_dir: Path, part: Part, output: Path | None) -> contextlib.AbstractContextManager[None]:
    """How a part of the run ends is noted in it; what goes elsewhere is no part of it."""
    return contextlib.nullcontext() if output else finishing(run_dir, part)


def _held_out(arguments: Any, config: TrainerConfig, attempt: int) -> int:
    block_import(*_unused(config))
    with finishing(arguments.run_dir, Part.HELD_OUT):
        with heavy_imports():
            from trainer.evaluation.checkpoint_loss import held_out_loss_of

        line = held_out_loss_of(arguments.run_dir, config, arguments.step)
    print(f"step {line['step']}  eval_loss {line['eval_loss']:.4f}")
    return EXIT_OK


def _evaluate(arguments: Any, config: TrainerConfig, attempt: int) -> int:
    with _noted(arguments.run_dir, Part.EVALUATE, arguments.output):
        return _answer_prompts(arguments, config)


def _answer_prompts(arguments: Any, config: TrainerConfig) -> int:
    with heavy_imports():
        from trainer.evaluation.answers import evaluate_prompts

    prompts = arguments.prompts or (config.evaluation.generate and Path(config.evaluation.generate))
    if not prompts:
        raise UserError("there are no prompts", remedy="set evaluation.generate in the job file, or pass --prompts")
    result = evaluate_prompts(
        config,
        model_dir=arguments.model or arguments.run_dir / "model",
        prompts_file=prompts,
        output=arguments.output or arguments.run_dir / "evaluation.json",
        counted_in=arguments.run_dir,
    )
    print(f"exact_match {result['exact_match']:.4f} over {count(result['prompts'], 'prompt')}")
    return EXIT_OK


def _checkpoints(arguments: Any, config: TrainerConfig, attempt: int) -> int:
    from trainer.checkpoint.inventory import inventory, prune

    folder = arguments.run_dir / "checkpoints"
    removed = [] if arguments.prune is None else prune(folder, arguments.prune)
    print(json.dumps({**inventory(folder, verify=arguments.verify), "removed": removed}, indent=1))
    return EXIT_OK


def _measure(arguments: Any, config: TrainerConfig, attempt: int) -> int:
    block_import(*_unused(config))
    with heavy_imports():
        from trainer.measure.one_rank import measure, write

    write(arguments.run_dir, measure(config, arguments.rank, arguments.counted))
    return EXIT_OK


def _shape(arguments: Any, config: None, attempt: int) -> int:
    block_import("peft", "bitsandbytes")
    with heavy_imports():
        from trainer.model.inspection.tensor_shapes import tensors_of

    print(json.dumps(tensors_of(arguments.run_dir)))
    return EXIT_OK


def _refuse_unfit(config: TrainerConfig, verdict: dict[str, Any]) -> None:
    """Refuse a plan that would run an architecture in a way in which it is not itself, as its tiny twin showed."""
    from trainer.model_files.inspection_cache import ALONE

    if verdict["how"] == ALONE and config.model.attention != OWN:
        raise UserError(
            f"conversations of this model cannot share a row: {verdict['reason']}",
            where="model.attention",
            remedy="set model.attention: own, with which each has a row to itself",
        )
    if lacks := lacking(str(config.model.attention), verdict["asked"]):
        raise UserError(
            f"attention `{config.model.attention}` has no {lacks}, which this model has",
            where="model.attention",
            remedy="set model.attention: flex",
        )
    if verdict["router_fault"] and config.loss.output_router_logits is True:
        raise UserError(
            f"the auxiliary loss of this model's router cannot be trained: {verdict['router_fault']}",
            where="loss.output_router_logits",
            remedy="set it to false",
        )


def _inspect(arguments: Any, config: TrainerConfig, attempt: int) -> int:
    """What can be found out about the model before it trains, as one line of JSON; a refusal is an answer, too."""
    block_import("peft", "bitsandbytes")
    with heavy_imports():
        from trainer.model.inspection.examine import examine

    try:
        found = examine(config.model)
    except UserError as error:
        found = {"refused": error.message, "where": error.where, "remedy": error.remedy}
    print(json.dumps(found))
    return EXIT_OK


def _classified(error: Exception) -> tuple[str, str, str]:
    """Kind, message and remedy of an error that is no UserError."""
    message = f"{type(error).__name__}: {error}"
    if type(error).__name__ == "OutOfMemoryError":
        remedy = "lower resources.micro_batch or data.max_length, or set training.gradient_checkpointing"
        return "fatal", message, remedy
    return "crash", "".join(traceback.format_exception_only(error)).strip() or message, ""


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written. To unload torch would take 2 s of a grace period, and after an error peers would be joined.
    os._exit(code)
