"""Package: the verified files of a phase, its routing data and a manifest, as one folder."""

import contextlib
import json
from pathlib import Path
from typing import Any

import core
from core.catalog import Domain
from core.catalog.examples import read_example_messages
from core.deploy.manifest import FORMAT, NAME, write_manifest
from core.encoder.client import Encoder
from core.encoder.remembered import RememberingEncoder
from core.files import link_or_copy, sha256_of
from core.gguf.inspect import inspect_gguf
from core.routing import build_routing_data
from core.tasks.context import Context, TaskError
from core.training.data import read_examples, split_examples


def run(ctx: Context) -> None:
    """Make the bundle folder of `params["phase"]` from `inputs` (bases, adapters, evaluations, verification, data)."""
    params, inputs = ctx.params, ctx.inputs
    verification = _json(inputs["verification"])
    evaluations = {name: _json(path) for name, path in inputs["evaluations"].items()}
    merge = _merge(params, {name: _json(path) for name, path in inputs.get("verdicts", {}).items()})
    checks = {name: _json(path) for name, path in inputs.get("checks", {}).items()}
    delivered = _json(inputs["delivered"]) if "delivered" in inputs else {}
    total = len(inputs["bases"]) + len(inputs["adapters"]) + 2
    with ctx.staging() as folder:
        folder.mkdir()
        if inputs["adapters"]:
            (folder / "adapters").mkdir()
        done = 0
        bases: dict[str, Any] = {}
        for name, path in inputs["bases"].items():
            info = inspect_gguf(Path(path))
            bases[name] = {
                **_take(Path(path), folder, f"base-{name}.gguf"),
                "base_sha256": params["bases"][name]["sha256"],
                "file_type": info.file_type,
                "bits_per_weight": info.bits_per_weight,
                "types": info.types,
                **({"merged": _merged(params["bases"][name])} if merge else {}),
                **({"smaller": _smaller(checks[name])} if name in checks else {}),
            }
            ctx.progress(done := done + 1, total, unit="file", message=name)
        domains: dict[str, Any] = {}
        for name, facts in params["domains"].items():
            taken: dict[str, Any] = {}
            if name in inputs["adapters"]:
                taken = _take(Path(inputs["adapters"][name]), folder, f"adapters/{name}.gguf")
                taken = {"adapter": taken.pop("file"), **taken}
            domains[name] = {
                "base": facts["base"],
                **taken,
                "title": facts["title"],
                "safety_tier": facts["safety_tier"],
                "system_prompt": facts["system_prompt"],
                "example_question": facts["example_question"],
                "measurements": _measured(name, evaluations[name], verification)
                | unified_figures(name, merge)
                | small_figures(name, checks)
                | delivered_figures(name, delivered),
            }
            ctx.progress(done := done + 1, total, unit="file", message=name)
        routing = _routing(ctx, domains)
        (folder / "routing.json").write_text(json.dumps(routing, ensure_ascii=False) + "\n", "utf-8")
        ctx.progress(done := done + 1, total, unit="file", message="routing.json")
        manifest = {
            "format": FORMAT,
            "tara_version": core.__version__,
            "phase": params["phase"],
            "quantization": params["quantization"],
            "compression_type": params.get("compression_type", "standard"),
            "key": ctx.key,
            "bases": bases,
            "domains": domains,
            "routing": {
                "file": "routing.json",
                "sha256": sha256_of(folder / "routing.json"),
                "bytes": (folder / "routing.json").stat().st_size,
            },
            "verification": verification,
            **({"merge": merge} if merge else {}),
            **({"quality_gate": _json(inputs["gate"])} if "gate" in inputs else {}),
        }
        write_manifest(folder, manifest)
        sha256, size = sha256_of(folder / NAME), sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
        ctx.progress(total, total, unit="file")
    assert ctx.out is not None
    unquantized = sum(Path(path).stat().st_size for path in inputs["unquantized"].values())
    ctx.artifact(
        "bundle", f"phase-{params['phase']}", ctx.out, sha256=sha256, bytes=size, unquantized_bytes=unquantized,
        quantization=params["quantization"], domains=sorted(domains),
    )  # fmt: skip
    quantized = sum(entry["bytes"] for entry in bases.values())
    ctx.measure("bundle_bytes", size, method="sum of the bundle's file sizes", unit="B")
    ctx.measure("compression_ratio", unquantized / quantized, method="bytes of the f16 bases over the quantized bases")
    ctx.result(bytes=size, domains=len(domains), quantization=params["quantization"])


