"""Every setting of the tools that people come from is known: what it is called here, or that it is not here."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.jobfile import JobFileError, load_job
from launcher.jobfile.foreign import entries, find_foreign
from launcher.jobfile.wording import _sections

SECTIONS = _sections()
SETTINGS = {f"{section}.{name}".lstrip(".") for section, names in SECTIONS.items() for name in names}
OURS = {name for names in SECTIONS.values() for name in names}
SFT_CONFIG = """
    model_init_kwargs trust_remote_code router_aux_loss_coef chat_template_path dataset_text_field dataset_kwargs
    dataset_num_proc eos_token max_length truncation_mode shuffle_dataset packing packing_strategy padding_free
    pad_to_multiple_of eval_packing completion_only_loss assistant_only_loss loss_type activation_offloading pad_token
    max_seq_length dataset_batch_size neftune_noise_alpha use_liger_kernel torch_empty_cache_steps model_name_or_path
    model_revision dtype attn_implementation use_peft lora_r lora_alpha lora_dropout lora_target_modules
    lora_target_parameters lora_modules_to_save lora_task_type use_rslora use_dora load_in_8bit load_in_4bit
    bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage dataset_name dataset_config dataset_train_split
    dataset_test_split dataset_streaming evaluation_strategy warmup_ratio logging_dir no_cuda fp16 bf16
"""
"""TRL 1.16's SFTConfig, ModelConfig and script arguments, with what older versions and Transformers 4 had."""
LLAMA_FACTORY = """
    model_name_or_path adapter_name_or_path cache_dir use_fast_tokenizer resize_vocab model_revision flash_attn
    rope_scaling use_unsloth enable_liger_kernel moe_aux_loss_coef disable_gradient_checkpointing quantization_method
    quantization_bit quantization_type double_quantization export_dir hf_hub_token template dataset eval_dataset
    dataset_dir cutoff_len train_on_prompt mask_history streaming buffer_size mix_strategy interleave_probs
    overwrite_cache preprocessing_batch_size preprocessing_num_workers max_samples val_size eval_on_each_dataset
    packing neat_packing tool_format default_system enable_thinking tokenized_path do_sample temperature top_p top_k
    num_beams max_new_tokens repetition_penalty freeze_trainable_layers additional_target lora_alpha lora_dropout
    lora_rank lora_target loraplus_lr_ratio use_rslora use_dora pissa_init create_new_adapter stage finetuning_type
    use_galore galore_rank use_apollo use_badam pure_bf16 early_stopping_steps plot_loss compute_accuracy
    disable_shuffling do_train predict_with_generate ddp_timeout overwrite_output_dir
"""
AXOLOTL = """
    base_model load_in_8bit load_in_4bit adapter lora_model_dir lora_r lora_alpha lora_target_modules lora_target_linear
    lora_modules_to_save lora_dropout peft_use_dora peft_use_rslora loraplus_lr_ratio merge_lora relora tokenizer_type
    output_dir hub_model_id save_safetensors special_tokens tokens datasets test_datasets dataset_prepared_path
    shuffle_merged_datasets type chat_template chat_template_jinja field_messages message_field_role roles_to_train
    train_on_eos train_on_inputs group_by_length sequence_len excess_length_strategy sample_packing eval_sample_packing
    pad_to_sequence_len val_set_size gradient_accumulation_steps micro_batch_size eval_batch_size num_epochs optimizer
    lr_scheduler learning_rate embedding_lr weight_decay cosine_min_lr_ratio max_grad_norm warmup_steps warmup_ratio
    evals_per_epoch saves_per_epoch eval_steps save_steps save_total_limit logging_steps early_stopping_patience
    load_best_model_at_end gradient_checkpointing gradient_checkpointing_kwargs activation_offloading bf16 fp16 tf32
    flash_attention sdp_attention flex_attention xformers_attention deepspeed fsdp fsdp_config fsdp_version
    sequence_parallel_degree context_parallel_size tensor_parallel_size wandb_project wandb_entity wandb_name use_wandb
    mlflow_tracking_uri use_tensorboard resume_from_checkpoint auto_resume_from_checkpoints torch_compile rl
    plugins loss_watchdog_threshold eval_max_new_tokens default_system_message lora_qkv_kernel use_ray
"""
TORCHTUNE = """
    tokenizer dataset seed shuffle batch_size optimizer lr_scheduler loss epochs max_steps_per_epoch
    gradient_accumulation_steps clip_grad_norm compile optimizer_in_bwd checkpointer checkpoint_dir checkpoint_files
    model_type save_adapter_weights_only resume_from_checkpoint metric_logger log_dir log_every_n_steps
    log_peak_memory_stats device dtype enable_activation_checkpointing enable_activation_offloading
    custom_sharded_layers profiler max_seq_len packed train_on_input lora_attn_modules apply_lora_to_mlp
    apply_lora_to_output lora_rank lora_alpha lora_dropout quantize_base num_warmup_steps num_output_chunks
    fsdp_cpu_offload tensor_parallel_dim fused
"""
GUESSED_WRONGLY_BEFORE = "lora_r logging_steps early_stopping temperature per_device_train_batch_size"


