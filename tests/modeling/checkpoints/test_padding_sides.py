"""A row of text is encoded as if it were alone, wherever its padding stands, by every family of text towers."""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from plait import PlaitForConditionalGeneration, PlaitModel
from plait.modeling.core.positions import count_positions

from .encoder_decoders import MODELS as ENCODER_DECODERS
from .encoder_decoders import save as save_encoder_decoder
from .text_models import difference


def load_zoo() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "zoo_of_families", Path(__file__).parents[3] / "benchmarks" / "zoo.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


ZOO = load_zoo()
FAMILIES = {family.name: family for family in ZOO.TEXTS} | {
    "fnet": ZOO.Family("fnet", "fnet", ZOO.TEXT, native=False),
    "mamba": ZOO.Family("mamba", "mamba", {**ZOO.SIZES, "vocab_size": 64, "state_size": 4}, native=False),
    "bloom": ZOO.Family(
        "bloom", "bloom", {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}, native=False
    ),
    "old-clip-text": ZOO.Family("clip-text", "clip_text_model", {**ZOO.CLIP, "eos_token_id": 2}),
}
LENGTHS, LENGTH = (6, 9, 3), 9
Batch = dict[str, Tensor]
# FNet takes no mask: its Fourier transforms mix the padding in, as in its training
MIXING = ("fnet",)
WINDOWED = ("gpt-neo", "mistral", "modernbert")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PlaitModel]:
    """Reads each family once."""

    def read(name: str) -> PlaitModel:
        torch.manual_seed(len(name))
        source = ZOO.source_of(FAMILIES[name], tmp_path_factory.mktemp(name))
        return PlaitModel.compose(text=source, verbose=False).eval()

    return cache(read)


def places_of(side: str) -> list[list[int]]:
    """Where the tokens of each row stand in the padded batch."""
    if side == "inside":
        return [[*range(number - number // 2), *range(LENGTH - number // 2, LENGTH)] for number in LENGTHS]
    before = {"left": 1.0, "mixed": 0.5, "right": 0.0}[side]
    firsts = [int((LENGTH - number) * before) for number in LENGTHS]
    return [list(range(first, first + number)) for first, number in zip(firsts, LENGTHS, strict=True)]


def padded(side: str, pad: int, end: int = ZOO.VOCABULARY - 1) -> tuple[list[Batch], Batch, list[list[int]]]:
    """The rows alone, their batch, and the places of their tokens; every row ends in an end-of-text token."""
    generator, places = torch.Generator().manual_seed(3), places_of(side)
    ids, mask = torch.full((len(LENGTHS), LENGTH), pad), torch.zeros(len(LENGTHS), LENGTH, dtype=torch.long)
    alone = []
    for row, place in enumerate(places):
        text = torch.randint(3, end, (1, len(place)), generator=generator)
        text[0, -1] = end
        ids[row, place], mask[row, place] = text[0], 1
        alone.append({"input_ids": text, "attention_mask": torch.ones_like(text)})
    return alone, {"input_ids": ids, "attention_mask": mask}, places


def run(model: PlaitModel, batch: dict[str, Tensor], **options: Any) -> Any:
    with torch.no_grad():
        return model(**batch, **options)


def check_rows(name: str, side: str, found: Any, expected: list[Any], places: list[list[int]]) -> None:
    for row, (peer, place) in enumerate(zip(expected, places, strict=True)):
        assert difference(found.last_hidden_state[[row]][:, place], peer.last_hidden_state) <= 2e-5
        # SigLIP pools the last position, padding or not, as in its training
        if found.pooler_output is not None and (side == "left" or name != "siglip-text"):
            assert difference(found.pooler_output[[row]], peer.pooler_output) <= 2e-5
        for state, other in zip(found.hidden_states or (), peer.hidden_states or (), strict=False):
            assert difference(state[[row]][:, place], other) <= 2e-5
        for weights, other in zip(found.attentions or (), peer.attentions or (), strict=False):
            assert difference(weights[[row]][:, :, place][..., place], other) <= 2e-5


@pytest.mark.parametrize("side", ["left", "right", "mixed", "inside"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in MIXING])
def test_padding_on_any_side_is_invisible(load: Callable[..., PlaitModel], name: str, side: str) -> None:
    """Packed, and padded with everything recorded."""
    if side == "inside" and name in WINDOWED:
        pytest.skip("a window counts the places between two tokens, padding or not")
    model = load(name)
    alone, batch, places = padded(side, getattr(model.config.text_config, "pad_token_id", None) or 0)
    recorded = {"output_hidden_states": True, "output_attentions": name not in ("mamba", "word-vectors", "deberta-v2")}
    expected = [run(model, text, **recorded) for text in alone]
    check_rows(name, side, run(model, batch), expected, places)
    check_rows(name, side, run(model, batch, **recorded), expected, places)


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "clip-text", "albert", "gpt-neox"])
def test_in_every_way_to_compute_it(load: Callable[..., PlaitModel], name: str) -> None:
    """Embeddings in the place of ids, eager attention, and no packing."""
    model = load(name)
    alone, batch, places = padded("left", getattr(model.config.text_config, "pad_token_id", None) or 0)
    expected = [run(model, text) for text in alone]
    if name != "clip-text":  # pooled at a token id
        embeds = model.get_input_embeddings()(batch["input_ids"])
        found = run(model, {"inputs_embeds": embeds, "attention_mask": batch["attention_mask"]})
        check_rows(name, "left", found, expected, places)
    model.set_attn_implementation("eager")
    check_rows(name, "left", run(model, batch), expected, places)
    model.set_attn_implementation("sdpa")
    if hasattr(model.config.text_config, "packing"):
        model.config.text_config.packing = False
        check_rows(name, "left", run(model, batch), expected, places)
        model.config.text_config.packing = True


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.native])
def test_padding_behind_changes_no_bit(load: Callable[..., PlaitModel], name: str) -> None:
    """Positions are then the tokens' indices, as if they were not counted: no row of positions for each text."""
    model = load(name)
    for mask in (padded("right", 0)[1]["attention_mask"], torch.ones(2, 5), torch.zeros(2, 5), torch.ones(2, 1)):
        assert count_positions(mask, mask.shape[1]) is None
    assert count_positions(None, 4) is None
    batch = padded("right", getattr(model.config.text_config, "pad_token_id", None) or 0)[1]
    index = torch.arange(LENGTH)[None]
    if model.config.text_config.position_type != "counted":
        given = run(model, batch | {"position_ids": index}).last_hidden_state
        assert torch.equal(run(model, batch).last_hidden_state, given)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in ENCODER_DECODERS if name.startswith("bart")])
