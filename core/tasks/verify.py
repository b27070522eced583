"""verify: the files of a phase, or of an export, run. Every base is loaded, every adapter put on it, and what they
generate is judged."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import TaraError
from core.files import sha256_of
from core.gguf.runtime import Runtime
from core.tasks.answers import MAX_TOKENS, Answers, ask_all
from core.tasks.context import Context, TaskError
from core.tasks.parity import awkward_texts, conversation_differs, first_difference, special_tokens
from core.training.base import load_tokenizer, read_provenance
from core.training.render import render_tokens

MAX_PROMPTS = 3
CONTEXT_TOKENS = 2048

# An adapter that is on must move the logits: by this much of their own spread. Equal evaluations give equal numbers, so
# an adapter that is off, or all zeros, moves them by exactly nothing.
MIN_LOGIT_CHANGE = 0.01

PARITY, PROVENANCE, CHANGES, GENERATION = "template parity", "provenance", "adapter changes logits", "generation"
SPECIAL, AWKWARD = "special tokens", "awkward text"


@dataclass
class DomainReport:
    """What was found of one domain; `failures` says gate and reason, and is empty when it is good."""

    base: str
    load_s: float
    tokens_per_s: float | None = None
    first_token_s: float | None = None
    logit_change: float | None = None
    prompt: str | None = None
    text: str | None = None
    gates: dict[str, bool] = field(default_factory=dict)
    answers: Answers | None = None
    failures: list[str] = field(default_factory=list)

    def judge(self, gate: str, reason: str | None) -> None:
        """Record a gate: passed without a reason."""
        self.gates[gate] = reason is None
        if reason is not None:
            self.failures.append(f"{gate}: {reason}")

    @property
    def line(self) -> str:
        """What came of it, in a phrase."""
        return ("passed" if not self.failures else "FAILED") + (f", {self.answers.line}" if self.answers else "")

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {**vars(self), "answers": self.answers.as_dict() if self.answers else None}


def run(ctx: Context) -> None:
    """Verify `params.domains` with `inputs.bases` and `inputs.adapters`; fails naming the domain and the gate. What is
    verified are the files of `params.phase`, or where there is `params.export` the one file of that name.

    A domain without an adapter there is part of its model's weights: the model's folder must say so, and there is
    nothing to take off, so that the change of the logits is not judged.
    """
    domains: dict[str, dict[str, Any]] = ctx.params["domains"]
    reports: dict[str, DomainReport] = {}
    for base_name, files in ctx.inputs["bases"].items():
        mine = {name: facts for name, facts in domains.items() if facts["base"] == base_name}
        if mine:
            reports |= _verify_base(ctx, base_name, files, mine, done=len(reports))
    missing = sorted(domains.keys() - reports.keys())
    if missing:
        raise TaskError(f"{', '.join(missing)}: the base is not among the files to verify", "build the phase again")
    failed = [f"{name}: {'; '.join(report.failures)}" for name, report in reports.items() if report.failures]
    for line in failed:
        print(f"FAILED {line}", flush=True)
    if failed:
        raise TaskError(
            f"{len(failed)} of {len(reports)} domains did not pass: " + " | ".join(failed),
            "train the domain longer or with more examples, or choose a larger quantization",
        )
    _announce(ctx, reports)


def _verify_base(
    ctx: Context, base_name: str, files: Mapping[str, str], domains: Mapping[str, dict[str, Any]], done: int
) -> dict[str, DomainReport]:
    gguf, model = Path(files["gguf"]), Path(files["model"])
    tokenizer = load_tokenizer(model)
    adapted = any(name in ctx.inputs["adapters"] for name in domains)
    expected = _base_sha256(model) if adapted else None
    reports: dict[str, DomainReport] = {}
    with Runtime(gguf, n_ctx=CONTEXT_TOKENS, threads=int(ctx.spec.get("threads") or 1)) as runtime:
        print(f"{base_name}: {gguf.name} loaded in {runtime.load_s:.2f} s", flush=True)
        of_base = {SPECIAL: special_tokens(runtime, tokenizer), AWKWARD: awkward_texts(runtime, tokenizer)}
        for name, facts in domains.items():
            ctx.progress(done + len(reports), len(ctx.params["domains"]), unit="domain", message=name, force=True)
            unmerged = None if name in ctx.inputs["adapters"] else _unmerged(model, name)
            report = DomainReport(base_name, runtime.load_s)
            for gate, reason in of_base.items():
                report.judge(gate, f"{base_name}, {reason}" if reason else None)
            reports[name] = (
                report
                if report.failures
                else _verify_domain(
                    runtime,
                    tokenizer,
                    Path(ctx.inputs["adapters"][name]) if name in ctx.inputs["adapters"] else None,
                    facts,
                    expected,
                    report,
                    unmerged,
                )
            )
            speed = f"{report.tokens_per_s:.0f} tokens/s" if report.tokens_per_s else "not measured"
            print(f"{name}: {report.line}, {speed}: {report.text!r}", flush=True)
            for one in report.answers.attempts if report.answers else ():
                print(f"  {one.line}", flush=True)
    said = "; ".join(f"{name} {report.answers.line}" for name, report in reports.items() if report.answers)
    ctx.progress(done + len(reports), len(ctx.params["domains"]), unit="domain", message=said, force=True)
    return reports


def _verify_domain(
    runtime: Runtime,
    tokenizer: Any,
    adapter: Path | None,
    facts: Mapping[str, Any],
    base_sha256: str | None,
    report: DomainReport,
    unmerged: str | None = None,
) -> DomainReport:
    prompts = facts["prompt"] if isinstance(facts["prompt"], list) else [facts["prompt"]]
    if not prompts:
        raise TaskError(
            f"there is no prompt to verify a domain of {report.base} with", "give the domain an example_question"
        )
    conversations = {prompt: _messages(facts["system_prompt"], prompt) for prompt in prompts[:MAX_PROMPTS]}
    rendered = {prompt: runtime.render(messages) for prompt, messages in conversations.items()}
    for prompt, messages in conversations.items():
        trained = render_tokens(tokenizer, messages, generation_prompt=True)
        differs = first_difference(tokenizer, rendered[prompt], trained)
        report.judge(PARITY, differs or conversation_differs(runtime, tokenizer, messages))
        if report.failures:
            return report
    probe = next(iter(rendered.values()))
    runtime.attach(None)
    if adapter is None:
        report.judge(PROVENANCE, unmerged)
        if unmerged is None:
            _generate(runtime, rendered, report)
        return report
    plain = runtime.logits(probe)
    try:
        runtime.attach(adapter, base_sha256=base_sha256)
    except TaraError as error:
        report.judge(PROVENANCE, error.one_line())
        return report
    report.judge(PROVENANCE, None)
    report.logit_change = _change(plain, runtime.logits(probe))
    report.judge(
        CHANGES,
        None
        if report.logit_change > MIN_LOGIT_CHANGE
        else f"they move by {report.logit_change:.2g} of their spread, at least {MIN_LOGIT_CHANGE} is expected",
    )
    _generate(runtime, rendered, report)
    return report


def _unmerged(model: Path, domain: str) -> str | None:
    """Why a model folder is not one with the domain in its weights, or None."""
    about = read_provenance(model) or {}
    merged = about.get("merged") or {}
    names = merged.get("adapters_sha256") or ({about["domain"]: None} if merged and about.get("domain") else {})
    return None if domain in names else f"{model.name} does not say that {domain} is merged into it"


def _generate(runtime: Runtime, rendered: Mapping[str, list[int]], report: DomainReport) -> None:
    """Ask all prompts; the answer that is shown, and whose speed is, is the first that passed."""
    report.answers = ask_all(runtime, rendered)
    shown = report.answers.best
    report.prompt, report.text = shown.prompt, shown.text
    report.tokens_per_s, report.first_token_s = shown.tokens_per_s, shown.first_token_s
    report.judge(GENERATION, report.answers.fault)


def _messages(system_prompt: str, prompt: str) -> list[dict[str, str]]:
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": prompt}]


def _change(plain: npt.NDArray[np.float32], adapted: npt.NDArray[np.float32]) -> float:
    """Greatest change of a logit, in standard deviations of the plain logits; nan when a logit is not finite."""
    spread = float(np.std(plain))
    return float(np.max(np.abs(adapted - plain))) / spread if spread else float("nan")


def _base_sha256(model: Path) -> str | None:
    """The base's identity, as its folder records it and its adapters name it."""
    provenance = read_provenance(model)
    if not provenance or not provenance.get("sha256"):
        print(f"{model.name} does not record its identity, so adapters are not compared with it by hash", flush=True)
        return None
    return str(provenance["sha256"])


