"""`tara measure` and `tara compare`: what a file cost and what it lost, and several side by side."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from core.cli.build import detach_option
from core.cli.common import (
    NOT_MEASURED,
    json_option,
    print_json,
    root_option,
    size,
    span,
    table,
    true_reader,
    workspace_of,
)
from core.cli.follow import wait_for
from core.text import clean

if TYPE_CHECKING:
    from core.phases.measured import Artifact, Figures
    from core.store.reads import Reader

WIDTH = 80
NAME_WIDTH = 24


@click.command("measure")
@click.argument("artifact")
@click.option("--max-tokens", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N",
              help="Scored tokens a domain.")  # fmt: skip
@click.option("--text", metavar="FILE", help="Measure on this plain text too.")
@detach_option
@root_option
@json_option
def measure(artifact: str, max_tokens: int, text: str | None, detach: bool, root: str | None, as_json: bool) -> None:
    """Measure ARTIFACT (a number, a path or phase:N) against the F16 file it was made from: divergence, loss of each
    domain on held-out examples, speed, memory."""
    from core.phases.measuring import measure_artifact
    from core.store.reads import open_reader

    workspace = workspace_of(root)
    ids, artifacts = measure_artifact(workspace, artifact, max_tokens=max_tokens, text=text)
    if detach:
        if as_json:
            print_json({"jobs": ids})
        else:
            click.echo(f"queued jobs {', '.join(map(str, ids))}" if ids else "measured already: nothing to do")
        return
    if ids:
        wait_for(workspace, ids, quiet=as_json)
    with open_reader(workspace) as reader:
        _show(reader, artifacts, as_json, jobs=ids)


@click.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="ARTIFACT…")
@root_option
@json_option
def compare(names: Sequence[str], root: str | None, as_json: bool) -> None:
    """Put artifacts side by side: size, divergence, losses, speed, memory. Each is named by its number, its path or
    file name, or phase:N for the models of that phase's bundle."""
    from core.phases.measured import find_artifacts

    with true_reader(root) as reader:
        found: dict[Any, Artifact] = {}
        for name in names:
            for one in find_artifacts(reader, name):
                found.setdefault(one["path"], one)
        _show(reader, list(found.values()), as_json)


def _show(reader: "Reader", artifacts: Sequence["Artifact"], as_json: bool, jobs: Sequence[int] | None = None) -> None:
    from core.phases.measured import figures

    known = [figures(reader, artifact) for artifact in artifacts]
    if as_json:
        shown = [_json(artifact, one) for artifact, one in zip(artifacts, known, strict=True)]
        print_json(shown if jobs is None else {"jobs": list(jobs), "artifacts": shown})
        return
    click.echo("\n\n".join(_tables(artifacts, known)))


def _json(artifact: "Artifact", known: "Figures") -> dict[str, Any]:
    names = {name: None for _, name, _ in _ROWS} | {name: None for _, name, _ in _DOMAIN_ROWS}
    measured: dict[str, Any] = dict(names)
    for (name, subject), one in known.items():
        value = {"value": one.value, "method": one.method, "n": one.n, "unit": one.unit, "measured_at": one.measured_at}
        if subject:
            measured[name] = {**(measured.get(name) or {}), subject: value}
        else:
            measured[name] = {**(measured.get(name) or {}), "": value}
    kept = ("id", "kind", "name", "path", "sha256", "phase", "domain")
    return {**{name: artifact[name] for name in kept}, "figures": measured}


def _tables(artifacts: Sequence["Artifact"], known: Sequence["Figures"]) -> list[str]:
    """Tables of figures by artifact, as many columns each as fit into 80 characters."""
    labels = _labels(artifacts)
    rows = _rows(artifacts, known)
    first = max(len(row[0]) for row in rows)
    tables: list[list[int]] = [[]]
    width = first
    for at, name in enumerate(labels):
        column = 2 + max(len(name), *(len(row[1 + at]) for row in rows))
        if tables[-1] and width + column > WIDTH:
            tables.append([])
            width = first
        tables[-1].append(at)
        width += column
    return [
        table(("", *(labels[at] for at in columns)), [(row[0], *(row[1 + at] for at in columns)) for row in rows])
        for columns in tables
    ]


