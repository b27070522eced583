"""The compression ratio that packaging records, as commands and the console show it."""

import json

from click.testing import CliRunner

from core.cli.show import show_phase
from core.store.engine import open_store
from core.store.reads import open_reader
from core.store.tables import Measurement
from core.workspace import Workspace
from tara_tui.details import phase_lines

HOW = "bytes of the f16 bases over the quantized bases"


def shown(workspace: Workspace, *options: str) -> str:
    found = CliRunner().invoke(show_phase, ["1", "--root", str(workspace.root), *options])
    assert found.exit_code == 0, found.output
    return found.output


def test_the_ratio_is_the_recorded_one_wherever_it_is_shown(built: Workspace) -> None:
    with open_reader(built) as reader:
        assert reader.phase(1).compression_ratio is None
        assert any(line.startswith("compression   not measured") for line in phase_lines(reader.phase(1)))
    assert "compression: not measured" in shown(built)
    told = json.loads(shown(built, "--json"))
    assert (told["compression_ratio"], told["measured"]) == (None, {})
    with open_store(built).write() as session, open_reader(built) as reader:
        bundle = next(row for row in reader.artifacts(kind="bundle"))
        for value in (1.5, 2.5811):  # packaged again: the newest counts
            session.add(Measurement(artifact_id=bundle["id"], name="compression_ratio", value=value, method=HOW))
    assert f"compression: 2.58, {HOW}" in shown(built)
    told = json.loads(shown(built, "--json"))
    assert told["compression_ratio"] == 2.5811
    assert told["measured"]["compression_ratio"]["method"] == HOW
    with open_reader(built) as reader:
        (line,) = [line for line in phase_lines(reader.phase(1)) if line.startswith("compression")]
    assert "2.58" in line
    assert HOW in line
