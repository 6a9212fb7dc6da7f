"""Messages that need no function: greetings, thanks, small talk, general questions, withdrawn orders.

They teach a model to answer although functions are listed. Nothing here may be served by a generated
function card, or the right answer would be a call.
"""

from __future__ import annotations

from random import Random

_GREETINGS = ("Hi", "Hello", "Hey", "Good morning", "Good evening", "Hi there", "Hello again", "Hey you")
_GREETINGS_HELD_OUT = ("Good afternoon", "Greetings", "Hiya", "Good day")
_GREETING_TAILS = ("!", ".", ", how are you?", ", are you there?", ", nice to meet you.", ", it's me again.", "")
_HELLO = ("Hello! What can I do for you?", "Hi! How can I help?")
_THANKS = (
    "Thanks",
    "Thank you",
    "Thanks a lot",
    "Great, thanks",
    "Perfect, thank you",
    "Many thanks",
    "Cheers",
    "That was quick, thanks",
)
_THANKS_HELD_OUT = ("Much appreciated", "Lovely, thank you", "I owe you one, thanks")
_THANKS_TAILS = (".", "!", ", that helped.", ", that is all for now.", ", you are great.", ", bye.")
_WELCOME = ("You're welcome.", "Happy to help.")
_TALK = {
    "train": (
        ("I am a bit tired today.", "I hope you get some rest."),
        ("The sun is shining here.", "That sounds lovely."),
        ("I had a long day.", "I hope the evening is calmer."),
        ("My team won yesterday!", "Congratulations!"),
        ("I just finished my homework.", "Well done!"),
        ("I feel bored.", "A short walk may help."),
        ("Tell me a joke.", "Why did the clock smile? It had a good time."),
        ("Who are you?", "I am an assistant that can call functions."),
        ("What can you do?", "I can use the functions I was given, and answer short questions."),
        ("Are you a robot?", "I am a computer program."),
        ("Do you like music?", "I have no ears, but I like the idea."),
        ("Never mind.", "All right."),
        ("Okay.", "All right."),
        ("No, that is all.", "All right, have a good day."),
        ("Goodbye!", "Goodbye!"),
        ("See you tomorrow.", "See you!"),
        ("I got a new job!", "Congratulations!"),
        ("It is raining again.", "Take an umbrella with you."),
        ("My cat is asleep on my desk.", "That sounds cosy."),
        ("I love this weather.", "Enjoy it!"),
        ("You are funny.", "Thank you!"),
        ("That was wrong.", "I am sorry about that."),
        ("I can't sleep.", "Reading a book may help."),
        ("Wish me luck.", "Good luck!"),
    ),
    "test": (
        ("What a lovely day it is.", "Enjoy it!"),
        ("I am so tired of the rain.", "I hope the sun comes back soon."),
        ("We won the cup!", "Congratulations!"),
        ("What are you?", "I am an assistant that can call functions."),
        ("What are you able to do?", "I can use the functions I was given, and answer short questions."),
        ("Fine, that is enough.", "All right."),
        ("Bye, talk to you later.", "Goodbye!"),
        ("I feel a little sad.", "I am sorry to hear that."),
        ("My dog is asleep.", "That sounds cosy."),
    ),
}
_FACTS = {
    "train": (
        ("the capital of France", "Paris"),
        ("the capital of Italy", "Rome"),
        ("the capital of Spain", "Madrid"),
        ("the capital of Japan", "Tokyo"),
        ("the capital of Egypt", "Cairo"),
        ("the capital of Peru", "Lima"),
        ("the capital of Kenya", "Nairobi"),
        ("the capital of Norway", "Oslo"),
        ("the largest ocean", "the Pacific"),
        ("the longest river in Africa", "the Nile"),
        ("the colour of grass", "green"),
        ("the opposite of hot", "cold"),
        ("the opposite of early", "late"),
        ("the opposite of full", "empty"),
        ("the first month of the year", "January"),
        ("the last day of the week", "Sunday"),
        ("the boiling point of water", "100 degrees Celsius"),
        ("the largest planet", "Jupiter"),
        ("the closest star", "the Sun"),
        ("the past tense of go", "went"),
        ("the plural of mouse", "mice"),
        ("the currency of Japan", "the yen"),
        ("the metal in a magnet", "iron"),
        ("the smallest prime number", "2"),
    ),
    "test": (
        ("the capital of Portugal", "Lisbon"),
        ("the opposite of long", "short"),
        ("the plural of foot", "feet"),
        ("the colour of snow", "white"),
        ("the currency of India", "the rupee"),
        ("the last month of the year", "December"),
        ("the capital of Greece", "Athens"),
        ("the past tense of see", "saw"),
    ),
}
_ASK_FACT = ("What is {}?", "Tell me {}.", "Do you know {}?", "I wonder what {} is.", "Quick question: what is {}?")
_ASK_FACT_HELD_OUT = ("Just curious, what is {}?", "Remind me, what is {}?")
_OPERATIONS = (("plus", lambda a, b: a + b), ("minus", lambda a, b: a - b), ("times", lambda a, b: a * b))
_WITHDRAW = (
    "Don't {}, I changed my mind.",
    "Please do not {}.",
    "No need to {} any more.",
    "You don't have to {}.",
    "I was going to {}, but it is no longer needed.",
)
_WITHDRAW_HELD_OUT = ("Never {} unless I tell you.", "Forget that I wanted to {}.")
_AGREED = ("All right, I won't.", "Okay, I will leave it.")


def exchange(rng: Random, split: str) -> tuple[str, str]:
    """A message and the short answer it deserves, without any function."""
    test = split == "test"
    pick = rng.random()
    if pick < 0.2:
        start = rng.choice(_GREETINGS_HELD_OUT if test and rng.random() < 0.5 else _GREETINGS)
        return start + rng.choice(_GREETING_TAILS), rng.choice(_HELLO)
    if pick < 0.4:
        start = rng.choice(_THANKS_HELD_OUT if test and rng.random() < 0.5 else _THANKS)
        return start + rng.choice(_THANKS_TAILS), rng.choice(_WELCOME)
    if pick < 0.6:
        return rng.choice(_TALK["test" if test else "train"])
    asks = _ASK_FACT_HELD_OUT if test and rng.random() < 0.5 else _ASK_FACT
    if pick < 0.9:
        question, answer = rng.choice(_FACTS["test" if test else "train"])
        return rng.choice(asks).format(question), answer[0].upper() + answer[1:] + "."
    word, operation = rng.choice(_OPERATIONS)
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return rng.choice(asks).format(f"{max(a, b)} {word} {min(a, b)}"), f"{operation(max(a, b), min(a, b))}."


def withdrawn(clause: str, rng: Random, split: str) -> tuple[str, str]:
    """An order that is taken back in the same breath, and the answer that nothing is done."""
    wordings = _WITHDRAW_HELD_OUT if split == "test" and rng.random() < 0.5 else _WITHDRAW
    return rng.choice(wordings).format(clause), rng.choice(_AGREED)
