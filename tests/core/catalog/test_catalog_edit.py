"""A domain can be added at any time, and the files stay the person's own."""

import pytest

from core.catalog import load_catalog
from core.catalog.edit import add_domain_entry
from core.errors import EnvironmentLacks, InvalidInput

FILES = ("universal_domains.yaml", "domain_model_mapping.yaml")


def contents(workspace):
    return {file: (workspace.configs / file).read_bytes() for file in FILES}


def test_a_domain_is_added_behind_what_is_there(workspace):
    before = contents(workspace)
    added = add_domain_entry(
        workspace,
        "bee_keeping",
        "Bees: hives, honey and healthy colonies.",
        ["bees", "hive", "no", "say: it", "#tag", "12"],
        phase=2,
        emotional_profile={"joy": 0.8},
        planned="Qwen2.5-3B",
    )
    for file, content in contents(workspace).items():
        assert content.startswith(before[file])  # comments and all
    catalog = load_catalog(workspace)
    assert catalog.domain("bee_keeping") == added
    assert added.title == "Bee keeping"
    assert added.keywords == ("bees", "hive", "no", "say: it", "#tag", "12")
    assert (added.emotional_profile["joy"], added.emotional_profile["fear"]) == (0.8, 0.5)
    assert added.system_prompt == "You are a helpful, honest guide to bee keeping."
    assert catalog.base_for("bee_keeping").name == "starter-135M"
    assert catalog.mapping["bee_keeping"].planned == "Qwen2.5-3B"


def test_several_can_follow_each_other(workspace):
    for name in ("one", "two", "no"):
        add_domain_entry(workspace, name, f"About {name}.", [name])
    assert len(load_catalog(workspace).domains) == 65


@pytest.mark.parametrize(
    ("name", "keywords", "options", "said"),
    [
        ("music", ["a"], {}, "there is a domain music already"),
        ("../music", ["a"], {}, "cannot be a domain's name"),
        ("Music", ["a"], {}, "cannot be a domain's name"),
        ("bees", [], {}, "bees.keywords: must be a list of at least one text"),
        ("bees", ["a", "A"], {}, "'A' is there twice"),
        ("bees", ["a"], {"base": "nothing"}, "bees.current: 'nothing' is in neither"),
        ("bees", ["a"], {"phase": 0}, "bees.phase: is 0"),
        ("bees", ["a"], {"emotional_profile": {"joy": 3}}, "bees.emotional_profile.joy: is 3"),
        ("bees", ["a"], {"emotional_profile": {"glee": 1}}, "bees.emotional_profile.glee: unknown key"),
        ("bees", ["a"], {"title": "x\x1b[2J"}, "bees.title: holds a control character"),
    ],
)
def test_what_cannot_be_added_changes_nothing(workspace, name, keywords, options, said):
    before = contents(workspace)
    with pytest.raises(InvalidInput) as raised:
        add_domain_entry(workspace, name, "A description.", keywords, **options)
    assert said in raised.value.message
    assert contents(workspace) == before


def test_text_that_looks_like_yaml_stays_text(workspace):
    text = "a: b\nc: {d: [e]} # 'f' \"g\" \\n — é"
    added = add_domain_entry(workspace, "odd", "x: y # z", ["k"], system_prompt=text)
    assert (added.system_prompt, added.description) == (text, "x: y # z")


def test_line_ends_and_a_missing_last_one_are_respected(workspace):
    path = workspace.configs / FILES[0]
    path.write_bytes(path.read_bytes().rstrip().replace(b"\n", b"\r\n"))
    add_domain_entry(workspace, "bees", "About bees.", ["bees"])
    raw = path.read_bytes()
    assert raw.count(b"\n") == raw.count(b"\r\n")
    assert load_catalog(workspace).domain("bees").title == "Bees"


def test_a_file_that_cannot_be_appended_to_is_left_alone(workspace):
    path = workspace.configs / FILES[1]
    names = load_catalog(workspace).domains
    path.write_text(
        "{" + ", ".join(f"{name}: {{current: starter-135M, planned: null}}" for name in names) + "}", "utf-8"
    )
    before = contents(workspace)
    with pytest.raises(InvalidInput, match=r"was not added: configs/domain_model_mapping.yaml, line \d+: not YAML"):
        add_domain_entry(workspace, "bees", "About bees.", ["bees"])
    assert contents(workspace) == before


def test_a_broken_catalogue_is_not_added_to(workspace):
    (workspace.configs / "presets.yaml").write_text("", "utf-8")
    before = contents(workspace)
    with pytest.raises(InvalidInput, match=r"presets\.yaml: is empty"):
        add_domain_entry(workspace, "bees", "About bees.", ["bees"])
    assert contents(workspace) == before


def test_a_failed_second_write_takes_back_the_first(workspace, monkeypatch):
    from core.catalog import edit

    before = contents(workspace)
    real = edit.write_atomically

    def full_disk(path, content):
        if path.name == FILES[1]:
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(edit, "write_atomically", full_disk)
    with pytest.raises(EnvironmentLacks, match="No space left on device"):
        add_domain_entry(workspace, "bees", "About bees.", ["bees"])
    assert contents(workspace) == before


def test_links_and_permissions_stay(workspace, tmp_path):
    path = workspace.configs / FILES[0]
    real = tmp_path / "shared.yaml"
    path.rename(real)
    real.chmod(0o664)
    path.symlink_to(real)
    add_domain_entry(workspace, "bees", "About bees.", ["bees"])
    assert path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o664
    assert b"\nbees:\n" in real.read_bytes()
