"""What a person might write to the starter phase, and what is to be read in it. None of it trained anything."""

ROUTED: tuple[tuple[str, str | None], ...] = (
    # The first five once went to wrong places.
    ("I have a medical emergency and need help", "healthcare"),
    ("How should I lead my team?", "leadership"),
    ("hello", None),
    ("help me now", None),
    ("What is a good market strategy for a small company?", "business"),
    ("My knee clicks on the stairs and is swollen in the evening", "healthcare"),
    ("Is it fine to take ibuprofen on an empty stomach?", "healthcare"),
    ("how much deposit can i ask before i start on a clients kitchen", "business"),
    ("Two suppliers quoted me; one is dearer but delivers in a week", "business"),
    ("I mix up sine and cosine every time, is there a trick?", "education"),
    ("Explain what a verb is to a nine year old", "education"),
    ("Give me an opening line for a ghost story set on a ferry", "creative"),
    ("My poem has no rhythm in the second verse", "creative"),
    ("Nobody speaks up in our weekly meeting since I became their boss", "leadership"),
    ("How do I tell a colleague that he talks over everybody in the team?", "leadership"),
)
ROUTED_AT_LEAST = 13

FELT: tuple[tuple[str, str], ...] = (
    ("joy", "I got the job! I've been dancing around the kitchen all morning"),
    ("joy", "What a wonderful evening, we laughed until midnight"),
    ("sadness", "Since my grandmother died the house is so empty, I cry every night"),
    ("sadness", "I feel so lonely in this new town"),
    ("anger", "They lied to me again and I am absolutely furious"),
    ("anger", "How dare he read my letters, I hate him for it"),
    ("fear", "I'm terrified of the operation on Monday"),
    ("fear", "There is somebody outside my window, I am scared"),
    ("surprise", "I can't believe it, she was alive all along! I never saw that coming"),
    ("surprise", "Wow, what? They just gave us the whole building for free!"),
    ("disgust", "The fridge was full of maggots, it was disgusting, I nearly threw up"),
    ("disgust", "That man is repulsive, he makes my skin crawl"),
    ("trust", "I know you will keep your word, I trust you completely"),
    ("trust", "She has always been honest with us and we rely on her"),
    ("anticipation", "I can't wait for the trip next month, I'm counting the days"),
    ("anticipation", "We are looking forward to tomorrow and hope it will be good"),
)
FELT_AT_LEAST = 12
NEUTRAL = (
    "What time does the shop open on Saturdays?",
    "Convert 40 kilometres into miles",
    "The meeting is in room 12",
    "How many grams are in a pound?",
)
NEUTRAL_AT_LEAST = 3
