"""A client may import the hygiene room: it brings no tensor library along."""

import subprocess
import sys


def test_no_heavy_import() -> None:
    code = (
        "import sys, core.hygiene, core.hygiene.fixes; "
        "print([name for name in ('torch', 'transformers', 'peft', 'llama_cpp', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
