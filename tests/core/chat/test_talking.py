"""What can be talked to: phases, releases, models, adapters on their own base; and what is refused, with why."""

import json
import os
import shutil
from pathlib import Path

import pytest

from core.chat.client import Engine
from core.chat.session import Conversation, Notice
from core.errors import InvalidInput, Refused
from core.phases.talking import (
    folder_of_phase,
    folder_of_release,
    made_by,
    newest_of,
    subject_of_artifact,
    talkable,
)
from core.store.engine import open_store
from core.store.reads import open_reader
from core.store.tables import Artifact
from core.workspace import Workspace
from tests.core.chat.conftest import FIVE, SEEDED, answer, user
from tests.core.chat.stored import BUNDLE, store_bundle
from tests.core.chat.tiny import write_adapter

QUESTION = user("What is the capital of France?")


@pytest.fixture
def stored(workspace: Workspace, tiny_bundle: Path) -> Workspace:
    return store_bundle(workspace, tiny_bundle)


def test_a_phase_answers_with_its_bundle_until_there_is_a_release(stored: Workspace) -> None:
    assert folder_of_phase(stored, None) == (stored.root / BUNDLE, 1)
    with pytest.raises(InvalidInput, match="no phase 7"):
        folder_of_phase(stored, 7)


def test_an_adapter_is_put_on_the_base_it_is_bundled_with(stored: Workspace, tiny: Engine) -> None:
    expected = answer(tiny, QUESTION, "creative", SEEDED).text
    for name in ("5", "creative-0000abcd.gguf", "artifacts/gguf-adapter/creative-0000abcd.gguf"):
        subject = subject_of_artifact(stored, str(stored.root / name) if "/" in name else name)
        assert subject.holdings.domains == ("creative",)
        base, adapter = subject.holdings.domain("creative")
        assert base.path == stored.root / BUNDLE / "base-tiny.gguf"
        assert adapter.path is not None
        assert subject.general
        assert "playful" in subject.prompts["creative"]
    with Engine(subject.holdings, n_ctx=1024, threads=1) as engine:
        assert answer(engine, QUESTION, "creative", SEEDED).text == expected


def test_without_a_bundle_the_newest_file_made_of_its_base_is_found(stored: Workspace) -> None:
    shutil.rmtree(stored.root / BUNDLE)
    base, _ = subject_of_artifact(stored, "5").holdings.domain("creative")
    assert base.path.name == "starter-135M-Q4_K_M-0000abcd.gguf"
    base.path.unlink()
    with pytest.raises(Refused, match="of which there is no GGUF file here"):
        subject_of_artifact(stored, "5")


def test_an_adapter_of_another_base_or_of_none_is_refused(stored: Workspace, tmp_path: Path) -> None:
    foreign = write_adapter(tmp_path / "foreign.gguf", 3, base_sha256="c" * 64)
    with pytest.raises(Refused, match=r"foreign\.gguf belongs to embedded \(cccccccccccc\), of which there is no GGUF"):
        subject_of_artifact(stored, str(foreign))
    nameless = write_adapter(tmp_path / "nameless.gguf", 3, base_sha256="")
    with pytest.raises(Refused):
        subject_of_artifact(stored, str(nameless))


def test_a_changed_adapter_is_not_talked_to(stored: Workspace) -> None:
    path = stored.root / "artifacts" / "gguf-adapter" / "creative-0000abcd.gguf"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-4] + b"abcd")
    with Engine(subject_of_artifact(stored, "5").holdings, n_ctx=512, threads=1) as engine:
        with pytest.raises(Exception, match="differs from the manifest"):
            answer(engine, QUESTION, "creative")


def test_a_model_is_talked_to_by_itself_and_a_crisis_is_one_there_too(stored: Workspace) -> None:
    subject = subject_of_artifact(stored, "2")
    assert subject.holdings.domains == ()
    with Conversation(subject, engine=Engine(subject.holdings, n_ctx=512, threads=1), sampling=SEEDED) as talk:
        turn = talk.ask("hello")
        list(turn.events())
        assert turn.domain is None
        assert turn.decision.reason == "the only one there is"
        crisis = talk.ask("I want to kill myself")
        first = next(iter(crisis.events()))
        assert isinstance(first, Notice)
        assert "findahelpline" in first.text
        assert crisis.private


def test_a_release_and_a_file_need_no_workspace(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "release" / "versions").mkdir(parents=True)
    (tmp_path / "release" / "versions" / "1").symlink_to(tiny_bundle)
    (tmp_path / "release" / "current").symlink_to("versions/1")
    assert folder_of_release(str(tmp_path / "release")) == tiny_bundle.resolve()
    assert subject_of_artifact(None, str(tmp_path / "release")).holdings.domains == FIVE
    inside = subject_of_artifact(None, str(tiny_bundle / "adapters" / "business.gguf"))
    assert inside.holdings.domains == ("business",)
    assert inside.prompts["business"].startswith("You are a brisk")
    with pytest.raises(InvalidInput, match="no file nowhere"):
        subject_of_artifact(None, "nowhere")
    alone = tmp_path / "alone.gguf"
    os.link(tiny_bundle / "adapters" / "business.gguf", alone)
    with pytest.raises(Refused, match="no GGUF file here"):
        subject_of_artifact(None, str(alone))


def test_what_can_be_talked_to_is_listed_and_found_by_its_job(stored: Workspace) -> None:
    with open_store(stored).write() as db:
        made = db.get(Artifact, 5)
        assert made is not None
        made.meta = json.dumps({})
    with open_reader(stored) as reader:
        assert [row["kind"] for row in talkable(reader)] == ["gguf-adapter"] * 5 + ["bundle", "gguf"]
        assert newest_of(reader, "creative")["id"] == 5
        with pytest.raises(Refused, match="legal has no adapter"):
            newest_of(reader, "legal")
        with pytest.raises(Refused, match="job 3 made nothing"):
            made_by(reader, 3)
    with pytest.raises(Refused, match="cannot be talked to"):
        subject_of_artifact(stored, "1")
    with pytest.raises(InvalidInput, match="no artifact 99"):
        subject_of_artifact(stored, "99")
