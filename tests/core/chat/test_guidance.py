"""Guidance: every rule is reached by a message a person might write, and nothing else of the answer is touched."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.catalog.guidance import GUIDANCE_FILE, check_guidance, load_guidance
from core.chat.guidance import GENERAL, Guidance, guidance_for, rules_of, shipped_rules
from core.chat.only import OnlyOne
from core.chat.protocol import SamplingOptions
from core.cli.doctor import workspace_checks
from core.errors import InvalidInput
from core.routing.crisis import KINDS
from core.routing.emotion import EMOTIONS, Emotion, read_emotion
from core.routing.words import normalise, split_words
from core.workspace import Workspace
from tests.conftest import new_workspace

# Domain, rule, message, and what the person had said before.
NATURAL: list[tuple[str, str, str, tuple[str, ...]]] = [
    ("healthcare", "crisis", "I want to kill myself", ()),
    ("healthcare", "great distress", "I'm terrified, I found a lump", ()),
    ("healthcare", "nurturing", "I'm afraid of the dentist", ()),
    ("healthcare", "nurturing", "And what can I eat now?", ("They told me the diagnosis this morning",)),
    ("healthcare", "nurturing", "Dad got his diagnosis on Monday and the kitchen is very quiet", ()),
    ("healthcare", "wellness", "I'm so happy, I can't wait to start running again, how far should I go?", ()),
    ("healthcare", "wellness", "Which healthy habits are worth starting in my forties?", ()),
    ("business", "relief", "I'm so glad, two of them came back!", ("We are losing customers every week",)),
    ("business", "great stress", "I'm terrified, the bank wants its money back on Friday", ()),
    ("business", "stress", "I'm afraid I can't pay my two drivers this month", ()),
    ("business", "stress", "We are losing customers every week, what do I look at first?", ()),
    ("business", "success", "I'm thrilled, the biggest order ever came in today", ()),
    ("business", "success", "We closed the deal with the hotel chain. What now?", ()),
    ("education", "breakthrough", "Oh, now I get it: the denominator is the size of the slice", ()),
    ("education", "breakthrough", "I am so happy, all ten came out right!", ("I don't get it, why do we flip it?",)),
    ("education", "despair", "I hate fractions, I'm furious with this worksheet", ()),
    ("education", "struggle", "I'm afraid of the maths test", ()),
    ("education", "struggle", "Integrals make no sense, where do I begin?", ()),
    ("education", "encouragement", "I'm really excited, I can't wait for the chemistry course", ()),
    ("education", "encouragement", "I'm studying for my biology exam, quiz me on cells", ()),
    ("creative", "block", "I've been staring at a blank page all morning", ()),
    ("creative", "raw feeling", "I'm heartbroken and I cried all night, let's write about it", ()),
    ("creative", "expression", "I feel a bit lonely, I cry now and then, let's write of it", ()),
    ("creative", "expression", "Help me put into words what leaving home is like", ()),
    ("creative", "inspiration", "I'm so excited about my fantasy world, I can't wait to name the rivers!", ()),
    ("creative", "inspiration", "What if the moon were a lighthouse?", ()),
    ("leadership", "open conflict", "I'm furious with my deputy, he went behind my back", ()),
    ("leadership", "conflict", "I'm angry about my deputy's mail", ()),
    ("leadership", "conflict", "And what do I say to them?", ("Two of my engineers keep arguing",)),
    ("leadership", "conflict", "Two of my engineers keep arguing in front of clients", ()),
    ("leadership", "motivation", "I feel sad for my staff, they have given up", ()),
    ("leadership", "motivation", "Morale has been low since the move, what can I do?", ()),
    ("leadership", "team dynamics", "I'm afraid my people don't tell me things", ()),
    ("leadership", "team dynamics", "One designer has gone quiet since the reorganisation", ()),
    (GENERAL, "crisis", "I took the whole bottle of pills", ()),
    (GENERAL, "mixed feelings", "I am happy about the job but scared of moving", ()),
    (GENERAL, "great joy", "I'm so happy, we are going to be parents!", ()),
    (GENERAL, "joy", "I'm happy with my new bicycle", ()),
    (GENERAL, "deep sadness", "I'm heartbroken since he left", ()),
    (GENERAL, "sadness", "I feel a bit lonely, I cry now and then", ()),
    (GENERAL, "great anger", "I'm furious about my landlord", ()),
    (GENERAL, "anger", "I'm angry about my parking ticket", ()),
    (GENERAL, "great fear", "I'm terrified of flying", ()),
    (GENERAL, "fear", "I'm afraid of my driving test", ()),
    (GENERAL, "shock", "I'm shocked by my electricity bill", ()),
    (GENERAL, "surprise", "I'm surprised by my result", ()),
    (GENERAL, "strong disgust", "I find my hotel room disgusting", ()),
    (GENERAL, "disgust", "I found my fridge smells awful", ()),
    (GENERAL, "great trust", "I fully trust my neighbour with the key", ()),
    (GENERAL, "trust", "I trust my mechanic with the brakes", ()),
    (GENERAL, "eagerness", "I can't wait for my trip to Peru", ()),
    (GENERAL, "anticipation", "I'm eager to plant my first tree", ()),
]
CALM = [
    ("healthcare", "How often should I change my toothbrush?"),
    ("business", "What is the difference between revenue and profit?"),
    ("education", "What is the area of a circle?"),
    ("creative", "Give my villain a name"),
    ("leadership", "How should I lead my team?"),
    ("travel", "Which train goes to Venice?"),
]


def read(text: str) -> Emotion:
    plain = normalise(text)
    return read_emotion(plain, split_words(plain))


_gate = OnlyOne(
    None, dict.fromkeys(KINDS, "call somebody")
)  # with the encoder: by letters alone it takes some of these for crises


@pytest.fixture(scope="module", autouse=True)
def gate() -> Iterator[None]:
    """The gate's process ends with these tests."""
    yield
    _gate.close()