def fields_of(module: str, kind: str) -> list[str]:
    """The annotated names of a dataclass, read from its file: nothing heavy is imported."""
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent.joinpath(*rest).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == kind)
    return [
        line.target.id for line in found.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]


@pytest.mark.parametrize(
    ("module", "kind", "at_least"),
    [("transformers.training_args", "TrainingArguments", 100), ("peft.tuners.lora.config", "LoraConfig", 30)],
)
def test_every_field_of_the_installed_libraries_is_known(module: str, kind: str, at_least: int) -> None:
    names = fields_of(module, kind)
    assert len(names) >= at_least
    assert [name for name in names if name not in OURS and find_foreign(name) is None] == []


@pytest.mark.parametrize("names", [SFT_CONFIG, LLAMA_FACTORY, AXOLOTL, TORCHTUNE, GUESSED_WRONGLY_BEFORE])
def test_the_usual_settings_of_other_tools_are_known(names: str) -> None:
    assert [name for name in names.split() if name not in OURS and find_foreign(name) is None] == []


def test_the_table_speaks_of_settings_that_there_are_and_of_each_name_once() -> None:
    found = list(entries())
    assert [one.setting for _, one in found if one.setting and one.setting not in SETTINGS] == []
    assert [one for _, one in found if not one.setting and not one.how] == []
    counted = Counter(name for names, _ in found for name in names)
    assert [name for name, count in counted.items() if count > 1] == []


def test_a_name_of_another_tool_is_answered_wherever_it_stands(write_job: Callable[..., Path]) -> None:
    text = """\
name: a
model: {path: model, learning_rate: 1.0e-4, base_model: b}
method: {kind: lora, lora_r: 8}
data: {train: [{path: train.jsonl, dataset_text_field: text}]}
training_arguments:
  warmup_ratio: 0.1
  nested: {temperature: 0.7}
evaluation: {early_stopping: {patience: 3}}
"""
    with pytest.raises(JobFileError) as refused:
        load_job(write_job(text))
    told = {problem.key: (problem.line, problem.remedy) for problem in refused.value.problems}
    assert told["model.learning_rate"] == (2, "It is training.learning_rate.")
    assert told["model.base_model"] == (2, "It is model.path here.")
    assert told["method.lora_r"] == (3, "It is method.r here.")
    assert told["data.train[0].dataset_text_field"][1].startswith("There is no such setting: formats are recognised")
    assert told["training_arguments.warmup_ratio"][0] == 6
    assert "training.warmup_steps" in told["training_arguments.warmup_ratio"][1]
    assert "greedily" in told["training_arguments.nested.temperature"][1]
    assert "There is no such setting" in told["evaluation.early_stopping"][1]
