"""What a catalogue holds: plain frozen values, already checked."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, TypeVar

from core.errors import InvalidInput

_T = TypeVar("_T")

EMOTIONS = ("joy", "sadness", "anger", "fear", "surprise", "disgust", "trust", "anticipation")
SAFETY_TIERS = ("standard", "elevated", "critical")
BASE_KINDS = ("embedded", "hub", "local", "gguf")
PROFILES = ("starter", "production")
QUANTIZATIONS = ("Q2_K", "Q4_K_M", "Q5_K_M", "Q8_0")
AS_IS = "as-is"  # in place of one of them: a base that came as a GGUF stays in that file
MERGES = ("none", "exact", "unified")  # how a phase's domains reach its bundle
MERGE_METHODS = ("ties", "cat", "dare", "linear")  # how domains are unified; the first is the default
DTYPES = ("auto", "float32", "bfloat16")
NO_ENCODER = "none"  # in place of a sentence encoder's path: route by keywords
ROUTING_PARTS = ("content", "emotion", "speed", "quality")
PREFERENCES = ("speed", "balanced", "quality")  # core.chat.preference has what each means


@dataclass(frozen=True)
class Domain:
    """A subject the person wants to talk about. `emotional_profile` says for each of EMOTIONS, 0..1, how much this
    domain is the right one for a person feeling so."""

    name: str
    title: str
    description: str
    group: str
    phase: int | None
    keywords: tuple[str, ...]
    emotional_profile: Mapping[str, float]
    safety_tier: str
    system_prompt: str
    example_question: str


@dataclass(frozen=True)
class DomainBase:
    """Generic names of the base a domain is trained on now and of the one planned for it."""

    current: str
    planned: str | None


@dataclass(frozen=True)
class BaseModel:
    """A generic base model name and what it stands for in the profile in use.

    `kind` says which of the others matter: embedded: `module`, `package` and `gguf_file` in it; hub: `hub_id`;
    local: the folder `path`; gguf: the file `gguf_file`. Paths are absolute or relative to the workspace.
    """

    name: str
    kind: str
    hub_id: str | None
    path: str | None
    gguf_file: str | None
    architecture: str
    parameters: int
    context_length: int  # tokens
    licence: str
    package: str | None = None  # as it is installed
    module: str | None = None  # as it is found


@dataclass(frozen=True)
class TrainingPreset:
    """How an adapter is trained. `sequence_length` is in tokens; training ends at `epochs` or `max_steps`."""

    name: str
    batch_size: int
    gradient_accumulation: int
    sequence_length: int
    lora_r: int
    lora_alpha: int
    lora_dropout: float
    learning_rate: float
    epochs: int
    max_steps: int
    save_steps: int
    warmup_ratio: float
    weight_decay: float
    dtype: str
    description: str = ""

    # How often a checkpoint is written makes nothing stale.
    UNHASHED: ClassVar[tuple[str, ...]] = ("save_steps",)

    def as_dict(self) -> dict[str, Any]:
        """The preset as a training job is given it, without its description."""
        return {key: value for key, value in asdict(self).items() if key != "description"}


@dataclass(frozen=True)
class Settings:
    """The workspace's settings; what settings.yaml leaves out has these values."""

    profile: str = "starter"
    preset: str = "starter"
    seed: int = 7
    held_out_fraction: float = 0.2
    evaluation_sequence_length: int = 512  # tokens
    calibration_tokens: int = 2048  # 0: quantize without an importance matrix
    routing_weights: Mapping[str, float] = field(
        default_factory=lambda: {"content": 0.4, "emotion": 0.3, "speed": 0.2, "quality": 0.1}
    )
    unsure_below: float = 0.45
    consensus_band: float = 0.1  # of confidence below that, in which the two best domains may both answer
    encoder: str = ""  # empty: the shipped one; NO_ENCODER; or the path of a GGUF file or model folder
    crisis_region: str = "international"
    crisis_resources: Mapping[str, str] = field(
        default_factory=lambda: {
            "international": "If you are in danger now, call your local emergency number. "
            "Free, confidential crisis lines by country are listed at findahelpline.com."
        }
    )
    keep_checkpoints: int = 2
    checkpoints_max_mb: int = 4000
    heavy_slots: int = 1
    light_slots: int = 3
    idle_exit_s: int = 600  # 0: never
    disk_reserve_mb: int = 500
    stop_grace_s: int = 30
    memory_reserve_mb: int = 500
    hang_after_s: int = 1800  # 0: never
    retry_delay_s: int = 5
    hook: str = ""  # a command line, run when a job is over
    quantization: str = "Q4_K_M"
    merge_margin: float = 0.02  # relative held-out loss
    merge_scale: float = 1.0
    ties_density: float = 0.2
    dare_drop: float = 0.5
    cat_rank: int = 0  # 0: the whole sum
    sparse_keep: float = 0.85  # share of the layers' weights
    distilled_keep: float = 0.6
    prune_tokens: int = 1024  # of training text, on which layers and channels are judged
    teacher_tokens: int = 8000  # of training text
    teacher_top: int = 64  # tokens a position whose log-probabilities are kept
    student_length: int = 256  # tokens of an example
    student_batch: int = 4
    student_kl: float = 0.5  # share of the loss that is the divergence from the teacher
    heal_steps: int = 60
    heal_rank: int = 16
    heal_rate: float = 5e-4
    distil_steps: int = 100
    distil_rank: int = 0  # 0: all weights of the layers
    distil_rate: float = 1e-4
    repair_rank: int = 8
    chat_prefer: str = "balanced"
    chat_memory_mb: int = 0  # most the engines may hold together; 0: what the machine has free
    chat_limit_s: int = 120  # an engine may say nothing for so long
    chat_cooldown_s: int = 300  # a domain that failed is left out by the router for so long
    consensus_limit_s: int = 30  # for two answers and their comparison
    history_half_life_h: float = 48.0  # a message counts half after

    def routing_dict(self) -> dict[str, Any]:
        """What the router is configured with, as JSON data."""
        return {
            "weights": dict(self.routing_weights),
            "unsure_below": self.unsure_below,
            "consensus_band": self.consensus_band,
        }

    def recipe_dict(self, method: str) -> dict[str, Any]:
        """What a merge method is set to, as JSON data; settings of other methods are left out."""
        own: dict[str, dict[str, Any]] = {
            "ties": {"density": self.ties_density},
            "dare": {"drop": self.dare_drop, "seed": self.seed},
            "cat": {"rank": self.cat_rank},
        }
        return {"method": method, "scale": self.merge_scale, **own.get(method, {})}

    def kept_by(self, technique: str) -> float:
        """Share of the layers' weights that a technique keeps, where no size is asked for."""
        return self.sparse_keep if technique == "sparse" else self.distilled_keep

    def lesson_dict(self, technique: str) -> dict[str, Any]:
        """How a pruned model is taught by a technique, as JSON data."""
        steps, rank, rate = (
            (self.heal_steps, self.heal_rank, self.heal_rate)
            if technique == "sparse"
            else (self.distil_steps, self.distil_rank, self.distil_rate)
        )
        return {
            "steps": steps, "batch_size": self.student_batch, "learning_rate": rate, "rank": rank,
            "kl": self.student_kl, "seed": self.seed,
        }  # fmt: skip

    def checkpoints_dict(self) -> dict[str, Any]:
        """How many checkpoints of an unfinished training are kept, as JSON data."""
        return {"keep": self.keep_checkpoints, "max_bytes": self.checkpoints_max_mb * 10**6}

    def crisis_dict(self) -> dict[str, Any]:
        """Where people in danger are sent, as JSON data."""
        return {"region": self.crisis_region, "resources": dict(self.crisis_resources)}


