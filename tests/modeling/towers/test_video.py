"""Video towers of frames: any image tower, temporal positions, a transformer over the frames or their mean."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from plait import PlaitConfig, PlaitForClassification, PlaitModel
from plait.configuration import PlaitCNNConfig, PlaitVideoConfig, PlaitVisionConfig

IMAGE = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
TEXT = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
VIDEO = {"num_frames": 6, "num_attention_heads": 4, "num_hidden_layers": 2}
CONVNEXT = {"image_size": 16, "patch_size": 4, "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}


def images() -> dict[str, hf.PreTrainedConfig]:
    return {
        "patches": PlaitVisionConfig(**IMAGE),
        "convolutions": PlaitCNNConfig(hidden_sizes=[16, 32], depths=[1, 1], embedding_size=16),
        "wrapped": hf.ConvNextConfig(**CONVNEXT),
    }


def videos(*shape: int) -> Tensor:
    return torch.randn(*shape, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def built(image: str = "patches", **fields: Any) -> PlaitModel:
    torch.manual_seed(0)
    video = PlaitVideoConfig(image_config=images()[image], **{**VIDEO, **fields})
    return PlaitModel(PlaitConfig(video_config=video, initializer_range=0.2)).eval()


@torch.no_grad()
@pytest.mark.parametrize("image", images())
@pytest.mark.parametrize(
    ("temporal", "pooling", "tokens"),
    [("transformer", "mean", 1), ("transformer", "first", 1), ("transformer", "none", None), ("mean", "none", None)],
)
def test_frames_become_tokens(image: str, temporal: str, pooling: str, tokens: int | None, tmp_path: Path) -> None:
    model = built(image, temporal=temporal, frame_pooling=pooling)
    tower = model.get_encoder("video")
    places = tower.frames(pixel_values=videos(1)).last_hidden_state.shape[1]
    output = model(pixel_values_videos=videos(2, 5))
    count = places if tokens is None else tokens
    width = model.config.hidden_size
    assert output.last_hidden_state.shape == (2, count * (1 if temporal == "mean" else 5), width)
    model.save_pretrained(tmp_path)
    again = hf.AutoModel.from_pretrained(tmp_path).eval()
    assert type(again.config.video_config.image_config) is type(model.config.video_config.image_config)
    assert again.config.video_config.frame_pooling == pooling
    assert torch.equal(again(pixel_values_videos=videos(2, 5)).last_hidden_state, output.last_hidden_state)


@torch.no_grad()
def test_frames_that_are_not_there_are_invisible() -> None:
    for fields in ({}, {"frame_pooling": "none"}, {"temporal": "mean", "frame_pooling": "none"}):
        model = built(**fields)
        clips, mask = videos(3, 5), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
        clips[mask == 0] = float("nan")
        output = model(pixel_values_videos=clips, pixel_values_videos_mask=mask)
        for row, length in enumerate(mask.sum(1).tolist()):
            alone = model(pixel_values_videos=clips[row, :length][None]).last_hidden_state[0]
            found = output.last_hidden_state[row][output.mask[row].bool()]
            assert (found - alone).abs().max() <= 1e-5


@torch.no_grad()
def test_the_order_of_frames_matters_to_the_transformer_alone() -> None:
    clips = videos(1, 5)
    for temporal, same in (("transformer", False), ("mean", True)):
        model = built(temporal=temporal)
        forth, back = (model(pixel_values_videos=each).last_hidden_state for each in (clips, clips.flip(1)))
        assert torch.allclose(forth.mean(1), back.mean(1), atol=1e-5) == same


@torch.no_grad()
def test_a_row_may_have_several_videos() -> None:
    model = built()
    clips, present = videos(2, 2, 3), torch.tensor([[True, True], [False, True]])
    output = model(pixel_values_videos=clips, video_present=present)
    assert output.mask.tolist() == [[1] * 6, [0] * 3 + [1] * 3]
    alone = model(pixel_values_videos=clips[0, 1][None]).last_hidden_state[0]
    assert (output.last_hidden_state[0, 3:] - alone).abs().max() <= 1e-5


@torch.no_grad()
def test_attentions_and_hidden_states_are_those_over_time() -> None:
    model, found = built(), []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        assert model.config.video_config.image_config._attn_implementation == attention
        output = model(pixel_values_videos=videos(2, 5), output_attentions=True, output_hidden_states=True)
        assert [tuple(weights.shape) for weights in output.attentions] == [(2, 4, 5, 5)] * 2
        assert len(output.hidden_states) == 3
        found.append(output.last_hidden_state)
    assert (found[0] - found[1]).abs().max() <= 1e-5


def test_an_image_checkpoint_reads_frames(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = hf.ViTModel(hf.ViTConfig(**IMAGE, intermediate_size=48)).eval()
    vit.save_pretrained(tmp_path)
    fields = {"frame_pooling": "first", "num_frames": 4}
    model = PlaitModel.compose(video=tmp_path, video_config=fields, verbose=False)
    frames = videos(3)
    with torch.no_grad():
        ours = model.get_encoder("video").frames(pixel_values=frames).last_hidden_state
        assert (ours - vit(frames).last_hidden_state).abs().max() <= 1e-5
    fresh = {name.split(".")[2] for name in model.fresh_names}
    assert fresh == {"temporal"}
    table = str(model.composition())
    assert "plait_video" in table
    assert str(tmp_path) in table


def test_a_ready_video_model_composes_again(tmp_path: Path) -> None:
    first = built()
    first.save_pretrained(tmp_path)
    model = PlaitForClassification.compose(
        video=tmp_path, text=hf.AutoConfig.for_model("plait_text", **TEXT), labels=2, verbose=False
    )
    before = first.get_encoder("video").state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.towers["video"].state_dict().items())


@pytest.mark.parametrize("fusion", ["early", "late", "cross_attention"])
@pytest.mark.parametrize("image", images())
def test_videos_and_text_learn_together(image: str, fusion: str) -> None:
    parts = {"text": hf.AutoConfig.for_model("plait_text", **TEXT), "video": images()[image]}
    query = {"query": "text"} if fusion == "cross_attention" else {}
    model = PlaitForClassification.compose(
        **parts, fusion=fusion, labels=3, video_config={"num_frames": 4}, verbose=False, **query
    ).train()
    present = torch.tensor([[True], [False], [True]])
    inputs = {"input_ids": torch.randint(1, 40, (3, 5)), "pixel_values_videos": videos(3, 4), "video_present": present}
    loss = model(**inputs, labels=torch.tensor([0, 2, 1])).loss
    loss.backward()
    assert loss.isfinite()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.model.towers["video"].temporal.position_embedding.weight.grad.any()


def test_what_does_not_fit_is_a_clear_error() -> None:
    model = built()
    with pytest.raises(ValueError, match="7 frames, but the tower places 6"):
        model(pixel_values_videos=videos(1, 7))
    with pytest.raises(ValueError, match="pixel_values_videos has shape"):
        model(pixel_values_videos=videos())
    with pytest.raises(ValueError, match="keeps the image tower's 32"):
        built(temporal="mean", hidden_size=16)
    tower = PlaitVideoConfig(image_config=images()["patches"])
    with pytest.raises(ValueError, match="video_config .* is for an image tower"):
        PlaitModel.compose(video=tower, video_config={"temporal": "mean"}, verbose=False)
    text = PlaitModel(PlaitConfig(text_config=TEXT)).eval()
    with pytest.raises(ValueError, match="got video inputs, but this model has no video tower"):
        text(pixel_values_videos=videos(1, 4))
