"""Draws docs/console.svg: the console as it is on a workspace. Usage: python docs/make_screenshot.py [WORKSPACE]"""

import asyncio
import sys
from pathlib import Path

from core.workspace import find_workspace
from tara_tui.app import ConsoleApp
from tara_tui.store_backend import StoreBackend

SIZE = (120, 36)
TARGET = Path(__file__).parent / "console.svg"
LONGEST_WAIT_S = 20.0


async def main(root: str | None) -> None:
    """Open the console without a terminal, wait until the store and the machine were read, and save what it shows."""
    app = ConsoleApp(StoreBackend(find_workspace(root)))
    async with app.run_test(size=SIZE) as pilot:
        async with asyncio.timeout(LONGEST_WAIT_S):
            while app.snapshot is None or not app.snapshot.phases:
                await pilot.pause(0.1)
            await pilot.pause(2.5)  # a sample of the meters
        TARGET.write_text(app.export_screenshot(title="tara"), "utf-8")
    print(f"{TARGET.name}: {SIZE[0]}x{SIZE[1]}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
