"""Reads configs/ into a Catalog, or says everything that is wrong with it."""

import hashlib
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from core.catalog.checker import Section
from core.catalog.model import (
    AS_IS,
    BASE_KINDS,
    DTYPES,
    EMOTIONS,
    NO_ENCODER,
    PREFERENCES,
    PROFILES,
    QUANTIZATIONS,
    ROUTING_PARTS,
    SAFETY_TIERS,
    BaseModel,
    Catalog,
    Domain,
    DomainBase,
    Settings,
    TrainingPreset,
    nearest,
)
from core.catalog.names import is_base_name, is_domain_name
from core.catalog.reading import Document, Faults, read_document
from core.errors import InvalidInput
from core.workspace import Workspace

DOMAINS_FILE = "universal_domains.yaml"
MAPPING_FILE = "domain_model_mapping.yaml"
MODEL_FILES = {"starter": "model_mapping.json", "production": "model_mapping_production.json"}
PRESETS_FILE = "presets.yaml"
SETTINGS_FILE = "settings.yaml"

HIGHEST_PHASE = 99
HIGHEST_MARGIN = 10.0
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KIND_KEYS = {
    "embedded": ("package", "module", "gguf_file"),
    "hub": ("hub_id",),
    "local": ("path",),
    "gguf": ("gguf_file",),
}
_DOMAIN_KEYS = tuple(field.name for field in fields(Domain) if field.name != "name")
_PRESET_KEYS = tuple(field.name for field in fields(TrainingPreset) if field.name != "name")


def load_catalog(workspace: Workspace) -> Catalog:
    """Read and check all of configs/. Raises InvalidInput with the first fault and the number of further ones."""
    faults = Faults()
    catalog = _read_all(workspace, faults)
    _refuse(faults)
    return catalog


def check_catalog(workspace: Workspace) -> list[str]:
    """Everything that is wrong with configs/, each with file, line where known, and key; empty when all is well."""
    from core.catalog.smoke import read_smoke

    faults = Faults()
    catalog = _read_all(workspace, faults)
    read_smoke(workspace, catalog.domains, faults)
    return list(faults)


def load_settings(workspace: Workspace) -> Settings:
    """The settings alone. Raises InvalidInput with the first fault and the number of further ones."""
    faults = Faults()
    settings = _settings(_document(workspace, SETTINGS_FILE, faults), faults)
    _refuse(faults)
    return _placed(settings, workspace)


def _placed(settings: Settings, workspace: Workspace) -> Settings:
    """The settings with the path in them from the workspace's root."""
    if settings.encoder in ("", NO_ENCODER):
        return settings
    return replace(settings, encoder=str(workspace.absolute(Path(settings.encoder).expanduser())))


def _refuse(faults: Faults) -> None:
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InvalidInput(faults[0] + more, "`tara doctor` lists every fault in configs/")


def _document(workspace: Workspace, file: str, faults: Faults) -> Document:
    path = workspace.configs / file
    return read_document(path, workspace.relative(path), faults)


