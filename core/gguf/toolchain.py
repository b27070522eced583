"""The converters that belong to the installed engine.

llama.cpp's conversion scripts are not in the engine's wheel, but its source archive carries exactly the scripts of its
own llama.cpp, so converter and engine never disagree about an architecture. Usage: python -m core.gguf.toolchain
install
"""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import EnvironmentLacks, TaraError
from core.files import discard, first_writable, sha256_of, staging_beside, sync_tree

ENGINE = "llama-cpp-python"
INSTALL_COMMAND = "python -m core.gguf.toolchain install"

# SHA-256 of the source archive of each engine version whose converters were tested.
ARCHIVES = {"0.3.36": "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"}

CONVERT_MODEL = "convert_hf_to_gguf.py"
CONVERT_ADAPTER = "convert_lora_to_gguf.py"
_WANTED = (CONVERT_MODEL, CONVERT_ADAPTER, "conversion/", "gguf-py/gguf/", "LICENSE")


@dataclass(frozen=True)
class ToolchainVersions:
    """What is installed: the engine's version (None: no engine) and the folder of its converters (None: not there)."""

    engine: str | None
    converters: Path | None


def versions() -> ToolchainVersions:
    """The installed engine and converters, without loading either."""
    try:
        engine = engine_version()
    except EnvironmentLacks:
        return ToolchainVersions(None, None)
    return ToolchainVersions(engine, next((folder for folder in _places(engine) if _complete(folder)), None))


def engine_version() -> str:
    """The installed engine's version. Raises EnvironmentLacks when there is no engine."""
    try:
        return importlib.metadata.version(ENGINE)
    except importlib.metadata.PackageNotFoundError as error:
        raise EnvironmentLacks(f"{ENGINE} is not installed", f"pip install {ENGINE}") from error


def converters_folder() -> Path:
    """The folder with the engine's converters. Raises EnvironmentLacks, with the command that installs them."""
    engine = engine_version()
    for folder in _places(engine):
        if _complete(folder):
            return folder
    raise EnvironmentLacks(f"the converters of {ENGINE} {engine} are not installed", f"run: {INSTALL_COMMAND}")


def install_toolchain() -> Path:
    """Install the converters of the installed engine and return their folder; does nothing when they are there.

    Fetches the engine's source archive from the package index pip is set up for (77 MB, seconds) and keeps its
    conversion scripts only. Raises EnvironmentLacks: no index, no room, an archive that is not the pinned one.
    """
    engine = engine_version()
    present = versions().converters
    if present is not None:
        return present
    if engine not in ARCHIVES:
        raise EnvironmentLacks(
            f"no converters are pinned for {ENGINE} {engine}", f"pip install {ENGINE}=={max(ARCHIVES, key=_numbers)}"
        )
    target = first_writable(_places(engine), "the converters")
    discard(target)  # incomplete, or it would have been used
    with tempfile.TemporaryDirectory(prefix="tara-toolchain-") as scratch:
        archive = _download(engine, Path(scratch))
        digest = sha256_of(archive)
        if digest != ARCHIVES[engine]:
            raise EnvironmentLacks(
                f"{archive.name} from the package index has SHA-256 {digest}, expected {ARCHIVES[engine]}",
                "the archive is not the published one: check the package index pip uses",
            )
        staged = staging_beside(target)
        try:
            extract_converters(archive, staged)
            sync_tree(staged)
            os.replace(staged, target)
        except (OSError, tarfile.TarError) as error:
            if not _complete(target):  # else another process was first, with the same files
                raise EnvironmentLacks(f"the converters could not be unpacked: {error}", f"check {target}") from error
        finally:
            discard(staged)
    return target


def extract_converters(archive: Path, destination: Path) -> None:
    """Unpack the conversion scripts of an engine's source archive into the new folder `destination`.

    Every member goes through tarfile's `data` filter: nothing outside the folder, no links out of it, no devices.
    """
    destination.mkdir(parents=True)
    with tarfile.open(archive) as stream:
        stream.extractall(destination, members=_converter_members(stream), filter="data")
    if not _complete(destination):
        raise tarfile.TarError(f"{archive.name} lacks the converters")


def _converter_members(stream: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in stream:
        # <name>-<version>/vendor/llama.cpp/<path>
        parts = member.name.split("/", 3)
        if len(parts) == 4 and parts[1:3] == ["vendor", "llama.cpp"] and parts[3].startswith(_WANTED):
            yield member.replace(name=parts[3], deep=False)


def _download(engine: str, folder: Path) -> Path:
    # pip asks a source archive for its metadata, in a build environment of its own; nothing is compiled.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ENGINE]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), f"{ENGINE}=={engine}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise EnvironmentLacks(
            f"pip could not fetch the source archive of {ENGINE} {engine}: {' '.join(lines[-2:])}",
            "check that this machine reaches a package index, then run it again",
        )
    return archives[0]


def _places(engine: str) -> tuple[Path, Path]:
    """Beside the engine in its environment, else in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"llama.cpp-{engine}"
    return Path(sys.prefix) / "share" / "tara" / name, cache / "tara" / name


def _complete(folder: Path) -> bool:
    # A folder gets its name by a rename after it was unpacked and checked, so its entries are whole.
    return all((folder / name).exists() for name in _WANTED)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def main(arguments: list[str]) -> int:
    """`install` (quiet when there is nothing to do) or `where`; the exit status."""
    try:
        if arguments == ["install"]:
            before = versions().converters
            folder = install_toolchain()
            if before is None:
                print(f"converters of {ENGINE} {engine_version()} installed in {folder}")
        elif arguments == ["where"]:
            print(converters_folder())
        else:
            print(f"usage: {INSTALL_COMMAND}", file=sys.stderr)
            return 2
    except TaraError as error:
        print(error.one_line(), file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
