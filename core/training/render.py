"""The one rendering of training text: messages to token ids, and which of them the model is to learn."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from jinja2.exceptions import TemplateError

from core.spelling import plain_messages
from core.tasks.context import TaskError
from core.training.data import Example

CHAT_TEMPLATE_FILE = "chat_template.jinja"

# For models that come without a chat template (gpt2, DialoGPT): plain words for the roles, as these models' own
# vocabulary has no turn tokens, and the end-of-text token after each answer, so that generation stops there. The
# line breaks are tokens of their own on both sides of a turn, so a prompt's tokens are a prefix of the whole's.
FALLBACK_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] | trim + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] | trim + '\n' }}"
    "{% else %}{{ 'Assistant: ' + message['content'] | trim + eos_token + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class Rendered:
    """One example as the model sees it. `targets[i]` says whether `input_ids[i]` is to be predicted (from what comes
    before it); `line` is the example's line in its file; `cut` counts the tokens that did not fit."""

    input_ids: tuple[int, ...]
    targets: tuple[bool, ...]
    line: int
    cut: int = 0

    @property
    def target_count(self) -> int:
        """Tokens that are predicted; the first token of a sequence never is."""
        return sum(self.targets[1:])


@dataclass
class RenderReport:
    """What became of a set of examples: `used` of them, `shortened` of those by `cut_tokens` in all, `dropped` left
    without any token to learn (their lines), and whether answers needed an end token the template does not write."""

    used: int = 0
    shortened: int = 0
    cut_tokens: int = 0
    dropped: list[int] = field(default_factory=list)
    end_token_appended: bool = False
    tokens: int = 0
    target_tokens: int = 0

    def one_line(self, sequence_length: int) -> str:
        """The report as a line for the log."""
        text = f"{self.used} examples, {self.tokens} tokens, {self.target_tokens} of them to learn"
        if self.shortened:
            text += f"; {self.shortened} cut to {sequence_length} tokens ({self.cut_tokens} tokens lost)"
        if self.dropped:
            text += f"; {len(self.dropped)} dropped, no answer left (lines {', '.join(map(str, self.dropped[:8]))})"
        return text


def ensure_chat_template(tokenizer: Any) -> bool:
    """Give a tokenizer without a chat template the fallback; returns whether that was needed."""
    if tokenizer.chat_template:
        return False
    if not tokenizer.eos_token:
        raise TaskError("the tokenizer has neither a chat template nor an end-of-text token", "use another base")
    tokenizer.chat_template = FALLBACK_TEMPLATE
    return True


def template_hash(tokenizer: Any) -> str:
    """SHA-256 of the chat template in use, as hex."""
    return hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()


def conversation(example: Example, system_prompt: str) -> list[dict[str, str]]:
    """An example's messages under the domain's system prompt, which takes the place of any it brought along."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, *(message for message in example.messages if message["role"] != "system")]


def render_tokens(tokenizer: Any, messages: Sequence[dict[str, str]], *, generation_prompt: bool = False) -> list[int]:
    """Token ids of messages in the model's chat template; with `generation_prompt`, up to where the answer begins.
    What looks like a special token in a message is spelled out."""
    plain = plain_messages(messages, special_texts(tokenizer))
    try:
        encoded = tokenizer.apply_chat_template(
            plain, tokenize=True, add_generation_prompt=generation_prompt, return_dict=True
        )
    except TemplateError as error:
        raise TaskError(f"the model's chat template refuses these messages: {error}", "use another base") from error
    return [int(token) for token in encoded["input_ids"]]


def special_texts(tokenizer: Any) -> frozenset[str]:
    """How a tokenizer's special tokens are written: what in a person's text must not be read as one."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return frozenset((*tokenizer.all_special_tokens, *added))


def render_example(tokenizer: Any, example: Example, system_prompt: str) -> tuple[Rendered, bool]:
    """Render an example and mark its targets: every assistant turn from its first token to its end-of-turn token.

    A turn's tokens are what rendering up to its end adds to the prompt that asks for it, which is checked to be a
    prefix token for token: so training predicts exactly what generation will be asked for. Returns the example and
    whether an end token had to be appended because the template writes none. Raises TaskError with the line.
    """
    messages = conversation(example, system_prompt)
    whole = render_tokens(tokenizer, messages)
    targets = [False] * len(whole)
    appended = False
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render_tokens(tokenizer, messages[:index], generation_prompt=True)
        until = render_tokens(tokenizer, messages[: index + 1])
        if whole[: len(until)] != until or until[: len(prompt)] != prompt:
            raise TaskError(
                f"line {example.line}: the chat template writes an earlier turn differently once another follows",
                "divide the conversation into single questions and answers, or use another base",
            )
        end = _end_of_turn(tokenizer, until, len(prompt))
        if end is None and index == len(messages) - 1:
            whole, targets = [*until, tokenizer.eos_token_id], [*targets[: len(until)], True]
            appended = True
        stop = len(until) if end is None else end + 1
        targets[len(prompt) : stop] = [True] * (stop - len(prompt))
    return Rendered(tuple(whole), tuple(targets), example.line), appended


def _end_of_turn(tokenizer: Any, ids: Sequence[int], start: int) -> int | None:
    """Position of the special token that closes the turn beginning at `start`, or None. What a template writes after
    it (a line break) is never generated."""
    special = set(tokenizer.all_special_ids) | {
        token for token, added in tokenizer.added_tokens_decoder.items() if added.special
    }
    return next((at for at in range(len(ids) - 1, start - 1, -1) if ids[at] in special), None)


def fit(rendered: Rendered, sequence_length: int) -> Rendered:
    """Cut an example to `sequence_length` tokens: what follows the last target goes first, then the part outside the
    window that holds most targets, of equal windows the one that begins earliest and so keeps most of the prompt."""
    last = max((at for at, target in enumerate(rendered.targets) if target), default=-1)
    ids, targets = rendered.input_ids[: last + 1], rendered.targets[: last + 1]
    if len(ids) <= sequence_length:
        return Rendered(ids, targets, rendered.line)
    before = [0, *accumulate(map(int, targets))]

    def targets_in(start: int) -> int:  # a window's first token is not predicted
        return before[start + sequence_length] - before[start + 1]

    start = max(range(len(ids) - sequence_length + 1), key=lambda at: (targets_in(at), -at))
    window = slice(start, start + sequence_length)
    return Rendered(ids[window], targets[window], rendered.line, cut=len(ids) - sequence_length)


def render_all(
    tokenizer: Any, examples: Iterable[Example], system_prompt: str, sequence_length: int
) -> tuple[list[Rendered], RenderReport]:
    """Render and fit a set of examples. Raises TaskError when nothing is left to learn."""
    report, kept = RenderReport(), []
    for example in examples:
        rendered, appended = render_example(tokenizer, example, system_prompt)
        fitted = fit(rendered, sequence_length)
        report.end_token_appended |= appended
        if not fitted.target_count:
            report.dropped.append(example.line)
            continue
        kept.append(fitted)
        report.used += 1
        report.shortened += fitted.cut > 0
        report.cut_tokens += fitted.cut
        report.tokens += len(fitted.input_ids)
        report.target_tokens += fitted.target_count
    if not kept:
        raise TaskError(
            f"no example has an answer left at a sequence length of {sequence_length}",
            "choose a preset with a longer sequence_length, or give examples with answers",
        )
    return kept, report
