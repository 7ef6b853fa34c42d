"""Zero-shot classification and retrieval by one CLIP: `PlaitForRetrieval` beside open_clip."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers as hf
from paired import Row, measure_pairs, spend
from torch import Tensor
from torch.nn import functional as F

from plait import PlaitForRetrieval, PlaitProcessor

TEMPLATES = ["a photo of a {}.", "a blurry photo of a {}.", "a photo of the large {}.", "a drawing of a {}.", "a {}."]
BATCH = 32
LAYER = {  # of open_clip: of transformers
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def save_clip(folder: Path) -> hf.CLIPModel:
    """Saves a CLIP B/32 with random weights, open_clip's vocabulary and CLIP's image processor."""
    torch.manual_seed(0)
    known = open_clip.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in known.encoder.items()}
    config = hf.CLIPConfig(text_config={"bos_token_id": known.sot_token_id, "eos_token_id": known.eot_token_id})
    model = hf.CLIPModel(config)
    tokenizer = hf.CLIPTokenizer(vocab=vocabulary, merges=list(known.bpe_ranks), model_max_length=known.context_length)
    for part in (model, tokenizer, hf.CLIPImageProcessorPil()):
        part.save_pretrained(folder)
    return model.eval()


def convert_tower(tower: Any, layers: int, prefix: str) -> dict[str, Tensor]:
    """Returns the weights of a tower's layers under open_clip's names."""
    weights, found = tower.state_dict(), {}
    for layer in range(layers):
        theirs, ours = f"encoder.layers.{layer}.", f"{prefix}transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            parts = [weights[f"{theirs}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            found[f"{ours}attn.in_proj_{kind}"] = torch.cat(parts)
            found |= {f"{ours}{name}.{kind}": weights[f"{theirs}{source}.{kind}"] for name, source in LAYER.items()}
    return found


def convert_clip(model: hf.CLIPModel) -> Any:
    """Builds open_clip's model with the same weights."""
    text, image = model.text_model, model.vision_model
    weights = convert_tower(text, len(text.encoder.layers), "") | convert_tower(
        image, len(image.encoder.layers), "visual."
    )
    weights |= {
        "token_embedding.weight": text.embeddings.token_embedding.weight,
        "positional_embedding": text.embeddings.position_embedding.weight,
        "text_projection": model.text_projection.weight.T,
        "logit_scale": model.logit_scale,
        "visual.class_embedding": image.embeddings.class_embedding,
        "visual.positional_embedding": image.embeddings.position_embedding.weight,
        "visual.proj": model.visual_projection.weight.T,
        "visual.conv1.weight": image.embeddings.patch_embedding.weight,
    }
    norms = {
        "ln_final": text.final_layer_norm,
        "visual.ln_pre": image.pre_layrnorm,
        "visual.ln_post": image.post_layernorm,
    }
    for name, norm in norms.items():
        weights |= {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
    peer = open_clip.create_model("ViT-B-32-quickgelu").eval()
    missing, unknown = peer.load_state_dict(weights, strict=False)
    if unknown or any("attn_mask" not in name for name in missing):
        raise SystemExit(f"open_clip: missing {missing}, unknown {unknown}")
    return peer


class OpenClip:
    """What one does with open_clip: its transform and tokenizer, batches, vectors of unit length."""

    def __init__(self, model: hf.CLIPModel) -> None:
        self.model, self.tokenize = convert_clip(model), open_clip.get_tokenizer("ViT-B-32-quickgelu")
        self.transform = open_clip.image_transform(224, is_train=False)

    @torch.inference_mode()
    def encode_images(self, images: list[Any]) -> Tensor:
        """Returns (images, width)."""
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        pixels = (torch.stack([self.transform(image) for image in batch]) for batch in batches)
        return torch.cat([self.model.encode_image(one, normalize=True) for one in pixels])

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """Returns (texts, width)."""
        batches = (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))
        return torch.cat([self.model.encode_text(self.tokenize(batch), normalize=True) for batch in batches])

    @torch.inference_mode()
    def zero_shot(self, images: list[Any], labels: list[str]) -> Tensor:
        """Returns probabilities, (images, labels), as open_clip's README and its classifier do."""
        classes = open_clip.build_zero_shot_classifier(self.model, self.tokenize, labels, TEMPLATES)
        return (self.model.logit_scale.exp() * self.encode_images(images) @ classes).softmax(dim=-1)


def compare_clip(images: list[Any], texts: list[str], labels: list[str], rounds: int, work: Path) -> list[Row]:
    """Measures both on images (PIL, RGB) and texts in memory; one text in two belongs to an image."""
    model = save_clip(work / "clip")
    peer, ours = OpenClip(model), PlaitForRetrieval.from_pretrained(work / "clip").eval()
    processor = PlaitProcessor.from_pretrained(work / "clip")
    quiet = {"batch_size": BATCH, "show_progress": False}

    def retrieve() -> Tensor:
        pictures, sentences = (
            ours.encode(rows, processor, side, **quiet) for rows, side in ((images, "image"), (texts, "text"))
        )
        return sentences @ pictures.T

    cases: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        f"zero-shot: {len(images)} images, {len(labels)} labels in {len(TEMPLATES)} templates": (
            lambda: ours.zero_shot(images, labels, processor, templates=TEMPLATES, **quiet),
            lambda: peer.zero_shot(images, labels),
        ),
        f"retrieval: {len(texts)} texts, {len(images)} images": (
            retrieve,
            lambda: peer.encode_texts(texts) @ peer.encode_images(images).T,
        ),
    }
    rows = []
    for name, (own, other) in cases.items():
        difference = float(F.l1_loss(own(), other(), reduction="none").max())
        if difference > 1e-4:
            raise SystemExit(f"{name}: outputs differ by {difference:.1e}")
        pairs = measure_pairs(name, lambda own=own: spend(own), lambda other=other: spend(other), rounds)
        rows.append(Row(name, "open_clip B/32", *pairs, 1.0, f"within {difference:.0e}"))
    return rows
