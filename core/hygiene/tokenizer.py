"""A tokenizer's files: do they parse, which tokens do they name, and which ids those tokens really have."""

from functools import cached_property
from pathlib import Path
from typing import Any

from core.hygiene.findings import Finding, shown
from core.hygiene.reading import Malformed, object_or_empty, read_json, read_object

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
JSON_FILES = (
    "tokenizer.json",
    TOKENIZER_CONFIG,
    SPECIAL_TOKENS,
    "vocab.json",
    "added_tokens.json",
    "chat_template.json",
)
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_UNSET_LENGTH = 10**18  # transformers writes about 1e30 where nobody set a length


class TokenizerFiles:
    """The tokenizer of a folder. Malformed files count as empty here; `check_tokenizer` reports them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = object_or_empty(folder / TOKENIZER_CONFIG)
        self.special = object_or_empty(folder / SPECIAL_TOKENS)

    @property
    def present(self) -> bool:
        """Whether there is a vocabulary from which a tokenizer can be loaded."""
        pair = (self.folder / "vocab.json").is_file() and (self.folder / "merges.txt").is_file()
        return pair or any((self.folder / name).is_file() for name in ("tokenizer.json", *_SENTENCEPIECE))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Every token's id, from tokenizer.json, else vocab.json with added_tokens.json; empty for SentencePiece."""
        tokens: dict[str, int] = {}
        whole = object_or_empty(self.folder / "tokenizer.json")
        model = whole.get("model")
        vocabulary: Any = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocabulary, list):  # unigram: [[token, score], …], the place is the id
            tokens |= {
                entry[0]: index
                for index, entry in enumerate(vocabulary)
                if isinstance(entry, list) and entry and isinstance(entry[0], str)
            }
        for table in (object_or_empty(self.folder / "vocab.json"), vocabulary):
            if isinstance(table, dict):
                tokens |= {token: number for token, number in table.items() if isinstance(number, int)}
        added = object_or_empty(self.folder / "added_tokens.json")
        tokens |= {token: number for token, number in added.items() if isinstance(number, int)}
        listed = whole.get("added_tokens")
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("id"), int) and isinstance(entry.get("content"), str):
                tokens[entry["content"]] = entry["id"]
        return tokens

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Every id's token."""
        return {number: token for token, number in self.ids.items()}

    def special_token(self, name: str) -> str | None:
        """The text of a special token such as `pad_token`, as the tokenizer's own files name it."""
        for source in (self.config, self.special):
            value = source.get(name)
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str) and content:
                return content
        return None

    @property
    def has_chat_template(self) -> bool:
        """Whether a chat template comes with it, in any of the places it may be kept."""
        return (
            bool(self.config.get("chat_template"))
            or (self.folder / "chat_template.jinja").is_file()
            or (self.folder / "chat_template.json").is_file()
            or (self.folder / "chat_templates").is_dir()
        )

    @property
    def length_is_set(self) -> bool:
        """Whether `model_max_length` is given as a usable number."""
        value = self.config.get("model_max_length")
        return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _UNSET_LENGTH


def check_tokenizer(folder: Path, *, required: bool, vocabulary: int | None = None) -> list[Finding]:
    """Check the tokenizer files of a folder. `required` for models; an adapter may rely on its base's.

    `vocabulary` is how many rows the model's embedding has.
    """
    findings: list[Finding] = []
    for name in JSON_FILES:
        path = folder / name
        if path.is_file():
            try:
                read_object(path)
            except Malformed as error:
                findings.append(Finding("error", "tokenizer-unreadable", name, f"{name} {error}"))
    files = TokenizerFiles(folder)
    if not files.present:
        if required:
            findings.append(
                Finding("error", "tokenizer-missing", "", "there is no tokenizer (tokenizer.json, or its older forms)")
            )
        return findings
    if not (folder / TOKENIZER_CONFIG).is_file():
        findings.append(Finding("warning", "tokenizer-config-missing", "", f"there is no {TOKENIZER_CONFIG}"))
    if files.special_token("pad_token") is None:
        fixable = files.special_token("eos_token") is not None
        findings.append(
            Finding(
                "warning",
                "pad-token-missing",
                TOKENIZER_CONFIG,
                "the tokenizer names no pad token, so batches cannot be padded",
                "clean-model takes the tokenizer's own end token" if fixable else None,
            )
        )
    if required and not files.has_chat_template:
        findings.append(
            Finding(
                "warning",
                "chat-template-missing",
                TOKENIZER_CONFIG,
                "there is no chat template: training and chat must be given the same one",
            )
        )
    if not files.length_is_set:
        findings.append(
            Finding(
                "note", "length-missing", TOKENIZER_CONFIG, "model_max_length is not set", "derived from config.json"
            )
        )
    findings += _check_ids(files, vocabulary)
    return findings


def _check_ids(files: TokenizerFiles, vocabulary: int | None) -> list[Finding]:
    findings: list[Finding] = []
    if not files.ids:
        return findings
    highest = max(files.ids.values())
    if vocabulary is not None and highest >= vocabulary:
        findings.append(
            Finding(
                "error",
                "vocabulary-too-large",
                "",
                f"the tokenizer has ids up to {highest}, the model's embedding only {vocabulary} rows",
            )
        )
    for name in ("pad_token", "eos_token", "bos_token", "unk_token"):
        token = files.special_token(name)
        if token is not None and token not in files.ids:
            findings.append(
                Finding(
                    "error" if name == "eos_token" else "warning",
                    "special-token-unknown",
                    TOKENIZER_CONFIG,
                    f"{name} is {shown(token)!r}, which the vocabulary does not have",
                )
            )
    return findings


def check_generation_config(folder: Path) -> list[Finding]:
    """Check that generation_config.json, where there is one, parses."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return []
    try:
        value = read_json(path)
    except Malformed as error:
        return [Finding("error", "config-unreadable", path.name, f"{path.name} {error}")]
    if not isinstance(value, dict):
        return [Finding("error", "config-unreadable", path.name, f"{path.name} is not a JSON object")]
    return []
