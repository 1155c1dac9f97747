"""`hepflow score` of N files of `rehearsal://`: new ones, up to date, and 1 % of them damaged."""

import json
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

from score import write_models, write_raw

from hepflow.data.ledger import Ledger
from hepflow.data.output import read_marker
from hepflow.score import read_scores
from rehearsal import files, measure, remembered

EVENTS = 8  # per file


def rehearse(scratch: Path, sizes: Sequence[int]) -> tuple[list[measure.Step], dict[str, float]]:
    """Return the steps, and the most memory that the driver held."""
    environment = files.installed(scratch / "packages")
    remembered.site(scratch / "packages")
    files.write_template(scratch / "template", EVENTS)
    models = scratch / "models"
    models.mkdir(exist_ok=True)
    if not (raw := scratch / "raw-of-model").exists():
        write_raw(raw, EVENTS, 1)
    model = write_models(raw, models)["hlf"]
    steps = []
    for n in sizes:
        output = scratch / f"scores-{n}"
        rmtree(output, ignore_errors=True)
        steps.append(_score("score", n, scratch, output, model, environment))
        steps.append(_score("again", n, scratch, output, model, environment))
        steps.append(_score("1 % damaged", n, scratch, output, model, environment, damaged=True))
        _check(output, n)
        rmtree(output)
    return steps, {"score_driver_gb": round(max(step.gb["driver"] for step in steps), 2)}


def _score(
    stage: str,
    n: int,
    scratch: Path,
    output: Path,
    model: Path,
    environment: dict[str, str],
    **options: Any,
) -> measure.Step:
    options |= {"folder": str(scratch / "template"), "n_files": n}
    storage = json.dumps({"rehearsal://": options})
    arguments = ["score", "--input", "rehearsal://raw", "--model", model, "--output", output]
    arguments += ["--storage", storage, "--max_lost_files", str(files.n_damaged(n))]
    return measure.run(stage, n, arguments, output, environment)


def _check(output: Path, n: int) -> None:
    """Require that each event has its scores once, and that each damaged file is named."""
    about = read_marker(output)
    assert about is not None
    ledger = Ledger.from_dict(about["ledger"]).check()
    n_damaged = files.n_damaged(n)
    assert len({item.file for item in ledger.lost}) == n_damaged, "a damaged file is not named"
    ids = read_scores(output, ["event_id"])["event_id"]
    assert len(ids) == len(ids.unique()) == (n - n_damaged) * EVENTS
