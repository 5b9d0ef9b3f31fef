"""What is trained on with the families' chat templates: in every text, what inference asks for and is then answered."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from tests.support.stock_templates import STOCK, Stock, stock_tokenizer
from trainer.config import TrainerConfig
from trainer.data.chat_template import tokenizer as tokenizer_templates
from trainer.data.chat_template.render import Renderer, TemplateRefusalError
from trainer.data.conversation.formats import Conversation, to_conversation
from trainer.data.pack.batch import Reduction
from trainer.data.prepare import prepare
from trainer.data.shards.token_store import TokenStore
from trainer.errors import UserError

pytestmark = pytest.mark.models

USER = {"role": "user", "content": "Q1"}
ANSWER = {"role": "assistant", "content": "ANSWER1"}
MORE = [{"role": "user", "content": "Q2"}, {"role": "assistant", "content": "ANSWER2"}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "wind", "arguments": {"city": "x"}}}]}
WIND = {"type": "function", "function": {"name": "wind", "parameters": {"type": "object", "properties": {}}}}
KINDS: dict[str, Conversation] = {
    "single": Conversation([USER, ANSWER]),
    "multi": Conversation([USER, ANSWER, *MORE]),
    "system": Conversation([{"role": "system", "content": "SYS"}, USER, ANSWER]),
    "tools": Conversation([USER, CALL, {"role": "tool", "content": "RESULT"}, ANSWER], [WIND]),
    "reasoning": Conversation(
        [USER, {**ANSWER, "reasoning_content": "REASON1"}, MORE[0], {**MORE[1], "reasoning_content": "REASON2"}]
    ),
}
REFUSED = {("no_system_role", "tools"), ("two_tokens_end_the_turn", "tools")}
"""No tool role in these templates: a built-in one of the same family is the way out."""


def renderer(name: str) -> Renderer:
    stock = STOCK[name]
    tokenizer = stock_tokenizer(stock)
    declared = tokenizer.convert_tokens_to_ids([stock.eos, *stock.stops])
    return Renderer(tokenizer, {"default": stock.template}, list(dict.fromkeys(declared)), {})


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_trained_as_inference_asks_for_it(name: str, kind: str) -> None:
    own, conversation = renderer(name), copy.deepcopy(KINDS[kind])
    if (name, kind) in REFUSED:
        with pytest.raises(TemplateRefusalError):
            own.render(conversation)
        return
    rendered = own.render(conversation)
    trained: list[int] = []
    for rendering in rendered.renderings:
        for (start, end), at in zip(rendering.spans, rendering.turns, strict=True):
            written = rendering.text[start:end]
            assert any(stop in written for stop in own.ends.texts), "nobody would learn to stop"
            assert ("wind" if at == 1 and kind == "tools" else conversation.messages[at]["content"]) in written
            prompt = own.prompt(Conversation(conversation.messages[:at], conversation.tools))
            thinking = name == "prompt_closes_the_thought" and kind == "reasoning"
            assert thinking or rendering.text[:start] == prompt
            trained.append(at)
    assert sorted(trained) == [at for at, m in enumerate(conversation.messages) if m["role"] == "assistant"]


THINKS = [
    name for name, stock in STOCK.items() if "reasoning_content" in stock.template or "thinking" in stock.template
]


@pytest.mark.parametrize("name", [*THINKS, "prompt_opens_a_thought_that_turns_leave_out"])
def test_the_reasoning_of_every_turn_is_trained(name: str) -> None:
    rendered = renderer(name).render(copy.deepcopy(KINDS["reasoning"]))
    spans = [one.text[start:end] for one in rendered.renderings for start, end in one.spans]
    assert ["REASON1" in spans[0], "REASON2" in spans[1], "REASON1" in spans[1]] == [True, True, False]
    assert "REASON1" not in rendered.renderings[-1].text, "the template leaves it out when it asks for the second"


def test_reasoning_that_a_marking_template_leaves_out_later_is_trained_all_the_same() -> None:
    """LFM 2.5 marks what the assistant wrote, and writes the thoughts of the last turn only."""
    text = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
        "{% if loop.last and m.thinking %}<think>{{ m.thinking }}</think>{% endif %}{{ m.content }}<|im_end|>"
        "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    )
    tokenizer = stock_tokenizer(STOCK["turns_stay"])
    own = Renderer(tokenizer, {"default": text}, [tokenizer.eos_token_id], {})
    rendered = own.render(copy.deepcopy(KINDS["reasoning"]))
    spans = [one.text[start:end] for one in rendered.renderings for start, end in one.spans]
    assert spans == [f"<think>REASON{n}</think>ANSWER{n}<|im_end|>" for n in (1, 2)]
    assert len(own.render(copy.deepcopy(KINDS["multi"])).renderings) == 1


def test_contents_are_parts_for_templates_that_read_nothing_else() -> None:
    """Idefics 3, SmolVLM and LLaVA; their tokenizers train on text all the same."""
    text = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'text' %}"
        "{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = stock_tokenizer(STOCK["turns_stay"])
    own = Renderer(tokenizer, {"default": text}, [tokenizer.eos_token_id], {})
    (rendering,) = own.render(copy.deepcopy(KINDS["multi"])).renderings
    assert [rendering.text[start:end] for start, end in rendering.spans] == [f"ANSWER{n}<|im_end|>\n" for n in (1, 2)]
    assert "Q1" in rendering.text


def test_calls_that_the_template_leaves_out_are_refused_with_ways_out_that_fit(tmp_path: Path) -> None:
    silent = STOCK["turns_stay"].template.replace("tool_calls", "nothing")
    tokenizer = stock_tokenizer(STOCK["turns_stay"])
    tokenizer.chat_template = silent
    tokenizer.save_pretrained(tmp_path / "model")
    row = {"messages": KINDS["tools"].messages, "tools": KINDS["tools"].tools}
    with pytest.raises(UserError, match=r"does not write the tool calls") as refusal:
        prepared(tmp_path, tmp_path / "model", [row])
    ways_out = str(refusal.value).rpartition("one that takes it: ")[2].split(", ")
    assert "chatml" in ways_out and "llama3" not in ways_out


def test_every_token_means_all_messages(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", "thoughts_of_earlier_turns_left_out")
    talk = [*KINDS["multi"].messages, {"role": "user", "content": "LAST"}]
    report, store = prepared(tmp_path, model, [{"messages": talk}], assistant_only_loss=False)
    ids, mask = store.conversation(0)
    text = stock_tokenizer(STOCK["turns_stay"]).decode(ids)
    assert report["kept"] == 1 and mask.all() and "Q1" in text and "LAST" in text


def test_turns_share_a_text_where_it_shows_them_unchanged() -> None:
    shared = {"turns_stay", "end_of_text_after_the_last_turn_only", "next_role_ends_the_turn", "no_system_role"}
    counts = {name: len(renderer(name).render(copy.deepcopy(KINDS["multi"])).renderings) for name in STOCK}
    assert {name for name in shared if counts[name] != 1} == set()
    assert counts["thoughts_of_earlier_turns_left_out"] == counts["channels"] == counts["nothing_ends_the_turn"] == 2


@pytest.mark.parametrize("name", ["no_system_role", "end_of_text_after_the_last_turn_only"])
def test_a_turn_end_that_no_file_declares_is_found(name: str) -> None:
    stock = STOCK[name]
    tokenizer = stock_tokenizer(stock)
    own = Renderer(tokenizer, {"default": stock.template}, [tokenizer.eos_token_id], {})
    assert own.ends.texts == list(stock.stops)


def test_system_message_goes_to_the_first_user_turn_where_the_template_has_no_place_for_it() -> None:
    rendered = renderer("no_system_role").render(copy.deepcopy(KINDS["system"]))
    assert "user\nSYS\n\nQ1<end_of_turn>" in rendered.renderings[0].text
    assert any("system message" in note for note in rendered.notes)


def model_of(folder: Path, name: str) -> Path:
    tokenizer = stock_tokenizer(STOCK[name])
    tokenizer.save_pretrained(folder)
    stops = tokenizer.convert_tokens_to_ids([STOCK[name].eos, *STOCK[name].stops])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    return folder


def prepared(tmp_path: Path, model: Path, rows: list[dict[str, Any]], **data: Any) -> tuple[dict[str, Any], TokenStore]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = tiny.trainer_config(model, file, data=data)
    run = tiny.make_run(tmp_path / "run", raw)
    report = prepare(run, TrainerConfig.model_validate(raw), lambda _: None)
    return report["train"], TokenStore(run / "data" / "train")


def test_renderings_of_a_row_are_counted_and_share_its_weight(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", "thoughts_of_earlier_turns_left_out")
    two, one = {"messages": KINDS["multi"].messages, "weight": 3.0}, {"messages": KINDS["single"].messages}
    report, store = prepared(tmp_path, model, [two, one, one])
    assert (report["rows"], report["kept"]) == (3, 4)
    assert report["repeated_tokens"] == store.rows["length"][0] < store.rows["length"][1]
    assert store.groups.tolist() == [0, 0, 1, 2]
    by_row, by_token = Reduction(store, "sequence"), Reduction(store, "token")
    assert by_row.total(np.array([0, 1])) == pytest.approx(3.0), "a row counts once, however often it is rendered"
    assert by_row.total(np.arange(4)) == pytest.approx(5.0)
    assert [by_token.token_weight(n) for n in range(4)] == [3.0, 3.0, 1.0, 1.0]


def spanning_tokenizer(folder: Path, template: str, *, trim: bool) -> Path:
    """Has ` Yes` as one token, and two blanks as one, as most byte-level vocabularies do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    merges = [("Ġ", "Y"), ("ĠY", "e"), ("ĠYe", "s"), ("Ġ", "Ġ")]
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


