"""Compact chat templates, each with the behaviour of some families' own: which tokens, what they do to earlier turns.

Written for these tests; they render no more than what the behaviour needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CALLS = (
    "{% for c in m.tool_calls or [] %}<tool_call>{{ {'name': c.function.name, 'arguments': c.function.arguments} "
    "| tojson }}</tool_call>{% endfor %}"
)
TOOLS = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
LAST_USER = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
)
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}{% endfor %}"
)
CHATML_TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}"


@dataclass(frozen=True)
class Stock:
    """A template, its tokenizer's end of sequence, and what generation_config.json says ends a turn."""

    template: str
    eos: str
    stops: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()


CHATML = ("<|im_start|>", "<|im_end|>")

STOCK = {
    # Qwen 2.5, Qwen 3 Instruct 2507: every turn stays as it was
    "turns_stay": Stock(
        TOOLS
        + "{% for m in messages %}"
        + CHATML_TURN
        + CALLS
        + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<|im_end|>",
        tokens=CHATML,
    ),
    # Qwen 3: thoughts stand after the last user turn only
    "thoughts_of_earlier_turns_left_out": Stock(
        LAST_USER
        + TOOLS
        + "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.index0 > ns.last and "
        "(loop.last or m.reasoning_content) %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
        "{{ m.content }}" + CALLS + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        "<|im_end|>",
        tokens=CHATML,
    ),
    # Qwen 3.5 and 3.6 with thinking: the prompt opens a thought, and the last turn has one
    "prompt_opens_a_thought": Stock(
        LAST_USER
        + TOOLS
        + "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.index0 > ns.last %}"
        "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}"
        + CALLS
        + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        "<|im_end|>",
        tokens=CHATML,
    ),
    # Qwen 3.5 without thinking: the prompt closes the thought unless told to think
    "prompt_closes_the_thought": Stock(
        LAST_USER
        + TOOLS
        + "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.index0 > ns.last %}"
        "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}"
        + CALLS
        + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
        "{% if not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}",
        "<|im_end|>",
        tokens=CHATML,
    ),
    # DeepSeek V3 and R1: the prompt opens a thought that no turn ever shows; arguments are text
    "prompt_opens_a_thought_that_turns_leave_out": Stock(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
        "{% set ns = namespace(tool=false) %}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
        "{% elif m.role == 'tool' %}{% set ns.tool = true %}<|out|>{{ m.content }}<|end_out|>"
        "{% elif m.role == 'assistant' %}{% if not ns.tool %}<|Assistant|>{% endif %}{% set ns.tool = false %}"
        "{{ m.content.split('</think>')[-1] }}{% for c in m.tool_calls or [] %}"
        "{{ '<tool_call>' + c.function.name + '\n' + c.function.arguments + '</tool_call>' }}{% endfor %}"
        "{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt and not ns.tool %}<|Assistant|><think>\n{% endif %}",
        "<|eos|>",
        tokens=("<|User|>", "<|Assistant|>", "<|out|>", "<|end_out|>"),
    ),
    # Nemotron 3: turns without a thought show an empty one, without the prompt's line break
    "empty_thought_written_otherwise": Stock(
        LAST_USER + TOOLS + "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% if m.reasoning_content and loop.index0 > ns.last %}"
        "<think>\n{{ m.reasoning_content }}\n</think>\n{% elif '<think>' not in m.content %}"
        "<think></think>{% endif %}{% endif %}{{ m.content }}"
        + CALLS
        + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        "<|im_end|>",
        tokens=CHATML,
    ),
    # Phi 3, 3.5 and 4 mini: an end of text after the whole, other tokens after turns
    "end_of_text_after_the_last_turn_only": Stock(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
        + CALLS
        + "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        "<|endoftext|>",
        ("<|endoftext|>", "<|end|>"),
        ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"),
    ),
    # Gemma 1 and 2: no system role, strict alternation, turns end with a token that is not the tokenizer's
    "no_system_role": Stock(
        "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        + ALTERNATE
        + "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        "<eos>",
        ("<eos>", "<end_of_turn>"),
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    # GLM 4.5: a turn ends where the next role's token comes
    "next_role_ends_the_turn": Stock(
        LAST_USER + "<sop>{% if tools %}<|system|>\n{{ tools | tojson }}{% endif %}{% for m in messages %}"
        "<|{{ 'observation' if m.role == 'tool' else m.role }}|>\n{% if m.role == 'assistant' %}<think>"
        "{{ m.reasoning_content if m.reasoning_content and loop.index0 > ns.last else '' }}</think>\n{% endif %}"
        "{{ m.content }}" + CALLS + "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "<|endoftext|>",
        ("<|endoftext|>", "<|user|>", "<|observation|>"),
        ("<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    ),
    # gpt-oss (harmony): channels, the last answer ends otherwise than earlier ones, today's date at the top
    "channels": Stock(
        "<|start|>system<|message|>{{ strftime_now('%Y-%m-%d') }}<|end|>{% if tools %}<|start|>developer<|message|>"
        "{{ tools | tojson }}<|end|>{% endif %}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% if m.thinking and loop.last %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
        "{% endif %}{% if m.tool_calls %}{% set c = m.tool_calls[0].function %}<|start|>assistant to="
        "{{ c.name }}<|channel|>commentary<|message|>{{ c.arguments | tojson }}<|call|>{% else %}"
        "<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
        "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}{% else %}"
        "<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        "<|return|>",
        ("<|return|>", "<|call|>"),
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|call|>"),
    ),
    # Mistral: [INST], ids of nine characters, the system text inside a user turn
    "ids_of_nine_characters": Stock(
        "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.system = m.content + '\n\n' %}{% elif m.role == 'user' %}[INST] {{ ns.system + m.content }}[/INST]"
        "{% elif m.role == 'tool' %}{% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}"
        "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
        "<tool_response>{{ m.tool_call_id + m.content }}</tool_response>{% else %} {{ m.content }}"
        "{% for c in m.tool_calls or [] %}{% if c.id is not defined or c.id | length != 9 %}"
        "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
        "<tool_call>{{ c.id }}{{ c.function | tojson }}</tool_call>{% endfor %}{{ eos_token }}{% endif %}{% endfor %}",
        "</s>",
        tokens=("[INST]", "[/INST]"),
    ),
    # Command R, Aya: strict alternation after a system turn, two tokens close an answer
    "two_tokens_end_the_turn": Stock(
        "{{ bos_token }}{% set rest = messages[1:] if messages[0].role == 'system' else messages %}"
        "{% if messages[0].role == 'system' %}<|START|><|SYSTEM|>{{ messages[0].content }}<|END|>{% endif %}"
        "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}<|START|>"
        "{{ '<|USER|>' if m.role == 'user' else '<|CHATBOT|><|RESPONSE|>' }}{{ m.content }}"
        "{{ '<|END_RESPONSE|>' if m.role == 'assistant' }}<|END|>{% endfor %}"
        "{% if add_generation_prompt %}<|START|><|CHATBOT|><|RESPONSE|>{% endif %}",
        "<|END|>",
        tokens=("<|START|>", "<|SYSTEM|>", "<|USER|>", "<|CHATBOT|>", "<|RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    # home-made ones: nothing ends a turn
    "nothing_ends_the_turn": Stock(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}" + CALLS + "\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        "</s>",
    ),
}


def stock_tokenizer(stock: Stock) -> Any:
    """A byte-level tokenizer that has the template's control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    more = [token for token in stock.tokens if token != stock.eos]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=stock.eos, bos_token="<bos>", additional_special_tokens=more
    )
    tokenizer.chat_template = stock.template
    return tokenizer
