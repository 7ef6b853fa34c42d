"""The audio tower: clips of log-mel frames to tokens, alone and braided with others."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from plait import PlaitConfig, PlaitForClassification, PlaitModel, PlaitProcessor
from plait.configuration import PlaitAudioConfig, PlaitRNNConfig
from plait.modeling.checkpoints import export

AUDIO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_mel_bins": 8}
AUDIO |= {"max_source_positions": 12}
TEXT = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TABLE = "towers.audio.embeddings.position_embedding.weight"


def clips(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def built(**fields: Any) -> PlaitModel:
    torch.manual_seed(0)
    return PlaitModel(PlaitConfig(audio_config={**AUDIO, **fields}, initializer_range=0.2)).eval()


def test_a_config_without_a_type_is_ours_and_survives_json(tmp_path: Path) -> None:
    config = PlaitConfig(audio_config=AUDIO)
    assert type(config.audio_config) is PlaitAudioConfig
    config.save_pretrained(tmp_path)
    assert hf.AutoConfig.from_pretrained(tmp_path).audio_config.to_dict() == config.audio_config.to_dict()
    assert PlaitModel(config).main_input_name == "input_features"


@torch.no_grad()
def test_a_token_stands_for_two_frames() -> None:
    model = built()
    for frames, tokens in ((24, 12), (23, 12), (7, 4), (1, 1)):
        assert model(input_features=clips(3, 8, frames)).last_hidden_state.shape == (3, tokens, 32)


def test_positions_are_sinusoids_and_are_not_trained(tmp_path: Path) -> None:
    model = built()
    table = model.state_dict()[TABLE]
    rates = [10000 ** (-channel / 15) for channel in range(16)]
    expected = [[*(math.sin(t * rate) for rate in rates), *(math.cos(t * rate) for rate in rates)] for t in range(12)]
    assert (table - torch.tensor(expected)).abs().max() <= 1e-6
    model.state_dict()[TABLE].mul_(0.5)  # another table, as a checkpoint may have
    model.save_pretrained(tmp_path)
    again = PlaitModel.from_pretrained(tmp_path).train()
    again(input_features=clips(2, 8, 24)).last_hidden_state.square().mean().backward()
    optimizer = torch.optim.SGD([p for p in again.parameters() if p.requires_grad], lr=1.0, weight_decay=0.1)
    optimizer.step()
    assert torch.equal(again.state_dict()[TABLE], table * 1.0)
    missing = [name for name, parameter in again.named_parameters() if parameter.grad is None]
    assert missing == []


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "none"])
def test_saved_and_loaded_it_is_the_same(positions: str, tmp_path: Path) -> None:
    model = built(position_type=positions)
    model.save_pretrained(tmp_path)
    again = hf.AutoModel.from_pretrained(tmp_path).eval()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        ours, theirs = (each(input_features=clips(2, 8, 10)).last_hidden_state for each in (model, again))
    assert torch.equal(ours, theirs)
    half = hf.AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16}
    assert half(input_features=clips(2, 8, 10)).last_hidden_state.dtype == torch.bfloat16


@torch.no_grad()
def test_where_a_sound_stands_matters_only_with_positions() -> None:
    """Two halves exchanged: without positions (and away from the seams) the tokens are exchanged."""
    silence = torch.zeros(1, 8, 24)
    early, late = silence.clone(), silence.clone()
    early[..., 4:8], late[..., 16:20] = clips(1, 8, 4), clips(1, 8, 4)
    for positions, same in (("none", True), ("sinusoidal", False), ("learned", False)):
        model = built(position_type=positions, max_source_positions=12)
        tokens = [model(input_features=sound).last_hidden_state[0] for sound in (early, late)]
        assert torch.allclose(tokens[0][2:4], tokens[1][8:10], atol=1e-5) == same


@torch.no_grad()
def test_a_row_may_have_several_clips() -> None:
    model = built()
    sounds, present = clips(2, 3, 8, 20), torch.tensor([[True, False, True], [False, True, False]])
    output = model(input_features=sounds, audio_present=present)
    assert output.last_hidden_state.shape == (2, 30, 32)
    assert output.mask.tolist() == [[1] * 10 + [0] * 10 + [1] * 10, [0] * 10 + [1] * 10 + [0] * 10]
    for number in (0, 2):
        alone = model(input_features=sounds[0, number][None]).last_hidden_state[0]
        found = output.last_hidden_state[0, 10 * number : 10 * number + 10]
        assert (found - alone).abs().max() <= 1e-5
    sounds[~present] = math.nan
    assert torch.equal(model(input_features=sounds, audio_present=present).last_hidden_state, output.last_hidden_state)


@torch.no_grad()
def test_attentions_are_real_in_every_implementation() -> None:
    model, found = built(), []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        output = model(input_features=clips(2, 8, 24), output_attentions=True, output_hidden_states=True)
        assert [tuple(weights.shape) for weights in output.attentions] == [(2, 4, 12, 12)] * 2
        assert len(output.hidden_states) == 3
        found.append(output)
    assert (found[0].last_hidden_state - found[1].last_hidden_state).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 7, 24), r"clips have shape \(2, 7, 24\), not \(clips, 8, frames\)"),
        ((2, 8, 25), r"25 frames, but the audio tower reads 1 \.\. 24"),
        ((2, 8, 0), "0 frames"),
        ((8, 24), r"not \(batch\[, clips\], mel bins, frames\)"),
    ],
)
def test_clips_of_another_shape_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built()(input_features=clips(*shape))


def test_an_odd_width_has_no_sinusoids() -> None:
    with pytest.raises(ValueError, match="even width of at least 4, not 33"):
        built(hidden_size=33, num_attention_heads=3)


@pytest.mark.parametrize("fusion", ["early", "late", "cross_attention"])
def test_sound_and_text_learn_together(fusion: str) -> None:
    parts = {"text": hf.AutoConfig.for_model("plait_text", **TEXT), "audio": PlaitAudioConfig(**AUDIO)}
    query = {"query": "text"} if fusion == "cross_attention" else {}
    model = PlaitForClassification.compose(**parts, fusion=fusion, labels=3, verbose=False, **query).train()
    inputs = {"input_ids": torch.randint(1, 40, (2, 5)), "input_features": clips(2, 8, 24)}
    loss = model(**inputs, audio_present=torch.tensor([[True], [False]]), labels=torch.tensor([0, 2])).loss
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.model.towers["audio"].embeddings.conv1.weight.grad.any()


RNN = {"num_mel_bins": 8, "rnn_size": 16}


def recurrent(**fields: Any) -> PlaitModel:
    torch.manual_seed(0)
    model = PlaitModel(PlaitConfig(audio_config=PlaitRNNConfig(**{**RNN, **fields})))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("pooling", ["mean", "final", "none"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_recurrent_tower_does_not_read_padding(kind: str, pooling: str, bidirectional: bool, tmp_path: Path) -> None:
    model = recurrent(rnn_type=kind, pooling=pooling, bidirectional=bidirectional, input_norm=True)
    mask = torch.arange(20)[None] < torch.tensor([20, 13, 5])[:, None]
    inputs = {"input_features": clips(3, 8, 20) + 9 * ~mask[:, None], "input_features_mask": mask}
    output = model(**inputs)
    assert output.mask.tolist() == mask.long().tolist()
    for row, length in enumerate((20, 13, 5)):
        alone = model(input_features=inputs["input_features"][row, :, :length][None])
        assert (output.last_hidden_state[row, :length] - alone.last_hidden_state[0]).abs().max() <= 1e-6
        if pooling != "none":
            assert (output.pooler_output[row] - alone.pooler_output[0]).abs().max() <= 1e-6
    model.save_pretrained(tmp_path)
    again = hf.AutoModel.from_pretrained(tmp_path).eval()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    # torch's products over small matrices depend on where in memory they stand
    assert (again(**inputs).last_hidden_state - output.last_hidden_state).abs().max() <= 1e-6


@torch.no_grad()
def test_a_frame_sees_both_ways_where_it_is_bidirectional() -> None:
    sound = clips(1, 8, 10)
    other = sound.clone()
    other[..., 9] += 1
    for bidirectional, same in ((False, True), (True, False)):
        model = recurrent(bidirectional=bidirectional)
        first = [model(input_features=each).last_hidden_state[0, 0] for each in (sound, other)]
        assert torch.equal(*first) == same


@torch.no_grad()
def test_a_voice_encoder_is_read_and_written_back(tmp_path: Path) -> None:
    """The recurrence written out by torch itself, the embedding by hand."""
    torch.manual_seed(0)
    lstm, linear = torch.nn.LSTM(8, 12, 2, batch_first=True), torch.nn.Linear(12, 10)
    tensors = {f"lstm.{name}": tensor.detach().clone() for name, tensor in lstm.state_dict().items()}
    tensors |= {f"linear.{name}": tensor.detach().clone() for name, tensor in linear.state_dict().items()}
    config = {"architecture": "LSTM(8, 12, 2 layers)", "feature_size": 8, "sampling_rate": 16000, "n_fft": 400}
    config |= {"hop_length": 160, "target_dbfs": -30}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = PlaitModel.from_pretrained(tmp_path).eval()
    processor = PlaitProcessor.compose(audio=tmp_path)
    sound = clips(8000).numpy() / 10
    frames = processor(audio=sound, sampling_rate=16000, return_tensors="pt")["input_features"]
    assert frames.shape == (1, 1, 8, 51)
    assert (frames >= 0).all()
    _, (state, _) = lstm(frames[0].transpose(1, 2))
    expected = torch.nn.functional.normalize(linear(state[-1]).relu(), dim=-1)
    assert torch.equal(model(input_features=frames).pooler_output, expected)
    export(model, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors.items())
    text = hf.AutoConfig.for_model("plait_text", **TEXT)
    both = PlaitForClassification.compose(text=text, audio=tmp_path, labels=2, verbose=False).train()
    inputs = {"input_ids": torch.randint(1, 40, (2, 5)), "input_features": clips(2, 8, 20)}
    with torch.enable_grad():
        both(**inputs, labels=torch.tensor([0, 1])).loss.backward()
    assert [name for name, parameter in both.named_parameters() if parameter.grad is None] == []


def test_a_recurrent_tower_refuses_what_it_cannot_read() -> None:
    with pytest.raises(ValueError, match=r"input_features \(clips, 8, frames\), not shape \(2, 7, 4\)"):
        recurrent()(input_features=clips(2, 7, 4))
    with pytest.raises(ValueError, match="0 frames"):
        recurrent()(input_features=clips(2, 8, 0))
    with pytest.raises(ValueError, match="hidden_size 5 is not the width 32"):
        recurrent(hidden_size=5)


@torch.no_grad()
def test_padding_behind_mel_frames_is_invisible() -> None:
    model = built()
    mask = torch.arange(24)[None] < torch.tensor([24, 13, 6])[:, None]
    inputs = {"input_features": clips(3, 8, 24) + 9 * ~mask[:, None], "input_features_mask": mask}
    output = model(**inputs)
    for row, (length, tokens) in enumerate(((24, 12), (13, 7), (6, 3))):
        alone = model(input_features=inputs["input_features"][row, :, :length][None]).last_hidden_state[0]
        assert output.mask[row].sum() == tokens
        assert (output.last_hidden_state[row, :tokens] - alone).abs().max() <= 1e-5


def test_states_and_attentions_are_kept_only_when_asked_for() -> None:
    tower = built().towers["audio"]
    assert tower(clips(2, 8, 6)).hidden_states is None and tower(clips(2, 8, 6)).attentions is None
    assert len(tower(clips(2, 8, 6), output_hidden_states=True).hidden_states) == AUDIO["num_hidden_layers"] + 1
