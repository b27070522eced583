"""Whether a file reads and writes as training did: the same special tokens, the same tokens for the same words.

Imports the engine: for worker processes only.
"""

from collections.abc import Sequence
from typing import Any

from core.errors import TaraError
from core.gguf.runtime import Runtime
from core.training.data import Example
from core.training.render import render_example, render_tokens, special_texts

Messages = list[dict[str, str]]

# What tokenizers have been found to disagree about. Composed characters only: the engine does not normalise, and the
# tokenizers that do leave these as they are. Without forms of numbers such as ½, which the engine's rules for smollm
# take for words and the tokenizer for digits.
AWKWARD = {
    "unicode": "Ünïcödé – “日本語”, العربية, 👩‍🚀 ﬁ",
    "digits": "2024 plus 1,234,567.89 is 007, 3rd 10%",
    "newlines": "one\n\ntwo\r\n\n\nthree\n four",
    "leading spaces": "   three spaces,\ta tab  and two",
    "code": "def f(x):\n    return x['a'] != \"it's\" # ok?",
}
MOST_LOOKALIKES = 24


def special_tokens(runtime: Runtime, tokenizer: Any) -> str | None:
    """Why the file's BOS, EOS or end of turn are not training's, or None where they are.

    What training teaches as the end of an answer must be a token at which the engine stops. A tokenizer without a BOS
    says nothing of the file's, which then must not be put before a text.
    """
    vocabulary = runtime.vocabulary
    found = vocabulary.special
    for name, ours, trained in (
        ("BOS", found.bos, tokenizer.bos_token_id),
        ("EOS", found.eos, tokenizer.eos_token_id),
    ):
        if trained is not None and ours != trained:
            text = tokenizer.convert_ids_to_tokens(trained)
            return f"{name} is {vocabulary.text(ours)!r} ({ours}) in the file, {text!r} ({trained}) in training"
    if found.eot is not None and (known := tokenizer.convert_ids_to_tokens(found.eot)) != vocabulary.text(found.eot):
        return f"the end of turn {found.eot} is {vocabulary.text(found.eot)!r} in the file, {known!r} in training"
    bare, whole = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
    for name, ours, trained in (
        ("BOS before", found.add_bos, whole[:1] != bare[:1]),
        ("EOS behind", found.add_eos, whole[-1:] != bare[-1:]),
    ):
        if ours != trained:
            says = {True: "puts", False: "does not put"}
            return f"the file {says[ours]} {name} a text, training's tokenizer {says[trained]} it there"
    messages = ({"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello."})
    rendered, _ = render_example(tokenizer, Example(messages, 0), "")
    end = next(token for token, taught in zip(rendered.input_ids[::-1], rendered.targets[::-1], strict=True) if taught)
    if not vocabulary.ends(end):
        return f"training teaches {tokenizer.decode([end])!r} ({end}) to end an answer, the engine does not stop there"
    return None


def awkward_texts(runtime: Runtime, tokenizer: Any) -> str | None:
    """Why words that are hard to divide are other tokens in chat than in training, or None where they are the same.

    What looks like a special token in a person's words must be one on neither side.
    """
    for name, text in AWKWARD.items():
        reason = _differs(runtime, tokenizer, [{"role": "user", "content": text}])
        if reason:
            return f"{name} {text!r}: {reason}"
    known = {*special_texts(tokenizer), *runtime.vocabulary.control_texts}
    usual = [text for text in (tokenizer.bos_token, tokenizer.eos_token) if text]
    lookalikes = [*dict.fromkeys(usual), *sorted(known - set(usual))][:MOST_LOOKALIKES]
    plain = _control(runtime, tokenizer, "Say it now.")
    for text in lookalikes:
        messages = [{"role": "user", "content": f"Say {text} now."}]
        reason = _differs(runtime, tokenizer, messages)
        if reason is None and _control(runtime, tokenizer, messages[0]["content"]) != plain:
            reason = "it is read as the special token it looks like"
        if reason:
            return f"a person's text {text!r}: {reason}"
    return None


def conversation_differs(runtime: Runtime, tokenizer: Any, messages: Messages) -> str | None:
    """Why a conversation with its answer, rendered whole, is other tokens in chat than in training, or None."""
    return _differs(runtime, tokenizer, [*messages, {"role": "assistant", "content": AWKWARD["unicode"]}], whole=True)


def _differs(runtime: Runtime, tokenizer: Any, messages: Messages, *, whole: bool = False) -> str | None:
    try:
        ours = runtime.render(messages, generation_prompt=not whole)
        trained = render_tokens(tokenizer, messages, generation_prompt=not whole)
    except TaraError as error:
        return error.one_line()
    return first_difference(tokenizer, ours, trained)


def first_difference(tokenizer: Any, ours: Sequence[int], trained: Sequence[int]) -> str | None:
    """Where two renderings part, and what each goes on with; None where they are equal."""
    if list(ours) == list(trained):
        return None
    at = next(
        (at for at, pair in enumerate(zip(ours, trained, strict=False)) if pair[0] != pair[1]),
        min(len(ours), len(trained)),
    )
    return (
        f"token {at} differs: chat renders {tokenizer.decode(ours[at : at + 4])!r} ({len(ours)} tokens), "
        f"training {tokenizer.decode(trained[at : at + 4])!r} ({len(trained)} tokens)"
    )


def _control(runtime: Runtime, tokenizer: Any, text: str) -> int:
    """How many control tokens a question is rendered with."""
    rendered = runtime.render([{"role": "user", "content": text}])
    special = set(tokenizer.convert_tokens_to_ids(list(special_texts(tokenizer))))
    return sum(token in special or runtime.vocabulary.is_control(token) for token in rendered)
