"""Job `train`: a LoRA adapter for one domain, trained on its examples."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.files import sha256_of, write_manifest
from core.memory import available_memory
from core.tasks.context import Context, Stopped
from core.training import lora, memory
from core.training.base import PROVENANCE, empty_model, load_model, load_tokenizer, name_and_sha256
from core.training.checkpoints import Checkpoints, Identity, Retention
from core.training.data import read_examples, split_examples
from core.training.loop import Companions, Interrupted, Recipe, StepReport, TrainingOutcome, total_steps, train
from core.training.precision import Precision, choose_precision
from core.training.render import (
    CHAT_TEMPLATE_FILE,
    Rendered,
    RenderReport,
    ensure_chat_template,
    render_all,
    template_hash,
)
from core.training.runs import RunRecord, describe_run
from core.training.runtime import best_device, library_versions, prepare
from core.training.smaller import Smaller, smaller

LOG_EVERY_S = 5.0
PRESSURE_EVERY_S = 1.0
HELD_OUT_FRACTION = 0.2  # where the job names none


@dataclass(frozen=True)
class _Prepared:
    """What is known before the base is loaded."""

    tokenizer: Any
    examples: list[Rendered]
    report: RenderReport
    held_out: int
    data_sha256: str


def run(ctx: Context) -> None:
    """params {domain, preset, seed, held_out_fraction, system_prompt}, inputs {base, data} -> artifact `adapter`, a
    PEFT folder.

    Examples held out for evaluation are never trained on. The adapter counts as made when its saved weights were
    read back from the disk, equal to the trained ones, finite and not zero.
    """
    prepare(ctx.spec.get("threads"), ctx.params["seed"])
    preset, base = ctx.params["preset"], Path(ctx.inputs["base"])
    base_name, base_sha256 = name_and_sha256(base)
    less = smaller(preset, ctx.spec.get("smaller", 0))
    if less.says:
        _say(f"for lack of memory before: {less.says}")
    ready = _prepare(ctx, base, less.sequence_length)
    device = best_device()
    precision = choose_precision(preset["dtype"], device, ctx.workspace.runs / "precision.json")
    print(f"computing in {precision.dtype} on {device.type}: {precision.reason}", flush=True)
    reserve = ctx.spec.get("memory_reserve_bytes", memory.RESERVE_BYTES)
    plan = _plan(base, {**preset, "batch_size": less.micro_batch}, precision, ready.examples, device, reserve)
    print(f"expected memory: {plan.one_line()}", flush=True)

    started = time.monotonic()
    model = load_model(base, precision.torch_dtype)
    settings = lora.lora_config(
        model, base_name=base_name, r=preset["lora_r"], alpha=preset["lora_alpha"], dropout=preset["lora_dropout"]
    )
    adapted = lora.add_lora(model, settings).to(device)
    print(
        f"base loaded in {time.monotonic() - started:.1f} s; adapting {', '.join(sorted(settings.target_modules))}",
        flush=True,
    )
    checkpoints = _checkpoints(ctx, base_sha256, ready)
    with ctx.finishing_steps():
        outcome = _train(ctx, adapted, ready.examples, device, checkpoints, less)
    print(
        f"{outcome.steps} steps in {outcome.seconds:.1f} s, {outcome.tokens / outcome.seconds:.0f} tokens/s;"
        f" loss {outcome.first_loss:.3f} -> {outcome.final_loss:.3f}",
        flush=True,
    )
    about = _provenance(ctx, base_name, base_sha256, ready, precision, outcome, plan) | {"smaller": less.says}
    assert ctx.out is not None
    with ctx.staging() as folder:
        folder.mkdir()
        tensors = lora.save_adapter(adapted, folder)
        (folder / CHAT_TEMPLATE_FILE).write_text(ready.tokenizer.chat_template, "utf-8")
        (folder / PROVENANCE).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", "utf-8")
        lora.check_saved_adapter(folder, tensors)
        digest, size = write_manifest(folder, {"kind": "adapter", "domain": ctx.params["domain"]})
    _announce(ctx, digest, size, about, outcome)
    checkpoints.drop()  # the adapter is safe


def _prepare(ctx: Context, base: Path, length: int) -> _Prepared:
    """Read, divide and render the examples."""
    data = Path(ctx.inputs["data"])
    fraction = ctx.params.get("held_out_fraction", HELD_OUT_FRACTION)
    chosen, held_out = split_examples(read_examples(data), ctx.params["seed"], fraction)
    tokenizer = load_tokenizer(base)
    ensure_chat_template(tokenizer)
    examples, report = render_all(tokenizer, chosen, ctx.params["system_prompt"], length)
    print(f"{report.one_line(length)}; {len(held_out)} more held out", flush=True)
    return _Prepared(tokenizer, examples, report, len(held_out), sha256_of(data))


def _plan(
    base: Path,
    preset: dict[str, Any],
    precision: Precision,
    examples: list[Rendered],
    device: Any,
    reserve: int,
) -> memory.MemoryPlan:
    """The memory plan, refused when it does not fit."""
    longest = max(len(example.input_ids) for example in examples)
    targets = max(example.target_count for example in examples) * preset["batch_size"]
    plan = memory.plan_training(
        empty_model(base),
        precision.torch_dtype,
        batch_size=min(preset["batch_size"], len(examples)),
        sequence_length=longest,
        targets=targets,
        r=preset["lora_r"],
        dropout=preset["lora_dropout"],
    )
    available, limited_by = available_memory()
    if device.type == "cuda":
        import torch

        free = torch.cuda.mem_get_info()[0]
        memory.check_memory(plan, free, "the device's free memory", smaller="choose a smaller preset or base")
        memory.check_weights(plan, available, limited_by)
    else:
        advice = "choose a smaller preset (cpu, ultra) or base"
        memory.check_memory(plan, available, limited_by, smaller=advice, reserve=reserve)
    return plan


def _checkpoints(ctx: Context, base_sha256: str, ready: _Prepared) -> Checkpoints:
    shaping = {name: value for name, value in ctx.params["preset"].items() if name != "save_steps"}
    settings = {name: ctx.params[name] for name in ("domain", "seed", "system_prompt")}
    settings |= {"preset": shaping, "held_out_fraction": ctx.params.get("held_out_fraction", HELD_OUT_FRACTION)}
    settings["chat_template_sha256"] = template_hash(ready.tokenizer)
    record = RunRecord(
        domain=ctx.params["domain"],
        key=ctx.key,
        params=ctx.params,
        base=ctx.workspace.relative(Path(ctx.inputs["base"])),
        data=ctx.workspace.relative(Path(ctx.inputs["data"])),
        data_sha256=ready.data_sha256,
        base_sha256=base_sha256,
        steps=total_steps(len(ready.examples), _recipe(ctx)),
    )
    return Checkpoints(
        ctx.workspace.checkpoint_folder(ctx.params["domain"], ctx.key),
        Identity(base_sha256, ready.data_sha256, settings),
        Retention(**ctx.spec.get("checkpoints", {})),
        _say,
        lambda folder: describe_run(folder, record, Path(ctx.inputs["data"])),
    )


def _train(
    ctx: Context, adapted: Any, examples: list[Rendered], device: Any, checkpoints: Checkpoints, less: Smaller
) -> TrainingOutcome:
    """Train, from the newest good checkpoint on where there is one; leaves by `Stopped` where asked to."""
    companions = Companions(
        checkpoints=checkpoints,
        save_every=ctx.params["preset"].get("save_steps", 0),
        on_start=ctx.restart_clock,
        should_stop=lambda: ctx.stop_asked,
        pressure=_Pressure(ctx.spec.get("memory_reserve_bytes", 0)),
        micro_batch=less.micro_batch,
        say=_say,
    )
    try:
        return train(adapted, examples, _recipe(ctx), device, _Announcer(ctx), companions)
    except Interrupted as left:
        raise Stopped from left


class _Pressure:
    """Tells when memory runs short, at most once in a while: what was let go must have time to show."""

    def __init__(self, reserve: int) -> None:
        self._reserve = reserve
        self._quiet_until = 0.0

    def __call__(self) -> str | None:
        now = time.monotonic()
        if now < self._quiet_until:
            return None
        self._quiet_until = now + PRESSURE_EVERY_S
        free, limited_by = available_memory()
        if free >= self._reserve:
            return None
        self._quiet_until = now + 10 * PRESSURE_EVERY_S
        return f"memory runs short, {free / 1e6:.0f} MB are free ({limited_by})"


def _say(line: str) -> None:
    print(line, flush=True)


def _recipe(ctx: Context) -> Recipe:
    preset = ctx.params["preset"]
    fields = ("batch_size", "gradient_accumulation", "learning_rate", "epochs", "max_steps", "warmup_ratio")
    chosen = {name: preset[name] for name in (*fields, "weight_decay")}
    return Recipe(seed=ctx.params["seed"], **chosen)


class _Announcer:
    """Turns steps into progress, live figures and now and then a line of the log."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._last_line = 0.0

    def __call__(self, report: StepReport) -> None:
        last = self._ctx.stop_asked  # where it stood when it left is told in any case
        self._ctx.progress(report.step, report.total, message=f"loss {report.smoothed_loss:.3f}", force=last)
        values = asdict(report)
        del values["step"], values["total"]
        self._ctx.metrics(report.step, **{name: float(f"{value:.6g}") for name, value in values.items()})
        now = time.monotonic()
        if now - self._last_line >= LOG_EVERY_S or report.step == report.total:
            self._last_line = now
            print(
                f"step {report.step}/{report.total}  loss {report.loss:.4f}  smoothed {report.smoothed_loss:.4f}"
                f"  lr {report.learning_rate:.2e}  {report.tokens_per_s:.0f} tokens/s  {report.rss_mb:.0f} MB",
                flush=True,
            )