def test_both_sides_of_an_encoder_decoder(name: str, tmp_path: Path) -> None:
    """Padding before the source, before the text that it continues, and before a text that continues a cache."""
    save_encoder_decoder(ENCODER_DECODERS[name](), tmp_path)
    model = PlaitForConditionalGeneration.from_pretrained(tmp_path).eval()
    alone, batch, places = padded("left", 1, end=59)
    begun = {f"decoder_{key}": value for key, value in batch.items()}
    found = model(**batch, **begun)
    cut = {key: value[:, : LENGTH - 2] for key, value in begun.items()}
    first = model(**batch, **cut, use_cache=True)
    after = model(
        encoder_outputs=model.model.encode_context(**batch),
        decoder_input_ids=begun["decoder_input_ids"][:, -2:],
        decoder_attention_mask=begun["decoder_attention_mask"],
        past_key_values=first.past_key_values,
    )
    for row, (text, place) in enumerate(zip(alone, places, strict=True)):
        expected = model(**text, decoder_input_ids=text["input_ids"]).logits
        assert difference(found.logits[[row]][:, place], expected) <= 2e-5
        assert difference(after.logits[[row]], expected[:, -2:]) <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "clip-text"])
def test_a_compiled_tower_counts_the_same(load: Callable[..., PlaitModel], name: str) -> None:
    model = load(name)
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    for side in ("left", "right", "inside"):
        batch = padded(side, getattr(model.config.text_config, "pad_token_id", None) or 0)[1]
        expected, found = run(model, batch, output_hidden_states=True), run(compiled, batch)
        real = batch["attention_mask"].bool()
        assert difference(found.last_hidden_state[real], expected.last_hidden_state[real]) <= 2e-5
