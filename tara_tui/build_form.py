"""How a phase is to be built, as a person writes it into a form."""

from typing import TYPE_CHECKING

from core.errors import TaraError
from core.phases.kinds import NO_TARGET, TargetWish
from core.store.views import PhaseView
from tara_tui.dialogs import FormField

if TYPE_CHECKING:
    from core.phases.service import Asked  # loads SQLModel, which the console does when it is first needed


def fields_of(phase: PhaseView) -> list[FormField]:
    """The lines of the form, as the phase is set."""
    technique = phase.compression_type
    size = "" if phase.target_size_mb is None else f" {phase.target_size_mb:g}"
    margin = "" if phase.merge_margin is None else f"{phase.merge_margin:g}"
    least = "" if phase.quality_threshold is None else f"{phase.quality_threshold:g}"
    return [
        FormField("quantization", "quantization: Q2_K, Q4_K_M, Q5_K_M, Q8_0 or as-is", phase.quantization),
        FormField(
            "compression",
            "compression: standard, sparse, hybrid, distilled; MB after it",
            technique + size,
        ),
        FormField("merge", "merge: none, exact or unified", phase.merge),
        FormField("method", "method of unified", phase.merge_method or "", "ties, cat, dare or linear"),
        FormField("margin", "margin of unified, a share", margin, "as configured"),
        FormField("repair", "repair what quantization took: yes or no", "yes" if phase.repair else "no"),
        FormField("threshold", "least quality of each domain, 0..1", least, "as the phase is set"),
    ]


def asked_of(values: dict[str, str], reason: str = "") -> "Asked":
    """What the lines ask for; what is empty is as the phase is set. `reason` is why a build goes on below the quality
    threshold. Raises TaraError where a line cannot be understood."""
    from core.phases.merging import MergeWish
    from core.phases.service import Asked

    told = {name: value.strip() for name, value in values.items()}
    technique, target = technique_of(told["compression"])
    answer = told["repair"].lower()
    if answer not in ("", "yes", "no"):
        raise TaraError(f"repair is yes or no, not {told['repair']!r}")
    margin = number(told["margin"], "a margin is a number")
    unified = told["merge"] in ("", "unified")  # what the form still shows of another choice is no wish
    merge = MergeWish(told["merge"] or None, (told["method"] or None) if unified else None, margin if unified else None)
    wish: TargetWish = NO_TARGET if technique and target is None else target  # a technique alone has no target size
    return Asked(
        told["quantization"] or None, technique or None, wish, merge, {"": None, "yes": True, "no": False}[answer],
        number(told["threshold"], "a least quality is a number"), reason or None,
    )  # fmt: skip


def technique_of(text: str) -> tuple[str, float | None]:
    """The technique and the target size in MB that a form's line names: "", "sparse", "hybrid 100"."""
    technique, _, size = text.strip().partition(" ")
    return technique, number(size, "a target size is a number of megabytes")


def number(text: str, what: str) -> float | None:
    """The number a form's line holds, None where it is empty. Raises TaraError saying what it should be."""
    try:
        return float(text.strip().removesuffix("MB")) if text.strip() else None
    except ValueError:
        raise TaraError(f"{what}, not {text!r}") from None
