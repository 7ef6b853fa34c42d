"""Wrapped towers of sound and video: what transformers computes, beside other towers, saved and read back."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from plait import PlaitForClassification, PlaitModel
from plait.modeling.towers.wrapped import WrappedTower, load_wrapped

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
WAVE = {**SIZES, "conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_feat_extract_layers": 2}
WAVE |= {"num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0}
DATA2VEC = {**WAVE, "conv_pos_kernel_size": 3, "num_conv_pos_embedding_groups": 2}
FILM = {**SIZES, "image_size": 32, "patch_size": 8, "num_frames": 4}
JEPA = {"crop_size": 32, "patch_size": 16, "frames_per_clip": 4, "tubelet_size": 2, "pred_hidden_size": 24}
JEPA |= {**SIZES, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 1}
FUSION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
SOUNDS = {"wavlm": WAVE, "unispeech": WAVE, "sew": {**WAVE, "squeeze_factor": 2}, "data2vec-audio": DATA2VEC}
FILMS = {"timesformer": FILM, "vjepa2": JEPA}


def drawn(name: str) -> Any:
    """A model of the family with weights, norms and biases drawn."""
    model = hf.AutoModel.from_config(hf.AutoConfig.for_model(name, **{**SOUNDS, **FILMS}[name]))
    generator = torch.Generator().manual_seed(0)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=0.2, generator=generator)
            if tensor.ndim == 1 and key.endswith("weight"):
                tensor.abs_().add_(0.5)
    return model.eval()


def loaded(folder: Path, modality: str) -> WrappedTower:
    config, part = load_wrapped(folder, modality)
    tower = WrappedTower(config, modality)
    tower.model.load_state_dict(part.state_dict())
    return tower.eval()


def clips_of_sound() -> tuple[Tensor, Tensor]:
    """Three clips, (3, 120), and their mask; the second ends early."""
    values = torch.randn(3, 120, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(120)[None] < torch.tensor([120, 70, 120])[:, None]
    return values, mask


@torch.no_grad()
@pytest.mark.parametrize("name", SOUNDS)
def test_a_family_of_sound_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    """And says which tokens have samples: what stands behind a clip's end is in none of them."""
    peer = drawn(name)
    peer.save_pretrained(tmp_path)
    tower, (values, mask) = loaded(tmp_path, "audio"), clips_of_sound()
    theirs = peer(input_values=values, attention_mask=mask.long()).last_hidden_state
    ours = tower(input_values=values, clip_mask=mask)
    torch.testing.assert_close(ours.last_hidden_state, theirs)
    lengths = [int(peer._get_feat_extract_output_lengths(int(count))) for count in mask.sum(dim=1)]
    assert ours.mask.sum(dim=1).tolist() == lengths
    assert tower(input_values=values).mask.all()


@torch.no_grad()
@pytest.mark.parametrize("name", FILMS)
def test_a_family_of_videos_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    peer = drawn(name)
    peer.save_pretrained(tmp_path)
    tower, films = loaded(tmp_path, "video"), torch.randn(2, 4, 3, 32, 32)
    options = {"skip_predictor": True} if name == "vjepa2" else {}
    theirs = peer(films, **options).last_hidden_state
    torch.testing.assert_close(tower(pixel_values_videos=films).last_hidden_state, theirs)
    there = torch.ones(2, 4, dtype=torch.bool)
    torch.testing.assert_close(tower(pixel_values_videos=films, frame_mask=there).last_hidden_state, theirs)
    there[1, 3] = False
    with pytest.raises(ValueError, match="reads all frames of a clip"):
        tower(pixel_values_videos=films, frame_mask=there)
    with pytest.raises(ValueError, match=r"not \(clips, frames, channels, height, width\)"):
        tower(pixel_values_videos=films[0])


@pytest.mark.parametrize(("sound", "film"), [("wavlm", "timesformer"), ("sew", "vjepa2")])
def test_sound_and_video_compose_train_and_reload(sound: str, film: str, tmp_path: Path) -> None:
    """In training mode nothing is masked at random: it would fail on clips this short."""
    torch.manual_seed(0)
    for name in (sound, film):
        drawn(name).save_pretrained(tmp_path / name)
    towers = {"audio": tmp_path / sound, "video": tmp_path / film}
    model = PlaitForClassification.compose(**towers, fusion_config=FUSION, labels=2, verbose=False).train()
    values, mask = clips_of_sound()
    inputs = {"input_values": values, "input_values_mask": mask, "pixel_values_videos": torch.randn(3, 1, 4, 3, 32, 32)}
    inputs["video_present"] = torch.tensor([[True], [False], [True]])
    model(**inputs, labels=torch.tensor([0, 1, 1])).loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []
    model.eval().save_pretrained(tmp_path / "plait")
    again = PlaitForClassification.from_pretrained(tmp_path / "plait").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)
    for name, given in (
        (sound, {"input_values": values}),
        (film, {"pixel_values_videos": torch.randn(1, 4, 3, 32, 32)}),
    ):
        assert PlaitModel.from_pretrained(tmp_path / name)(**given).last_hidden_state.isfinite().all()
