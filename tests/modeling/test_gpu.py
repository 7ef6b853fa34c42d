"""What only a GPU can show; skipped without one."""

from pathlib import Path

import pytest
import torch

from plait import PlaitConfig, PlaitForClassification, PlaitTrainer, PlaitTrainingArguments
from plait.modeling.core.packing import PackedMask, pack_rows, packed_attention
from plait.modeling.losses.language_model import language_model_loss

from .zoo import CASES, CONFIGS, GENERATING, build, inputs_of, labels_of, main_tensor

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


@pytest.mark.parametrize("is_causal", [False, True])
def test_flex_attention_equals_sdpa(is_causal: bool) -> None:
    text = {"hidden_size": 64, "num_attention_heads": 4, "is_causal": is_causal}  # its kernel wants heads of 16 or more
    config = PlaitConfig(text_config={**CONFIGS["text"]["text_config"], **text, "pooler_size": 64}, num_labels=3)
    model, inputs = PlaitForClassification(config).cuda().eval(), inputs_of("text")
    inputs = {name: value.cuda() for name, value in inputs.items()}
    with torch.no_grad():
        sdpa = model(**inputs).logits
        model.set_attn_implementation("flex_attention")
        torch.testing.assert_close(model(**inputs).logits, sdpa, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_attention_with_dropout_trains(dtype: torch.dtype) -> None:
    """In both kernels: the gradient of an output by its inputs is that of the dropout that was drawn."""
    module = torch.nn.Module().train()
    module.is_causal, module.num_key_value_groups = False, 1
    rows, _ = pack_rows(torch.tensor([[1] * 8, [1] * 3 + [0] * 5], device="cuda"))
    query, key, value = (torch.randn(1, 2, 11, 16, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))
    mask, options = PackedMask(rows, rows, "sdpa"), {"dropout": 0.5, "scaling": 0.25}
    attended = [packed_attention(module, query, key, value, mask, **options)[0] for _ in range(2)]
    assert not torch.equal(*attended)
    attended[0].float().square().sum().backward()
    # attention is linear in the values: <gradient, value> = <2 out, out>
    expected = 2 * attended[0].float().square().sum()
    torch.testing.assert_close((value.grad.float() * value.float()).sum(), expected, atol=1e-2, rtol=2e-2)


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
