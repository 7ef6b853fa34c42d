"""What only a GPU can show; skipped without one."""

from pathlib import Path

import pytest
import torch

from plait import PlaitForClassification, PlaitTrainer, PlaitTrainingArguments
from plait.modeling.language_model_loss import language_model_loss

from .zoo import CASES, GENERATING, build, inputs_of, labels_of, main_tensor

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def on_gpu(shape: str) -> tuple[PlaitForClassification, dict[str, torch.Tensor]]:
    model = build("PlaitForClassification", shape).cuda()
    inputs = inputs_of(shape) | labels_of("PlaitForClassification", inputs_of(shape))
    return model, {name: value.cuda() for name, value in inputs.items()}


@pytest.mark.parametrize("shape", ["text", "decoder", "early", "late", "cross_attention"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_variable_length_kernels_equal_padded(shape: str, dtype: torch.dtype) -> None:
    model, inputs = on_gpu(shape)
    model = model.to(dtype)
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    parts = [*model.config.encoders.values(), model.config.decoder_config, model.config.fusion_config]
    results = []
    for packing in (True, False):
        for part in filter(None, parts):
            part.packing = packing
        model.zero_grad()
        outputs = model(**inputs)
        outputs.loss.backward()
        gradient = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
        results.append((outputs.logits.float(), gradient))
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    for packed, padded in zip(*results, strict=True):
        scale = padded.abs().max().clamp(min=1)
        assert (packed - padded).abs().max() / scale < tolerance


@pytest.mark.parametrize(("class_name", "shape"), CASES)
def test_gpu_equals_cpu(class_name: str, shape: str) -> None:
    model, inputs = build(class_name, shape), inputs_of(shape)
    with torch.no_grad():
        here = main_tensor(model(**inputs))
        there = main_tensor(model.cuda()(**{name: value.cuda() for name, value in inputs.items()}))
    torch.testing.assert_close(there.cpu(), here, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("class_name", "shape"), [(name, shape) for name in GENERATING for shape in GENERATING[name]])
def test_the_same_text_on_gpu_and_cpu(class_name: str, shape: str, beams: int) -> None:
    model, inputs = build(class_name, shape), inputs_of(shape)
    if class_name == "PlaitForCausalLM":  # prompts end on the right
        inputs = {
            name: value.flip(1) if value.ndim == 2 and shape == "decoder" else value for name, value in inputs.items()
        }
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    here = model.generate(**inputs, **options)
    there = model.cuda().generate(**{name: value.cuda() for name, value in inputs.items()}, **options)
    assert torch.equal(there.cpu(), here)


@pytest.mark.parametrize("shape", ["text", "decoder", "early"])
def test_flex_attention_equals_sdpa(shape: str) -> None:
    model, inputs = on_gpu(shape)
    with torch.no_grad():
        sdpa = model(**inputs).logits
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(model(**inputs).logits, sdpa, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("shape", ["text", "early"])
def test_packed_attention_with_dropout_trains(shape: str) -> None:
    model, inputs = on_gpu(shape)
    for part in [*model.config.encoders.values(), model.config.fusion_config]:
        if part is not None:
            part.attention_dropout = 0.5
    losses = set()
    for _ in range(3):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model.train()(**inputs).loss
        loss.backward()
        losses.add(loss.item())
    assert len(losses) > 1  # the dropout is there
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_chunked_loss_under_autocast_equals_the_whole_and_takes_a_third_of_its_memory() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4096, 256, device="cuda")
    labels = torch.randint(0, 32000, (1, 4096), device="cuda")
    results, peaks = [], []
    for chunked in (True, False):
        weight = torch.randn(32000, 256, device="cuda", generator=torch.Generator("cuda").manual_seed(1)) * 0.05
        weight.requires_grad_()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.autocast("cuda", torch.bfloat16):
            if chunked:
                loss = language_model_loss(x, weight, None, labels)
            else:
                logits = torch.nn.functional.linear(x, weight)
                loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        loss.backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        results.append((loss.detach(), weight.grad))
    (loss, gradient), (whole_loss, whole_gradient) = results
    torch.testing.assert_close(loss, whole_loss, atol=1e-3, rtol=1e-3)
    assert (gradient - whole_gradient).abs().max() < 2e-2 * whole_gradient.abs().max()
    assert peaks[0] < peaks[1] / 3


def test_training_in_bfloat16_resumes_as_if_uninterrupted(tmp_path: Path) -> None:
    inputs = inputs_of("early", batch=5)
    rows = [{name: value[i] for name, value in inputs.items()} | {"labels": i % 3} for i in range(5)]

    def train(steps: int, resume: bool = False) -> dict[str, torch.Tensor]:
        arguments = PlaitTrainingArguments(
            str(tmp_path), max_steps=6, bf16=True, per_device_train_batch_size=2, save_steps=3, report_to=[], seed=3
        )
        trainer = PlaitTrainer(build("PlaitForClassification", "early"), arguments, train_dataset=rows)
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{steps}") if resume else None)
        return {name: value.cpu() for name, value in trainer.model.state_dict().items()}

    whole = train(6)
    again = train(3, resume=True)
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, atol=1e-5, rtol=1e-4)