def _labels(artifacts: Sequence["Artifact"]) -> list[str]:
    """A name for each column; with its key where two would be alike, cut in its middle where it is long."""
    from core.phases.measured import label

    short = [label(one) for one in artifacts]
    full = [
        label(one, with_key=True) if short.count(name) > 1 else name for one, name in zip(artifacts, short, strict=True)
    ]
    half = NAME_WIDTH // 2
    return [clean(name if len(name) <= NAME_WIDTH else f"{name[: half - 1]}…{name[-half:]}") for name in full]


def _rows(artifacts: Sequence["Artifact"], known: Sequence["Figures"]) -> list[tuple[str, ...]]:
    """Label and a cell an artifact. A figure of tensors by type or of a domain is a row for each there is."""
    rows = [("artifact", *(str(one["id"] or "-") for one in artifacts))]
    for title, name, form in _ROWS:
        rows.append((title, *(_cell(one, name, "", form) for one in known)))
        if name == "bits_per_weight":
            kinds = dict.fromkeys(subject for one in known for what, subject in one if what == "tensors")
            rows += [
                (f"{kind} tensors", *(str(one["tensors", kind].value) if ("tensors", kind) in one else
                                      ("0" if ("bits_per_weight", "") in one else "-") for one in known))
                for kind in kinds
            ]  # fmt: skip
        if name == "fallback_tensors":  # figures of different texts do not compare: said before them
            counts = [one.get(("kl_mean", "")) for one in known]
            rows.append(("scored tokens", *(str(one.n) if one is not None else NOT_MEASURED for one in counts)))
    for title, name, form in _TRIED_ROWS:
        if any((name, "") in one for one in known):
            rows.append((title, *(_cell(one, name, "", form) if (name, "") in one else "-" for one in known)))
    for title, name, form in _DOMAIN_ROWS:
        domains = dict.fromkeys(subject for one in known for what, subject in one if what == name and subject)
        rows += [(f"{title} {domain}", *(_cell(one, name, domain, form) for one in known)) for domain in domains]
        if not domains:
            rows.append((title, *(NOT_MEASURED for _ in known)))
    return rows


def _cell(known: "Figures", name: str, subject: str, form: Callable[[float], str]) -> str:
    one = known.get((name, subject))
    if one is None:
        return NOT_MEASURED
    if not isinstance(one.value, int | float):
        return clean(str(one.value))
    if name == "fallback_tensors" and one.n is not None:
        return f"{one.value:.0f} of {one.n}"
    error = known.get((_ERRORS.get(name, ""), subject))
    if error is None or not isinstance(error.value, int | float):
        return form(one.value)
    return f"{form(one.value)} ± {form(error.value).lstrip('+')}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _change(value: float) -> str:
    return f"{100 * value:+.1f}%"


def _fixed(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}f}"


def _time(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else span(value)


_ROWS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("size", "bytes", size),
    ("bits a weight", "bits_per_weight", _fixed(2)),
    ("in a larger type", "fallback_tensors", _fixed(0)),
    ("KL from F16", "kl_mean", _fixed(4)),
    ("KL, 99th percentile", "kl_p99", _fixed(3)),
    ("same top token", "same_top", _percent),
    ("perplexity", "perplexity", _fixed(2)),
    ("perplexity, change", "perplexity_change", _change),
    ("reading, tokens/s", "prompt_tokens_per_s", _fixed(1)),
    ("writing, tokens/s", "generation_tokens_per_s", _fixed(1)),
    ("loading", "load_s", _time),
    ("peak memory", "peak_rss_bytes", size),
    ("built in", "build_s", _time),
)
# Of files that a technique was tried on: what was kept, and what it was judged by. Absent where there is none.
_TRIED_ROWS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("kept", "kept", str),
    ("mixture, size", "mixture_bytes", size),
    ("plain type, size", "plain_bytes", size),
    ("mixture, KL, base alone", "mixture_kl", _fixed(4)),
    ("plain, KL, base alone", "plain_kl", _fixed(4)),
)
_DOMAIN_ROWS: Sequence[tuple[str, str, Callable[[float], str]]] = (("loss", "held_out_loss", _fixed(3)),)
_ERRORS: Mapping[str, str] = {
    "kl_mean": "kl_se",
    "mixture_kl": "mixture_kl_se",
    "plain_kl": "plain_kl_se",
    "same_top": "same_top_se",
    "perplexity_change": "perplexity_change_se",
    "held_out_loss": "held_out_loss_se",
}