def guided(domain: str | None, text: str, before: tuple[str, ...] = ()) -> Guidance | None:
    history = [
        {"role": role, "content": said} for one in before for role, said in (("user", one), ("assistant", "So."))
    ]
    crisis = _gate.route(text).crisis is not None
    return guidance_for(domain, read(text), text, history, crisis=crisis)


@pytest.mark.parametrize(("domain", "rule", "message", "before"), NATURAL)
def test_a_natural_message_reaches_the_rule(domain: str, rule: str, message: str, before: tuple[str, ...]) -> None:
    found = guided("gardening" if domain == GENERAL else domain, message, before)
    assert found is not None
    assert (found.domain, found.name) == (domain, rule)


def test_there_is_a_natural_message_for_every_rule() -> None:
    rules = shipped_rules()
    every = {(domain, rule.name) for domain, group in rules.domains.items() for rule in group}
    every |= {(GENERAL, rule.name) for rule in rules.general}
    assert {(domain, rule) for domain, rule, *_ in NATURAL} == every
    assert set(rules.domains) == {"healthcare", "business", "education", "creative", "leadership"}


@pytest.mark.parametrize(("domain", "message"), CALM)
def test_calm_messages_are_answered_as_usual(domain: str, message: str) -> None:
    assert guided(domain, message) is None
    assert guided(None, message) is None


def test_a_domains_rules_come_first_and_the_general_ones_fill_in() -> None:
    angry = "I'm furious about my landlord"
    own, general, nobody = guided("business", angry), guided("healthcare", angry), guided(None, angry)
    assert own is not None
    assert general is not None
    assert nobody is not None
    assert (own.domain, own.name) == ("business", "great stress")
    assert (general.domain, general.name) == (GENERAL, "great anger")  # healthcare has no rule for anger
    assert nobody == general


@pytest.mark.parametrize("domain", [*shipped_rules().domains, None])
def test_a_stronger_feeling_is_met_in_another_way(domain: str | None) -> None:
    told = {}
    for feeling, strong, clear in (("fear", 0.9, 0.5), ("anger", 0.9, 0.5), ("sadness", 0.9, 0.5)):
        for intensity in (strong, clear):
            values = {**dict.fromkeys(EMOTIONS, 0.0), feeling: 0.9}
            found = guidance_for(domain, Emotion(values, intensity, 0.9), "here we are", (), crisis=False)
            assert found is not None
            told[feeling, intensity] = found.instruction, found.sampling
    assert any(told[feeling, 0.9] != told[feeling, 0.5] for feeling in ("fear", "anger", "sadness"))
    assert all(told[feeling, 0.9] != told[feeling, 0.5] for feeling in ("anger",))


def test_in_a_crisis_only_what_is_written_for_one_speaks() -> None:
    for domain in (*shipped_rules().domains, "gardening", None):
        found = guided(domain, "I'm thrilled about the contract. I want to kill myself.")
        assert found is not None
        assert found.name == "crisis"
        assert "help line" in found.instruction
        assert "diagnose" in found.instruction


def test_words_count_in_any_inflection_and_not_where_they_are_denied() -> None:
    assert guided("creative", "She was stuck on chapter two") is not None
    assert guided("creative", "I'm not stuck, give me a metaphor") is None
    assert guided("leadership", "They argued again") is not None
    assert guided("leadership", "They never argue") is None
    assert guided("leadership", "The argumentation is sound") is None  # no word inside a word


def test_what_was_said_before_counts_only_as_far_as_configured_and_only_the_persons() -> None:
    joy, struggle = "I am so happy about it!", "I'm confused by all of this"
    near = guided("education", joy, (struggle, "yes", "go on"))
    far = guided("education", joy, (struggle, "yes", "go on", "next"))
    assert near is not None
    assert far is not None
    assert (near.name, far.name) == ("breakthrough", "encouragement")
    assert "before" in near.reason
    others = [{"role": "assistant", "content": struggle}]
    found = guidance_for("education", read(joy), joy, others)
    assert found is not None
    assert found.name == "encouragement"