SPANNING = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("trim", [False, True])
def test_a_token_that_spans_prompt_and_answer_is_trained_and_counted(tmp_path: Path, trim: bool) -> None:
    from transformers import AutoTokenizer

    model = spanning_tokenizer(tmp_path / "model", SPANNING, trim=trim)
    report, store = prepared(tmp_path, model, [{"prompt": "ice?", "completion": "Yes"}] * 2)
    ids, mask = store.conversation(0)
    assert AutoTokenizer.from_pretrained(model).decode(ids[mask > 0]) == " Yes</s>\n"
    (found,) = [reason for reason in report["found"] if "spans the end of the prompt" in reason]
    assert report["found"][found] == 2


@pytest.mark.parametrize("trim", [False, True])
def test_blanks_inside_an_answer_are_trained(tmp_path: Path, trim: bool) -> None:
    """Llama 3's and GPT-2's tokenizers give tokens of blanks no extent: indentation would never be learnt."""
    from transformers import AutoTokenizer

    model = spanning_tokenizer(tmp_path / "model", SPANNING.replace(": {", ":{").replace(": ", ":"), trim=trim)
    report, store = prepared(tmp_path, model, [{"prompt": "code", "completion": "if x:\n    y()"}])
    ids, mask = store.conversation(0)
    assert AutoTokenizer.from_pretrained(model).decode(ids[mask > 0]) == "if x:\n    y()</s>\n"
    assert report["found"] == {}


