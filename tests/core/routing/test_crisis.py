"""Crisis wording is found; figures of speech are not crises."""

import pytest

from core.routing import Router
from core.routing.crisis import find_crisis, safest_domain
from core.routing.words import normalise

CRISES = {
    "suicide": """Is it painful to die by hanging?
i'm done with life, goodbye everyone
My roommate left a goodbye note and I can't reach her
I want to disappear forever
the voices tell me to hurt myself
I wish I had never been born
I have a plan and the pills are on the table
my son has a gun and says he'll use it on himself
I'm so tired of being alive
I don't think I'll make it through the night, I want it to end
my girlfriend says she will kill herself if I leave
I'm having thoughts of suicide
I want to stop existing
I've decided tonight is my last night
I feel like killing myself after losing my job
the voices say I should jump
I think about suicide every day
I just want the pain to stop, I can't do this anymore
my friend posted that she doesn't want to be alive
I want to kill myself
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
    "self-harm": """I have been starving myself on purpose
I keep scratching my arms until they bleed so I can feel something
I hurt myself again, I couldn't stop
she's been burning her arms with cigarettes
I want to cut again so badly
I keep hitting my head against the wall to punish myself
I cut myself again last night
I have the urge to hurt myself
She told me about her self-harm
I want to burn myself when I'm stressed
I feel like cutting again""",
    "abuse": """he forces me to have sex
My ex said he'd shoot me
I don't feel safe at home with my dad
he pushed me down the stairs
our neighbour beats his kids
my husband strangled me
my mom's boyfriend touches me at night
he locks me in and takes my phone so I can't leave
I'm scared my husband is going to kill me
My husband hits me when he drinks
I was raped last week
I'm in an abusive relationship
He said he is going to kill me
My stepfather touches me inappropriately
She is being beaten by her boyfriend
my partner threatens me and I'm scared to go home""",
    "medical emergency": """I took all my antidepressants at once
my mother fainted and she's turning blue
my tongue is swelling up after a bee sting
I'm coughing up blood
I think my water broke and there is a lot of blood
my friend drank antifreeze
sudden worst headache of my life and I can't see properly
she's not waking up
my baby isn't breathing properly
Dad clutched his chest and fell down
I ate wild mushrooms and now I can't stop vomiting
there's blood everywhere, he cut an artery
my grandfather can't move his left arm and is slurring
the baby had a seizure and is limp
I'm going to overdose tonight
my wife fell and is bleeding from her head and not waking up
Call 911 my dad can't breathe
My sister took too many pills
chest hurts, left arm numb, sweating
my toddler is choking on a grape
grandpa collapsed and his lips are blue
she drank a bottle of drain cleaner
my diabetic brother is passed out
bitten by a snake on a hike, leg is swelling
I have a medical emergency and need help
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

# What comes near an expression and is none; with the encoder some of it is taken for a crisis all the same.
NEAR_EXPRESSIONS = """They ate all the pizza and there's nothing left for me
I've wanted to run a marathon for years and I'm closer to doing it than ever
I looked at the rope bridge and it was easier than I feared
Look at the train tracks, which are easy to spot from the castle
I sorted the papers on my desk and then said goodbye to my colleagues
How do I hide a bruise on an apple in a photo?""".splitlines()

HARMLESS = """The printer is dying again
I died laughing at your story
He strangled the negotiations
How do I cut my arms workout time?
My plants are turning blue green
The film ends with a goodbye letter from her mother
What makes my team feel safe to speak?
That test murdered me
Which painkillers are safe with wine?
How do I beat my personal record?
My son collapsed the tent
Best way to die cast metal parts
I'm bleeding money on rent
Do jellyfish die when stranded?
How can I stop hurting my back when lifting?
I took all my vacation days
My wife had a stroke in 2015 and paints again
Our team got slaughtered in the final
I want to disappear on a beach for two weeks
My boss forces me to touch base daily
My plan is to kill two birds with one stone
Write a murder mystery where the butler did it
The market took a beating today
I need to end this meeting early every week
Does aspirin prevent heart attacks?
My team is drowning in work
How do I deal with a toxic employee who abuses the system?
My daughter is dying to see the concert
What are the signs of a stroke?
How can I stop beating myself up about mistakes?
My laptop battery is dead
He hit the nail on the head
Our server keeps crashing and I want to scream
Why do people cut themselves off from friends?
shoot me a message when you're done
I could kill for a coffee
How did Cleopatra die?
How do I kill the process on port 8080?
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
My husband snores and then stops breathing for a few seconds. It scares me.""".splitlines()


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, texts in CRISES.items() for text in texts.splitlines()]
)
def test_a_crisis_is_found(kind: str, text: str) -> None:
    found = find_crisis(normalise(text))
    assert found is not None
    assert found.kind == kind
    assert found.matched


@pytest.mark.parametrize("text", [*HARMLESS, *NEAR_EXPRESSIONS])
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
