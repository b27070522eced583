"""measure: what a GGUF file lost against its F16 parent, how fast it is, and what it takes. Nothing is estimated."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.files import discard, sha256_of, staging_beside
from core.gguf.divergence import Comparing, Comparison, Estimate, ReferenceWriter, read_reference
from core.gguf.inspect import GgufInfo, inspect_gguf
from core.gguf.runtime import Runtime
from core.gguf.scoring import OUTPUTS, Text, kept_beside, kept_of_reference, windows
from core.gguf.speed import Speed, measure_speed
from core.tasks.context import Context, TaskError
from core.tasks.held_out import held_out_texts
from core.training.base import load_tokenizer, read_provenance
from core.training.calibration import first_within

WINDOW = 512  # tokens of a window of plain text, and at most of an example
PLAIN_TEXT = "text"


@dataclass
class Group:
    """Texts that belong together: a domain's held-out examples, scored with its adapter on, or plain text."""

    name: str
    texts: list[Text]
    adapter: Path | None = None
    reference_adapter: Path | None = None  # the one that is on the reference: the same, or the one it was made of


def run(ctx: Context) -> None:
    """Measure `inputs.gguf` against `inputs.reference`, the F16 file of the same model, or of the one that parts were
    taken out of -> artifact `report`, JSON.

    params: `name`; `seed`, `held_out_fraction`; `domains` {domain: {system_prompt, and where they differ from the
    common ones seed, held_out_fraction}}; `sequence_length` at most 512; `max_tokens`, scored positions at most a
    domain, whole examples; `build_s` and `build_how`, the time it took to make and how that was come by, where the
    caller knows it. inputs: `gguf`, `reference`; for domains `data` {domain: file}, `model` (the folder whose tokenizer
    rendered the training text) and, where a domain has one, `adapters` {domain: GGUF}, put on both files, or on the
    first where `reference_adapters` are those of the reference; `reference_model`, its folder where that is another;
    `text`, a file of plain text. Data or text must be given.

    Scored are the answers of the held-out examples, and of plain text the second half of each window of 512 tokens.
    The reference is run first and closed; its predictions lie beside the report under a temporary name meanwhile. The
    two are never loaded together, and speed and memory are measured in a process of their own.
    """
    gguf, reference = Path(ctx.inputs["gguf"]), Path(ctx.inputs["reference"])
    info, parent = inspect_gguf(gguf), inspect_gguf(reference)
    length = min(WINDOW, ctx.params["sequence_length"], _context(info), _context(parent))
    groups = _examples(ctx, length)
    base_sha256, whole_sha256 = _identity(ctx, "model"), _identity(ctx, "reference_model", "model")
    assert ctx.out is not None
    kept = staging_beside(ctx.out)  # the report's own temporary name: what a kill leaves there is removed
    kept.parent.mkdir(parents=True, exist_ok=True)
    ctx.restart_clock()
    try:
        vocabulary = _run_reference(ctx, reference, groups, length, whole_sha256, kept)
        found = _run_other(ctx, gguf, groups, length, base_sha256, kept, vocabulary)
    finally:
        discard(kept)
    print("speed and memory, in a process of its own", flush=True)
    _announce(ctx, info, parent, groups, found, measure_speed(gguf, threads=_threads(ctx)))


def _context(info: GgufInfo) -> int:
    trained = info.metadata.get(f"{info.architecture}.context_length")
    return trained if isinstance(trained, int) and trained > 0 else WINDOW


def _threads(ctx: Context) -> int:
    return int(ctx.spec.get("threads") or 1)


def _identity(ctx: Context, *inputs: str) -> str | None:
    """The identity of the model in the first of these folders that is given, which adapters must name; None where the
    folder does not record it."""
    folder = next((ctx.inputs[name] for name in inputs if ctx.inputs.get(name)), None)
    about = read_provenance(Path(folder)) if folder is not None else None
    return str(about["sha256"]) if about and about.get("sha256") else None


def _examples(ctx: Context, length: int) -> list[Group]:
    """The held-out examples of each domain, as training renders them."""
    data: Mapping[str, str] = ctx.inputs.get("data") or {}
    if not data and not ctx.inputs.get("text"):
        raise TaskError("there is nothing to measure with", "give held-out examples (data) or a plain text")
    if not data:
        return []
    if not ctx.inputs.get("model"):
        raise TaskError("examples are rendered by the model's tokenizer, and no model folder is given", "give `model`")
    adapters = ctx.inputs.get("adapters") or {}
    facts = {name: {**ctx.params, **ctx.params["domains"][name]} for name in data}
    held_out = held_out_texts(
        load_tokenizer(Path(ctx.inputs["model"])), data, facts, length=length, most=ctx.params["max_tokens"]
    )
    original = ctx.inputs.get("reference_adapters") or adapters
    return [
        Group(name, texts, *(Path(some[name]) if name in some else None for some in (adapters, original)))
        for name, texts in held_out.items()
    ]


