"""A project-written word list for the eight emotions, in three strengths; exact forms, so "made" is never "mad"."""

from core.routing.words import listed

EMOTIONS = ("joy", "sadness", "anger", "fear", "surprise", "disgust", "trust", "anticipation")

# Strength a word stands for by itself, before boosters: mild, plain, strong. A "_" joins a phrase.
STRENGTHS = (0.35, 0.55, 0.8)

WORDS: dict[str, tuple[str, str, str]] = {
    "joy": (
        "glad pleased content cheerful fun enjoy enjoyed enjoying enjoys smile smiled smiling laugh laughed "
        "laughing nice lucky relieved relief pleasant pleasure grateful lovely comfortable satisfied amusing "
        "funny",
        "happy happier happily happiness joy joyful delighted proud awesome wonderful fantastic excited love "
        "loved loving celebrate celebrating celebration thankful hooray yay beautiful brilliant merry blessed "
        "thrill it_clicked great_news over_the_moon made_my_day so_good can't_stop_smiling",
        "thrilled ecstatic overjoyed elated euphoric amazing blissful bliss jubilant happiest exhilarated "
        "best_day_ever best_day_of_my_life on_cloud_nine dream_come_true",
    ),
    "sadness": (
        "sorry unhappy down blue gloomy disappointed disappointing disappointment miss missing missed lonesome "
        "tearful discouraged homesick regret regrets unfortunately sigh melancholy drained sorrowful let_down "
        "feel_low feeling_low left_out running_on_fumes",
        "sad sadder sadness lonely alone cry cried crying cries tears hurt hurts hurting depressed depressing "
        "upset sorrow mourning mourn grief ashamed guilty failure hopeless empty miserable broken lost_my "
        "passed_away gave_up giving_up feels_like_failing feel_awful feel_terrible",
        "heartbroken heartbreaking devastated devastating grieving despair desperate shattered worthless "
        "inconsolable saddest unbearable sobbing agony crushed heart_is_broken broke_my_heart can't_go_on",
    ),
    "anger": (
        "annoyed annoying annoy annoys irritated irritating bother bothers bothered grumpy cross impatient unfair "
        "rude displeased moody complain complaining bitter",
        "angry angrier anger mad frustrated frustrating frustration hostile resent resentful resentment argue "
        "arguing argument yelled yelling yell fight fighting fed_up sick_of so_done pissed jealous insulted "
        "insult betrayed had_enough losing_my_temper lost_my_temper driving_me_crazy driving_me_mad "
        "drives_me_crazy up_the_wall",
        "furious fury rage enraged raging outraged outrageous outrage livid hate hates hated hatred despise "
        "infuriated infuriating seething pissed_off screaming_at stings_like_mad",
    ),
    "fear": (
        "worry worries worried worrying concerned uneasy nervous nervously doubt doubts unsure tense shy hesitant "
        "insecure careful risky stressed stress stressful overwhelmed pressure",
        "afraid scared scary scares fear fears fearful anxious anxiety frightened frightening frighten threatened "
        "threat threatening danger dangerous dread dreading alarmed alarming creepy intimidated trembling shaking "
        "freaking_out freaked_out can't_sleep sick_before mind_goes_blank horror_stories",
        "terrified terrifying terror panic panicking panicked petrified horrified horrifying horror nightmare "
        "scared_to_death scared_stiff worst_fear",
    ),
    "surprise": (
        "curious unusual odd strange weird suddenly sudden unexpectedly huh oh wonder wondering puzzled confused "
        "confusing",
        "surprised surprise surprising surprisingly unexpected wow whoa amazed gosh unbelievable incredible "
        "incredibly out_of_nowhere out_of_the_blue didn't_expect never_expected no_way turns_out who_knew "
        "all_of_a_sudden can't_believe",
        "astonished astonishing stunned stunning shocked shocking shock astounded astounding speechless "
        "flabbergasted dumbfounded mind_blown blew_my_mind jaw_dropped omg",
    ),
    "disgust": (
        "dirty smelly stinks stink messy unpleasant sloppy yucky dislike distasteful sleazy ew fishy slimy greasy",
        "gross nasty disgust disgusted awful horrible horrid terrible yuck eww ugh rotten filthy foul shameful "
        "shame offensive contempt lousy trash garbage makes_me_sick turns_my_stomach can't_stand gut-wrenching "
        "corrupt cheap_trick",
        "disgusting disgusts revolting repulsive repulsed vile sickening nauseating appalling appalled loathe "
        "loathing loathsome hideous abhorrent putrid",
    ),
    "trust": (
        "agree agreed okay_with fair reliable stable steady safe secure helpful supportive support supported "
        "dependable responsible sincere kind friendly friend calm accept accepted",
        "trust trusted trusting trusts trustworthy honest honestly honesty loyal loyalty faith faithful confident "
        "confidence respect respected admire admired believe_in believed_in rely_on count_on counting_on "
        "appreciate appreciated thank_you so_much_help have_my_back in_good_hands feel_safe",
        "devoted devotion wholeheartedly unwavering completely_trust fully_trust with_my_life trust_completely "
        "believe_in_you rock_solid",
    ),
    "anticipation": (
        "hope hopes hoping hopeful expect expecting expects plan planning plans soon waiting wait upcoming "
        "prepare preparing interested ready prepared wish wishing someday tomorrow",
        "eager eagerly excited anticipate anticipating anticipation looking_forward look_forward looks_forward "
        "keen longing dream dreaming counting_the_days counting_down ambitious motivated determined next_step "
        "about_to on_the_edge",
        "can't_wait cannot_wait cant_wait dying_to itching_to desperate_to burning_to hardly_wait "
        "counting_the_minutes so_excited",
    ),
}