@dataclass(frozen=True)
class Catalog:
    """Everything that could be built. `version` is a hash of the files it was read from."""

    domains: Mapping[str, Domain]
    bases: Mapping[str, BaseModel]
    mapping: Mapping[str, DomainBase]
    presets: Mapping[str, TrainingPreset]
    settings: Settings
    version: str

    def domain(self, name: str) -> Domain:
        """The domain of this name. Raises InvalidInput with the nearest names."""
        return _named(self.domains, name, "domain", "configs/universal_domains.yaml")

    def base(self, name: str) -> BaseModel:
        """The base model of this generic name. Raises InvalidInput with the nearest names."""
        return _named(self.bases, name, "base model", "configs/model_mapping.json")

    def preset(self, name: str) -> TrainingPreset:
        """The training preset of this name. Raises InvalidInput with the nearest names."""
        return _named(self.presets, name, "preset", "configs/presets.yaml")

    def base_for(self, domain: str) -> BaseModel:
        """The base model a domain is trained on now."""
        return self.bases[self.mapping[self.domain(domain).name].current]

    def planned_for(self, domain: str) -> BaseModel | None:
        """The base model planned for a domain, if one is."""
        planned = self.mapping[self.domain(domain).name].planned
        return self.bases[planned] if planned is not None else None


def _named(table: Mapping[str, _T], name: str, what: str, file: str) -> _T:
    if name in table:
        return table[name]
    raise InvalidInput(f"there is no {what} {name!r}{nearest(name, table)}", f"they are listed in {file}")


def nearest(name: str, known: "Mapping[str, Any] | tuple[str, ...]") -> str:
    """'; did you mean X?' for a name that is nearly one of those known, else nothing."""
    import difflib

    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
