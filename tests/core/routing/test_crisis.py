"""Crisis wording is found; figures of speech are not crises."""

import pytest

from core.routing import Router
from core.routing.crisis import find_crisis, safest_domain
from core.routing.words import normalise

CRISES = {
    "suicide": """I want to kill myself
i dont want to live anymore
I don’t want to be alive any more.
I keep thinking everyone would be better off if I was dead.
My brother says he wants to end his life
there's no point in living
I'm thinking about suicide
Sometimes I just wish I was dead
They would be better off without me
I am going to hang myself tonight
I have nothing left to live for
My friend is suicidal and won't answer the phone
I can't go on like this anymore
I'm writing an essay but honestly I want to die
I've been thinking of ending things
she says life is not worth living
nobody would miss me if I was gone
quiero morir
Ich will nicht mehr leben""",
    "self-harm": """I cut myself again last night
I have the urge to hurt myself
She told me about her self-harm
I want to burn myself when I'm stressed
I feel like cutting again""",
    "abuse": """My husband hits me when he drinks
I was raped last week
I'm in an abusive relationship
He said he is going to kill me
My stepfather touches me inappropriately
She is being beaten by her boyfriend
my partner threatens me and I'm scared to go home""",
    "medical emergency": """I have a medical emergency and need help
My father is 68 and suddenly one side of his mouth is drooping and he talks strangely
pressure in my chest, going into my arm, sweating. I'm 54. should I wait and see?
My best friend just texted me that she took a whole packet of paracetamol.
My neighbour swallowed bleach by accident, she mixed up the bottles!
I can't breathe
I think he's having a heart attack
my baby is choking
She is unconscious and won't wake up
the bleeding won't stop
My wife just collapsed
He overdosed on something
my throat is closing up after eating peanuts
chest pain and my left arm feels numb
my dad is lying on the floor and not responding
my kid ate some of grandma's pills""",
}

HARMLESS = """How do I kill the process on port 8080?
I'm dying to try it
this homework is killing me
My boss will kill me if I'm late
I killed it at the presentation
How do you kill weeds without chemicals?
That joke nearly made me die of laughter
This cake is to die for
Would that be career suicide?
Have you seen Suicide Squad?
My phone is dying, which battery should I buy?
It hit me that I forgot the milk
He beat me at chess
We got beaten by the rival team
My startup is bleeding cash
I almost had a heart attack when I saw the bill
I'm drowning in emails
That deadline is a dead end
Give me a shoot me an email template
I could have died of embarrassment
How do I take my life in a new direction?
I want to die my hair blue
That exam was a suicide mission
How does a two-stroke engine work?
What causes a stroke?
I choked up during my speech
Cut myself some slack, how?
I hate myself for eating the whole cake
What happens in Romeo and Juliet after the suicide?
How can I build an emergency fund?
Need a metaphor for anxiety that's not drowning or a storm
I can't wake up early in winter
Killer opening line for my novel
How do I stop killing my houseplants?
I'm dead tired, should I skip training?
My villain kills the king, what next?
panic attack before every exam
Does a heart skip a beat when you sneeze?
Took my evening pills twice by mistake. I'm looking at the empty box right now.
My husband snores and then stops breathing for a few seconds. It scares me.""".splitlines()


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, texts in CRISES.items() for text in texts.splitlines()]
)
def test_a_crisis_is_found(kind: str, text: str) -> None:
    found = find_crisis(normalise(text))
    assert found is not None
    assert found.kind == kind
    assert found.matched


@pytest.mark.parametrize("text", HARMLESS)
def test_a_figure_of_speech_is_no_crisis(text: str) -> None:
    assert find_crisis(normalise(text)) is None


@pytest.mark.parametrize("text", [text for texts in CRISES.values() for text in texts.splitlines()])
def test_neither_capitals_nor_haste_nor_a_figure_of_speech_beside_it_hides_a_crisis(text: str) -> None:
    for changed in (text.upper(), f"{text} right now, urgent!!", f"  {text}\n", f"this homework is killing me. {text}"):
        assert find_crisis(normalise(changed)) is not None


def test_invisible_characters_do_not_hide_a_crisis() -> None:
    assert find_crisis(normalise("I want to k\u200bill my\u00adself")) is not None


def test_a_crisis_is_never_decided_by_the_weights(router: Router) -> None:
    decision = router.route("My customer was rude about prices, the market is down, and I want to kill myself")
    assert decision.domain == "healthcare"
    assert decision.candidates == ()
    assert decision.resources


def test_the_safest_domain_is_a_critical_one_that_fits() -> None:
    tiers = [("business", "standard"), ("healthcare", "critical"), ("mental_health", "critical")]
    assert safest_domain("suicide", tiers) == "mental_health"
    assert safest_domain("medical emergency", tiers) == "healthcare"
    assert safest_domain("abuse", tiers[:2]) == "healthcare"
    assert safest_domain("suicide", tiers[:1]) is None
    assert safest_domain("suicide", [("mental_health", "standard")]) is None