def _run_reference(
    ctx: Context, path: Path, groups: list[Group], length: int, base_sha256: str | None, kept: Path
) -> int:
    """Run the reference over all texts and keep what is compared; the size of its vocabulary. Plain text is cut into
    windows here, by the reference's own tokenizer, and joins the groups."""
    random = np.random.default_rng(ctx.params["seed"])
    with Runtime(path, n_ctx=length, threads=_threads(ctx), outputs=OUTPUTS) as runtime, ReferenceWriter(kept) as file:
        if ctx.inputs.get("text"):
            groups.append(Group(PLAIN_TEXT, _windows(ctx, runtime, length)))
        total = 2 * sum(len(group.texts) for group in groups)
        done = 0
        for group in groups:
            runtime.attach(group.reference_adapter, base_sha256=base_sha256)
            for text in group.texts:
                file.add(kept_of_reference(runtime, text, random))
                ctx.progress(done := done + 1, total, unit="text", message=f"reference, {group.name}")
        return runtime.vocabulary_size


def _windows(ctx: Context, runtime: Runtime, length: int) -> list[Text]:
    path = Path(ctx.inputs["text"])
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise TaskError(f"{path} cannot be read as UTF-8 text: {error}", "give a plain text file") from error
    found = windows(runtime.tokenize(text, special=False), length, runtime.beginning())
    if not found:
        raise TaskError(f"{path} is shorter than one window of {length} tokens", "give a longer text")
    return first_within(found, ctx.params["max_tokens"], lambda one: one.positions)


def _run_other(
    ctx: Context, path: Path, groups: Sequence[Group], length: int, base_sha256: str | None, kept: Path, vocabulary: int
) -> dict[str, Comparing]:
    """Run the file that is measured over the same texts, beside what was kept; what was found, by group."""
    total = 2 * sum(len(group.texts) for group in groups)
    done, there = total // 2, read_reference(kept)
    found: dict[str, Comparing] = {}
    with Runtime(path, n_ctx=length, threads=_threads(ctx), outputs=OUTPUTS) as runtime:
        if runtime.vocabulary_size != vocabulary:
            raise TaskError(
                f"{path.name} knows {runtime.vocabulary_size} tokens, its reference {vocabulary}",
                "give the F16 file it was made from",
            )
        for group in groups:
            runtime.attach(group.adapter, base_sha256=base_sha256)
            mine = found[group.name] = Comparing()
            for text in group.texts:
                reference = next(there)
                mine.add(reference, kept_beside(runtime, text, reference))
                ctx.progress(done := done + 1, total, unit="text", message=f"{path.stem}, {group.name}")
    return found


def _announce(
    ctx: Context,
    info: GgufInfo,
    parent: GgufInfo,
    groups: Sequence[Group],
    found: Mapping[str, Comparing],
    speed: Speed,
) -> None:
    together = Comparing()
    for one in found.values():
        together.extend(one)
    whole, parts = together.result(), {name: one.result() for name, one in found.items()}
    if not math.isfinite(whole.perplexity):
        raise TaskError(
            f"{info.path.name} predicts nothing of these texts: a cross entropy of {whole.loss.mean:.0f} nats",
            "its file is broken: build it again",
        )
    files = {"gguf": _file(info), "reference": _file(parent)}
    build_s = ctx.params.get("build_s")
    report = {
        "name": ctx.params["name"],
        **files,
        "build_s": build_s,
        "seed": ctx.params["seed"],
        "max_tokens": ctx.params["max_tokens"],
        "whole": _figures(whole),
        "domains": {
            group.name: {
                "adapter": group.adapter.name if group.adapter else None,
                "reference_adapter": group.reference_adapter.name if group.reference_adapter else None,
                **_figures(parts[group.name]),
            }
            for group in groups
        },
        "speed": asdict(speed),
    }
    assert ctx.out is not None
    with ctx.staging() as staged:
        staged.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        digest, size = sha256_of(staged), staged.stat().st_size
    ctx.artifact(
        "report", ctx.params["name"], ctx.out, sha256=digest, bytes=size, gguf_sha256=files["gguf"]["sha256"],
        reference_sha256=files["reference"]["sha256"], file_type=info.file_type, domains=sorted(parts),
    )  # fmt: skip
    _measure_file(ctx, info, speed, build_s)
    _measure_text(ctx, parent, whole, "", _with_adapters(groups, parent))
    for group in groups:
        _measure_text(ctx, parent, parts[group.name], group.name, _with_adapters([group], parent))
    print(_summary(info, whole, speed), flush=True)
    ctx.result(
        kl_mean=whole.kl.mean, kl_se=whole.kl.se, same_top=whole.same_top.mean, perplexity=whole.perplexity,
        positions=whole.positions, prompt_tokens_per_s=speed.prompt_tokens_per_s,
        generation_tokens_per_s=speed.generation_tokens_per_s, peak_rss_bytes=speed.peak_rss_bytes,
    )  # fmt: skip


def _file(info: GgufInfo) -> dict[str, Any]:
    return {
        "file": info.path.name,
        "sha256": sha256_of(info.path),
        "bytes": info.bytes,
        "file_type": info.file_type,
        "bits_per_weight": info.bits_per_weight,
        "types": info.types,
        "fallback_tensors": info.fallback_tensors,
        "weight_tensors": info.weight_tensors,
    }


