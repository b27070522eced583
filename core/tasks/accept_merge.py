"""Job `accept-merge`: a unified model goes on only where no domain loses more than the margin."""

import json
from pathlib import Path

from core.files import sha256_of
from core.tasks.context import Context, TaskError
from core.training.margin import kept_of


def run(ctx: Context) -> None:
    """params {name, base_name, margin}, inputs {check: file of `check-merge`} -> artifact `merge-verdict`, a JSON file.

    Fails where one loses more, so that what needs it is not done; all domains' figures are in the log and in the store.
    """
    check = json.loads(Path(ctx.inputs["check"]).read_text("utf-8"))
    margin, rows = float(ctx.params["margin"]), kept_of(check["rows"])
    for row in rows:
        print(row.one_line(margin), flush=True)
    losing = [row for row in rows if not row.within(margin)]
    if losing:
        raise TaskError(
            f"{ctx.params['base_name']} unified by {check['method']} loses more than the margin of {margin:.2%} on "
            f"{len(losing)} of {len(rows)} domains: {', '.join(f'{row.domain} {row.change:+.1%}' for row in losing)}",
            "--merge none or exact keeps each domain as it is; or another --merge-method, a wider --margin",
        )
    assert ctx.out is not None
    found = {
        "name": ctx.params["name"],
        "method": check["method"],
        "margin": margin,
        "rows": [row.as_dict(margin) for row in rows],
    }
    with ctx.staging() as staged:
        staged.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", "utf-8")
        digest, size = sha256_of(staged), staged.stat().st_size
    ctx.artifact("merge-verdict", ctx.params["name"], ctx.out, sha256=digest, bytes=size, margin=margin)
    ctx.result(margin=margin, domains=len(rows), worst=max(row.change for row in rows))