def _announce(ctx: Context, reports: Mapping[str, DomainReport]) -> None:
    assert ctx.out is not None
    export = ctx.params.get("export")
    content = {
        "phase": ctx.params["phase"],
        **({"export": export} if export else {}),
        "max_tokens": MAX_TOKENS,
        "domains": {name: report.as_dict() for name, report in reports.items()},
    }
    with ctx.staging() as staged:
        staged.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
        digest, size = sha256_of(staged), staged.stat().st_size
    answers = {name: report.answers for name, report in reports.items() if report.answers is not None}
    ctx.artifact(
        "verification", export or f"phase-{ctx.params['phase']}", ctx.out, sha256=digest, bytes=size,
        answers={name: one.counts() for name, one in answers.items()},
    )  # fmt: skip
    for name, one in answers.items():
        ctx.measure(
            "answers_passed", one.passed, n=one.asked, subject=name,
            method=f"of {one.asked} questions, at most {MAX_TOKENS} tokens each: {one.line}",
        )  # fmt: skip
    ctx.result(domains=len(reports), passed=sorted(reports), answers={name: one.line for name, one in answers.items()})
    if export:
        return  # a domain's speed is that of what chat and router use, not of a file for other programs
    for name, report in reports.items():
        shown = answers[name].best
        ctx.measure("load_s", report.load_s, method="loading the base, once", unit="s", subject=name)
        if report.first_token_s is not None:
            ctx.measure("first_token_s", report.first_token_s, method="prompt to first token", unit="s", subject=name)
        if report.tokens_per_s is not None:
            ctx.measure(
                "tokens_per_s",
                report.tokens_per_s,
                method=f"{shown.chosen} generation after the first token",
                unit="tokens/s",
                n=shown.tokens,
                subject=name,
            )
