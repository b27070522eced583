"""How long jobs that run files over text are expected to take before any has run."""

from pathlib import Path
from typing import Any

import pytest

from core.catalog import load_catalog
from core.phases import service
from core.phases.forecast import PROBE
from core.phases.merging import MergeWish
from core.phases.scored_work import SCORED, scored_work
from core.tasks.held_out import WINDOW
from core.training.calibration import calibration_examples, held_out_by_domain
from core.training.data import Example, read_examples
from core.workspace import Workspace
from tests.models import embedded_tokenizer

MOST = 1000
STARTER = ("healthcare", "business", "education", "creative", "leadership")


@pytest.fixture
def data(workspace: Workspace) -> dict[str, str]:
    """The files of the starter domains."""
    return {name: str(workspace.configs / "starter_data" / f"{name}.jsonl") for name in STARTER}


@pytest.fixture
def params(workspace: Workspace) -> dict[str, Any]:
    """Settings of a job over the starter domains."""
    catalog = load_catalog(workspace)
    shaping = {
        name: {"system_prompt": catalog.domain(name).system_prompt, "seed": 7, "held_out_fraction": 0.2}
        for name in STARTER
    }
    return {"domains": shaping, "sequence_length": WINDOW, "max_tokens": MOST, "target_bytes": None}


def examples_of(data: dict[str, str]) -> dict[str, list[Example]]:
    return {name: read_examples(Path(path)) for name, path in data.items()}


def test_held_out_tokens_are_about_those_the_embedded_tokenizer_makes(
    params: dict[str, Any], data: dict[str, str]
) -> None:
    found = held_out_by_domain(embedded_tokenizer(), data, params["domains"], length=WINDOW, most=MOST)
    real = sum(len(one.input_ids) for some in found.values() for one in some)
    tokens = scored_work("check-delivered", params, 1, examples_of(data)) / 2
    assert tokens == pytest.approx(real, rel=0.15)
    long = [
        Example(({"role": "user", "content": f"{n} word" * 2000}, {"role": "assistant", "content": "yes"}), n)
        for n in range(5)
    ]
    longer = {**params, "sequence_length": 4096}  # of which the engine reads no more than its window
    assert scored_work("check-delivered", longer, 1, {"business": long}) / 2 == 2 * WINDOW  # held out are two


def test_types_cost_a_reading_a_group_of_about_as_much_text_as_is_chosen(
    params: dict[str, Any], data: dict[str, str]
) -> None:
    chosen = calibration_examples(embedded_tokenizer(), data, params["domains"], tokens=512, sequence_length=WINDOW)
    real = sum(len(one.input_ids) for one in chosen) * min(1, 256 / sum(one.target_count for one in chosen))
    few = {name: some[:12] for name, some in examples_of(data).items()}
    none: dict[str, list[Example]] = {}
    read = (scored_work("type-costs", params, 1, few) - scored_work("type-costs", params, 1, none)) / 2
    assert read / 23 == pytest.approx(real, rel=0.3)


def test_a_target_size_adds_the_next_larger_type(params: dict[str, Any], data: dict[str, str]) -> None:
    examples = examples_of(data)
    once = scored_work("check-delivered", params, 1, examples)
    plain, beside = (scored_work("hybrid", {**params, "target_bytes": target}, 1, examples) for target in (None, 10**8))
    assert beside - plain > once


@pytest.mark.parametrize(
    "asked",
    [
        service.Asked(compression_type="hybrid", repair=True, quality_threshold=0.2),
        service.Asked(compression_type="sparse", repair=True),
        service.Asked(compression_type="distilled"),
        service.Asked(merge=MergeWish("exact")),
        service.Asked(merge=MergeWish("unified")),
    ],
)
def test_of_every_job_of_a_first_build_the_time_is_expected(phase_one: Workspace, asked: service.Asked) -> None:
    jobs = service.plan_build(phase_one, 1, asked).missing()
    assert {job.title: job.expected.seconds_by for job in jobs if job.expected} == {job.title: PROBE for job in jobs}
    assert all(job.expected.seconds > 0 for job in jobs if job.expected and job.expected.seconds is not None)
    assert all(job.work for job in jobs if job.kind in SCORED)
