"""Checkpoints that hold a decoder alone, of known and of wrapped families, are what transformers makes of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, ViTConfig

from plait import PlaitForCausalLM, PlaitForConditionalGeneration, PlaitModel
from plait.modeling.checkpoints.export import export

TOKENS = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
BERT |= {"is_decoder": True, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0}
BERT |= {"attention_probs_dropout_prob": 0.0}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40}
GPT2 |= {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
BART = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 40, "encoder_layers": 1}
BART |= {"max_position_embeddings": 40, "max_target_positions": 40, "dropout": 0.0}
BART |= {"attention_dropout": 0.0, "activation_dropout": 0.0, "forced_eos_token_id": None}
CROSS = {"add_cross_attention": True}
DECODERS: dict[str, dict[str, Any]] = {
    "BertLMHeadModel": {**BERT, **CROSS},
    "RobertaForCausalLM": {**BERT, **CROSS},
    "XLMRobertaForCausalLM": {**BERT, **CROSS},
    "CamembertForCausalLM": {**BERT, **CROSS},
    "ElectraForCausalLM": {**BERT, **CROSS, "embedding_size": 24},
    "GPT2LMHeadModel": {**GPT2, **CROSS},
    "BartForCausalLM": {**BART, "scale_embedding": True},
    "WhisperForCausalLM": BART,
    "BertGenerationDecoder": {**BERT, **CROSS},
    "BigBirdPegasusForCausalLM": BART,
    "BlenderbotForCausalLM": BART,
    "BlenderbotSmallForCausalLM": BART,
    "MBartForCausalLM": BART,
    "MarianForCausalLM": BART,
    "MvpForCausalLM": BART,
    "PLBartForCausalLM": BART,
    "PegasusForCausalLM": BART,
    "TrOCRForCausalLM": {**BART, "decoder_start_token_id": 1},
}
WITHOUT_CROSS = [name for name, fields in DECODERS.items() if "add_cross_attention" in fields]
QUICK = ("BertLMHeadModel", "RobertaForCausalLM", "ElectraForCausalLM", "GPT2LMHeadModel", "BartForCausalLM")
QUICK += ("WhisperForCausalLM", "MBartForCausalLM", "TrOCRForCausalLM")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in DECODERS]
GREEDY = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
VIT = ViTConfig(image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)


def save_decoder(name: str, folder: Path, **fields: Any) -> Any:
    """Saves a random decoder, std 0.2, and returns it as transformers reads it."""
    torch.manual_seed(0)
    decoder_class: Any = getattr(transformers, name)
    model = decoder_class(decoder_class.config_class(**{**TOKENS, **DECODERS[name], **fields}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return decoder_class.from_pretrained(folder).eval()


def draw_texts() -> tuple[Tensor, Tensor]:
    """Token ids and the mask of texts of 7 and 4 tokens, padded on the right."""
    ids = torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(7)[None] < torch.tensor([[7], [4]])).long()
    return ids * mask, mask


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1) <= 1e-5


def choose_greedily(theirs: Any, text: Tensor, **context: Tensor) -> Tensor:
    """The most likely next tokens, four times, by the whole text through transformers' `forward`."""
    for _ in range(4):
        following = theirs(input_ids=text, use_cache=False, **context).logits[:, -1].argmax(-1, keepdim=True)
        text = torch.cat((text, following), dim=1)
    return text


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"add_cross_attention": False}], ids=["crossing", "plain"])
@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_alone_is_a_language_model(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    if fields and name not in WITHOUT_CROSS:
        pytest.skip("always has cross-attention")
    theirs = save_decoder(name, tmp_path / "theirs", **fields)
    ours = PlaitForCausalLM.from_pretrained(tmp_path / "theirs")
    ids, mask = draw_texts()
    expected = theirs(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert_close(ours(input_ids=ids, attention_mask=mask).logits[mask == 1], expected[mask == 1])
    labels = ids.masked_fill(mask == 0, -100)
    loss = nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert_close(ours(input_ids=ids, attention_mask=mask, labels=labels).loss, loss)
    assert_close(ours.train()(input_ids=ids, attention_mask=mask, labels=labels).loss, loss)
    ours.eval()
    assert torch.equal(ours.generate(ids[:1], **GREEDY), choose_greedily(theirs, ids[:1]))
    if "Roberta" not in name and "Camembert" not in name:  # transformers' generate shifts their positions
        beams = {**GREEDY, "num_beams": 2, "num_return_sequences": 2}
        assert torch.equal(ours.generate(ids[:1], **beams), theirs.generate(ids[:1], **beams, use_cache=False))
    ours.save_pretrained(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(input_ids=ids).logits, ours(input_ids=ids).logits)
    base = PlaitModel.from_pretrained(tmp_path / "theirs")
    assert torch.equal(base(input_ids=ids).last_hidden_state, ours.model(input_ids=ids).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_composed_decoder_attends_with_its_own_weights(name: str, tmp_path: Path) -> None:
    theirs = save_decoder(name, tmp_path / "theirs")
    ours = PlaitForConditionalGeneration.compose(image=VIT, decoder=tmp_path / "theirs", verbose=False)
    ids, mask = draw_texts()
    context = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(2))
    context_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    given = {"encoder_outputs": {"last_hidden_state": context, "mask": context_mask}}
    text = ours(**given, decoder_input_ids=ids, decoder_attention_mask=mask).logits
    crossing = {"encoder_hidden_states": context, "encoder_attention_mask": context_mask}
    if name == "WhisperForCausalLM":  # reads no mask of the context, and calls it otherwise
        context_mask.fill_(1)
        text = ours(**given, decoder_input_ids=ids, decoder_attention_mask=mask).logits
        crossing = {"encoder_outputs": (context,)}
    expected = theirs(input_ids=ids, attention_mask=mask, use_cache=False, **crossing).logits
    assert_close(text[mask == 1], expected[mask == 1])
    ours.save_pretrained(tmp_path / "ours")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(**given, decoder_input_ids=ids, decoder_attention_mask=mask).logits, text)
    begun = torch.tensor([[1, 7], [1, 9]])
    assert torch.equal(
        again.generate(**given, decoder_input_ids=begun, **GREEDY), choose_greedily(theirs, begun, **crossing)
    )


def test_images_stand_among_narrow_embeddings(tmp_path: Path) -> None:
    save_decoder("ElectraForCausalLM", tmp_path)
    model = PlaitForCausalLM.compose(image=VIT, decoder=tmp_path, verbose=False)
    ids = torch.tensor([[5] + [model.config.image_token_id] * model.num_image_tokens + [7, 9]])
    images = torch.randn(2, 3, 16, 16)
    logits = model(input_ids=ids.expand(2, -1), pixel_values=images).logits
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["BertLMHeadModel", "GPT2LMHeadModel", "BartForCausalLM"])
def test_a_class_that_needs_a_context_says_what_to_compose(name: str, tmp_path: Path) -> None:
    save_decoder(name, tmp_path)
    with pytest.raises(ValueError, match=r"holds a decoder alone.*PlaitForConditionalGeneration.compose\("):
        PlaitForConditionalGeneration.from_pretrained(tmp_path)


def test_a_decoder_alone_is_no_text_tower(tmp_path: Path) -> None:
    save_decoder("BartForCausalLM", tmp_path)
    with pytest.raises(ValueError, match="bart checkpoint of a decoder alone has no text tower: pass it as decoder="):
        PlaitModel.compose(text=tmp_path, verbose=False)


@pytest.mark.parametrize("name", ["ErnieForCausalLM", "RoFormerForCausalLM", "RemBertForCausalLM"])
def test_a_head_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    DECODERS.setdefault(name, BERT)
    save_decoder(name, tmp_path)
    with pytest.raises(ValueError, match="model does more than project to the vocabulary"):
        PlaitForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", [name for name in DECODERS if name[:4] in ("Bert", "Robe", "Elec")][:3])
def test_a_decoder_goes_back_to_its_format(name: str, tmp_path: Path) -> None:
    theirs = save_decoder(name, tmp_path / "theirs", add_cross_attention=False)
    export(PlaitForCausalLM.from_pretrained(tmp_path / "theirs"), tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours")
    assert again.config.architectures == [name]
    for key, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], weight), key
