"""The canned prompts: the shipped file is good, each fault in it is told, and a domain's own words are put in."""

import pytest

from core.catalog import check_catalog, load_catalog
from core.catalog.smoke import SMOKE_FILE, load_smoke
from core.errors import InvalidInput
from core.workspace import Workspace


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\n  healthcare:", "\n  healthcar:", "domains.healthcar: there is no such domain; did you mean 'healthcare'?"),
        ("  max_tokens: 256", "  max_tokens: 0", "rules.max_tokens: is 0, must be from 1 to 4096"),
        ("    routed: true", "    routed: maybe", "general.example.routed: must be true or false, this is text"),
        ('"{example_question}"', '"{question}"', "general.example.prompt: braces stand only in {example_question} and"),
        ("contains: [bed", "contain: [sleep", "domains.healthcare.sleep.contain: unknown key; did you mean"),
        ("general:  ", "generally:  ", "general: is missing"),
    ],
)
def test_a_fault_names_file_line_and_key(workspace: Workspace, old: str, new: str, said: str) -> None:
    path = workspace.configs / SMOKE_FILE
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    assert any(fault.startswith("configs/smoke.yaml") and said in fault for fault in check_catalog(workspace))
    with pytest.raises(InvalidInput, match=r"configs/smoke\.yaml"):
        load_smoke(workspace, load_catalog(workspace).domains)


def test_every_shipped_domain_has_prompts_of_its_own_beside_the_general_ones(workspace: Workspace) -> None:
    catalog = load_catalog(workspace)
    sets = load_smoke(workspace, catalog.domains)
    for name, domain in catalog.domains.items():
        prompts = sets.of(domain)
        own = sets.domains[name]
        assert len(own) >= (2 if domain.phase is not None else 1), name
        assert any(one.routed and one.contains for one in own), name
        asked = [one.prompt for one in prompts]
        assert len(set(asked)) == len(asked)
        assert {one.prompt for one in own} | {domain.example_question} < set(asked)
        assert not any("{" in one.prompt for one in prompts)
        for one in own:
            assert not [word for word in one.contains if word in one.prompt.lower()], (name, one.name)  # tells nothing


def test_a_domain_without_prompts_of_its_own_is_asked_the_general_ones(workspace: Workspace) -> None:
    path = workspace.configs / SMOKE_FILE
    text = path.read_text("utf-8")
    path.write_text(text[: text.index("\ndomains:") + 1], "utf-8")
    catalog = load_catalog(workspace)
    sets = load_smoke(workspace, catalog.domains)
    other = sets.of(catalog.domain("legal_assistance"))
    assert [one.name for one in other] == [one.name for one in sets.general]
    assert other[0].prompt == catalog.domain("legal_assistance").example_question


def test_a_workspace_that_is_older_than_the_file_has_the_shipped_one(workspace: Workspace) -> None:
    catalog = load_catalog(workspace)
    shipped = load_smoke(workspace, catalog.domains)
    (workspace.configs / SMOKE_FILE).unlink()
    assert load_smoke(workspace, catalog.domains) == shipped
    assert check_catalog(workspace) == []