def _routing(ctx: Context, domains: dict[str, Any]) -> dict[str, Any]:
    """The router's data: texts of the domains, and their vectors where there is an encoder."""
    params, inputs = ctx.params, ctx.inputs
    examples, general = read_example_messages({name: Path(path) for name, path in inputs.get("examples", {}).items()})
    file = params.get("encoder")
    with contextlib.ExitStack() as stack:
        encoder = RememberingEncoder(stack.enter_context(Encoder(Path(file)))) if file is not None else None
        if encoder is None:
            print("there is no sentence encoder: messages are routed by keywords", flush=True)
        return build_routing_data(
            [_domain(name, facts) for name, facts in params["domains"].items()],
            {name: _prompts(ctx, Path(path)) for name, path in inputs["data"].items()},
            {name: entry["measurements"] for name, entry in domains.items()},
            {**params["routing"], "crisis": params["crisis"]},
            examples=examples,
            general=general,
            encoder=encoder,
        )


def _merge(params: dict[str, Any], verdicts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How the domains were merged: mode; of each unified model its recipe, margin and the figures of its domains."""
    if "merge" not in params:
        return {}
    unified = {
        name: {
            **params["merge"]["recipes"][name],
            "margin": verdict["margin"],
            "domains": {row["domain"]: {key: row[key] for key in row if key != "domain"} for row in verdict["rows"]},
        }
        for name, verdict in verdicts.items()
    }
    return {"mode": params["merge"]["mode"], **({"unified": unified} if unified else {})}


def _merged(facts: dict[str, Any]) -> dict[str, Any]:
    return {"base": facts["base"], "domains": facts["domains"]}


def unified_figures(name: str, merge: dict[str, Any]) -> dict[str, Any]:
    """What was measured of a domain in a unified model: its quality is that of the model it will answer from."""
    for model in merge.get("unified", {}).values():
        if name in model["domains"]:
            row = model["domains"][name]
            return {"unified_loss": row["unified_loss"], "quality": row["unified_accuracy"]}
    return {}


def _smaller(check: dict[str, Any]) -> dict[str, Any]:
    """What a smaller model lost, as its check found it."""
    return {name: check[name] for name in ("technique", "verdict", "why", "peer", "bytes", "rows", "measured")}


def small_figures(name: str, checks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What was measured of a domain in a smaller model: its quality is that of the file it will answer from."""
    for check in checks.values():
        for row in check["rows"]:
            if row["domain"] == name:
                mine = check["technique"]
                return {"small_loss": row["loss"][mine], "quality": row["accuracy"][mine]}
    return {}


def delivered_figures(name: str, delivered: dict[str, Any]) -> dict[str, Any]:
    """What was measured of a domain in the very files of the bundle, where that was asked for: its quality."""
    row = next((one for one in delivered.get("rows", ()) if one["domain"] == name), None)
    if row is None:
        return {}
    return {"delivered_loss": row["loss"], "quality": row["accuracy"], "quality_examples": row["texts"]}


def _take(source: Path, folder: Path, name: str) -> dict[str, Any]:
    """Put a file into the bundle: a link where the file system allows, for it is never written to again."""
    target = folder / name
    link_or_copy(source, target)
    return {"file": name, "sha256": sha256_of(target), "bytes": target.stat().st_size}


def _measured(name: str, evaluation: dict[str, Any], verification: dict[str, Any]) -> dict[str, Any]:
    """What was measured of a domain; a figure that was not measured is absent."""
    speed = verification.get("domains", {}).get(name, {})
    found = {key: evaluation.get(key) for key in ("base_loss", "tuned_loss", "base_accuracy")}
    found["quality"] = evaluation.get("tuned_accuracy")  # quality is the adapter's held-out token accuracy
    found["quality_examples"] = evaluation.get("examples")
    found |= {key: speed.get(key) for key in ("tokens_per_s", "first_token_s", "load_s")}
    return {key: value for key, value in found.items() if value is not None}


def _prompts(ctx: Context, path: Path) -> list[str]:
    """The user's words of the examples the domain was trained on; what was held out stays held out."""
    examples = read_examples(path)
    train, _ = split_examples(examples, ctx.params["seed"], ctx.params["held_out_fraction"])
    return [message["content"] for one in train for message in one.messages if message["role"] == "user"]


def _domain(name: str, facts: dict[str, Any]) -> Domain:
    return Domain(
        name=name,
        title=facts["title"],
        description=facts["description"],
        group="",
        phase=None,
        keywords=tuple(facts["keywords"]),
        emotional_profile=facts["emotional_profile"],
        safety_tier=facts["safety_tier"],
        system_prompt=facts["system_prompt"],
        example_question=facts["example_question"],
    )


def _json(path: str) -> dict[str, Any]:
    try:
        return dict(json.loads(Path(path).read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise TaskError(f"{path} cannot be read: {error}", "build again") from error
