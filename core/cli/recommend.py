"""`tara recommend`: which type and technique to build with, for a model on this machine."""

import textwrap
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import TARGET, json_option, print_json, root_option, see_to_jobs, workspace_of
from core.errors import ExitCode
from core.text import clean

if TYPE_CHECKING:
    from core.phases.choices import Figure, Ranked
    from core.phases.kinds import TargetWish
    from core.phases.recommending import Recommendation

WIDTH = 80
_FIGURES = ("bytes", "largest", "memory", "speed", "kl", "same_top", "loss_change", "seconds")


@click.command("recommend")
@click.argument("of", metavar="[PHASE|DOMAIN]", required=False)
@click.option("--target-size", type=TARGET, metavar="MB|none",
              help="Most bytes of each base's file, in 10^6 (default: the phase's own).")  # fmt: skip
@click.option("--quality", metavar="0..1|kl:X", help="Least share of same top tokens as F16, or most KL divergence.")
@click.option("--speed/--no-speed", default=None, help="Weigh speed against quality (default: the phase's own).")
@click.option("--memory", type=float, metavar="MB", help="Most memory while one chats (default: what is free now).")
@root_option
@json_option
def recommend(
    of: str | None,
    target_size: "TargetWish",
    quality: str | None,
    speed: bool | None,
    memory: float | None,
    root: str | None,
    as_json: bool,
) -> None:
    """Rank the types and techniques a phase (default: the current one) or a domain can be built with, by size, memory,
    speed and quality, and name the best that fits; status 4 where none does."""
    from core.phases.recommending import Wish, recommend_domain, recommend_phase

    see_to_jobs(root)
    workspace, wish = workspace_of(root), Wish(target_size, quality, speed, memory)
    if of is None or (of.isascii() and of.isdigit()):
        found = recommend_phase(workspace, None if of is None else int(of), wish)
    else:
        found = recommend_domain(workspace, of, wish)
    if as_json:
        print_json(_as_json(found))
    else:
        _print(found)
    if found.best is None:
        click.get_current_context().exit(int(ExitCode.REFUSED))


def _print(found: "Recommendation") -> None:
    from core.phases.recommended import lines

    for line in lines(found):
        indent = "     " if line.startswith("   ") else "  "
        click.echo(textwrap.fill(clean(line), WIDTH, subsequent_indent=indent, break_on_hyphens=False))


def _as_json(found: "Recommendation") -> dict[str, Any]:
    bounds = found.bounds
    return {
        "of": found.title,
        "recommended": None if found.best is None else found.best.choice.name,
        "command": None if found.best is None else found.best.choice.command,
        "verdict": found.verdict,
        "bounds": {
            "target_bytes": bounds.target, "memory_bytes": bounds.memory, "memory_of": bounds.memory_of,
            "same_top": bounds.same_top, "kl": bounds.kl, "speed": bounds.speed,
        },
        "choices": [_choice(row) for row in found.rows],
    }  # fmt: skip


def _choice(row: "Ranked") -> dict[str, Any]:
    one = row.choice
    return {
        "quantization": one.quantization,
        "technique": one.technique,
        "fits": row.fits,
        "recommended": row.recommended,
        "available": not one.cannot,
        "built": one.there,
        "why": row.why,
        "note": one.note,
        "command": one.command,
        **{name: _figure(getattr(one, name)) for name in _FIGURES},
        "predicted_bytes": one.predicted_bytes,
        "prediction_error": one.prediction_error,
    }


def _figure(one: "Figure | None") -> dict[str, Any] | None:
    return None if one is None else {"value": one.value, "by": one.by, "source": one.source}
