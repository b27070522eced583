"""What is known of the files of one model, built or not: memory, speed and quality, measured or estimated from what was
measured of its other files, else from other models."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from core.catalog.model import QUANTIZATIONS
from core.chat.client import DEFAULT_CONTEXT
from core.chat.pool import PROCESS_BYTES
from core.phases.anchors import Known, anchor_for, budget_kl, mixed_kl, plain_kl, top_share
from core.phases.choices import DRY_RUN, ESTIMATED, MEASURED, Figure
from core.phases.dry_runs import Outline
from core.phases.measured import Artifact, Figures, figures, label
from core.phases.probe import speed as probed_speed
from core.store.reads import Reader
from core.text import size

_ESTIMABLE = ("standard", "hybrid")  # what other techniques cost differs too much from model to model
MEASURED_CONTEXT = 512  # tokens of context with which a report measures memory


@dataclass(frozen=True)
class FileFigures:
    """Of one file: bytes of memory while one chats, tokens a second, KL (nats a token), share of same top tokens, and
    change of the held-out loss against F16, which is never estimated. None: not known."""

    memory: Figure | None = None
    speed: Figure | None = None
    kl: Figure | None = None
    same_top: Figure | None = None
    loss_change: Figure | None = None


class ModelFigures:
    """Looks at each recorded file of a model once."""

    def __init__(self, reader: Reader, name: str, outline: Outline, whole: str | None = None) -> None:
        """`whole` is the model that parts were taken out of, whose files say what memory and time this one's take."""
        self._reader = reader
        self._name = name
        self._whole = whole or name
        self._outline = outline
        self._anchor = anchor_for(outline.parameters)

    def of(self, key: str, technique: str, quantization: str, bytes_: int, budget: int | None) -> FileFigures:
        """The figures of the file that the job of a key makes."""
        own = next((known for row, known in self._files if row["key"] == key), {})
        kl = self._measured_kl(own) or self._estimated_kl(technique, quantization, budget)
        return FileFigures(
            self._memory(own, bytes_),
            self._speed(own, bytes_),
            kl,
            _figure(own, "same_top") or (top_share(kl, self._anchor) if kl is not None else None),
            _loss_change(own),
        )

    @cached_property
    def _files(self) -> list[tuple[Artifact, Figures]]:
        """The model's GGUF files that are there, newest first, with what is known of each."""
        return self._files_of(self._name)

    @cached_property
    def _alike(self) -> list[tuple[Artifact, Figures]]:
        """The same, and those of the whole model after them."""
        return self._files + (self._files_of(self._whole) if self._whole != self._name else [])

    def _files_of(self, name: str) -> list[tuple[Artifact, Figures]]:
        rows = [row for row in self._reader.artifacts(kind="gguf") if row["name"] == name]
        there = [row for row in rows if self._reader.workspace.absolute(row["path"]).is_file()]
        return [(row, figures(self._reader, row)) for row in there]

    @cached_property
    def _known(self) -> Known:
        """The KL of the model's plain files, by type, the newest of each. A base's own file says nothing of what
        rounding costs: nothing of it was rounded again."""
        found: dict[str, float] = {}
        for row, known in self._files:
            if row["meta"].get("as_is"):
                continue
            if row["meta"].get("compression"):
                plain, measured = row["meta"].get("plain_type"), _figure(known, "plain_kl")
            else:
                plain, measured = row["meta"].get("file_type"), _figure(known, "kl_mean")
            if plain in QUANTIZATIONS and measured is not None and measured.value > 0:
                found.setdefault(str(plain), measured.value)
        return Known(found)

    def _measured_kl(self, own: Figures) -> Figure | None:
        reported = _figure(own, "kl_mean")
        if reported is not None or ("kept", "") not in own:
            return reported
        return _figure(own, "mixture_kl" if own["kept", ""].value == "mixture" else "plain_kl")

    def _estimated_kl(self, technique: str, quantization: str, budget: int | None) -> Figure | None:
        if technique not in _ESTIMABLE:
            return None
        plain = {name: plain_kl(name, self._anchor, self._known) for name in QUANTIZATIONS}
        if technique != "hybrid":
            return plain[quantization]
        mixed = {name: mixed_kl(name, plain[name], self._anchor) for name in QUANTIZATIONS}
        return mixed[quantization] if budget is None else budget_kl(budget, self._outline.sizes, mixed)

    def _memory(self, own: Figures, bytes_: int) -> Figure:
        """What the engine holds with a chat's context: the mapped file, the cache, and the process itself."""
        more = self._outline.cache_bytes(DEFAULT_CONTEXT) - self._outline.cache_bytes(MEASURED_CONTEXT)
        if (peak := _figure(own, "peak_rss_bytes")) is not None:
            how = f"measured with {MEASURED_CONTEXT} tokens of context, and the cache of {DEFAULT_CONTEXT}"
            return Figure(peak.value + more, ESTIMATED if more else MEASURED, how)
        cache = self._outline.cache_bytes(DEFAULT_CONTEXT)
        for row, known in self._alike:
            if (peak := _figure(known, "peak_rss_bytes")) is not None:
                beside = max(0.0, peak.value - row["bytes"] - self._outline.cache_bytes(MEASURED_CONTEXT))
                how = f"file, cache of {DEFAULT_CONTEXT} tokens, and {size(beside)} as measured of {label(row)}"
                return Figure(bytes_ + cache + beside, ESTIMATED, how)
        how = f"file, cache of {DEFAULT_CONTEXT} tokens, and {size(PROCESS_BYTES)} for the process"
        return Figure(bytes_ + cache + PROCESS_BYTES, ESTIMATED, how)

    def _speed(self, own: Figures, bytes_: int) -> Figure:
        """Tokens written a second. Each reads the whole file once, so another file's rate is scaled by the bytes, and
        where there is none it is as the probe moves bytes: what it copies is read and written."""
        if (mine := _figure(own, "generation_tokens_per_s")) is not None:
            return mine
        for row, known in self._alike:
            if (rate := _figure(known, "generation_tokens_per_s")) is not None:
                how = f"{rate.value:.1f} of {label(row)}, by bytes a token"
                return Figure(rate.value * row["bytes"] / bytes_, ESTIMATED, how)
        return Figure(2 * probed_speed().copied / bytes_, ESTIMATED, "a probe of this machine, by bytes a token")


def combined(found: Sequence[Figure | None], pick: Callable[[Iterable[float]], float]) -> Figure | None:
    """One figure for several files; None where one is not known. It counts as what the least sure of them is."""
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    least = max(known, key=lambda one: (MEASURED, DRY_RUN, ESTIMATED).index(one.by))
    return Figure(pick(one.value for one in known), least.by, least.source)


def _figure(known: Figures, name: str) -> Figure | None:
    one = known.get((name, ""))
    return Figure(one.value, MEASURED, one.method) if one is not None and isinstance(one.value, int | float) else None


def _loss_change(known: Figures) -> Figure | None:
    """The mean over domains of the held-out loss less that of F16, where a report has both."""
    changes = []
    for (name, subject), one in known.items():
        before = known.get(("reference_held_out_loss", subject))
        if name == "held_out_loss" and before is not None:
            changes.append(float(one.value) - float(before.value))
    return Figure(sum(changes) / len(changes), MEASURED, "held-out examples") if changes else None