def _provenance(
    ctx: Context,
    base_name: str,
    base_sha256: str,
    ready: _Prepared,
    precision: Precision,
    outcome: TrainingOutcome,
    plan: memory.MemoryPlan,
) -> dict[str, Any]:
    """What the adapter was made of and how, for whoever loads it."""
    return {
        "domain": ctx.params["domain"],
        "key": ctx.key,
        "base": {"name": base_name, "sha256": base_sha256},
        "data": {"name": Path(ctx.inputs["data"]).name, "sha256": ready.data_sha256},
        "preset": ctx.params["preset"],
        "seed": ctx.params["seed"],
        "held_out_fraction": ctx.params.get("held_out_fraction", HELD_OUT_FRACTION),
        "system_prompt": ctx.params["system_prompt"],
        "chat_template_sha256": template_hash(ready.tokenizer),
        "examples": {
            "used": ready.report.used,
            "cut": ready.report.shortened,
            "cut_tokens": ready.report.cut_tokens,
            "dropped": len(ready.report.dropped),
            "held_out": ready.held_out,
        },
        "end_token_appended": ready.report.end_token_appended,
        "steps": outcome.steps,
        "resumed_from": outcome.resumed_from,
        "final_loss": outcome.final_loss,
        "tokens": outcome.tokens,
        "seconds": round(outcome.seconds, 2),
        "precision": precision.as_dict(),
        "memory_planned_bytes": plan.total,
        "libraries": library_versions(),
    }


