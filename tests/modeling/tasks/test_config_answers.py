"""What tools of the ecosystem ask of a model's config: sizes at its top, parts that are there, peft's prompts and new
tokens, a watermark."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from plait import PlaitConfig, PlaitForCausalLM, PlaitForConditionalGeneration
from plait.configuration import PlaitRetrievalConfig
from plait.configuration.plait import ANSWERED_SIZES, SUB_CONFIGS

from ..zoo import CASES, CONFIGS, build, config_of, inputs_of, main_tensor

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CHECKPOINTS = {
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32, initializer_range=0.2, **TOKENS)
    ),
    "llama": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(vocab_size=50, num_key_value_heads=2, initializer_range=0.2, **SIZES, **TOKENS)
    ),
    "bart": lambda: hf.BartForConditionalGeneration(
        hf.BartConfig(
            vocab_size=50, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, init_std=0.2,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, decoder_start_token_id=2, **TOKENS,
        )
    ),
}  # fmt: skip
PROMPTS = (peft.PromptTuningConfig, peft.PromptEncoderConfig, peft.PrefixTuningConfig)
TEXT_CASES = [case for case in CASES if case[1] in ("text", "decoder", "translator", "inline", "documents")]


def test_towers_apart_have_the_sizes_of_their_text_tower() -> None:
    """A text tower taken from a checkpoint of two towers too, whose config has no size of its own at the top."""
    towers = {"text_config": hf.AlignConfig(), "vision_config": hf.Dinov2Config()}
    config = PlaitConfig(**towers, retrieval_config=PlaitRetrievalConfig())
    assert config.hidden_size == towers["text_config"].text_config.hidden_size
    assert "hidden_size" not in config.to_diff_dict()


@pytest.mark.parametrize("shape", CONFIGS)
def test_a_config_answers_the_sizes_of_its_main_part_and_saves_them_once(shape: str, tmp_path: Path) -> None:
    config = config_of(shape)
    parts = (config.decoder_config, config.single, config.fusion_config, config.text_config)
    main = next(part for part in parts if part is not None)
    answers = {name: getattr(config, name) for name in ANSWERED_SIZES if hasattr(config, name)}
    texts = [part for part in (config.decoder_config, config.text_config) if part is not None]
    assert set(ANSWERED_SIZES) - set(answers) == (set() if texts else {"vocab_size"})
    for name, value in answers.items():
        assert value == getattr(texts[0] if name == "vocab_size" else main, name)
    content = config.to_dict()
    assert content.items() >= answers.items()
    assert all(isinstance(content[name], dict) for name in SUB_CONFIGS if name in content)
    assert set(config.sub_configs) == {name for name in SUB_CONFIGS if getattr(config, name) is not None}
    config.save_pretrained(tmp_path)
    assert not set(ANSWERED_SIZES) & set(json.loads((tmp_path / "config.json").read_text()))
    assert PlaitConfig.from_pretrained(tmp_path).to_dict() == PlaitConfig.from_dict(content).to_dict() == content


def test_a_size_set_at_the_top_is_set_in_its_part() -> None:
    config = config_of("decoder")
    config.vocab_size = 44
    assert config.decoder_config.vocab_size == config.vocab_size == 44
    assert "vocab_size" not in vars(config)


def test_towers_apart_without_text_have_no_sizes() -> None:
    config = PlaitConfig(vision_config={}, audio_config={}, retrieval_config={})
    assert not any(hasattr(config, name) for name in ANSWERED_SIZES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, make in CHECKPOINTS.items():
        torch.manual_seed(0)
        folders[name] = tmp_path_factory.mktemp(name)
        make().save_pretrained(folders[name])
    return folders


def prompted_loss(model: Any, prompt: type[peft.PromptLearningConfig], task: str) -> Tensor:
    tuned = peft.get_peft_model(model, prompt(task_type=task, num_virtual_tokens=3)).eval()
    torch.manual_seed(1)
    for _, parameter in sorted(tuned.prompt_encoder.named_parameters()):
        nn.init.normal_(parameter, std=0.5)
    ids = torch.tensor([[4, 5, 6, 7, 9], [4, 8, 6, 3, 0]])
    loss = tuned(input_ids=ids, attention_mask=(ids != 0).long(), labels=ids.masked_fill(ids == 0, -100)).loss
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in tuned.prompt_encoder.parameters() if parameter.numel())
    return loss


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_prompts_and_prefixes_are_tuned_as_in_transformers(
    name: str, prompt: type[peft.PromptLearningConfig], folders: dict[str, Path]
) -> None:
    theirs, ours, task = hf.AutoModelForCausalLM, PlaitForCausalLM, "CAUSAL_LM"
    if name == "bart":
        theirs, ours, task = hf.AutoModelForSeq2SeqLM, PlaitForConditionalGeneration, "SEQ_2_SEQ_LM"
    expected, found = (prompted_loss(kind.from_pretrained(folders[name]), prompt, task) for kind in (theirs, ours))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", TEXT_CASES, ids="-".join)
def test_new_tokens_are_saved_with_an_adapter(case: tuple[str, str], tmp_path: Path) -> None:
    build(*case).save_pretrained(tmp_path / "base")
    inputs = inputs_of(case[1])
    if case[1] == "inline":  # its image token is the last of the old vocabulary
        inputs["input_ids"] = torch.cat((inputs["input_ids"], torch.full((3, 1), 41)), dim=1)
        inputs["attention_mask"] = torch.cat((inputs["attention_mask"], torch.ones(3, 1, dtype=torch.long)), dim=1)
    else:
        name = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
        inputs[name] = inputs[name].index_fill(1, torch.tensor([1]), 41)
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # of the new rows
        model = type(build(*case)).from_pretrained(tmp_path / "base")
        model.resize_token_embeddings(43, mean_resizing=False)
        models.append(model)
    adapter = peft.get_peft_model(models[0], peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    expected = main_tensor(adapter.eval()(**inputs))
    adapter.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(models[1], tmp_path / "adapter").eval()
    torch.testing.assert_close(main_tensor(loaded(**inputs)), expected)


def test_new_tokens_on_a_checkpoint_of_another_library_are_noticed(folders: dict[str, Path], tmp_path: Path) -> None:
    model = PlaitForCausalLM.from_pretrained(folders["gpt2"])
    model.resize_token_embeddings(53)
    adapter = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    saved = peft.get_peft_model_state_dict(adapter)
    assert {name.rsplit(".", 2)[1] for name in saved if "lora" not in name} == {"lm_head", "token_embedding"}


@pytest.mark.parametrize(("name", "kind"), [("gpt2", PlaitForCausalLM), ("bart", PlaitForConditionalGeneration)])
def test_a_watermark_is_detected(name: str, kind: Any, folders: dict[str, Path]) -> None:
    model, mark = kind.from_pretrained(folders[name]), hf.WatermarkingConfig(bias=9.0, context_width=1)
    ids = torch.tensor([[4, 5, 6, 7]])
    options = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False}
    marked = model.generate(ids, watermarking_config=mark, **options)
    detect = hf.WatermarkDetector(model.config, "cpu", mark)
    assert float(detect(marked, return_dict=True).z_score[0]) > 3
