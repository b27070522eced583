"""What messages of a workspace are routed among: a phase's release or bundle, or domains of the catalogue."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.catalog import load_catalog
from core.catalog.hashes import cache_file
from core.catalog.model import Settings
from core.chat.holdings import Holdings
from core.deploy.current import release_folder
from core.encoder.client import Encoder, configured_encoder
from core.encoder.graph_file import kept_by
from core.encoder.remembered import RememberingEncoder
from core.errors import InvalidInput, Refused, TaraError
from core.files import write_atomically
from core.routing.data import FILE_NAME, load_routing_data, own_resources
from core.routing.desk import Desk
from core.routing.sets import RoutingSet, routing_set
from core.store.reads import open_reader
from core.workspace import Workspace

ALL = "all"
MOST_KEPT = 8  # sets of domains whose routing data is kept in the cache folder
log = logging.getLogger(__name__)


def desk_of_phase(workspace: Workspace, number: int | None, say: Callable[[str], None] = print) -> Desk:
    """A desk for a phase, by default the current one: of its release or bundle, or, where it is not built, of its
    domains in the catalogue; where there is no phase at all, of the whole catalogue. Raises Refused for a phase that is
    not there or empty."""
    with open_reader(workspace) as reader:
        phases = reader.phases()
    current = next((one.number for one in phases if one.current), None)
    if number is None and current is None:
        return desk_of_domains(workspace, ALL, say)
    found = next((one for one in phases if one.number == (number if number is not None else current)), None)
    if found is None:
        raise Refused(f"there is no phase {number}", "tara list-phases")
    folder = release_folder(workspace, found.number)
    if folder is not None:
        return desk_of_folder(folder, load_catalog(workspace).settings)
    return desk_of_domains(workspace, ",".join(domain.name for domain in found.domains), say)


def desk_of_folder(folder: Path, settings: Settings) -> Desk:
    """A desk for a release or bundle folder, with the encoder and the help lines of a workspace's settings.

    Domains whose files are not there are no candidates.
    """
    desk = Desk.open(folder / FILE_NAME, settings.encoder)
    holdings = Holdings.of_folder(folder)
    desk.unavailable = {name: why for name in holdings.domains if (why := holdings.fault(name)) is not None}
    if (resources := own_resources(settings)) is not None:
        desk.use_resources(resources)
    return desk


def desk_of_domains(workspace: Workspace, names: str, say: Callable[[str], None] = print) -> Desk:
    """A desk for domains of the catalogue, named with commas between them, or ALL. `say` is told where many texts must
    be read first. Raises InvalidInput for a name that is not in the catalogue."""
    catalog = load_catalog(workspace)
    chosen = list(catalog.domains) if names == ALL else [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        raise InvalidInput("no domain is named", f"name some of the catalogue, or {ALL}")
    data = _made(routing_set(workspace, catalog, chosen), catalog.settings.encoder, say)
    return Desk(data, catalog.settings.encoder)


def _made(wanted: RoutingSet, setting: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Routing data of a set, from the cache folder where it was made before."""
    encoder = _encoder(setting)
    read_by = f"{encoder.identity} {kept_by(encoder.gguf)}" if encoder is not None else None
    path = _folder() / f"{wanted.key(read_by)}.json"
    if path.is_file():
        try:
            return load_routing_data(path)
        except InvalidInput as error:  # not whole: it can be made again
            log.warning("%s", error.one_line())
    say(f"making routing data of {len(wanted.domains)} domains, once; it is kept in {path.parent}")
    if encoder is None:
        data = wanted.build()
    else:
        with encoder:
            data = wanted.build(RememberingEncoder(encoder))
    _keep(path, data)
    return data


def _encoder(setting: str) -> Encoder | None:
    """The encoder that is set, None where there is none; why is said by the desk, when it looks for it."""
    try:
        return configured_encoder(setting)
    except TaraError:
        return None


def _folder() -> Path:
    return cache_file().parent / "routing"


def _keep(path: Path, data: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(data, ensure_ascii=False))
        for old in sorted(path.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)[:-MOST_KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:  # a cache that cannot be written costs time, nothing else
        log.warning("routing data cannot be kept in %s: %s", path.parent, error.strerror)