def _figures(one: Comparison) -> dict[str, Any]:
    change = one.perplexity_change
    return {
        **asdict(one),
        "perplexity": one.perplexity,
        "reference_perplexity": one.reference_perplexity,
        "perplexity_change": asdict(change),
    }


def _measure_file(ctx: Context, info: GgufInfo, speed: Speed, build_s: float | None) -> None:
    ctx.measure("bytes", info.bytes, method="size of the file", unit="B")
    ctx.measure("bits_per_weight", round(info.bits_per_weight, 4), method="tensor bits over weights, from its header")
    ctx.measure(
        "types", ", ".join(f"{count} {kind}" for kind, count in info.types.items()), method="tensors, from its header"
    )
    ctx.measure(
        "fallback_tensors",
        info.fallback_tensors,
        method="weight matrices whose rows do not divide by the type's block, from its header",
        n=info.weight_tensors,
    )
    if build_s is not None:
        ctx.measure("build_s", build_s, method=ctx.params.get("build_how") or "as it was told", unit="s")
    ran = f"a fresh process, {speed.threads} threads, the middle of {speed.runs} runs after one more"
    for name, rate, count in (
        ("prompt_tokens_per_s", speed.prompt_tokens_per_s, speed.prompt_tokens),
        ("generation_tokens_per_s", speed.generation_tokens_per_s, speed.generated_tokens),
    ):
        ctx.measure(name, rate, method=ran, unit="tokens/s", n=count)
    ctx.measure("load_s", speed.load_s, method="a fresh process, the file read shortly before", unit="s")
    ctx.measure(
        "peak_rss_bytes",
        speed.peak_rss_bytes,
        method=f"VmHWM of a fresh process, a context of {speed.context} tokens, mapped pages of the file included",
        unit="B",
    )


def _with_adapters(groups: Sequence[Group], parent: GgufInfo) -> str:
    """Which adapters were on the two files, as the end of a sentence."""
    own = [group for group in groups if group.adapter is not None]
    if not own:
        return ""
    if all(group.adapter == group.reference_adapter for group in own):
        return f", {_names(group.adapter for group in own)} on both"
    return (
        f", {_names(group.adapter for group in own)} on it and "
        f"{_names(group.reference_adapter for group in own)} on {parent.path.name}"
    )


def _names(adapters: Iterable[Path | None]) -> str:
    return "adapter " + ", ".join(one.name if one is not None else "none" for one in adapters)


def _measure_text(ctx: Context, parent: GgufInfo, one: Comparison, subject: str, adapters: str) -> None:
    """Emit what was found of one domain, or of all texts together (no subject)."""
    over = f"{one.positions} positions of {one.texts} texts"
    how = f"against {parent.path.name}, {over}{adapters}"
    kl = f"top 256 tokens, the rest by 32 drawn, {how}"

    def say(name: str, value: float, method: str, unit: str = "") -> None:
        ctx.measure(name, value, method=method, unit=unit, n=one.positions, subject=subject)

    def error(name: str, of: Estimate, unit: str = "") -> None:
        if of.se is not None:
            say(name, of.se, f"standard error, {of.over} taken as independent, {how}", unit)

    say("kl_mean", one.kl.mean, kl, "nats/token")
    error("kl_se", one.kl, "nats/token")
    say("kl_bound", one.kl_bound.mean, f"lower bound: top 256 tokens and the rest as one, {how}", "nats/token")
    say("kl_p99", one.kl_p99, f"99th percentile over positions, {kl}", "nats/token")
    say("same_top", one.same_top.mean, f"share of positions with the same most likely token, {how}")
    error("same_top_se", one.same_top)
    say("perplexity", one.perplexity, f"exp of the mean cross entropy, {over}")
    say(
        "reference_perplexity", one.reference_perplexity, f"exp of the mean cross entropy of {parent.path.name}, {over}"
    )
    say("perplexity_change", one.perplexity_change.mean, f"perplexity over the reference's, less 1, {how}")
    error("perplexity_change_se", one.perplexity_change)
    if subject and subject != PLAIN_TEXT:
        say("held_out_loss", one.loss.mean, f"cross entropy of the answers, {over}", "nats/token")
        error("held_out_loss_se", one.loss, "nats/token")
        say(
            "reference_held_out_loss",
            one.reference_loss.mean,
            f"cross entropy of the answers by {parent.path.name}, {over}",
            "nats/token",
        )


def _summary(info: GgufInfo, whole: Comparison, speed: Speed) -> str:
    error = f" ± {whole.kl.se:.5f}" if whole.kl.se is not None else ""
    return (
        f"{info.path.name}: KL {whole.kl.mean:.5f}{error} (at least {whole.kl_bound.mean:.5f}), same top token "
        f"{whole.same_top.mean:.1%}, perplexity {whole.perplexity:.3f} (reference {whole.reference_perplexity:.3f}) on "
        f"{whole.positions} positions; {speed.prompt_tokens_per_s:.0f} tokens/s read, "
        f"{speed.generation_tokens_per_s:.1f} written, {speed.peak_rss_bytes / 1e6:.0f} MB"
    )
