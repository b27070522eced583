"""Artifacts side by side: what is known of each as words, in tables that fit a width."""

from collections.abc import Callable, Mapping, Sequence

from core.phases.measured import Artifact, Figures, label
from core.text import NOT_MEASURED, Table, clean, columns_within, size, span

NAME_WIDTH = 24


def tables(artifacts: Sequence[Artifact], known: Sequence[Figures], width: int) -> list[Table]:
    """Tables of figures by artifact, a row a figure, as many columns each as fit into `width` characters where two
    spaces are between columns."""
    return columns_within(("", *_labels(artifacts)), _rows(artifacts, known), width)


def _labels(artifacts: Sequence[Artifact]) -> list[str]:
    """A name for each column; with its key where two would be alike, cut in its middle where it is long."""
    short = [label(one) for one in artifacts]
    full = [
        label(one, with_key=True) if short.count(name) > 1 else name for one, name in zip(artifacts, short, strict=True)
    ]
    half = NAME_WIDTH // 2
    return [clean(name if len(name) <= NAME_WIDTH else f"{name[: half - 1]}…{name[-half:]}") for name in full]


def _rows(artifacts: Sequence[Artifact], known: Sequence[Figures]) -> list[tuple[str, ...]]:
    """Label and a cell an artifact. A figure of tensors by type or of a domain is a row for each there is."""
    rows = [("artifact", *(str(one["id"] or "-") for one in artifacts))]
    for title, name, form in ROWS:
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
    for title, name, form in TRIED_ROWS:
        if any((name, "") in one for one in known):
            rows.append((title, *(_cell(one, name, "", form) if (name, "") in one else "-" for one in known)))
    for title, name, form in DOMAIN_ROWS:
        domains = dict.fromkeys(subject for one in known for what, subject in one if what == name and subject)
        rows += [(f"{title} {domain}", *(_cell(one, name, domain, form) for one in known)) for domain in domains]
        if not domains and name not in _OF_MERGED:
            rows.append((title, *(NOT_MEASURED for _ in known)))
    return rows


def _cell(known: Figures, name: str, subject: str, form: Callable[[float], str]) -> str:
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


ROWS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("size", "bytes", size),
    ("bits a weight", "bits_per_weight", _fixed(2)),
    ("in a larger type", "fallback_tensors", _fixed(0)),
    ("held against", "reference", str),
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
TRIED_ROWS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("kept", "kept", str),
    ("mixture, size", "mixture_bytes", size),
    ("plain type, size", "plain_bytes", size),
    ("mixture, KL, base alone", "mixture_kl", _fixed(4)),
    ("plain, KL, base alone", "plain_kl", _fixed(4)),
    ("beside plain, same bytes", "verdict", str),
)
DOMAIN_ROWS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("loss", "held_out_loss", _fixed(3)),
    ("change left,", "change_kept", _percent),
    ("change, error,", "change_error", _percent),
)
_OF_MERGED = ("change_kept", "change_error")  # of files that a domain is merged into; no row where there is none
_ERRORS: Mapping[str, str] = {
    "kl_mean": "kl_se",
    "mixture_kl": "mixture_kl_se",
    "plain_kl": "plain_kl_se",
    "same_top": "same_top_se",
    "perplexity_change": "perplexity_change_se",
    "held_out_loss": "held_out_loss_se",
}
