"""What the bytes of an audio file become."""

from io import BytesIO

import numpy as np
import pytest

from plait.processing.audio import decode_audio

soundfile = pytest.importorskip("soundfile")


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "DOUBLE"])
def test_decoded_samples_are_float32_by_channels(subtype: str) -> None:
    file, samples = BytesIO(), np.linspace(-0.5, 0.5, 40).reshape(20, 2)
    soundfile.write(file, samples, 8000, format="WAV", subtype=subtype)
    found, rate = decode_audio(file.getvalue())
    assert (found.dtype, found.shape, rate) == (np.float32, (20, 2), 8000)
    np.testing.assert_allclose(found, samples, atol=1e-4)