def test_a_doubtful_reading_is_no_feeling() -> None:
    doubtful = "The terrible film was gross"  # nothing of the person's own
    assert read(doubtful).confidence < shipped_rules().least_confidence
    assert guided("gardening", doubtful) is None


def test_a_rule_that_met_one_of_two_feelings_leaves_room_for_both() -> None:
    found = guided("business", "I am happy about the contract but scared of the debt")
    assert found is not None
    assert found.domain == "business"
    assert "joy and fear" in found.instruction or "fear and joy" in found.instruction


def test_sampling_follows_the_rule_but_never_the_persons_own_choice() -> None:
    found = guided("healthcare", "I want to kill myself")
    assert found is not None
    changed = found.apply(SamplingOptions())
    assert changed == SamplingOptions(max_tokens=200, temperature=0.2, top_p=0.9)
    assert found.apply(SamplingOptions(max_tokens=50)).max_tokens == 50  # never longer than allowed
    kept = found.apply(SamplingOptions(temperature=0), kept={"temperature"})
    assert kept == SamplingOptions(max_tokens=200, temperature=0, top_p=0.9)


def test_temperatures_say_what_the_rules_are_for() -> None:
    of_all = shipped_rules()
    tried = (*of_all.domains["creative"], *of_all.general)
    rules = {rule.name: rule.sampling.get("temperature", 0.7) for rule in tried}
    assert rules["crisis"] < rules["fear"] < rules["joy"] < rules["block"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    workspace.configs.mkdir()
    return workspace


def write(workspace: Workspace, *changes: tuple[str, str]) -> list[str]:
    """The shipped file with changes in a workspace; its faults."""
    text = (Path(__file__).parents[3] / "configs" / GUIDANCE_FILE).read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    (workspace.configs / GUIDANCE_FILE).write_text(text, "utf-8")
    return check_guidance(workspace)


def test_a_workspace_without_the_file_has_the_shipped_rules_and_its_own_count_at_once(workspace: Workspace) -> None:
    assert rules_of(workspace) is shipped_rules()
    assert rules_of(None) is shipped_rules()
    assert (
        write(workspace, ("say: 'The person is glad: share it in a few words, then answer.'", "say: Be short.")) == []
    )
    found = guidance_for("gardening", read("I'm happy with my new bicycle"), "", rules=rules_of(workspace))
    assert found is not None
    assert found.instruction == "Be short."


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("{clear: 0.4, strong: 0.7}", "{clear: 0.8, strong: 0.7}", "bands.strong: must not be below clear"),
        ("least_confidence: 0.35", "least_confidence: 2", "least_confidence: is 2"),
        ("emotions: [sadness, fear]", "emotions: [sadnes, fear]", "'sadnes' is none of the eight"),
        ("crisis: true", "crisis: false", "can only be true"),
        ("temperature: 0.2", "temperature: 7", "healthcare.crisis.sampling.temperature: is 7"),
        ("temperature: 0.2", "heat: 0.2", "unknown key"),
        ("when: [{crisis: true}]", "when: []", "at least one case"),
        ("when: [{crisis: true}]", "when: [{}]", "empty case"),
        ("when: [{crisis: true}]", "when: [{intensity: strong}]", "goes with emotions"),
        ("then answer.'", "then {answer}.'", "no other braces"),
        ("({first} and {second}): leave", "(both): leave", "must hold {first} and {second}"),
        ("  healthcare:\n", "  Health Care:\n", "cannot be a domain's name"),
    ],
)
def test_faults_are_told_with_their_key(workspace: Workspace, old: str, new: str, fault: str) -> None:
    faults = write(workspace, (old, new))
    assert any(fault in one and one.startswith("configs/guidance.yaml, line ") for one in faults), faults
    with pytest.raises(InvalidInput):
        load_guidance(workspace)


def test_doctor_tells_of_the_rules(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path / "workspace")
    path = workspace.configs / GUIDANCE_FILE

    def said() -> list[tuple[str, str]]:
        return [(check.state, check.found) for check in workspace_checks(workspace) if check.name == "guidance"]

    assert said() == [("ok", "38 rules, 5 domains with their own")]
    text = path.read_text("utf-8")
    path.write_text(text.replace("  creative:\n", "  creativ:\n"), "utf-8")
    assert [state for state, _ in said()] == ["ok", "warning"]
    assert "creativ" in said()[1][1]
    path.write_text(text.replace("least_confidence: 0.35", "least_confidence: no"), "utf-8")
    assert [state for state, _ in said()] == ["missing"]
    path.unlink()
    assert said() == [("ok", "no configs/guidance.yaml; the shipped rules hold")]