def test_named_templates_of_a_tokenizer_are_used_as_transformers_does(tmp_path: Path) -> None:
    plain = STOCK["turns_stay"].template.replace("{{ tools | tojson }}", "NEVER")
    tokenizer = stock_tokenizer(STOCK["turns_stay"])
    tokenizer.chat_template = {"default": plain, "tool_use": STOCK["turns_stay"].template}
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"messages": KINDS[kind].messages, "tools": KINDS[kind].tools} for kind in ("single", "tools")]
    report, store = prepared(tmp_path, tmp_path / "model", rows)
    texts = [tokenizer.decode(store.conversation(n)[0]) for n in range(2)]
    assert report["kept"] == 2 and "NEVER" not in texts[1] and '"wind"' in texts[1].split("user")[0]


def test_plain_text_is_learnt_whole_with_an_end(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", "turns_stay")
    _, store = prepared(tmp_path, model, [{"text": "once upon a time"}])
    ids, mask = store.conversation(0)
    assert stock_tokenizer(STOCK["turns_stay"]).decode(ids[mask > 0]) == "once upon a time<|im_end|>"


@pytest.mark.parametrize("chat_template", [tiny.CHATML, STOCK["turns_stay"].template])
def test_a_message_that_is_context_only_is_not_trained(tmp_path: Path, chat_template: str) -> None:
    tokenizer = stock_tokenizer(STOCK["turns_stay"])
    tokenizer.chat_template = chat_template
    tokenizer.save_pretrained(tmp_path / "model")
    messages = [USER, {**ANSWER, "weight": 0}, *MORE]
    _, store = prepared(tmp_path, tmp_path / "model", [{"messages": messages}])
    ids, mask = store.conversation(0)
    assert tokenizer.decode(ids[mask > 0]).strip() == "ANSWER2<|im_end|>" and "ANSWER1" in tokenizer.decode(ids)


GOLDEN = {
    "alpaca": "SYS\n\n### Instruction:\nQ1\n\n### Response:[ANSWER1</s>]\n\n"
    "### Instruction:\nQ2\n\n### Response:[ANSWER2</s>]\n\n",
    "chatml": "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n"
    "[ANSWER1<|im_end|>]\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n[ANSWER2<|im_end|>]\n",
    "command": "<bos><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>SYS<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Q1<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>[ANSWER1<|END_OF_TURN_TOKEN|>]"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Q2<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>[ANSWER2<|END_OF_TURN_TOKEN|>]",
    "gemma": "<bos><start_of_turn>user\nSYS\n\nQ1<end_of_turn>\n<start_of_turn>model\n[ANSWER1<end_of_turn>]\n"
    "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n[ANSWER2<end_of_turn>]\n",
    "llama2": "<bos>[INST] <<SYS>>\nSYS\n<</SYS>>\n\nQ1 [/INST][ ANSWER1 </s>]<bos>[INST] Q2 [/INST][ ANSWER2 </s>]",
    "llama3": "<bos><|start_header_id|>system<|end_header_id|>\n\nSYS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[ANSWER1<|eot_id|>]"
    "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[ANSWER2<|eot_id|>]",
    "mistral": "<bos>[INST] SYS\n\nQ1[/INST][ ANSWER1</s>][INST] Q2[/INST][ ANSWER2</s>]",
    "phi3": "<|system|>\nSYS<|end|>\n<|user|>\nQ1<|end|>\n<|assistant|>\n[ANSWER1<|end|>]\n"
    "<|user|>\nQ2<|end|>\n<|assistant|>\n[ANSWER2<|end|>]\n",
    "phi4": "<|im_start|>system<|im_sep|>SYS<|im_end|><|im_start|>user<|im_sep|>Q1<|im_end|>"
    "<|im_start|>assistant<|im_sep|>[ANSWER1<|im_end|>]<|im_start|>user<|im_sep|>Q2<|im_end|>"
    "<|im_start|>assistant<|im_sep|>[ANSWER2<|im_end|>]",
    "phi4-mini": "<|system|>SYS<|end|><|user|>Q1<|end|><|assistant|>[ANSWER1<|end|>]"
    "<|user|>Q2<|end|><|assistant|>[ANSWER2<|end|>]",
    "qwen": "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n"
    "[ANSWER1<|im_end|>]\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n[ANSWER2<|im_end|>]\n",
    "vicuna": "<bos>SYS USER: Q1 ASSISTANT:[ ANSWER1</s>]USER: Q2 ASSISTANT:[ ANSWER2</s>]",
    "zephyr": "<|system|>\nSYS</s>\n<|user|>\nQ1</s>\n<|assistant|>\n[ANSWER1</s>]\n"
    "<|user|>\nQ2</s>\n<|assistant|>\n[ANSWER2</s>]\n",
}
"""The documented text of each built-in template; in brackets what is trained."""


def built_in_renderer(name: str) -> Renderer:
    """With the tokenizer of a base model that has the template's control tokens, and another end of sequence."""
    tokens = tuple(tokenizer_templates.needed_tokens(name))
    tokenizer = stock_tokenizer(Stock("", "</s>", tokens=tokens))
    texts = tokenizer_templates.chat_templates(tokenizer, name)
    return Renderer(tokenizer, texts, [tokenizer.eos_token_id], {})


def test_every_built_in_template_has_its_golden_text() -> None:
    assert sorted(GOLDEN) == tokenizer_templates.built_in()


@pytest.mark.parametrize("name", GOLDEN)
def test_built_in_templates_write_the_documented_text(name: str) -> None:
    system = {"role": "system", "content": "SYS"}
    (rendering,) = built_in_renderer(name).render(Conversation([system, USER, ANSWER, *MORE])).renderings
    text, at = "", 0
    for start, end in rendering.spans:
        text += rendering.text[at:start] + "[" + rendering.text[start:end] + "]"
        at = end
    assert text + rendering.text[at:] == GOLDEN[name]


@pytest.mark.parametrize("name", [name for name in GOLDEN if not tokenizer_templates.needed_tokens(name)])
def test_templates_for_any_model_need_no_beginning_of_sequence(name: str) -> None:
    tokenizer = stock_tokenizer(Stock("", "</s>"))
    tokenizer.bos_token = None
    own = Renderer(tokenizer, tokenizer_templates.chat_templates(tokenizer, name), [tokenizer.eos_token_id], {})
    assert "None" not in own.render(Conversation([USER, ANSWER])).renderings[0].text


@pytest.mark.parametrize("name", GOLDEN)
def test_built_in_templates_write_tools_calls_results_and_reasoning(name: str) -> None:
    own = built_in_renderer(name)
    thoughtful = {**CALL, "reasoning_content": "REASON", "tool_calls": [{"type": "function", **CALL["tool_calls"][0]}]}
    messages = [USER, thoughtful, {"role": "tool", "content": "RESULT"}, ANSWER]
    (rendering,) = own.render(Conversation(messages, [WIND])).renderings
    (first, second) = [rendering.text[start:end] for start, end in rendering.spans]
    asked, between = (
        rendering.text[: rendering.spans[0][0]],
        rendering.text[rendering.spans[0][1] : rendering.spans[1][0]],
    )
    assert '"wind"' in asked and "RESULT" in between and "ANSWER1" in second
    assert "REASON" in first and '"wind"' in first and '{"city": "x"}' in first
    assert all(any(written.rstrip().endswith(stop) for stop in own.ends.texts) for written in (first, second))
    for at, (start, _) in ((1, rendering.spans[0]), (3, rendering.spans[1])):
        assert own.prompt(Conversation(messages[:at], [WIND])) == rendering.text[:start]


STANFORD = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n2 3\n\n### Response:"
)


