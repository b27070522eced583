"""`tara route` as a person uses it: without a phase, in batches, on bad input; a domain added with a few messages."""

import json
from pathlib import Path

import pytest

from core.phases import service
from core.workspace import Workspace
from tests.core.cli.command import Answer, each, tara

KEPT = ("healthcare", "leadership", "_outside")
KEYS = {"domain", "confidence", "candidates", "emotions", "intensity", "urgency", "crisis", "ms"}
EIGHT = {"joy", "sadness", "anger", "fear", "surprise", "disgust", "trust", "anticipation"}
PAIR = "healthcare,leadership"


@pytest.fixture
def bare(workspace: Workspace) -> Workspace:
    """A workspace with few examples, which an encoder reads in a moment."""
    folder = workspace.configs / "examples"
    for path in folder.glob("*.txt"):
        kept = path.read_text("utf-8").splitlines()[:12] if path.stem in KEPT else []
        path.write_text("".join(f"{line}\n" for line in kept), "utf-8")
    for path in (workspace.configs / "starter_data").glob("*.jsonl"):
        path.unlink()
    return workspace


def batch(workspace: Workspace, lines: str, *words: str) -> Answer:
    (workspace.root / "batch.jsonl").write_text(lines, "utf-8")
    return tara("route", "--domains", PAIR, "--batch", "batch.jsonl", *words, cwd=workspace.root)


def test_a_batch_is_answered_line_by_line(bare: Workspace) -> None:
    asked = [
        {"text": "How should I lead my team?"},
        {"text": "and if that fails?", "previous": "How should I lead my team?", "user": "ada"},
        {"text": "I want to kill myself"},
        {"text": "what's the capital of Mongolia?", "user": None, "previous": None},
        {"text": "é😀\u2028 \ud83d", "other": 1},
        {"text": ""},
    ]
    done = batch(bare, "\n\n".join(json.dumps(one) for one in asked) + "\n", "--json")
    assert done.status == 0, done
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert len(rows) == len(asked)
    assert all(set(row) >= KEYS for row in rows)
    assert all(set(row["emotions"]) == EIGHT for row in rows)
    assert [row["domain"] for row in rows] == ["leadership", "leadership", "healthcare", None, None, None]
    assert [row["crisis"] for row in rows] == [False, False, True, False, False, False]
    assert rows[1]["follow_up"]
    for row in rows:
        assert 0 <= row["confidence"] <= 1
        assert row["urgency"] in (0, 1, 2, 3)
        for one in row["candidates"]:
            total = sum(row["weights"][name] * one[name] for name in ("content", "emotion", "speed", "quality"))
            assert one["total"] == pytest.approx(total, abs=1e-9)
    assert {one["domain"] for one in rows[0]["candidates"]} == {"healthcare", "leadership"}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"text": "a"}\nnot json\n{"text": "b"}\n', "line 2: not JSON"),
        ('{"text": "a"}\n[1]\n', "line 2: not an object"),
        ('{"texts": "a"}\n', "line 1: no `text`"),
        ('{"text": 5}\n{"text": null}\n', "line 1: `text` is not a text; line 2: `text` is not a text"),
        ('{"text": "a", "previous": 1}\n', "line 1: `previous` is not a text"),
        ('{"text": "a", "user": ""}\n', "message 1"),
    ],
)
def test_bad_lines_are_named_and_nothing_is_routed(bare: Workspace, lines: str, said: str) -> None:
    done = batch(bare, lines)
    assert done.status == 3
    assert done.out == ""
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_what_cannot_be_routed_is_said(bare: Workspace) -> None:
    (bare.root / "broken.jsonl").write_bytes(b'{"text": "\xff"}\n')
    expected = {
        "route": (3, "give a text"),
        "route --batch gone.jsonl": (3, "there is no file gone.jsonl"),
        "route --batch .": (3, "is a folder"),
        "route --batch broken.jsonl": (3, "line 1: not UTF-8"),
        "route --domains alchemy x": (3, "alchemy"),
        "route --domains , x": (3, "no domain is named"),
        "route --domains all --phase 1 x": (3, "one of --phase, --release and --domains"),
        "route --phase 9 x": (4, "there is no phase 9"),
        "route --release nowhere x": (3, "routing.json"),
    }
    for line, done in each(expected, bare.root).items():
        assert (done.status, done.out) == (expected[line][0], ""), (line, done)
        assert expected[line][1] in done.err, (line, done)


