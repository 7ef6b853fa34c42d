"""report.html of a comparison."""

from pathlib import Path

from PIL import Image

from plait.training.compare.page import render_comparison
from plait.training.recipes.schema import Recipe

from .test_report import CONTENT, interval

NAMES = [row["name"] for row in CONTENT["systems"]]
PAIRS = {
    name: {other: interval((place - against) / 8) for against, other in enumerate(NAMES) if other != name}
    for place, name in enumerate(NAMES)
}


def test_the_page_shows_all_systems_with_paired_intervals_and_loads_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "compare.png")
    page = render_comparison({**CONTENT, "pairs": PAIRS}, Recipe(), tmp_path, "plait compare <a>.yaml")
    for name in NAMES:
        assert f"<td>{name}</td>" in page and f"<th>than {name}</th>" in page
    assert page.count("+0.1250 [+0.0000, +0.2500]") >= 2 and "-0.2500 [-0.3750, -0.1250]" in page
    assert "Fusion helps: early (best fusion)" in page and "**" not in page
    assert "<h2>Does it use all modalities?</h2>" in page and "<h2>What if a modality is missing?</h2>" in page
    assert 'src="data:image/png;base64,' in page and "default-src 'none'" in page
    assert (
        "plait compare &lt;a&gt;.yaml" in page
        and "<script" not in page
        and "http" not in page.replace("http-equiv", "")
    )
    alone = render_comparison(CONTENT, Recipe(), tmp_path / "none", "plait compare")
    assert "<img" not in alone and "Paired differences" not in alone  # without matplotlib, or of an earlier version
