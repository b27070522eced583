"""Taking a domain out of a phase; what was trained and measured of it stays."""

from core.errors import InvalidInput, Refused
from core.lifecycle import UNDONE
from core.store.engine import dump, open_store
from core.store.reads import open_reader
from core.store.tables import Domain, Note
from core.workspace import Workspace


def remove_domain(workspace: Workspace, number: int, name: str) -> None:
    """Take a domain out of a phase. Its adapter, measurements and jobs stay, and count again where it is put into a
    phase; bundles and releases that were built with it stay as they are.

    Raises InvalidInput for an unknown phase or a domain that is not in it, Refused while a job of it is not over.
    """
    with open_reader(workspace) as reader:
        phase = reader.phase(number)
    view = next((one for one in phase.domains if one.name == name), None)
    if view is None:
        known = ", ".join(one.name for one in phase.domains) or "none"
        raise InvalidInput(f"{name} is not in phase {number} (its domains: {known})")
    if view.job is not None and view.job.state in UNDONE:
        raise Refused(
            f"{name} has a job that is not over ({view.job.id})", f"tara jobs cancel {view.job.id}, then again"
        )
    with open_store(workspace).write() as session:
        row = session.get(Domain, name)
        assert row is not None
        row.phase, row.position = None, 0
        session.add(Note(subject=f"phase {number}", action="remove-domain", detail=dump({"domain": name})))
