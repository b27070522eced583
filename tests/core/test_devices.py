"""What nvidia-smi says of the machine's GPUs, and which of them are ours."""

import subprocess
from pathlib import Path

import pytest

from core.devices import VISIBLE, gpus, parse, visible

TWO = "GPU-aa11, 0, NVIDIA A100-SXM4, 7, 1024, 81920\nGPU-bb22, 1, NVIDIA A100-SXM4, [N/A], 0, 81920\n"


def test_lines_are_read_and_what_is_no_figure_is_left_out() -> None:
    first, second = parse(TWO)
    assert (first.uuid, first.index, first.name, first.percent) == ("GPU-aa11", 0, "NVIDIA A100-SXM4", 7)
    assert (first.used, first.total, first.free) == (1024 << 20, 81920 << 20, (81920 - 1024) << 20)
    assert second.percent is None
    assert parse("GPU-cc, 2, MIG, 0, [N/A], [N/A]\nNo devices were found\n\n") == ()


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        (None, ["GPU-aa11", "GPU-bb22"]),
        ("1", ["GPU-bb22"]),
        ("1,0", ["GPU-bb22", "GPU-aa11"]),
        ("GPU-aa", ["GPU-aa11"]),
        ("", []),
        ("-1", []),
        ("0,7,1", ["GPU-aa11"]),  # as CUDA does: what comes after an unknown one is not seen
    ],
)
def test_the_environment_narrows_them(chosen: str | None, kept: list[str]) -> None:
    assert [gpu.uuid for gpu in visible(parse(TWO), chosen)] == kept


def test_the_program_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nprintf "{TWO}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv(VISIBLE, "1")
    assert [gpu.uuid for gpu in gpus(str(tool))] == ["GPU-bb22"]
    assert (tmp_path / "asked").read_text().startswith("--query-gpu=uuid,")
    monkeypatch.setattr("core.devices.TIMEOUT_S", 0.2)
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(subprocess.TimeoutExpired):
        gpus(str(tool))
