"""Adding a domain to the files a person edits: text is put at their end, everything else stays as it is."""

import fcntl
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from core.catalog.loading import (
    DOMAINS_FILE,
    MAPPING_FILE,
    MODEL_FILES,
    PRESETS_FILE,
    SETTINGS_FILE,
    check_catalog,
    load_catalog,
)
from core.catalog.model import EMOTIONS, Domain
from core.catalog.names import is_domain_name
from core.errors import EnvironmentLacks, InvalidInput
from core.files import write_atomically
from core.workspace import Workspace

UNDECIDED = 0.5  # an emotion of which nothing is known speaks neither for nor against a domain


def add_domain_entry(
    workspace: Workspace,
    name: str,
    description: str,
    keywords: Sequence[str],
    *,
    title: str | None = None,
    group: str = "other",
    phase: int | None = None,
    safety_tier: str = "standard",
    emotional_profile: Mapping[str, float] | None = None,
    system_prompt: str | None = None,
    example_question: str = "",
    base: str | None = None,
    planned: str | None = None,
) -> Domain:
    """Add a domain to universal_domains.yaml and its base to domain_model_mapping.yaml; returns it as it reads back.

    Left out: the title is made from the name, the prompt from the title, the base is the one most domains are on, and
    emotions that are not given count 0.5. Raises InvalidInput, with both files as they were, when the name is taken
    or anything about the entry is wrong; EnvironmentLacks when the files cannot be written.
    """
    if not is_domain_name(name):
        raise InvalidInput(f"{name!r} cannot be a domain's name", "use small letters, digits and underscores")
    with _locked(workspace.configs):
        catalog = load_catalog(workspace)
        if name in catalog.domains:
            raise InvalidInput(f"there is a domain {name} already", f"edit it in configs/{DOMAINS_FILE}")
        title = title or name.replace("_", " ").capitalize()
        entry: dict[str, Any] = {
            "title": title,
            "description": description,
            "group": group,
            "phase": phase,
            "safety_tier": safety_tier,
            "keywords": list(keywords),
            "emotional_profile": {**dict.fromkeys(EMOTIONS, UNDECIDED), **(emotional_profile or {})},
            "system_prompt": system_prompt or f"You are a helpful, honest guide to {title[0].lower()}{title[1:]}.",
            "example_question": example_question,
        }
        if not example_question:
            del entry["example_question"]
        usual = Counter(mapped.current for mapped in catalog.mapping.values()).most_common(1)[0][0]
        additions = {
            DOMAINS_FILE: "\n" + _block(name, entry),
            MAPPING_FILE: _line(name, {"current": base or usual, "planned": planned}),
        }
        changed = {file: _appended(workspace.configs / file, text) for file, text in additions.items()}
        _rehearse(workspace, changed)
        _replace(workspace.configs, changed)
        return load_catalog(workspace).domain(name)


def _block(name: str, entry: Mapping[str, Any]) -> str:
    """An entry as the shipped ones are written: a key a line, lists and profiles in brackets."""
    return f"{name}:\n" + "".join(f"  {_line(key, value)}" for key, value in entry.items())


def _line(key: str, value: Any) -> str:
    shown = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=2**31)
    return f"{key}: {shown.removesuffix('...' + chr(10)).rstrip()}\n"


def _appended(path: Path, addition: str) -> bytes:
    """A file's bytes with the addition at the end, in its own kind of line ends."""
    raw = path.read_bytes()
    newline = b"\r\n" if b"\r\n" in raw else b"\n"
    glue = b"" if not raw or raw.endswith(b"\n") else newline
    return raw + glue + addition.encode().replace(b"\n", newline)


def _rehearse(workspace: Workspace, changed: Mapping[str, bytes]) -> None:
    """Check the files as they would become, in another place. Raises InvalidInput with the first fault."""
    with tempfile.TemporaryDirectory(prefix="tara-") as folder:
        trial = Workspace(Path(folder))
        trial.configs.mkdir()
        for file in (DOMAINS_FILE, MAPPING_FILE, PRESETS_FILE, SETTINGS_FILE, *MODEL_FILES.values()):
            shutil.copyfile(workspace.configs / file, trial.configs / file)
        for file, content in changed.items():
            (trial.configs / file).write_bytes(content)
        faults = check_catalog(trial)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InvalidInput(f"the domain was not added: {faults[0]}{more}", "nothing was changed")


def _replace(folder: Path, changed: Mapping[str, bytes]) -> None:
    """Write all files, or leave all as they were."""
    before = {file: (folder / file).read_bytes() for file in changed}
    written: list[str] = []
    try:
        for file, content in changed.items():
            _write(folder / file, content)
            written.append(file)
    except OSError as error:
        for file in written:
            _write(folder / file, before[file])
        raise EnvironmentLacks(f"{folder} cannot be written: {error.strerror}", "nothing was changed") from error


def _write(path: Path, content: bytes) -> None:
    target = path.resolve()  # through a link to the file it names, which stays a link
    mode = target.stat().st_mode & 0o7777
    write_atomically(target, content)
    os.chmod(target, mode)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One addition at a time: the second would otherwise write back what it read before the first."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be opened: {error.strerror}", "make a workspace with tara init") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
