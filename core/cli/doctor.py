"""`tara doctor`: what this machine and workspace have, what is missing, and how to get it."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from core.cli.common import json_option, print_json, root_option, workspace_of
from core.cli.encoder import LESS
from core.errors import ExitCode, InvalidInput, TaraError
from core.text import size, table
from core.workspace import Workspace

_PACKAGES = ("llama-cpp-python", "torch", "transformers", "peft", "gguf", "textual", "sqlmodel")
_LEAST_MEMORY = 3e9  # bytes: training the embedded base with the starter preset peaks below this
_LEAST_SQLITE = (3, 51, 3)
_SHIPPED_ENCODER = "without routing.encoder in configs/settings.yaml, or TARA_ENCODER, the shipped one is taken"


@dataclass(frozen=True)
class Check:
    """One thing looked at. `state` is ok, warning, missing or damaged; `fix` says how to get it, or mend it."""

    name: str
    state: str
    found: str
    fix: str = ""


@click.command("doctor")
@click.option("--rebuild", is_flag=True, help="Make state.db anew from what can be read of it and the run folders.")
@click.option("--dry-run", is_flag=True, help="With --rebuild: only say what would come of it.")
@click.option("--yes", is_flag=True, help="With --rebuild: do it without asking.")
@root_option
@json_option
def doctor(rebuild: bool, dry_run: bool, yes: bool, root: str | None, as_json: bool) -> None:
    """Check versions, compiler, converters, memory, disk and the workspace. Status 1 where something is missing or
    damaged."""
    if rebuild:
        from core.cli.rebuild import rebuild_store

        rebuild_store(workspace_of(root), dry_run=dry_run, yes=yes, as_json=as_json)
        return
    if dry_run or yes:
        raise click.UsageError("--dry-run and --yes go with --rebuild")
    checks = machine_checks()
    try:
        workspace: Workspace | None = workspace_of(root)
    except TaraError as error:
        checks.append(Check("workspace", "missing", error.message, error.hint or ""))
        checks.append(_encoder(""))
        workspace = None
    if workspace is not None:
        checks += workspace_checks(workspace)
    missing = any(check.state in ("missing", "damaged") for check in checks)
    if as_json:
        print_json({"ok": not missing, "checks": [asdict(check) for check in checks]})
    else:
        click.echo(
            table(("what", "state", "found", "how to get it"), [tuple(asdict(check).values()) for check in checks])
        )
    if missing:
        click.get_current_context().exit(int(ExitCode.FAILED))


def machine_checks() -> list[Check]:
    """What does not depend on a workspace."""
    checks = [Check("python", "ok", platform.python_version())]
    for name in _PACKAGES:
        try:
            checks.append(Check(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(name, "missing", "not installed", f"pip install {name}"))
    for tool, package in (("cc", "a C compiler"), ("c++", "a C++ compiler"), ("cmake", "cmake")):
        where = shutil.which(tool)
        checks.append(
            Check(tool, "ok", where)
            if where
            else Check(tool, "warning", "not found", f"{package}; needed only to compile the engine again")
        )
    checks.append(_converters())
    checks.append(_sqlite())
    checks.append(_memory())
    checks.append(_gpu())
    return checks


def workspace_checks(workspace: Workspace) -> list[Check]:
    """What a workspace needs."""
    from core.catalog import check_catalog, load_catalog
    from core.catalog.bases import locate
    from core.runner.presence import runner_pid

    checks = [Check("workspace", "ok", str(workspace.root))]
    if not os.access(workspace.root, os.W_OK):
        checks.append(Check("writable", "missing", "the workspace's folder is read-only", "chmod, or another folder"))
    faults = check_catalog(workspace)
    checks += [Check("configs", "missing", fault, "edit the file") for fault in faults]
    if not faults:
        catalog = load_catalog(workspace)
        checks.append(Check("configs", "ok", f"{len(catalog.domains)} domains, {len(catalog.bases)} bases"))
        for name in sorted({catalog.mapping[domain].current for domain in catalog.domains}):
            try:
                checks.append(Check(f"base {name}", "ok", str(locate(catalog.bases[name], workspace).path)))
            except TaraError as error:
                checks.append(Check(f"base {name}", "missing", error.message, error.hint or ""))
        checks += _guidance(workspace, catalog.domains)
        checks += _examples(workspace)
    if not faults:
        checks.append(_encoder(catalog.settings.encoder))
    checks.append(_store(workspace.state_db))
    checks.append(_disk(workspace.root))
    pid = runner_pid(workspace)
    checks.append(Check("runner", "ok", f"process {pid}" if pid else "none; the next queued job starts one"))
    return checks


def _examples(workspace: Workspace) -> list[Check]:
    """The messages that the router compares with: one unusable file keeps every set of domains from being routed."""
    from core.catalog.examples import example_files, read_messages

    checks, count = [], 0
    files = example_files(workspace)
    for path in files.values():
        try:
            count += len(read_messages(path))
        except InvalidInput as error:
            checks.append(Check("examples", "missing", error.message, error.hint or "edit the file"))
    return checks or [Check("examples", "ok", f"{count} messages in {len(files)} files")]


def _guidance(workspace: Workspace, domains: Collection[str]) -> list[Check]:
    """The rules of tone: all of their faults, and sections for domains that there are not."""
    from core.catalog.guidance import GUIDANCE_FILE, check_guidance, load_guidance

    if not (workspace.configs / GUIDANCE_FILE).exists():
        return [Check("guidance", "ok", f"no configs/{GUIDANCE_FILE}; the shipped rules hold")]
    faults = check_guidance(workspace)
    if faults:
        return [Check("guidance", "missing", fault, "edit the file") for fault in faults]
    rules = load_guidance(workspace)
    count = len(rules.general) + sum(map(len, rules.domains.values()))
    checks = [Check("guidance", "ok", f"{count} rules, {len(rules.domains)} domains with their own")]
    strangers = sorted(rules.domains.keys() - set(domains))
    if strangers:
        found = f"configs/{GUIDANCE_FILE} has rules for domains that there are not: {', '.join(strangers)}"
        checks.append(Check("guidance", "warning", found, "correct the name, or leave it"))
    return checks


def _store(path: Path) -> Check:
    """The store's file, read through."""
    from core.store.integrity import faults_of
    from core.store.version import MEND, schema_of

    try:
        faults = faults_of(path, thorough=True)
        if faults:
            return Check("state.db", "damaged", f"damaged: {'; '.join(faults)}", MEND)
        schema = schema_of(path)
    except TaraError as error:
        return Check("state.db", "missing", error.message, error.hint or "")
    return Check("state.db", "ok", f"whole, schema {schema}" if schema is not None else "not made yet")


