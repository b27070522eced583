"""Forms: what they show, what they refuse, and what they ask for."""

from pathlib import Path

from core.phases.merging import MergeWish
from core.phases.service import Asked
from tara_tui.dialogs import FormDialog
from tests.tara_tui.fake_backend import FakeBackend
from tests.tara_tui.screen import console


async def test_form_stays_with_the_reason_until_it_is_done(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("n")
        await it.shows("Create a phase", "configured: business, education")
        await it.press("tab")
        await it.write("business, nope[/x]")
        await it.press("enter")
        await it.shows("no domain nope[/x]", "see configs/", "Create a phase")
        await it.press(*["backspace"] * 18)
        await it.write("travel")
        await it.press("enter")
        await it.until(lambda: it.backend.wishes == [("create", 3, "travel", "")], "the wish")
        await it.until(lambda: not isinstance(it.app.screen, FormDialog), "the form closes")


async def test_how_a_phase_is_built_is_asked_and_shown_as_it_is_set(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("B")
        await it.shows(
            "Build phase 1 as", "none, exact or unified", "ties, cat, dare or linear", "yes or no", "Esc leaves"
        )
        await it.press("tab")
        await it.press(*["backspace"] * len("standard"))
        await it.write("hybrid 90.5")
        await it.press("tab")
        await it.press(*["backspace"] * len("none"))
        await it.write("unified")
        await it.press("tab", "tab")
        await it.write("0.05")
        await it.press("tab")
        await it.press(*["backspace"] * len("no"))
        await it.write("maybe")
        await it.press("enter")
        await it.shows("repair is yes or no, not 'maybe'", "Build phase 1 as")
        await it.press(*["backspace"] * len("maybe"))
        await it.write("yes")
        await it.press("tab")
        await it.write("0.6")
        await it.press("enter")
        asked = Asked("Q4_K_M", "hybrid", 90.5, MergeWish("unified", None, 0.05), True, 0.6)
        await it.until(lambda: it.backend.wishes == [("build as", 1, asked)], "the wish")
        await it.until(lambda: not isinstance(it.app.screen, FormDialog), "the form closes")


async def test_a_domain_is_exported_as_the_type_that_is_asked_for(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("E")
        await it.shows("Export business as one file", "type: F16, Q2_K", "merged into its base")
        await it.press(*["backspace"] * len("F16"))
        await it.write("Q8_0")
        await it.press("enter")
        await it.until(lambda: it.backend.wishes == [("export", "business", "Q8_0")], "the wish")
        await it.until(lambda: not isinstance(it.app.screen, FormDialog), "the form closes")


async def test_a_phase_is_made_with_hybrid_compression_and_a_target(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("n")
        await it.shows("Create a phase", "distilled; then MB for a size")
        await it.press("tab")
        await it.write("travel")
        await it.press("tab", "tab")
        await it.write("hybrid big")
        await it.press("enter")
        await it.shows("a target size is a number of megabytes, not 'big'", "Create a phase")
        await it.press(*["backspace"] * 3)
        await it.write("90.5")
        await it.press("enter")
        await it.until(lambda: it.backend.wishes == [("create", 3, "travel", "", "hybrid", 90.5)], "the wish")


async def test_add_domain(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path)) as it:
        await it.press("a")
        await it.shows("Add a domain to phase 1")
        await it.write("travel")
        await it.press("enter")
        await it.until(lambda: it.backend.wishes == [("add", 1, "travel", "")], "the wish")


async def test_a_domain_of_ones_own_comes_into_the_catalogue(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("D")
        await it.shows("New domain in the catalogue", "small letters, digits", "a message a line", "from the examples")
        await it.write("beekeeping")
        await it.press("enter")
        await it.shows("a domain needs", "New domain in the catalogue")
        await it.press("tab")
        await it.write("bees.txt")
        await it.press("tab", "tab")
        await it.write("hive, queen bee")
        await it.press("enter")
        wish = ("introduce", "beekeeping", "bees.txt", "", "hive", "queen bee")
        await it.until(lambda: it.backend.wishes == [wish], "the wish")
        await it.until(lambda: not isinstance(it.app.screen, FormDialog), "the form closes")


async def test_where_a_message_would_go_is_shown_without_asking_anybody(tmp_path: Path) -> None:
    async with console(FakeBackend(tmp_path), (80, 24)) as it:
        await it.press("w")
        await it.shows("Where a message would go among phase 1's domains")
        await it.press("enter")
        await it.shows("the message is empty")
        await it.write("how do bees sleep")
        await it.press("enter")
        await it.shows("education (how do bees sleep)", "among those of 1")
        assert it.backend.wishes == []