def _announce(ctx: Context, digest: str, size: int, about: dict[str, Any], outcome: TrainingOutcome) -> None:
    domain, speed = ctx.params["domain"], outcome.tokens / outcome.seconds
    assert ctx.out is not None
    ctx.artifact(
        "adapter",
        domain,
        ctx.out,
        sha256=digest,
        bytes=size,
        base_name=about["base"]["name"],
        base_sha256=about["base"]["sha256"],
        data_sha256=about["data"]["sha256"],
        seed=about["seed"],
        smaller=about["smaller"],
        steps=outcome.steps,
        final_loss=outcome.final_loss,
    )
    ctx.measure(
        "training_tokens_per_s", speed, unit="tokens/s", n=outcome.tokens, method="tokens computed over loop time"
    )
    ctx.measure("training_loss", outcome.final_loss, unit="nats/token", method="mean of the last tenth of the steps")
    ctx.result(
        steps=outcome.steps,
        resumed_from=outcome.resumed_from,
        micro_batch=outcome.micro_batch,
        smaller=about["smaller"],
        first_loss=outcome.first_loss,
        final_loss=outcome.final_loss,
        tokens=outcome.tokens,
        padding_tokens=outcome.padding_tokens,
        tokens_per_s=round(speed, 1),
        seconds=round(outcome.seconds, 1),
        peak_rss_mb=outcome.peak_rss_mb,
        memory_planned_mb=round(about["memory_planned_bytes"] / 1e6),
        precision=about["precision"],
        **{f"examples_{name}": count for name, count in about["examples"].items()},
    )
