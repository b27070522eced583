"""imatrix: how strongly each column of a base's weights is used by the text of its domains, for quantization."""

from pathlib import Path

import numpy as np

from core.files import sha256_of
from core.gguf.imatrix import ImportanceMatrix, write_imatrix
from core.gguf.inspect import inspect_gguf, is_weight_matrix
from core.tasks.context import Context, TaskError
from core.training.base import load_model, load_tokenizer
from core.training.calibration import calibration_examples
from core.training.importance import collect, gguf_names
from core.training.precision import DTYPES
from core.training.runtime import best_device, library_versions, prepare

FEW_TOKENS = 1000  # below, columns are judged by chance; from here on llama.cpp's own figures hardly change


def run(ctx: Context) -> None:
    """params {name, domains: {domain: {system_prompt, seed, held_out_fraction}}, tokens, sequence_length},
    inputs {base, gguf (its F16 file), data: {domain: file}} -> artifact `imatrix`, a file in llama.cpp's format.

    The text is what the domains are trained on, as training renders it, in equal shares up to `tokens` in all. What is
    held out stays unseen, so that what is measured on it later is no memory of the calibration. Computed in float32.
    """
    prepare(ctx.spec.get("threads"))
    base, gguf = Path(ctx.inputs["base"]), Path(ctx.inputs["gguf"])
    info = inspect_gguf(gguf)
    chosen = calibration_examples(
        load_tokenizer(base), ctx.inputs["data"], ctx.params["domains"], tokens=ctx.params["tokens"],
        sequence_length=ctx.params["sequence_length"],
    )  # fmt: skip
    sequences = [example.input_ids for example in chosen]
    tokens = sum(map(len, sequences))
    few = ", few: the matrix is rough" if tokens < FEW_TOKENS else ""
    print(f"{len(sequences)} examples of {len(ctx.inputs['data'])} domains, {tokens} tokens{few}", flush=True)
    device = best_device()
    model = load_model(base, DTYPES["float32"]).to(device)
    ctx.restart_clock()
    found = collect(
        model,
        sequences,
        device,
        lambda done: ctx.progress(done, len(sequences), unit="example", message="reading"),
    )
    shapes = {tensor.name: tensor.shape for tensor in info.tensors}
    named = gguf_names(found, info.architecture, int(info.metadata[f"{info.architecture}.block_count"]), shapes)
    for name, statistic in named.items():
        if not np.isfinite(statistic.sums).all():
            raise TaskError(f"{name} is given values that are not numbers by this text", "check the base")
        if not statistic.sums.any():
            raise TaskError(f"{name} is given nothing but zeros by all of this text", "check the base")
    matrices = sum(is_weight_matrix(tensor) for tensor in info.tensors)
    print(f"{len(named)} of {matrices} weight matrices have a statistic", flush=True)
    matrix = ImportanceMatrix(
        named,
        datasets=tuple(f"{domain}: {Path(path).name}" for domain, path in ctx.inputs["data"].items()),
        chunks=len(sequences),
        chunk_tokens=max(map(len, sequences)),
    )
    assert ctx.out is not None
    with ctx.staging() as staged:
        write_imatrix(staged, matrix)
        digest, size = sha256_of(staged), staged.stat().st_size
    ctx.artifact(
        "imatrix", ctx.params["name"], ctx.out, sha256=digest, bytes=size, tokens=tokens, entries=len(named),
        domains=sorted(ctx.inputs["data"]), libraries=library_versions(),
    )  # fmt: skip
    ctx.result(tokens=tokens, examples=len(sequences), entries=len(named))
