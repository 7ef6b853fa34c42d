"""What only a GPU can show; skipped without one."""

import pytest
import torch

from plait import PlaitForClassification

from .zoo import build, inputs_of, labels_of

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


def test_gpu_equals_cpu() -> None:
    model, inputs = on_gpu("cross_attention")
    with torch.no_grad():
        there = model(**inputs).logits.cpu()
        here = model.cpu()(**{name: value.cpu() for name, value in inputs.items()}).logits
    torch.testing.assert_close(there, here, atol=1e-3, rtol=1e-3)