def _read_all(workspace: Workspace, faults: Faults) -> Catalog:
    files = (DOMAINS_FILE, MAPPING_FILE, *MODEL_FILES.values(), PRESETS_FILE, SETTINGS_FILE)
    documents = {file: _document(workspace, file, faults) for file in files}
    settings = _settings(documents[SETTINGS_FILE], faults)
    presets = _presets(documents[PRESETS_FILE], faults)
    domains = _domains(documents[DOMAINS_FILE], faults)
    models = {profile: _models(documents[file], profile, faults) for profile, file in MODEL_FILES.items()}
    mapping = _mapping(documents[MAPPING_FILE], faults)
    _agree(documents, domains, mapping, models, faults)
    if settings.preset not in presets and not documents[PRESETS_FILE].broken:
        where = documents[SETTINGS_FILE].place(("training", "preset"))
        guess = nearest(settings.preset, presets)
        faults.add(where, f"there is no preset {settings.preset!r} in {PRESETS_FILE}{guess}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(documents[file].raw).digest())
    placed = _placed(settings, workspace)
    return Catalog(domains, models[settings.profile], mapping, presets, placed, digest.hexdigest())


def _agree(
    documents: dict[str, Document],
    domains: dict[str, Domain],
    mapping: dict[str, DomainBase],
    models: dict[str, dict[str, BaseModel]],
    faults: Faults,
) -> None:
    """The files speak of the same domains and of the same models."""
    readable = {file: not document.broken for file, document in documents.items()}
    first, second = MODEL_FILES
    if all(readable[file] for file in MODEL_FILES.values()):
        for here, there in ((first, second), (second, first)):
            for name in models[here].keys() - models[there].keys():
                place = documents[MODEL_FILES[here]].place(("models", name))
                faults.add(place, f"is not in {MODEL_FILES[there]}; both must define the same names")
    document = documents[MAPPING_FILE]
    if readable[DOMAINS_FILE] and readable[MAPPING_FILE]:
        for name in domains:
            if name not in mapping:
                faults.add(document.place(()), f"the domain {name} of {DOMAINS_FILE} is missing")
        for name in mapping:
            if name not in domains:
                guess = nearest(name, domains)
                faults.add(document.place((name,)), f"there is no such domain in {DOMAINS_FILE}{guess}")
    if all(readable[file] for file in MODEL_FILES.values()):
        known = {**models[second], **models[first]}
        for name, base in mapping.items():
            for key, model in (("current", base.current), ("planned", base.planned)):
                if model and model not in known:
                    faults.add(
                        document.place((name, key)),
                        f"{model!r} is in neither {' nor '.join(MODEL_FILES.values())}{nearest(model, known)}",
                    )


def _domains(document: Document, faults: Faults) -> dict[str, Domain]:
    found: dict[str, Domain] = {}
    for name, value in document.data.items():
        entry = Section(document, faults, value, (name,))
        if not is_domain_name(name):
            entry.fault(None, "cannot be a domain's name: use small letters, digits and underscores, a letter first")
        if not entry.values:
            if isinstance(value, dict):
                entry.fault(None, "is empty")
            continue
        entry.only(_DOMAIN_KEYS)
        profile = entry.section("emotional_profile")
        profile.only(EMOTIONS)
        found[name] = Domain(
            name=name,
            title=entry.text("title", longest=60),
            description=entry.text("description"),
            group=entry.text("group", longest=60),
            phase=_phase(entry),
            keywords=entry.texts("keywords"),
            emotional_profile={emotion: profile.number(emotion, 0, 1) for emotion in EMOTIONS},
            safety_tier=entry.choice("safety_tier", SAFETY_TIERS),
            system_prompt=entry.text("system_prompt", longest=1000, lines=True),
            example_question=entry.text("example_question", "") if entry.values.get("example_question") else "",
        )
    return found


def _phase(entry: Section) -> int | None:
    if "phase" in entry.values and entry.values["phase"] is None:
        return None
    return entry.integer("phase", 1, HIGHEST_PHASE)


def _mapping(document: Document, faults: Faults) -> dict[str, DomainBase]:
    found: dict[str, DomainBase] = {}
    for name, value in document.data.items():
        entry = Section(document, faults, value, (name,))
        if isinstance(value, dict):
            entry.only(("current", "planned"))
            planned = None if entry.values.get("planned", "") is None else entry.text("planned", longest=64)
            found[name] = DomainBase(entry.text("current", longest=64), planned)
    return found


def _models(document: Document, profile: str, faults: Faults) -> dict[str, BaseModel]:
    top = Section(document, faults, document.data)
    top.only(("profile", "about", "models"))
    top.text("about", None, longest=2000, lines=True)
    if top.text("profile") != profile and top.values.get("profile"):
        top.fault("profile", f"must be {profile!r} in this file")
    return {name: _model(top, name, value) for name, value in top.section("models").values.items()}


def _model(top: Section, name: str, value: Any) -> BaseModel:
    entry = Section(top.document, top.faults, value, ("models", name))
    if not is_base_name(name):
        entry.fault(None, "cannot be a model's name: use letters, digits, dots, dashes and underscores")
    kind = entry.choice("kind", BASE_KINDS)
    if entry.values.get("kind") in BASE_KINDS:
        entry.only(("kind", *_KIND_KEYS[kind], "architecture", "parameters", "context_length", "licence"))
    own = {key: entry.text(key, longest=1000) for key in _KIND_KEYS[kind]} if entry.values else {}
    for key, shape, what in (
        ("hub_id", _HUB_ID, "organisation/model"),
        ("module", _MODULE, "a module's name"),
        ("package", _PACKAGE, "a package's name"),
    ):
        text = own.get(key)
        if text and (not shape.fullmatch(text) or ".." in text):
            entry.fault(key, f"must be {what}, this is {text[:60]!r}")
    file = own.get("gguf_file")
    if file and not file.endswith(".gguf"):
        entry.fault("gguf_file", f"must end in .gguf, this is {file[-60:]!r}")
    if file and kind == "embedded" and ("/" in file or "\\" in file):
        entry.fault("gguf_file", "must be a file's name in the package, without a folder")
    return BaseModel(
        name=name,
        kind=kind,
        hub_id=own.get("hub_id"),
        path=own.get("path"),
        gguf_file=file,
        architecture=entry.text("architecture", longest=100),
        parameters=entry.integer("parameters", 1, 10**13),
        context_length=entry.integer("context_length", 1, 10**8),
        licence=entry.text("licence", longest=100),
        package=own.get("package"),
        module=own.get("module"),
    )


def _presets(document: Document, faults: Faults) -> dict[str, TrainingPreset]:
    found: dict[str, TrainingPreset] = {}
    for name, value in document.data.items():
        entry = Section(document, faults, value, (name,))
        if not is_base_name(name):
            entry.fault(None, "cannot be a preset's name: use letters, digits, dots, dashes and underscores")
        if not isinstance(value, dict):
            continue
        entry.only(_PRESET_KEYS)
        found[name] = TrainingPreset(
            name=name,
            batch_size=entry.integer("batch_size", 1, 1024),
            gradient_accumulation=entry.integer("gradient_accumulation", 1, 1024),
            sequence_length=entry.integer("sequence_length", 8, 131072),
            lora_r=entry.integer("lora_r", 1, 512),
            lora_alpha=entry.integer("lora_alpha", 1, 2048),
            lora_dropout=entry.number("lora_dropout", 0, 0.9),
            learning_rate=entry.number("learning_rate", 1e-8, 1),
            epochs=entry.integer("epochs", 1, 1000),
            max_steps=entry.integer("max_steps", 1, 10_000_000),
            save_steps=entry.integer("save_steps", 1, 10_000_000),
            warmup_ratio=entry.number("warmup_ratio", 0, 1),
            weight_decay=entry.number("weight_decay", 0, 1),
            dtype=entry.choice("dtype", DTYPES),
            description=entry.text("description", ""),
        )
    return found


_RUNNER_NUMBERS = {  # and their bounds
    "heavy_slots": (1, 64),
    "light_slots": (1, 64),
    "idle_exit_s": (0, 10**7),
    "disk_reserve_mb": (0, 10**7),
    "stop_grace_s": (1, 3600),
    "memory_reserve_mb": (0, 10**7),
    "hang_after_s": (0, 10**7),
    "retry_delay_s": (0, 3600),
}


_COMPRESSION_WHOLE = {  # and their bounds
    "prune_tokens": (16, 10**6),
    "teacher_tokens": (16, 10**7),
    "teacher_top": (1, 1024),
    "student_length": (8, 8192),
    "student_batch": (1, 1024),
    "heal_steps": (1, 10**6),
    "heal_rank": (1, 1024),
    "distil_steps": (1, 10**6),
    "distil_rank": (0, 1024),
    "repair_rank": (1, 1024),
}
_COMPRESSION_SHARES = {
    "sparse_keep": (0.05, 1),
    "distilled_keep": (0.05, 1),
    "student_kl": (0.01, 1),
    "heal_rate": (1e-7, 1),
    "distil_rate": (1e-7, 1),
}


def _compression(section: Section, default: Settings) -> dict[str, Any]:
    section.only((*_COMPRESSION_WHOLE, *_COMPRESSION_SHARES))
    whole = {name: section.integer(name, *ends, getattr(default, name)) for name, ends in _COMPRESSION_WHOLE.items()}
    shares = {name: section.number(name, *ends, getattr(default, name)) for name, ends in _COMPRESSION_SHARES.items()}
    return {**whole, **shares}


def _chat(section: Section, default: Settings) -> dict[str, Any]:
    section.only(("prefer", "memory_mb", "limit_s", "cooldown_s", "consensus_limit_s", "history_half_life_h"))
    return {
        "chat_prefer": section.choice("prefer", PREFERENCES, default.chat_prefer),
        "chat_memory_mb": section.integer("memory_mb", 0, 10**7, default.chat_memory_mb),
        "chat_limit_s": section.integer("limit_s", 1, 86400, default.chat_limit_s),
        "chat_cooldown_s": section.integer("cooldown_s", 0, 86400, default.chat_cooldown_s),
        "consensus_limit_s": section.integer("consensus_limit_s", 1, 3600, default.consensus_limit_s),
        "history_half_life_h": section.number("history_half_life_h", 0.01, 10**5, default.history_half_life_h),
    }


def _settings(document: Document, faults: Faults) -> Settings:
    top = Section(document, faults, document.data)
    top.only(("profile", "training", "routing", "crisis", "runner", "quantization", "merging", "compression", "chat"))
    default = Settings()
    training, routing, crisis, runner, merging, compression, chat = (
        top.section(name, optional=True)
        for name in ("training", "routing", "crisis", "runner", "merging", "compression", "chat")
    )
    training.only(
        (
            "preset", "seed", "held_out_fraction", "evaluation_sequence_length", "calibration_tokens",
            "keep_checkpoints", "checkpoints_max_mb",
        )
    )  # fmt: skip
    routing.only(("weights", "unsure_below", "consensus_band", "encoder"))
    crisis.only(("region", "resources"))
    runner.only(("hook", *_RUNNER_NUMBERS))
    merging.only(("margin", "scale", "ties_density", "dare_drop", "cat_rank"))
    resources: dict[str, str] = dict(default.crisis_resources)
    if "resources" in crisis.values:
        texts = crisis.section("resources")
        resources = {region: texts.text(region, longest=1000, lines=True) for region in texts.values}
    numbers: dict[str, Any] = {
        name: runner.integer(name, *bounds, getattr(default, name)) for name, bounds in _RUNNER_NUMBERS.items()
    }
    region = crisis.text("region", default.crisis_region)
    if region and region not in resources:
        crisis.fault("region", f"there is no {region!r} among the resources{nearest(region, resources)}")
    return Settings(
        profile=top.choice("profile", PROFILES, default.profile),
        preset=training.text("preset", default.preset, longest=64),
        seed=training.integer("seed", 0, 2**32 - 1, default.seed),
        held_out_fraction=training.number("held_out_fraction", 0.01, 0.5, default.held_out_fraction),
        evaluation_sequence_length=training.integer(
            "evaluation_sequence_length", 8, 131072, default.evaluation_sequence_length
        ),
        calibration_tokens=training.integer("calibration_tokens", 0, 10**7, default.calibration_tokens),
        routing_weights=_weights(routing, default),
        unsure_below=routing.number("unsure_below", 0, 1, default.unsure_below),
        consensus_band=routing.number("consensus_band", 0, 1, default.consensus_band),
        encoder=routing.text("encoder", default.encoder, longest=1000) if routing.values.get("encoder") else "",
        crisis_region=region,
        crisis_resources=resources,
        keep_checkpoints=training.integer("keep_checkpoints", 1, 1000, default.keep_checkpoints),
        checkpoints_max_mb=training.integer("checkpoints_max_mb", 1, 10**9, default.checkpoints_max_mb),
        hook=runner.text("hook", default.hook, longest=2000) if runner.values.get("hook") else "",
        **numbers,
        quantization=top.choice("quantization", (*QUANTIZATIONS, AS_IS), default.quantization),
        merge_margin=merging.number("margin", 0, HIGHEST_MARGIN, default.merge_margin),
        merge_scale=merging.number("scale", 0.01, 100, default.merge_scale),
        ties_density=merging.number("ties_density", 0.001, 1, default.ties_density),
        dare_drop=merging.number("dare_drop", 0, 0.99, default.dare_drop),
        cat_rank=merging.integer("cat_rank", 0, 65536, default.cat_rank),
        **_compression(compression, default),
        **_chat(chat, default),
    )


def _weights(routing: Section, default: Settings) -> dict[str, float]:
    if "weights" not in routing.values:
        return dict(default.routing_weights)
    section = routing.section("weights")
    section.only(ROUTING_PARTS)
    before = len(section.faults)
    weights = {part: section.number(part, 0, 1) for part in ROUTING_PARTS}
    total = sum(weights.values())
    if len(section.faults) == before and abs(total - 1) > 1e-6:
        routing.fault("weights", f"must be 1 together, they are {json.dumps(round(total, 6))}")
    return weights
