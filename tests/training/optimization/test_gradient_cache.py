"""A large contrastive batch in chunks: the loss and the gradients of the whole."""

import dataclasses
import itertools
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from plait import PlaitForRetrieval
from plait.configuration import PlaitCNNConfig, PlaitTextConfig, PlaitVisionConfig
from plait.training.optimization.gradient_cache import average_gradients, cached_backward, join_chunks, split_chunks

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = PlaitTextConfig(vocab_size=40, pad_token_id=0, max_position_embeddings=12, **SIZES)
IMAGE = PlaitVisionConfig(image_size=8, patch_size=4, **SIZES)
ROWS = 11


def model_of(dropout: float = 0.0, **parts: Any) -> PlaitForRetrieval:
    torch.manual_seed(0)
    text = PlaitTextConfig(**{**TEXT.to_dict(), "hidden_dropout_prob": dropout, "attention_dropout": dropout})
    given = {"text": text, "image": IMAGE, "retrieval_config": {"projection_dim": 8}, "initializer_range": 0.2, **parts}
    return PlaitForRetrieval.compose(**given, verbose=False).double().train()


def batch(shared: bool = True) -> dict[str, Any]:
    """Rows of several lengths; two without a text, one without a picture, some that share a picture or a caption."""
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(6) < torch.randint(2, 7, (ROWS, 1), generator=generator)).long()
    mask[[3, 9]] = 0
    ids = torch.randint(1, 40, (ROWS, 6), generator=generator)
    ids[5], mask[5] = ids[2], mask[2]
    pictures = torch.randn(ROWS, 3, 8, 8, generator=generator, dtype=torch.float64)
    inputs: dict[str, Any] = {"input_ids": ids * mask, "attention_mask": mask, "pixel_values": pictures}
    if shared:
        inputs["pixel_values"] = pictures[:6]
        inputs["image_indices"] = torch.tensor([0, 1, 2, 0, 3, 4, -1, 5, 5, 1, 2])[:, None]
    return inputs


def gradients(model: PlaitForRetrieval) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rows", [1, 3, 4, 20])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_chunks_give_the_gradients_of_the_whole(rows: int, shared: bool, loss: str) -> None:
    space = {"projection_dim": 8, "loss": loss, "logit_bias_init_value": -3.0}
    model, inputs = model_of(retrieval_config=space), batch(shared)
    expected = model(**inputs).loss
    expected.backward()
    whole = gradients(model)
    model.zero_grad()
    found = cached_backward(model, inputs, rows)
    assert not found.requires_grad and abs(found - expected) < 1e-10
    chunked = gradients(model)
    assert chunked.keys() == whole.keys() and len(whole) > 20
    for name, gradient in whole.items():
        torch.testing.assert_close(chunked[name], gradient, rtol=0, atol=1e-10, msg=name)


def test_dropout_draws_in_both_runs_the_same() -> None:
    """The reference keeps the graphs of all chunks, each run once; then the numbers go on where they would have."""
    model, inputs = model_of(dropout=0.3), batch()
    torch.manual_seed(5)
    embedded = [model.embed(chunk, every=True) for chunk in split_chunks(inputs, 4)]
    after = torch.rand(1)
    sides = {}
    for side in embedded[0]:
        parts = [chunk[side] for chunk in embedded]
        sides[side] = join_chunks(parts)._replace(vectors=torch.cat([part.vectors for part in parts]))
    expected = model.contrast(sides)
    expected.backward()
    whole = gradients(model)
    model.zero_grad()
    torch.manual_seed(5)
    found = cached_backward(model, inputs, 4)
    assert torch.equal(torch.rand(1), after)
    assert abs(found - expected) < 1e-10
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=0, atol=1e-10, msg=name)
    model.zero_grad()
    torch.manual_seed(6)
    assert abs(cached_backward(model, inputs, 4) - expected) > 1e-6