def test_alpaca_rows_come_out_as_stanford_wrote_them() -> None:
    own = built_in_renderer("alpaca")
    row = {"instruction": "Add.", "input": "2 3", "output": "5"}
    (rendering,) = own.render(to_conversation(row)).renderings
    assert rendering.text.startswith(STANFORD + "5</s>") and rendering.spans == [(len(STANFORD), len(STANFORD) + 5)]
    plain = own.render(to_conversation({**row, "input": ""})).renderings[0].text
    assert (
        plain.startswith("Below is an instruction that describes a task. Write a response that")
        and "Input" not in plain
    )
    other = built_in_renderer("chatml").render(to_conversation(row)).renderings[0].text
    assert "Add.\n\n2 3<|im_end|>" in other


def test_a_base_model_is_told_which_templates_fit_its_tokenizer() -> None:
    base = stock_tokenizer(Stock("", "</s>"))
    base.chat_template = None
    with pytest.raises(UserError, match=r"no chat template(.|\n)*fits this tokenizer: alpaca, llama2, vicuna, zephyr"):
        tokenizer_templates.chat_templates(base, None)
    with pytest.raises(UserError, match=r"writes <.im_start.>, <.im_end.>(.|\n)*model.added_tokens"):
        tokenizer_templates.chat_templates(base, "chatml")
