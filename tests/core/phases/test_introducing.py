"""A domain of one's own, brought in from the console: it is in the catalogue, and messages go to it at once."""

from pathlib import Path

import pytest

from core.catalog import load_catalog
from core.errors import InvalidInput
from tara_tui.store_backend import StoreBackend
from tests.conftest import new_workspace

BEES = """How do I keep wasps away from the hive?
When should I add a second box to the hive?
The queen stopped laying eggs, what now?
My bees are clustering on the outside of the hive
How much honey may I take before winter?
Is it too cold to open the hive today?
"""


def test_a_domain_from_the_console_is_routed_to_at_once(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path / "workspace")
    backend = StoreBackend(workspace)
    with pytest.raises(InvalidInput, match="needs"):
        backend.introduce_domain("beekeeping", "", "", [])
    with pytest.raises(InvalidInput, match="there is no file"):
        backend.introduce_domain("beekeeping", str(tmp_path / "nothing.txt"), "", [])
    assert "beekeeping" not in load_catalog(workspace).domains
    file = tmp_path / "bees.txt"
    file.write_text(BEES, "utf-8")
    assert backend.introduce_domain("beekeeping", str(file), "", []).startswith("beekeeping is in the catalogue")
    assert "hive" in load_catalog(workspace).domains["beekeeping"].keywords
    backend.create_phase(1, ["beekeeping", "healthcare", "business"], "")
    first, *parts = backend.route_text(1, "there are wasps at the hive entrance")
    assert first.startswith("beekeeping (")
    assert all(line.startswith("  ") for line in parts)
    assert any("content" in line for line in parts)