def test_documents_and_given_groups_are_cut_as_well() -> None:
    model = model_of(image=None, document=TEXT)
    words = {name: value for name, value in batch().items() if name in ("input_ids", "attention_mask")}
    inputs = words | {f"document_{name}": value.flip(0) for name, value in words.items()}
    inputs["groups"] = torch.arange(ROWS)[:, None].expand(-1, 2) // 2
    expected = model(**inputs).loss
    expected.backward()
    whole = gradients(model)
    model.zero_grad()
    assert abs(cached_backward(model, {**inputs, "return_loss": True}, 3) - expected) < 1e-10
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("numbered", [False, True])
def test_hard_negatives_are_cut_with_their_rows(numbered: bool) -> None:
    """None, one or two a row; one is another row's own text."""
    model, inputs = model_of(dropout=0.0), batch()
    ids, mask = (inputs[name].flip(0).repeat(2, 1, 1).transpose(0, 1) for name in ("input_ids", "attention_mask"))
    ids, mask = ids.clone(), mask.clone()
    ids[:, 1] = (ids[:, 1] + 7) % 39 + 1
    mask[[2, 8]], mask[5, 1] = 0, 0
    inputs |= {"negative_input_ids": ids * mask, "negative_attention_mask": mask}
    if numbered:
        inputs["groups"] = torch.arange(ROWS)[:, None].expand(-1, 2) // 2
        inputs["negative_groups"] = torch.arange(2 * ROWS).view(ROWS, 2)
    expected = model(**inputs).loss
    expected.backward()
    whole = gradients(model)
    model.zero_grad()
    assert abs(cached_backward(model, inputs, 3) - expected) < 1e-10
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=0, atol=1e-10, msg=name)
    without = {name: value for name, value in inputs.items() if not name.startswith("negative")}
    assert model(**without).loss < expected


def test_cached_outputs_of_locked_towers_are_cut_as_well() -> None:
    """And a convolutional tower that is locked norms nothing anew."""
    small = PlaitCNNConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], image_size=8)
    model, inputs = model_of(image=small, freeze=["image"]), batch(shared=False)
    given = {"image": dict(model.model.encode("image", pixel_values=inputs.pop("pixel_values")))}
    given["image"] = {name: given["image"][name].detach() for name in ("last_hidden_state", "mask", "pooler_output")}
    expected = model(**inputs, encoder_outputs=given).loss
    expected.backward()
    whole = gradients(model)
    assert not any("towers.image" in name for name in whole)
    model.zero_grad()
    assert abs(cached_backward(model, {**inputs, "encoder_outputs": given}, 3) - expected) < 1e-10
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=0, atol=1e-10, msg=name)


def test_memory_is_that_of_a_chunk() -> None:
    """Beside the random states, and the gradients of the batch's vectors, which are as large as these."""
    space = {"projection_dim": 8}
    model = model_of(dropout=0.1, image=PlaitVisionConfig(image_size=32, patch_size=4, **SIZES), retrieval_config=space)
    model.loss = dataclasses.replace(model.loss, block=64)

    def most_held(batch: int) -> int:
        ids = torch.arange(12 * batch).view(batch, 12) % 39 + 1
        inputs = {"input_ids": ids, "pixel_values": torch.randn(batch, 3, 32, 32, dtype=torch.float64)}
        model.zero_grad(set_to_none=False)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            cached_backward(model, inputs, 4)
        profiler: Any = profile.profiler
        events = profiler.kineto_results.events()
        return max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))

    most_held(4)  # the first makes the gradients
    one, many = most_held(4), most_held(64)
    vectors, states = 2 * 64 * 8 * 8, 16 * torch.get_rng_state().nbytes
    assert one > 100 * vectors
    assert many < one + states + vectors


def test_what_cannot_be_cut_is_said() -> None:
    model, inputs = model_of(), batch()
    with pytest.raises(ValueError, match="a chunk of 0 rows"):
        cached_backward(model, inputs, 0)
    with pytest.raises(ValueError, match="token_type_ids has 2 rows in a batch of 11"):
        cached_backward(model, {**inputs, "token_type_ids": torch.zeros(2, 6)}, 3)
    with pytest.raises(ValueError, match="nothing in the batch tells"):
        list(split_chunks({"return_loss": True}, 3))


def average_in_process(rank: int, folder: Path) -> None:
    """One of two processes: its gradient of the first layer, and none of the others."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    model = torch.nn.ModuleDict({name: torch.nn.Linear(2, 1, bias=False) for name in ("both", "one", "none", "frozen")})
    model["frozen"].weight.requires_grad_(False)
    model["both"].weight.grad = torch.tensor([[1.0, 8.0]]) + rank
    if rank == 1:
        model["one"].weight.grad = torch.tensor([[3.0, -5.0]])
    average_gradients(model)
    torch.save({name: layer.weight.grad for name, layer in model.items()}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_gradients_are_the_mean_over_processes(tmp_path: Path) -> None:
    """A parameter that only one process used counts as zero in the other."""
    processes = [get_context("fork").Process(target=average_in_process, args=(rank, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["both"].tolist() == [[1.5, 8.5]]
        assert found["one"].tolist() == [[1.5, -2.5]]
        assert found["none"].tolist() == [[0.0, 0.0]] and found["frozen"] is None


def test_one_process_keeps_its_gradients() -> None:
    layer = torch.nn.Linear(2, 1)
    layer.weight.grad = torch.tensor([[1.0, 8.0]])
    average_gradients(layer)
    assert layer.weight.grad.tolist() == [[1.0, 8.0]] and layer.bias.grad is None
