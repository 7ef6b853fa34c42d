"""VideoMAE and ViViT read from transformers' files, against transformers itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from torch import Tensor, nn

from plait import PlaitForClassification, PlaitModel
from plait.modeling.checkpoints import export

# an epsilon that shows: with the usual ones a norm that ignores it would pass
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SIZES |= {"layer_norm_eps": 1e-2, "num_frames": 6}
MAE = {**SIZES, "image_size": [16, 24], "patch_size": 8, "tubelet_size": 3}
VIVIT = {**SIZES, "image_size": 16, "tubelet_size": [2, 8, 4]}

MODELS: dict[str, Callable[[], Any]] = {
    "videomae": lambda: hf.VideoMAEModel(hf.VideoMAEConfig(**MAE)),
    "videomae-first": lambda: hf.VideoMAEModel(hf.VideoMAEConfig(**MAE, use_mean_pooling=False)),
    "videomae-unbiased": lambda: hf.VideoMAEModel(hf.VideoMAEConfig(**MAE, qkv_bias=False)),
    "videomae-classifier": lambda: hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(**MAE, num_labels=3)),
    "videomae-first-classifier": lambda: hf.VideoMAEForVideoClassification(
        hf.VideoMAEConfig(**MAE, use_mean_pooling=False, num_labels=3)
    ),
    "vivit": lambda: hf.VivitModel(hf.VivitConfig(**VIVIT)),
    "vivit-bare": lambda: hf.VivitModel(hf.VivitConfig(**VIVIT), add_pooling_layer=False),
    "vivit-classifier": lambda: hf.VivitForVideoClassification(hf.VivitConfig(**VIVIT, num_labels=3)),
}


def is_classifier(name: str) -> bool:
    return name.endswith("classifier")


def ours_of(folder: Path, name: str, attention: str = "sdpa") -> Any:
    kind = PlaitForClassification if is_classifier(name) else PlaitModel
    return kind.from_pretrained(folder, attn_implementation=attention).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Path]]:
    """Each model once, every parameter drawn at std 0.2, and its folder."""
    made: dict[str, tuple[Any, Path]] = {}

    def get(name: str, attention: str = "sdpa") -> tuple[Any, Path]:
        if name not in made:
            torch.manual_seed(len(name))
            model = MODELS[name]()
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.2)
            made[name] = model.eval(), tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name][1])
        made[name][0].set_attn_implementation(attention)
        return made[name]

    return get


def read_again(model: Any, name: str, folder: Path, **options: Any) -> Any:
    if name == "vivit-bare":
        options["add_pooling_layer"] = False
    return type(model).from_pretrained(folder, **options).eval()


def clips(name: str) -> Tensor:
    size = (16, 24) if name.startswith("videomae") else (16, 16)
    return torch.randn(3, 6, 3, *size, generator=torch.Generator().manual_seed(1))


def difference(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1)).item()


def returned(output: Any) -> dict[str, Tensor]:
    names = ("last_hidden_state", "pooler_output", "logits")
    found = {name: output[name] for name in names if output.get(name) is not None}
    for name in ("hidden_states", "attentions"):
        found |= {f"{name} {number}": state for number, state in enumerate(output.get(name) or ())}
    return found


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_every_returned_tensor_is_transformers_own(
    name: str, attention: str, saved: Callable[..., tuple[Any, Path]]
) -> None:
    model, folder = saved(name, attention)
    ours, videos = ours_of(folder, name, attention), clips(name)
    options = {"output_hidden_states": True} | ({"output_attentions": True} if attention == "eager" else {})
    theirs, found = returned(model(videos, **options)), returned(ours(pixel_values_videos=videos, **options))
    if name == "vivit-bare":  # the class token, which transformers returns without a pooler of its own
        assert torch.equal(found.pop("pooler_output"), found["last_hidden_state"][:, 0])
    assert found.keys() == theirs.keys()
    for key, tensor in found.items():
        assert difference(tensor, theirs[key]) <= 1e-5, key
    exact = returned(read_again(model, name, folder, dtype=torch.float64)(videos.double()))
    for key in exact:
        assert difference(found[key], exact[key]) <= max(2 * difference(theirs[key], exact[key]), 1e-6), key


@pytest.mark.parametrize("name", MODELS)
def test_written_back_the_file_is_the_same(name: str, saved: Callable[..., tuple[Any, Path]], tmp_path: Path) -> None:
    model, folder = saved(name)
    if any(key.endswith("key.bias") for key in load_file(folder / "model.safetensors")) and "videomae" in name:
        pytest.skip("this transformers writes VideoMAE's keys with a bias, which no published file has")
    export(ours_of(folder, name), tmp_path)
    before, after = (load_file(each / "model.safetensors") for each in (folder, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    again = read_again(model, name, tmp_path)
    with torch.no_grad():
        assert all(
            torch.equal(a, b) for a, b in zip(model(clips(name)).values(), again(clips(name)).values(), strict=True)
        )


@torch.no_grad()
def test_the_encoder_of_a_pretraining_file_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = hf.VideoMAEForPreTraining(hf.VideoMAEConfig(**MAE, decoder_hidden_size=16, decoder_num_attention_heads=2))
    whole.eval().save_pretrained(tmp_path)
    videos = clips("videomae")
    ours = PlaitModel.from_pretrained(tmp_path).eval()(pixel_values_videos=videos)
    assert difference(ours.last_hidden_state, whole.videomae(videos).last_hidden_state) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ["videomae-classifier", "vivit"])
def test_saved_as_a_plait_it_is_the_same(name: str, saved: Callable[..., tuple[Any, Path]], tmp_path: Path) -> None:
    ours, videos = ours_of(saved(name)[1], name), clips(name)
    ours.save_pretrained(tmp_path)
    auto = hf.AutoModelForVideoClassification if is_classifier(name) else hf.AutoModel
    again = auto.from_pretrained(tmp_path).eval()
    assert again.main_input_name == "pixel_values_videos"
    for key, tensor in returned(ours(pixel_values_videos=videos)).items():
        assert torch.equal(returned(again(pixel_values_videos=videos))[key], tensor)
    half = auto.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(pixel_values_videos=videos)[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 5, 3, 16, 24), r"\(5, 3, 16, 24\).*the tower reads \(6, 3, 16, 24\)"),
        ((2, 6, 3, 16, 16), r"\(6, 3, 16, 16\)"),
        ((2, 0, 3, 16, 24), "no frames"),
        ((3, 16, 24), r"not \(batch\[, clips\], frames, channels, height, width\)"),
    ],
)
def test_videos_of_another_shape_are_refused(
    shape: tuple[int, ...], message: str, saved: Callable[..., tuple[Any, Path]]
) -> None:
    with pytest.raises(ValueError, match=message):
        ours_of(saved("videomae")[1], "videomae")(pixel_values_videos=torch.zeros(*shape))


def test_a_video_with_fewer_frames_is_refused(saved: Callable[..., tuple[Any, Path]]) -> None:
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with pytest.raises(ValueError, match="reads 6 frames of every video"):
        ours_of(saved("videomae")[1], "videomae")(
            pixel_values_videos=clips("videomae")[:1], pixel_values_videos_mask=mask
        )