def _converters() -> Check:
    from core.gguf.toolchain import converters_folder

    try:
        return Check("converters", "ok", str(converters_folder()))
    except TaraError as error:
        return Check("converters", "missing", error.message, error.hint or "")


def _encoder(setting: str) -> Check:
    """The router's sentence encoder; messages are routed by keywords without one."""
    from core.encoder import find_encoder
    from core.encoder.graph_file import read_by
    from core.routing.crisis_model import adapter_of

    try:
        path = find_encoder(setting)
    except TaraError as error:
        return Check("encoder", "warning", error.message, error.hint or "")
    if path is None:
        return Check("encoder", "warning", f"switched off; messages are routed by keywords, {LESS}", _SHIPPED_ENCODER)
    if adapter_of(path) is None:
        return Check("encoder", "warning", f"{path} is not the shipped one: {LESS}", _SHIPPED_ENCODER)
    try:
        return Check("encoder", "ok", f"{path}, read by {read_by(path)}")
    except TaraError as error:
        return Check("encoder", "damaged", error.message, error.hint or "")


def _sqlite() -> Check:
    import pysqlite3.dbapi2 as sqlite

    version = tuple(int(part) for part in sqlite.sqlite_version.split("."))
    if version < _LEAST_SQLITE:
        return Check(
            "sqlite", "warning", sqlite.sqlite_version, "pip install -U pysqlite3; older ones can corrupt a WAL"
        )
    return Check("sqlite", "ok", sqlite.sqlite_version)


def _memory() -> Check:
    import psutil

    available = psutil.virtual_memory().available
    found = f"{size(available)} available of {size(psutil.virtual_memory().total)}"
    if available < _LEAST_MEMORY:
        return Check("memory", "warning", found, "training the embedded base wants about 3 GB")
    return Check("memory", "ok", found)


def _disk(root: Path) -> Check:
    free = shutil.disk_usage(root).free
    return (
        Check("disk", "ok", f"{size(free)} free")
        if free > 3e9
        else Check("disk", "warning", f"{size(free)} free", "the starter phase needs about 2 GB")
    )


def _gpu() -> Check:
    from core.devices import program

    where = program()
    return Check("gpu", "ok", f"{where} is there" if where else "none found; everything runs on the CPU")
