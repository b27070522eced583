"""The worker: runs the task of one run folder. Usage: python -m core.tasks RUN_DIR

Exit 0: done, and its artifact has its final name. Exit 3: a failure explained by an `error` event. Exit 1: a fault in
TARA; the traceback is in the log.
"""

import importlib
import logging
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from core.devices import VISIBLE
from core.errors import NoRoom, TaraError
from core.files import FULL
from core.loading import loading
from core.tasks.context import Context, PatientLog, Stopped, TaskError
from core.threads import wait_kindly

EXPLAINED = 3
NO_ROOM = 1 << 20  # bytes free, below which a failure is the disk's


def main(run_dir: Path) -> int:
    """Run the task; the exit status. The last event is its end, for the case that nobody lives to see the exit."""
    context = Context(run_dir)
    code = _run(context)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is over: a stop that comes now changes nothing
    context.emit("end", code=code)
    return code


def _load(kind: str) -> Any:
    """The module of a kind of job, the libraries with it."""
    with loading():
        return importlib.import_module(f"core.tasks.{kind.replace('-', '_')}")


def _run(context: Context) -> int:
    output: Any = PatientLog(sys.stdout)
    sys.stdout = sys.stderr = output
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s")
    threads = str(context.spec.get("threads") or os.cpu_count() or 1)
    # Set before torch is loaded: it reads them once. Nothing is fetched from a hub at run time.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = threads
    if context.spec.get("device") is not None:
        os.environ[VISIBLE] = context.spec["device"]  # its own, and no other
    wait_kindly()
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would break into the cleaning up
        context.stop()

    try:
        signal.signal(signal.SIGTERM, stop)
        task = _load(context.spec["kind"])
        task.run(context)
    except (TaskError, TaraError) as error:
        print(f"error: {error.message}" + (f" — {error.hint}" if error.hint else ""))
        failure = getattr(error, "failure", None) or _of_the_disk(error, context)
        context.emit("error", message=error.message, hint=error.hint, failure=failure)
        return EXPLAINED
    except Stopped:
        print("stopped on request")
        context.emit("error", message="stopped on request", hint=None)
        return 128 + signal.SIGTERM
    except MemoryError as error:
        traceback.print_exc()
        context.emit("error", message=f"out of memory: {error}", hint="use a smaller preset", failure="memory")
        return EXPLAINED
    except OSError as error:
        traceback.print_exc()
        where = f" ({error.filename})" if error.filename else ""
        context.emit(
            "error",
            message=f"{error.strerror or error}{where}",
            hint="see the log",
            failure=_of_the_disk(error, context),
        )
        return EXPLAINED
    except Exception as error:  # noqa: BLE001 - the last door: said in the event, whole in the log, and the exit is 1
        traceback.print_exc()
        if _refused_memory(error):
            context.emit("error", message=f"out of memory: {error}", hint="use a smaller preset", failure="memory")
            return EXPLAINED
        if _of_the_disk(error, context) is not None:
            context.emit("error", message=str(error), hint="free disk space", failure="disk")
            return EXPLAINED
        context.emit(
            "error", message=f"{type(error).__name__}: {error}", hint="a fault in TARA or its parts; see the log"
        )
        return 1
    return 0


def _of_the_disk(error: BaseException, context: Context) -> str | None:
    """`disk` where an error came of a full disk: by its kind or its cause's, by its words, or, for native code that
    only says that it could not, because there is no room now."""
    if shutil.disk_usage(context.workspace.root).free < NO_ROOM:
        return "disk"
    one: BaseException | None = error
    while one is not None:
        if isinstance(one, NoRoom) or (isinstance(one, OSError) and one.errno in FULL):
            return "disk"
        if "No space left on device" in str(one):  # safetensors has an error of its own for it
            return "disk"
        one = one.__cause__ or one.__context__
    return None


def _refused_memory(error: BaseException) -> bool:
    """Whether torch was refused memory; it says so with errors of its own, and torch may not be loaded here."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
