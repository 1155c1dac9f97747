"""Every public name is on the page of the Python API, and the examples of the page run."""

import re
import tarfile
from pathlib import Path

import pytest

import hepflow

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api" / "index.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
README = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
)
STAGES = [example for example in EXAMPLES if "SparkConfig" in example]
OUTPUTS = ROOT / "tests" / "support" / "files" / "version_0_1.tar.xz"


def test_every_public_name_has_an_example() -> None:
    used = set(re.findall(r"\bhepflow\.(\w+)", "\n".join(EXAMPLES)))
    assert sorted(set(hepflow.__all__) - used) == []


def test_the_text_names_public_names_and_commands_only() -> None:
    text = re.sub(r"^```.*?^```", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert sorted(set(re.findall(r"`hepflow\.(\w+)`", text)) ^ set(hepflow.__all__)) == [
        "EvaluateConfig"  # shown with evaluate_runs
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with the outputs that the examples read."""
    with tarfile.open(OUTPUTS) as archive:
        archive.extractall(tmp_path / "data", filter="data")
    for name in ("runs", "report"):
        (tmp_path / "data" / name).rename(tmp_path / name)
    ttbar = tmp_path / "data" / "raw" / "ttbar"
    (ttbar / "1.root").rename(ttbar / "ttbar_0007.root")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(examples: list[str]) -> dict[str, object]:
    """Run examples one after the other, and return their names."""
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "docs/api/index.md", "exec"), names)
    return names


@pytest.mark.usefixtures("folder")
def test_the_examples_run_in_the_order_of_the_page() -> None:
    names = run([example for example in EXAMPLES if example not in STAGES] + README)
    assert names["logits"].shape[1] == 3  # type: ignore[attr-defined]
    assert names["scores"].selected.any()  # type: ignore[attr-defined]


@pytest.mark.spark
def test_the_stages_run_as_on_the_page(folder: Path) -> None:
    run([EXAMPLES[0], *STAGES])
    for output in ("data/simulated/ttbar", "data/small.zarr", "scores"):
        assert any((folder / output).iterdir())
