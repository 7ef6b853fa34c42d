"""Audio Spectrogram Transformer, wav2vec2 and HuBERT read from transformers' files, against transformers itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plait import PlaitForClassification, PlaitModel
from plait.modeling.checkpoints import export

# an epsilon that shows: with the usual ones a norm that ignores it would pass
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SIZES |= {"layer_norm_eps": 1e-2}
MEL = {**SIZES, "num_mel_bins": 24, "max_length": 40, "frequency_stride": 6, "time_stride": 8}
WAVE = {**SIZES, "conv_dim": [8, 12, 8], "conv_kernel": [10, 3, 2], "conv_stride": [5, 2, 2]}
WAVE |= {"num_feat_extract_layers": 3, "num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 4}
LABELS = {"num_labels": 3, "classifier_proj_size": 20}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
LENGTHS = (400, 333, 90, 400)

MODELS: dict[str, Callable[[], Any]] = {
    "ast": lambda: hf.ASTModel(hf.ASTConfig(**MEL)),
    "ast-classifier": lambda: hf.ASTForAudioClassification(hf.ASTConfig(**MEL, num_labels=3)),
    "wav2vec2": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVE)),
    "wav2vec2-odd": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVE | {"num_conv_pos_embeddings": 5})),
    "wav2vec2-unmasked": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVE, mask_time_prob=0.0)),
    "wav2vec2-classifier": lambda: hf.Wav2Vec2ForSequenceClassification(hf.Wav2Vec2Config(**WAVE, **LABELS)),
    "wav2vec2-layer": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVE, feat_extract_norm="layer")),
    "wav2vec2-stable": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVE, **STABLE)),
    "wav2vec2-stable-classifier": lambda: hf.Wav2Vec2ForSequenceClassification(
        hf.Wav2Vec2Config(**WAVE, **STABLE, **LABELS)
    ),
    "hubert": lambda: hf.HubertModel(hf.HubertConfig(**WAVE)),
    "hubert-plain-projection": lambda: hf.HubertModel(hf.HubertConfig(**WAVE, feat_proj_layer_norm=False)),
    "hubert-stable": lambda: hf.HubertModel(hf.HubertConfig(**WAVE, **STABLE)),
    "hubert-classifier": lambda: hf.HubertForSequenceClassification(hf.HubertConfig(**WAVE, **LABELS)),
}
WAVEFORM = [name for name in MODELS if not name.startswith("ast")]
CLASSIFIERS = [name for name in MODELS if name.endswith("classifier")]


class Saved(NamedTuple):
    """A model of transformers with every parameter drawn at std 0.2, and the folder it was saved to."""

    model: Any
    folder: Path


def ours_of(folder: Path, name: str, attention: str = "sdpa", **options: Any) -> Any:
    kind = PlaitForClassification if name in CLASSIFIERS else PlaitModel
    return kind.from_pretrained(folder, attn_implementation=attention, **options).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Saved]:
    """Each model once, drawn from a seed of its own, with the attention implementation that the test asks for."""
    made: dict[str, Saved] = {}

    def get(name: str, attention: str = "sdpa") -> Saved:
        if name not in made:
            torch.manual_seed(len(name))
            model = MODELS[name]()
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.2)
            made[name] = Saved(model.eval(), tmp_path_factory.mktemp(name))
            model.save_pretrained(made[name].folder)
        made[name].model.set_attn_implementation(attention)
        return made[name]

    return get


def clips(name: str) -> Tensor:
    shape = (4, 400) if name in WAVEFORM else (4, 40, 24)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def padded(sound: Tensor) -> dict[str, Tensor]:
    """Clips of several lengths, silence behind their ends."""
    mask = torch.arange(sound.shape[1])[None] < torch.tensor(LENGTHS)[:, None]
    return {"input_values": sound * mask, "input_values_mask": mask.long()}


def difference(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1)).item()


def returned(output: Any) -> dict[str, Tensor]:
    """Every tensor that both sides return, by name."""
    found = {
        name: output[name] for name in ("last_hidden_state", "pooler_output", "logits") if output.get(name) is not None
    }
    for name in ("hidden_states", "attentions"):
        found |= {f"{name} {number}": state for number, state in enumerate(output.get(name) or ())}
    return found


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_every_returned_tensor_is_transformers_own(name: str, attention: str, saved: Callable[..., Saved]) -> None:
    model, folder = saved(name, attention)
    ours, sound = ours_of(folder, name, attention), clips(name)
    options = {"output_hidden_states": True} | ({"output_attentions": True} if attention == "eager" else {})
    theirs, found = returned(model(sound, **options)), returned(ours(input_values=sound, **options))
    assert found.keys() == theirs.keys()
    for key, tensor in found.items():
        assert difference(tensor, theirs[key]) <= 1e-5, key
    exact = returned(MODELS[name]().double().eval().from_pretrained(folder, dtype=torch.float64)(sound.double()))
    for key, tensor in returned(ours(input_values=sound)).items():
        assert difference(tensor, exact[key]) <= max(2 * difference(theirs[key], exact[key]), 1e-6), key


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", WAVEFORM)
def test_padding_is_invisible(name: str, attention: str, saved: Callable[..., Saved]) -> None:
    """Clips of a ragged batch (packed or not) come out as transformers computes each of them alone; where its norm is
    over the channels, as it computes the batch too."""
    model, folder = saved(name, attention)
    sound = clips(name)
    inputs = padded(sound)
    ours = ours_of(folder, name, attention)
    alone = [model(sound[row, :length][None]) for row, length in enumerate(LENGTHS)]
    for packing in (True, False):
        ours.config.audio_config.packing = packing
        output = ours(**inputs)
        if name in CLASSIFIERS:
            assert difference(output.logits, torch.cat([each.logits for each in alone])) <= 1e-5
            continue
        for row, each in enumerate(alone):
            count = each.last_hidden_state.shape[1]
            assert output.mask[row].tolist() == [1] * count + [0] * (output.mask.shape[1] - count)
            assert difference(output.last_hidden_state[row, :count], each.last_hidden_state[0]) <= 1e-5
    if model.config.feat_extract_norm == "layer" and name not in CLASSIFIERS:
        theirs = model(inputs["input_values"], attention_mask=inputs["input_values_mask"]).last_hidden_state
        real = output.mask.bool()
        assert difference(output.last_hidden_state[real], theirs[real]) <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_written_back_the_file_is_the_same(name: str, saved: Callable[..., Saved], tmp_path: Path) -> None:
    folder = saved(name).folder
    export(ours_of(folder, name), tmp_path)
    before, after = (load_file(each / "model.safetensors") for each in (folder, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    model = type(saved(name).model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        for a, b in zip(model(clips(name)).values(), saved(name).model(clips(name)).values(), strict=True):
            assert torch.equal(a, b)


@torch.no_grad()
def test_old_names_of_a_normed_weight_are_read(saved: Callable[..., Saved], tmp_path: Path) -> None:
    folder = saved("wav2vec2").folder
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    tensors = load_file(folder / "model.safetensors")
    for new, before in old.items():
        tensors = {key.replace(new, before): tensor for key, tensor in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    sound = clips("wav2vec2")
    a, b = (PlaitModel.from_pretrained(each).eval()(input_values=sound) for each in (folder, tmp_path))
    assert torch.equal(a.last_hidden_state, b.last_hidden_state)


@torch.no_grad()
def test_a_clip_shorter_than_the_convolutions_see_is_one_token(saved: Callable[..., Saved]) -> None:
    ours, sound = ours_of(saved("wav2vec2").folder, "wav2vec2"), clips("wav2vec2")
    alone = ours(input_values=sound[:1, :7]).last_hidden_state
    assert alone.shape == (1, 1, 32)
    mask = torch.arange(400)[None] < torch.tensor([[7], [400]])
    both = ours(input_values=sound[:2] * mask, input_values_mask=mask)
    assert both.mask[0].sum() == 1
    assert difference(both.last_hidden_state[0, :1], alone[0]) <= 1e-5
    silent = ours(input_values=torch.zeros(1, 400)).last_hidden_state
    assert silent.isfinite().all()


@torch.no_grad()
def test_positions_of_a_longer_spectrogram_are_interpolated(saved: Callable[..., Saved]) -> None:
    ours = ours_of(saved("ast").folder, "ast")
    assert ours(input_values=torch.randn(1, 80, 24)).last_hidden_state.shape == (1, 2 + 2 * 9, 32)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("ast", {"input_values": torch.zeros(2, 40, 25)}, r"not \(clips, frames, 24\)"),
        ("ast", {"input_values": torch.zeros(2, 9, 24)}, "9 frames is shorter than a patch"),
        ("ast", {"input_features": torch.zeros(2, 24, 40)}, "reads input_values, not input_features"),
        (
            "ast",
            {"input_values": torch.zeros(1, 40, 24), "input_values_mask": torch.arange(40)[None] < 30},
            "clips of one length",
        ),
        ("wav2vec2", {"input_values": torch.zeros(2, 3, 4, 5)}, "input_values has shape"),
        (
            "wav2vec2",
            {"input_values": torch.zeros(1, 40), "input_values_mask": torch.arange(40)[None] > 30},
            "pad on the right",
        ),
        (
            "wav2vec2",
            {"input_values": torch.zeros(1, 40), "input_values_mask": torch.ones(1, 30)},
            "input_values_mask has shape",
        ),
    ],
)
def test_other_inputs_are_refused(
    name: str, inputs: dict[str, Tensor], message: str, saved: Callable[..., Saved]
) -> None:
    with pytest.raises(ValueError, match=message):
        ours_of(saved(name).folder, name)(**inputs)


@pytest.mark.parametrize(
    ("field", "value"), [("add_adapter", True), ("use_weighted_layer_sum", True), ("adapter_attn_dim", 4)]
)
def test_what_the_core_does_not_compute_is_refused(
    field: str, value: object, saved: Callable[..., Saved], tmp_path: Path
) -> None:
    config = hf.Wav2Vec2Config.from_pretrained(saved("wav2vec2").folder)
    setattr(config, field, value)
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").symlink_to(saved("wav2vec2").folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"{field} = {value}"):
        PlaitModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["ast", "wav2vec2", "hubert-stable"])
def test_sound_and_text_learn_together(name: str, saved: Callable[..., Saved]) -> None:
    text = hf.AutoConfig.for_model("plait_text", vocab_size=40, hidden_size=32, num_hidden_layers=1)
    model = PlaitForClassification.compose(text=text, audio=saved(name).folder, labels=3, verbose=False).train()
    inputs = {"input_ids": torch.randint(1, 40, (4, 5)), "input_values": clips(name)}
    present = torch.tensor([[True], [False], [True], [True]])
    loss = model(**inputs, audio_present=present, labels=torch.tensor([0, 2, 1, 0])).loss
    loss.backward()
    assert loss.isfinite()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.any() for parameter in model.model.towers["audio"].embeddings.parameters())


def test_fresh_weights_carry_the_signal(tmp_path: Path) -> None:
    """A fresh wave tower starts with a signal of a sensible size, and comes back from disk as it was."""
    config = hf.AutoConfig.for_model(
        "plait_waveform", **{k: v for k, v in WAVE.items() if "layer_norm" not in k and "num_feat" not in k}
    )
    model = PlaitModel.compose(audio=config, verbose=False)
    with torch.no_grad():
        output = model(input_values=clips("wav2vec2")).last_hidden_state
        assert 0.1 < output.std() < 10
        model.save_pretrained(tmp_path)
        again = hf.AutoModel.from_pretrained(tmp_path).eval()
        assert again.main_input_name == "input_values"
        assert torch.equal(again(input_values=clips("wav2vec2")).last_hidden_state, output)
