"""The engine: one base GGUF, mapped and loaded once, and GGUF adapters put on and taken off it.

Imports llama_cpp, whose faults end the process: for worker and engine processes only. What is owned here is freed here,
in this order: adapters off the context, adapters, context, model.
"""

import ctypes
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from jinja2.exceptions import TemplateError

from core.errors import InvalidInput, TaraError
from core.gguf.engine_log import capture_log, last_error, raise_interruption
from core.gguf.generation import ENDED, Clock, Generation
from core.gguf.inspect import inspect_gguf
from core.gguf.llama import Jinja2ChatFormatter, llama_cpp
from core.gguf.sampling import Sampler, Sampling, TextAssembler, token_bytes
from core.gguf.vocabulary import Vocabulary
from core.gguf.warm import WARM_ADAPTERS, EngineError, WarmAdapters, check_provenance
from core.spelling import plain_messages

DEFAULT_CONTEXT = 2048
BATCH_TOKENS = 256  # a prompt is evaluated in steps of this, between which a request to stop is heard


class Runtime:
    """A loaded base model. One answer at a time, one thread at a time.

    `outputs` is for how many positions of a step logits can be had: 1 for generation, more for scoring a text, which
    costs `outputs` x vocabulary floats. A prompt is evaluated `step` tokens at a time. Raises InvalidInput for a file
    that is no model, EngineError when the engine refuses it.
    """

    def __init__(
        self,
        gguf: Path,
        *,
        n_ctx: int = DEFAULT_CONTEXT,
        threads: int = 1,
        warm_adapters: int = WARM_ADAPTERS,
        outputs: int = 1,
        step: int = BATCH_TOKENS,
    ) -> None:
        self.info = inspect_gguf(gguf)
        if self.info.kind != "model":
            raise InvalidInput(f"{gguf} is an {self.info.kind}, not a model", "give the base it belongs to")
        capture_log()
        self._model: Any = None
        self._context: Any = None
        self._warm_adapters = warm_adapters
        self._outputs = outputs
        self._attached: Any = None
        self._evaluated: list[int] = []
        self._whole = 0  # of them, how many at the beginning were evaluated in whole steps
        self._batch = step
        self._formatter: Jinja2ChatFormatter | None = None
        started = time.monotonic()
        try:
            self._load(gguf, n_ctx, threads)
        except BaseException:
            self.close()
            raise
        self.load_s = time.monotonic() - started

    def _load(self, gguf: Path, n_ctx: int, threads: int) -> None:
        last_error()
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        settings.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP
        # Repacked weights would be a private copy beside the mapped file, and adapters cannot lie in such buffers.
        settings.use_extra_bufts = False
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(gguf), settings)
        if not self._model:
            raise EngineError(f"llama.cpp could not load {gguf}: {last_error() or 'no reason given'}", "see the log")
        self._adapters = WarmAdapters(self._model, self._warm_adapters, self._let_go)
        trained = int(llama_cpp.llama_model_n_ctx_train(self._model))
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = min(n_ctx, trained) if trained > 0 else n_ctx
        options.n_batch = options.n_ubatch = min(self._batch, options.n_ctx)
        options.n_outputs_max = self._outputs  # with logits of all tokens it would be vocabulary x batch floats
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise EngineError(
                f"llama.cpp has no room for a context of {options.n_ctx} tokens: {last_error()}", "see the log"
            )
        raise_interruption()
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary = Vocabulary(self._vocabulary)
        self.vocabulary_size = self.vocabulary.size
        self.context_length = int(llama_cpp.llama_n_ctx(self._context))  # may be rounded up: no measure for a step
        self._step = int(llama_cpp.llama_n_batch(self._context))

    # -- adapters ------------------------------------------------------------------------------------------------

    def attach(self, adapter: Path | None, *, base_sha256: str | None = None) -> bool:
        """Put an adapter on the base in place of the one that is on it; None takes it off. Whether that was a change.

        The key-value cache is cleared at every change: what another adapter computed must not be attended to. An
        adapter is refused when it does not name `base_sha256`, where that is given, as its base. Adapters stay loaded;
        the one not used for longest is freed when there are too many. Raises InvalidInput, Refused or EngineError; the
        base is then without an adapter.
        """
        if adapter is None:
            return self._put_on(None)
        try:
            handle = self._adapters.get(adapter)
            if base_sha256 is not None:
                check_provenance(adapter, handle, self.info.path.name, base_sha256)
        except TaraError:
            self._put_on(None)
            raise
        return self._put_on(handle)

    def _let_go(self, handle: Any) -> None:
        if handle is self._attached:
            self._put_on(None)

    def _put_on(self, handle: Any) -> bool:
        if handle is self._attached:
            return False
        if handle is None:
            failed = llama_cpp.llama_set_adapters_lora(self._context, None, 0, None)
        else:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(handle)
            failed = llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(1.0))
        self.forget()
        if failed:
            raise EngineError(f"llama.cpp could not change the adapter: {last_error() or failed}", "see the log")
        self._attached = handle
        return True

    # -- prompts -------------------------------------------------------------------------------------------------

    def render(self, messages: Sequence[dict[str, str]], *, generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation, by the file's own chat template, up to where the answer begins; without
        `generation_prompt`, to the end of the last message.

        The template is foreign code: jinja2's immutable sandbox renders it. What looks like a special token in a
        message is spelled out.
        """
        if self._formatter is None:
            if not self.info.chat_template:
                raise EngineError(f"{self.info.path.name} has no chat template", "convert the base again")
            try:
                self._formatter = Jinja2ChatFormatter(
                    self.info.chat_template,
                    eos_token=self.vocabulary.text(self.vocabulary.special.eos),
                    bos_token=self.vocabulary.text(self.vocabulary.special.bos),
                )
            except TemplateError as error:
                raise EngineError(f"the chat template of {self.info.path.name} is faulty: {error}") from error
        self._formatter.add_generation_prompt = generation_prompt
        plain: Any = plain_messages(messages, self.vocabulary.control_texts)
        try:
            prompt = self._formatter(messages=plain).prompt
        except (TemplateError, ValueError) as error:
            raise EngineError(
                f"the chat template refuses these messages: {error}", "start a new conversation"
            ) from error
        return self.tokenize(prompt)

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of rendered text: special tokens are read as such, none are added (the template writes them).

        Without `special` the text is plain: what looks like a special token is spelled out.
        """
        data = text.encode()
        size = len(data) + 8
        buffer = (llama_cpp.llama_token * size)()
        count = int(llama_cpp.llama_tokenize(self._vocabulary, data, len(data), buffer, size, False, special))
        if count < 0:
            raise EngineError(f"llama.cpp could not tokenize a text of {len(data)} bytes", "see the log")
        return list(buffer[:count])

    # -- evaluation ----------------------------------------------------------------------------------------------

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits of the token after `tokens`, shape [vocabulary], evaluated afresh: equal calls give equal numbers."""
        self.forget()
        self._evaluate(list(tokens))
        values = llama_cpp.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(values, shape=(self.vocabulary_size,)).astype(np.float32, copy=True)

    def scored(self, tokens: Sequence[int], wanted: Sequence[bool]) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """Evaluate a text afresh; for each run of wanted positions, where it is and its logits.

        `wanted[i]` asks for the logits of the token after `tokens[: i + 1]`. Yields the positions among the wanted
        ones, as a slice of their count, with an array of shape [at most `outputs`, vocabulary], which is the engine's
        own memory and holds until the next one is asked for. Raises EngineError when the text does not fit the context.
        """
        if len(tokens) > self.context_length:
            raise EngineError(
                f"the text has {len(tokens)} tokens, the context holds {self.context_length}", "score shorter windows"
            )
        self.forget()
        done = 0
        for step in _steps(wanted, self._step, self._outputs):
            count = sum(wanted[step])
            self._decode(list(tokens[step]), [bool(one) for one in wanted[step]])
            if count:
                values = llama_cpp.llama_get_logits(self._context)
                yield slice(done, done + count), np.ctypeslib.as_array(values, shape=(count, self.vocabulary_size))
            done += count

    def extend(self, tokens: Sequence[int]) -> None:
        """Evaluate tokens behind those the context holds, whatever follows them: for measuring speed."""
        for at in range(0, len(tokens), self._step):
            self._decode(list(tokens[at : at + self._step]))

    def beginning(self) -> int | None:
        """The token a text begins with where this vocabulary wants one there, else None."""
        special = self.vocabulary.special
        return special.bos if special.add_bos else None

    def generate(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        cancelled: Callable[[], bool] | None = None,
        begun: Sequence[int] = (),
    ) -> Generation:
        """Continue a prompt by at most `max_tokens` tokens; greedily without `sampling`.

        What the context still holds of the same conversation in whole steps is not evaluated again, and nothing else
        is kept: so the numbers, and with them the answer, are those of a fresh evaluation to the last bit. `cancelled`
        is asked between steps. `begun` are tokens of this answer that were given before: they are gone through again
        as they were made, so that the answer goes on as it would have; their text is in the generation's but in none
        of its pieces. Raises EngineError when the prompt leaves no room in the context.
        """
        if len(tokens) + 1 > self.context_length:
            raise EngineError(
                f"the conversation has {len(tokens)} tokens, the context holds {self.context_length}",
                "start a new conversation or shorten the message",
            )
        prompt, chosen = list(tokens), sampling or Sampling()

        def pieces(generation: Generation) -> Iterator[str]:
            with Sampler(chosen) as sampler:
                going = cancelled or (lambda: False)
                yield from self._pieces(generation, prompt, max_tokens, sampler, stop, going, begun)

        return Generation(pieces, len(prompt))

    def _pieces(
        self,
        generation: Generation,
        prompt: list[int],
        max_tokens: int,
        sampler: Sampler,
        stop: Sequence[str],
        cancelled: Callable[[], bool],
        begun: Sequence[int],
    ) -> Iterator[str]:
        clock = Clock()
        text = TextAssembler(stop)
        generation.stopped_by = "cancelled"  # also when the consumer leaves; a better reason replaces it
        generation.reused_tokens = self._evaluate(prompt, cancelled)
        while not cancelled():
            token = sampler.sample(self._context)
            said = len(generation.tokens) < len(begun)
            token = begun[len(generation.tokens)] if said else token
            clock.tick(generation)
            if self.vocabulary.ends(token):
                generation.stopped_by = "eos"
                break
            generation.tokens.append(token)
            piece = text.feed(token_bytes(self._vocabulary, token))
            generation.text += piece
            if piece and not said:
                with clock.paused():
                    yield piece
            if text.stopped:
                generation.stopped_by = "stop"
                break
            if len(generation.tokens) >= max_tokens or len(self._evaluated) + 1 > self.context_length:
                generation.stopped_by = "length"
                break
            self._decode([token])
        rest = text.finish(whole=generation.stopped_by in ENDED)
        if rest:
            generation.text += rest
            yield rest

    def _evaluate(self, tokens: list[int], cancelled: Callable[[], bool] = lambda: False) -> int:
        """Bring the context to exactly `tokens`; returns how many of them it held already.

        Numbers depend in their last bits on how many tokens are evaluated together, and rounding in quantized
        matrices blows that up: logits of the same text by other steps differ by up to 1. So only what was evaluated
        in the very steps in which it would be now is used again.
        """
        if not tokens:
            raise EngineError("there is nothing to continue", "give a prompt")
        common = 0
        while common < min(len(tokens) - 1, len(self._evaluated)) and tokens[common] == self._evaluated[common]:
            common += 1  # the last token is evaluated in any case: its logits are wanted
        common = min(common, self._whole) // self._step * self._step
        memory = llama_cpp.llama_get_memory(self._context)
        if common < len(self._evaluated):
            if common and llama_cpp.llama_memory_seq_rm(memory, -1, common, -1):
                del self._evaluated[common:]
                self._whole = common
            else:  # some models cannot forget the end only
                self.forget()
                common = 0
        for at in range(common, len(tokens), self._step):
            if cancelled():
                break
            self._decode(tokens[at : at + self._step])
            self._whole = len(self._evaluated) // self._step * self._step
        return common

    def _decode(self, tokens: list[int], wanted: list[bool] | None = None) -> None:
        """Evaluate tokens behind those the context holds; logits of those wanted, by default of the last."""
        ids = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(ids, len(tokens))
        if wanted is not None:
            batch.logits = (ctypes.c_int8 * len(tokens))(*wanted)
        status = int(llama_cpp.llama_decode(self._context, batch))
        if status:
            self.forget()
            raise EngineError(
                f"llama.cpp could not evaluate {len(tokens)} tokens: {last_error() or status}", "see the log"
            )
        self._evaluated += tokens

    def forget(self) -> None:
        """Empty the context: the next prompt is evaluated in whole."""
        self._evaluated, self._whole = [], 0
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    # -- ownership -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free everything; may be called twice."""
        if self._context:
            llama_cpp.llama_set_adapters_lora(self._context, None, 0, None)
        self._attached = None
        if self._model:
            self._adapters.free()
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()


def _steps(wanted: Sequence[bool], tokens: int, outputs: int) -> Iterator[slice]:
    """Divide a text into steps of at most `tokens` tokens, of which at most `outputs` are wanted."""
    start, held = 0, 0
    for at, one in enumerate(wanted):
        if at - start == tokens or (one and held == outputs):
            yield slice(start, at)
            start, held = at, 0
        held += bool(one)
    if start < len(wanted):
        yield slice(start, len(wanted))