def test_a_phase_that_is_not_built_is_routed_by_the_catalogue(bare: Workspace) -> None:
    service.create_phase(bare, 1, ["healthcare", "leadership"])
    cache = str(bare.root / "cache")
    done = tara("route", "How should I lead my team?", "--json", cwd=bare.root, XDG_CACHE_HOME=cache)
    found = json.loads(done.out)
    assert found["domain"] == "leadership"
    assert found["method"] == "encoder"
    assert len(found["candidates"]) == 2
    assert "making routing data of 2 domains" in done.err
    again = tara("route", "How should I lead my team?", cwd=bare.root, XDG_CACHE_HOME=cache)
    assert again.err == ""  # it was kept
    assert "compared by encoder" in again.out


def test_a_domain_added_with_a_few_messages_is_routed_to_at_once(bare: Workspace) -> None:
    told = (
        "How many bees does a hive need for the winter?\nmy queen has stopped laying eggs\n"
        "when do I harvest the honey\nwhat do I do against mites in the hive\nmy bees are about to swarm\n"
    )
    (bare.root / "bees.txt").write_text(told, "utf-8")
    added = tara("domain", "add", "beekeeping", "--examples", "bees.txt", "--json", cwd=bare.root).json()
    assert added["examples"] == 5
    assert "bees" in added["keywords"]
    asked = ("route", "--domains", f"{PAIR},beekeeping", "--json")
    assert tara(*asked, "there are wasps at the hive, what now", cwd=bare.root).json()["domain"] == "beekeeping"
    assert tara(*asked, "How should I lead my team?", cwd=bare.root).json()["domain"] == "leadership"


def test_messages_as_json_lines_and_what_is_no_example(bare: Workspace) -> None:
    good = "".join(json.dumps({"text": text}) + "\n" for text in ("prune the vines", "when do grapes ripen"))
    (bare.root / "good.jsonl").write_text(good, "utf-8")
    (bare.root / "bad.jsonl").write_text('{"text": "a"}\n{"text": 7}\n', "utf-8")
    (bare.root / "empty.txt").write_text("\n\n", "utf-8")
    assert tara("domain", "add", "vines", "--examples", "good.jsonl", cwd=bare.root).status == 0
    assert (bare.configs / "examples" / "vines.txt").read_text("utf-8").splitlines()[0] == "prune the vines"
    before = (bare.configs / "universal_domains.yaml").read_bytes()
    expected = {
        "domain add other --examples bad.jsonl": "line 2",
        "domain add other --examples empty.txt": "no message",
        "domain add other --examples gone.txt": "there is no file",
        "domain add other": "--description and --keywords",
        "domain add other --description x": "--description and --keywords",
    }
    for line, done in each(expected, bare.root).items():
        assert done.status == 3, (line, done)
        assert expected[line] in done.err, (line, done)
    assert (bare.configs / "universal_domains.yaml").read_bytes() == before


def test_without_an_encoder_keywords_decide(bare: Workspace) -> None:
    done = tara("route", "--domains", PAIR, "--json", "How should I lead my team?", cwd=bare.root, TARA_ENCODER="none")
    found = done.json()
    assert (found["domain"], found["method"]) == ("leadership", "keywords")
    assert found["note"] == "the encoder is switched off"
    gone = str(Path(bare.root) / "gone.gguf")
    missing = tara("route", "--domains", PAIR, "--json", "How should I lead my team?", cwd=bare.root, TARA_ENCODER=gone)
    assert missing.json()["method"] == "keywords"
    assert "gone.gguf" in missing.json()["note"]