SIGNS: dict[str, tuple[str, float]] = {
    "😊": ("joy", 0.5),
    "😀": ("joy", 0.5),
    "😄": ("joy", 0.6),
    "😁": ("joy", 0.6),
    "😂": ("joy", 0.6),
    "🤣": ("joy", 0.6),
    "🎉": ("joy", 0.7),
    "❤": ("joy", 0.5),
    "🥳": ("joy", 0.8),
    "😢": ("sadness", 0.6),
    "😭": ("sadness", 0.7),
    "😞": ("sadness", 0.5),
    "💔": ("sadness", 0.8),
    "😠": ("anger", 0.6),
    "😡": ("anger", 0.8),
    "🤬": ("anger", 0.9),
    "😱": ("fear", 0.8),
    "😨": ("fear", 0.6),
    "😰": ("fear", 0.6),
    "😮": ("surprise", 0.5),
    "😲": ("surprise", 0.7),
    "🤯": ("surprise", 0.8),
    "🤢": ("disgust", 0.7),
    "🤮": ("disgust", 0.9),
    "🙏": ("trust", 0.4),
    "🤝": ("trust", 0.4),
    "🤞": ("anticipation", 0.5),
    "🤩": ("anticipation", 0.6),
    ":)": ("joy", 0.35),
    ":-)": ("joy", 0.35),
    ":D": ("joy", 0.5),
    ":(": ("sadness", 0.4),
    ":-(": ("sadness", 0.4),
    ":'(": ("sadness", 0.6),
}

NEGATORS = listed(
    "ain't aren't barely can't cannot cant couldn't didn't didnt doesn't doesnt don't dont hardly isn't "
    "isnt neither never no nobody none nor not nothing scarcely shouldn't wasn't weren't without won't "
    "wont wouldn't"
)
BOOSTERS = {
    "very": 1.25,
    "so": 1.25,
    "really": 1.25,
    "too": 1.15,
    "truly": 1.25,
    "extremely": 1.4,
    "incredibly": 1.4,
    "absolutely": 1.4,
    "completely": 1.35,
    "totally": 1.3,
    "utterly": 1.4,
    "deeply": 1.35,
    "terribly": 1.35,
    "insanely": 1.4,
    "super": 1.3,
    "always": 1.1,
}
DAMPENERS = {
    "bit": 0.6,
    "slightly": 0.55,
    "somewhat": 0.65,
    "little": 0.65,
    "mildly": 0.55,
    "kinda": 0.7,
    "fairly": 0.85,
    "rather": 0.9,
    "almost": 0.7,
    "less": 0.6,
    "mostly": 0.85,
}
