"""Job `type-costs`: what each type costs each matrix of an F16 GGUF file; mixtures of any size are solved from it."""

import json
from pathlib import Path

from core.errors import Refused
from core.files import discard, sha256_of, staging_beside
from core.gguf.candidates import Errors, errors_of
from core.gguf.imatrix import read_imatrix
from core.gguf.inspect import inspect_gguf
from core.gguf.mixture import least_size, matrices_of, refuse_below
from core.gguf.quantizer import planned_types
from core.gguf.sensitivity import costs_of, groups_of, weighted
from core.gguf.weights import Weights
from core.tasks.context import Context, TaskError
from core.tasks.held_out import WINDOW, calibration_texts
from core.training.base import load_tokenizer

SMALLEST = "Q2_K"  # of the plain types; all quantize the same tensors


def run(ctx: Context) -> None:
    """Rounding error by tensor and type, and what a unit of it costs, measured on training text -> artifact
    `type-costs`, a JSON file `{errors: {tensor: {type: squared error}}, costs: {tensor: nats a unit}, positions}`.

    params: `name`; `target_bytes`, a budget that is refused at once where no mixture reaches it, null for none; it is
    no part of the result. `domains` {domain: {system_prompt, seed, held_out_fraction}}, `seed`, `sequence_length`.
    inputs: `gguf`, `imatrix`, `model` (the folder with the tokenizer), `data` {domain: file}.
    """
    source, threads = Path(ctx.inputs["gguf"]), int(ctx.spec.get("threads") or 1)
    imatrix = read_imatrix(Path(ctx.inputs["imatrix"]))
    texts = calibration_texts(
        load_tokenizer(Path(ctx.inputs["model"])), ctx.inputs["data"], ctx.params["domains"],
        min(WINDOW, ctx.params["sequence_length"]),
    )  # fmt: skip
    whole = inspect_gguf(source)
    _refuse_small(ctx, source)
    tensors = matrices_of(whole, planned_types(source, SMALLEST))
    groups = groups_of(tensors)
    total, done = len(tensors) + len(groups), 0
    ctx.restart_clock()

    def step(message: str) -> None:
        nonlocal done
        done += 1
        ctx.progress(done, total, unit="step", message=message)

    errors = errors_of(Weights(source), tensors, imatrix, threads=threads, on_tensor=lambda _, name: step(name))
    assert ctx.out is not None
    folder = staging_beside(ctx.out)  # the artifact's own temporary name: what a kill leaves there is removed
    folder.mkdir(parents=True)
    try:
        costs = costs_of(
            source, folder / "probed.gguf", groups, errors, imatrix, texts, threads=threads, seed=ctx.params["seed"],
            on_group=lambda _, name: step(f"cost of {name} and its like"),
        )  # fmt: skip
    finally:
        discard(folder)
    _write(ctx, errors, costs, sum(text.positions for text in texts))


def read_costs(path: Path) -> Errors:
    """What each type costs each matrix, nats of divergence a token, from the file of this job."""
    found = json.loads(path.read_text("utf-8"))
    return weighted(found["errors"], found["costs"])


def _refuse_small(ctx: Context, source: Path) -> None:
    """A target that cannot be had is refused before the long part."""
    if ctx.params["target_bytes"] is None:
        return
    try:
        refuse_below(int(ctx.params["target_bytes"]), least_size(source, planned_types(source, SMALLEST)))
    except Refused as error:
        raise TaskError(error.message, error.hint) from error


def _write(ctx: Context, errors: Errors, costs: dict[str, float], positions: int) -> None:
    assert ctx.out is not None
    found = {"name": ctx.params["name"], "errors": errors, "costs": costs, "positions": positions}
    with ctx.staging() as staged:
        staged.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", "utf-8")
        digest, size = sha256_of(staged), staged.stat().st_size
    ctx.artifact("type-costs", ctx.params["name"], ctx.out, sha256=digest, bytes=size, tensors=len(errors))
    ctx.result(tensors=len(errors), positions=positions)
