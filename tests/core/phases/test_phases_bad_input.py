"""Whatever cannot be used is refused by name, and store and files stay as they were."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.catalog import load_catalog
from core.catalog.bases import Located, base_identity, locate
from core.errors import EnvironmentLacks, InvalidInput, Refused, TaraError
from core.phases import declaring, service
from core.phases.removal import remove_domain
from core.store.engine import open_store
from core.store.tables import Domain
from core.workspace import Workspace
from tests.conftest import use_base
from tests.imitate import adapter_folder, base_folder, chat_lines, contents, tree


@contextmanager
def refused(workspace: Workspace, kind: type[TaraError], *words: str) -> Iterator[None]:
    """The block raises exactly this kind with all the words, in one line, and changes nothing."""
    rows, files = contents(workspace), tree(workspace.root)
    with pytest.raises(TaraError) as caught:
        yield
    assert type(caught.value) is kind
    said = caught.value.one_line()
    assert all(word in said for word in words), said
    assert "\n" not in said
    assert contents(workspace) == rows
    assert tree(workspace.root) == files


CREATE: list[tuple[dict[str, Any], type[TaraError], str]] = [
    ({"number": 1}, Refused, "phase 1 exists already"),
    ({"number": 0}, InvalidInput, "1 to 99, not 0"),
    ({"number": -3}, InvalidInput, "not -3"),
    ({"number": 10**30}, InvalidInput, "1 to 99"),
    ({"domains": ["helthcare"]}, InvalidInput, "did you mean 'healthcare'"),
    ({"domains": ["education", "../etc"]}, InvalidInput, "there is no domain '../etc'"),
    ({"domains": ["education", "business"]}, Refused, "business belongs to phase 1"),
    ({"quantization": "Q3_K"}, InvalidInput, "unknown quantization Q3_K"),
    ({"compression_type": "zip"}, InvalidInput, "unknown compression type zip"),
    ({"quality_threshold": 1.01}, InvalidInput, "quality threshold must be between 0 and 1, not 1.01"),
    ({"quality_threshold": -0.1}, InvalidInput, "not -0.1"),
    ({"quality_threshold": math.nan}, InvalidInput, "not nan"),
    ({"target_size_mb": 0.0}, InvalidInput, "megabytes above 0"),
    ({"target_size_mb": math.nan}, InvalidInput, "megabytes above 0"),
    ({"target_size_mb": math.inf}, InvalidInput, "megabytes above 0"),
]


@pytest.mark.parametrize(("given", "kind", "words"), CREATE)
def test_create_phase(phase_one: Workspace, given: dict[str, Any], kind: type[TaraError], words: str) -> None:
    with refused(phase_one, kind, words):
        service.create_phase(phase_one, **{"number": 2, "domains": ["education"], **given})


def test_create_phase_takes_names_once(phase_one: Workspace) -> None:
    service.create_phase(phase_one, 2, [" education", "", "education", "creative "])
    assert [row[0] for row in contents(phase_one)["domain"] if row[1] == 2] == ["creative", "education"]


def test_add_domain(phase_one: Workspace, tmp_path: Path) -> None:
    service.create_phase(phase_one, 2, [])
    (tmp_path / "empty").mkdir()
    for given, kind, words in (
        ({"number": 7, "name": "education"}, InvalidInput, "there is no phase 7 (phases: 1, 2)"),
        ({"number": 10**30, "name": "education"}, InvalidInput, "too large"),
        ({"number": 1, "name": "edukation"}, InvalidInput, "did you mean 'education'"),
        ({"number": 2, "name": "business"}, Refused, "business belongs to phase 1"),
        ({"number": 1, "name": "education", "data": str(tmp_path / "absent")}, InvalidInput, "there is no file"),
        ({"number": 1, "name": "education", "adapter_path": tmp_path / "absent"}, InvalidInput, "no adapter folder"),
        ({"number": 1, "name": "education", "adapter_path": tmp_path / "empty"}, InvalidInput, "adapter_config.json"),
    ):
        with refused(phase_one, kind, words):
            service.add_domain(phase_one, **given)  # type: ignore[arg-type]


def test_an_adapter_for_another_base_is_refused_naming_both(phase_one: Workspace, tmp_path: Path) -> None:
    foreign = adapter_folder(tmp_path / "foreign", "Premium-8B")
    (foreign / "adapter_config.json").write_text(
        (foreign / "adapter_config.json").read_text().replace('"r": 2', '"r": null')  # a second fault comes after it
    )
    with refused(phase_one, Refused, str(foreign), "Premium-8B", "starter-135M", "(and 1 more)"):
        service.add_domain(phase_one, 1, "education", adapter_path=foreign)


def test_an_adapter_of_the_right_name_that_does_not_fit_is_refused(phase_one: Workspace, tmp_path: Path) -> None:
    """The base has one layer of width 8."""
    wide, deep, few = (tmp_path / name for name in ("wide", "deep", "few"))
    adapter_folder(wide, "starter-135M", width=16)
    adapter_folder(deep, "starter-135M", layers=2)
    for source, words in (
        (wide, "sizes do not fit the base: model.layers.0.self_attn.q_proj (adapter 16→16, base 8→8)"),
        (deep, "the base has no module model.layers.1.self_attn.q_proj"),
    ):
        with refused(phase_one, InvalidInput, str(source), words):
            service.add_domain(phase_one, 1, "education", adapter_path=source)
    use_base(phase_one, base_folder(tmp_path / "deeper", layers=3))
    adapter_folder(few, "starter-135M", layers=2)
    with refused(phase_one, InvalidInput, str(few), "no tensors for layers.2.self_attn.q_proj"):
        service.add_domain(phase_one, 1, "education", adapter_path=few)


def test_an_adapter_of_another_base_of_the_same_shape_is_refused_by_hash(phase_one: Workspace, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "mine", "starter-135M")
    about = source / "tara.json"
    mine = base_identity(locate(load_catalog(phase_one).bases["starter-135M"], phase_one))
    other = base_identity(Located("other", "local", base_folder(tmp_path / "other", seed=5)))
    about.write_text(json.dumps({"base": {"name": "another-135M", "sha256": other}}))
    with refused(phase_one, Refused, str(source), "another-135M", other[:12], "starter-135M", mine[:12]):
        service.add_domain(phase_one, 1, "education", adapter_path=source)
    about.write_text("{")
    with refused(phase_one, InvalidInput, str(source), "tara.json is not JSON"):
        service.add_domain(phase_one, 1, "education", adapter_path=source)
    about.write_text(json.dumps({"base": {"name": "starter-135M", "sha256": mine}}))
    assert service.add_domain(phase_one, 1, "education", adapter_path=source) is True


def test_an_adapter_is_copied_in_once(phase_one: Workspace, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "mine", "starter-135M")
    assert service.add_domain(phase_one, 1, "education", adapter_path=source) is True
    rows, files = contents(phase_one), tree(phase_one.root)
    assert service.add_domain(phase_one, 1, "education", adapter_path=source) is False
    assert service.add_domain(phase_one, 1, "education") is False
    assert (contents(phase_one), tree(phase_one.root)) == (rows, files)
    with refused(phase_one, Refused, "uses an adapter from elsewhere", "update-domain education --train-here"):
        service.train_domain(phase_one, "education")
    assert not list(phase_one.artifacts.rglob(".tmp-*"))


BAD_DATA: list[tuple[str, str]] = [
    ("", "is empty"),
    ('{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n', "a single example"),
    ('{"instruction": "q", "output": "a"}\n{"instruction": "q2", "output"\n', "line 2: not JSON"),
    ('{"instruction": "q", "output": "a"}\n\n[1]\n', "line 3"),
]


@pytest.mark.parametrize(("text", "words"), BAD_DATA)
def test_bad_data(phase_one: Workspace, tmp_path: Path, text: str, words: str) -> None:
    given = tmp_path / "given.jsonl"
    given.write_text(text)
    with refused(phase_one, InvalidInput, str(given), words):
        service.train_domain(phase_one, "business", data=str(given))
    with refused(phase_one, InvalidInput, str(given), words):
        service.add_domain(phase_one, 1, "education", data=str(given))
    own = phase_one.data / "business.jsonl"
    own.write_text(text)
    with refused(phase_one, InvalidInput, str(own), words):
        service.build_phase(phase_one, 1)
    with refused(phase_one, InvalidInput, str(own), words):
        service.train_domain(phase_one, "business")


def break_yaml(workspace: Workspace) -> tuple[str, ...]:
    path = workspace.configs / "universal_domains.yaml"
    path.write_text(path.read_text("utf-8").replace("safety_tier: elevated", "safety_tier: [elevated", 1), "utf-8")
    return ("configs/universal_domains.yaml",)


def wrong_yaml(workspace: Workspace) -> tuple[str, ...]:
    path = workspace.configs / "settings.yaml"
    path.write_text(path.read_text("utf-8").replace("seed: 7", "seed: seven"), "utf-8")
    return ("configs/settings.yaml", "seed")


def break_json(workspace: Workspace) -> tuple[str, ...]:
    path = workspace.configs / "model_mapping.json"
    path.write_text(path.read_text("utf-8")[:-3], "utf-8")
    return ("configs/model_mapping.json",)


def wrong_json(workspace: Workspace) -> tuple[str, ...]:
    path = workspace.configs / "model_mapping.json"
    mapping = json.loads(path.read_text("utf-8"))
    mapping["models"]["starter-135M"]["parameters"] = "many"
    path.write_text(json.dumps(mapping), "utf-8")
    return ("configs/model_mapping.json", "starter-135M", "parameters")


CALLS: list[Callable[[Workspace], object]] = [
    lambda workspace: service.create_phase(workspace, 2, ["education"]),
    lambda workspace: service.add_domain(workspace, 1, "education"),
    lambda workspace: service.build_phase(workspace, 1),
    lambda workspace: service.train_domain(workspace, "business"),
    lambda workspace: declaring.update_domain(workspace, "business", quality=0.5),
]


@pytest.mark.parametrize("spoil", [break_yaml, wrong_yaml, break_json, wrong_json])
def test_bad_configs_are_named_by_file_and_key(
    phase_one: Workspace, spoil: Callable[[Workspace], tuple[str, ...]]
) -> None:
    words = spoil(phase_one)
    for call in CALLS:
        with refused(phase_one, InvalidInput, *words):
            call(phase_one)


def test_build_phase(phase_one: Workspace) -> None:
    service.create_phase(phase_one, 2, [])
    for given, kind, words in (
        ((5,), InvalidInput, "there is no phase 5"),
        ((2,), InvalidInput, "phase 2 has no domains"),
        ((1, service.Asked("Q9")), InvalidInput, "unknown quantization Q9"),
        ((1, service.Asked(compression_type="zip")), InvalidInput, "unknown compression type zip"),
        ((1, service.Asked(compression_type="hybrid", target_size_mb=0.0)), InvalidInput, "megabytes above 0"),
        ((1, service.Asked(target_size_mb=math.nan)), InvalidInput, "megabytes above 0"),
    ):
        with refused(phase_one, kind, words):
            service.build_phase(phase_one, *given)


def test_a_base_that_is_not_there_is_named(phase_one: Workspace, tmp_path: Path) -> None:
    (tmp_path / "base" / "config.json").unlink()
    with refused(phase_one, EnvironmentLacks, "starter-135M"):
        service.build_phase(phase_one, 1)


def test_a_plan_that_does_not_fit_on_the_disk_is_refused(
    phase_one: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_base(phase_one, base_folder(tmp_path / "huge", 1))
    monkeypatch.setattr("core.phases.needs.parameters_of", lambda _: 10**13)
    with refused(phase_one, EnvironmentLacks, "MB are free", "nothing was changed"):
        service.build_phase(phase_one, 1)


def test_train_domain(phase_one: Workspace) -> None:
    with refused(phase_one, InvalidInput, "did you mean 'business'"):
        service.train_domain(phase_one, "busyness")
    with refused(phase_one, InvalidInput, "there is no preset 'startr'", "starter"):
        service.train_domain(phase_one, "business", preset="startr")
    (phase_one.configs / "starter_data" / "education.jsonl").unlink()
    with refused(phase_one, InvalidInput, "no training data for education"):
        service.train_domain(phase_one, "education")


def test_export_domain(phase_one: Workspace) -> None:
    with refused(phase_one, InvalidInput, "unknown quantization F32"):
        service.export_domain(phase_one, "business", "F32")
    with refused(phase_one, Refused, "creative has not been trained"):
        service.export_domain(phase_one, "creative")
    with refused(phase_one, InvalidInput, "there is no domain"):
        service.export_domain(phase_one, "kreative")


UPDATE: list[tuple[dict[str, Any], type[TaraError], str]] = [
    ({}, InvalidInput, "nothing to update"),
    ({"quality": 1.5}, InvalidInput, "quality must be between 0 and 1, not 1.5"),
    ({"quality": -1.0}, InvalidInput, "not -1"),
    ({"quality": math.nan}, InvalidInput, "not nan"),
    ({"status": "done"}, InvalidInput, "one of pending, training, complete, failed"),
    ({"status": "complete"}, Refused, "has no adapter"),
    ({"status": "training"}, Refused, "only while a job trains it"),
    ({"name": "nobody", "quality": 0.5}, InvalidInput, "there is no domain 'nobody'"),
    ({"name": "creative", "quality": 0.5}, Refused, "in no phase and was never trained"),
]


@pytest.mark.parametrize(("given", "kind", "words"), UPDATE)
def test_update_domain(phase_one: Workspace, given: dict[str, Any], kind: type[TaraError], words: str) -> None:
    with refused(phase_one, kind, words):
        declaring.update_domain(phase_one, **{"name": "business", **given})


def test_a_domain_in_work_is_not_updated(phase_one: Workspace) -> None:
    service.train_domain(phase_one, "business")
    with refused(phase_one, Refused, "running or queued job"):
        declaring.update_domain(phase_one, "business", status="failed")


def test_remove_domain(phase_one: Workspace) -> None:
    with refused(phase_one, InvalidInput, "there is no phase 7"):
        remove_domain(phase_one, 7, "business")
    with refused(phase_one, InvalidInput, "creative is not in phase 1", "business"):
        remove_domain(phase_one, 1, "creative")
    service.train_domain(phase_one, "business")
    with refused(phase_one, Refused, "has a job that is not over"):
        remove_domain(phase_one, 1, "business")


def test_advance_phase(workspace: Workspace) -> None:
    with refused(workspace, Refused, "there is no phase yet"):
        declaring.advance_phase(workspace)
    service.create_phase(workspace, 1, [])
    with refused(workspace, Refused, "phase 1 is planning, not deployed", "add-domain 1"):
        declaring.advance_phase(workspace)
    with refused(workspace, Refused, "no phase after 1"):
        declaring.advance_phase(workspace, force=True)
    service.create_phase(workspace, 3, [])
    assert declaring.advance_phase(workspace, force=True) == (1, 3)
    assert declaring.notes(workspace)[0]["forced"] is True
    assert contents(workspace)["fact"] == [("current_phase", "3")]


def test_data_that_went_away_is_named(phase_one: Workspace, tmp_path: Path) -> None:
    given = chat_lines(tmp_path / "given.jsonl")
    service.add_domain(phase_one, 1, "business", data=str(given))
    given.unlink()
    with refused(phase_one, InvalidInput, str(given), "the data of business is gone"):
        service.build_phase(phase_one, 1)


def test_an_adapter_that_went_away_is_named(phase_one: Workspace) -> None:
    with open_store(phase_one).write() as session:
        row = session.get(Domain, "business")
        assert row is not None
        row.adapter_path = "artifacts/adapter/gone-00000000"
    with refused(phase_one, InvalidInput, "the adapter of business is gone", "gone-00000000"):
        service.build_phase(phase_one, 1)
