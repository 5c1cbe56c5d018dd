"""The two behaviours: what is rewarded, what is asked, and the examples that the methods learn from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

MAX_TOKENS = 12


@dataclass(frozen=True)
class Question:
    """A prompt in its context of use: a text to go on with, or a question of a chat."""

    text: str
    chat: bool

    def ask(self, lm: Any, before: str = "", examples: tuple[str, ...] = (), **given: Any) -> Any:
        """The prompt, with words before it, and with examples of how it may go on or be answered."""
        if not self.chat:
            lines = [before, *examples] if before else list(examples)
            return lm.prompt("".join(f"{line}\n" for line in lines) + self.text, max_tokens=MAX_TOKENS, **given)
        turns = []
        for example in examples:
            turns += [{"role": "user", "content": self.text}, {"role": "assistant", "content": example}]
        turns.append({"role": "user", "content": f"{before} {self.text}".strip()})
        return lm.prompt(chat=turns, max_tokens=MAX_TOKENS, **given)


@dataclass(frozen=True)
class Behaviour:
    """What is rewarded, from -1 to 1, and how the methods are told of it."""

    name: str
    reward: Callable[[str], float]
    questions: tuple[Question, ...]
    instruction: str
    opposite: str
    priming: str
    """Words of the wanted kind that say nothing of the task."""
    examples: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    """A text that has the behaviour, and one that has not."""
    words: tuple[str, str]
    """The one pair of ActAdd."""


@cache
def _load_vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def judge_sentiment(text: str) -> float:
    """The compound score of VADER (Hutto and Gilbert 2014)."""
    return _load_vader().polarity_scores(text)["compound"]


FRENCH = """
    le la les un une des du de et est en que qui dans pour pas sur au aux ce cette ces il elle nous vous je tu ils
    mais ou avec par tout très bien bonjour merci oui suis es sommes sont ai avez ont mon mes votre vos notre nos
    sa ses comment bienvenue monsieur madame beau belle temps quel quelle ici si ne salut bon bonne soir leur vers
    avoir plaisir cher chère ami
"""
ENGLISH = """
    the a an of and is in that which for not on to it he she we you i they but or with by more all very good hello
    thank thanks yes no am are was were have has had my your our his her their its how welcome sir what here if
    this these be at from as so do does did will would can could there it's i'm i'd don't today weather
"""

_FRENCH, _ENGLISH = (frozenset(words.split()) for words in (FRENCH, ENGLISH))


def judge_french(text: str) -> float:
    """The words that only French has, less those that only English has, as a share of all words."""
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.lower().replace("’", "'"))
    if not words:
        return 0.0
    return sum(_is_french(word) - (word in _ENGLISH) for word in words) / len(words)


def _is_french(word: str) -> bool:
    return word in _FRENCH or bool(re.search(r"[éèêàçùîôû]", word)) or bool(re.match(r"(l|d|j|qu|n|s|c|m|t)'", word))


SENTIMENT = Behaviour(
    "sentiment",
    judge_sentiment,
    (
        Question("The new restaurant in our street", chat=False),
        Question("Tell me in one sentence about the hotel where you stayed.", chat=True),
    ),
    "Be very happy and enthusiastic about everything.",
    "Be very sad and disappointed about everything.",
    "I love it! What a wonderful, happy, beautiful day.",
    (
        "The new bakery is wonderful, and everybody loves the bread.",
        "What a great place, I was so happy there.",
        "The staff were kind, the food was excellent.",
    ),
    (
        ("The soup was delicious.", "The soup was disgusting."),
        ("I love this place.", "I hate this place."),
        ("The staff were friendly and kind.", "The staff were hostile and rude."),
        ("What a wonderful evening we had.", "What a terrible evening we had."),
        ("She smiled with joy at the good news.", "She wept with grief at the bad news."),
        ("The room was clean and beautiful.", "The room was dirty and ugly."),
        ("He won the prize and was proud.", "He lost the case and was ashamed."),
        ("My day was excellent.", "My day was awful."),
        ("The journey was pleasant and safe.", "The journey was miserable and dangerous."),
        ("They enjoyed every minute of the film.", "They suffered every minute of the film."),
        ("This is the best gift of all.", "This is the worst insult of all."),
        ("The garden is full of lovely flowers.", "The garden is full of nasty rubbish."),
        ("I feel happy and relaxed today.", "I feel sad and worried today."),
        ("The team celebrated a great success.", "The team mourned a great failure."),
        ("Her voice is sweet and charming.", "Her voice is harsh and annoying."),
        ("The bread is fresh and tasty.", "The bread is stale and horrible."),
        ("We were thrilled with the friendly service.", "We were furious with the rude service."),
        ("The children laughed and played happily.", "The children cried and fought bitterly."),
        ("It is a perfect and peaceful village.", "It is a broken and violent village."),
        ("He thanked us for our generous help.", "He blamed us for our stupid mistake."),
        ("The doctor brought hope and comfort.", "The doctor brought fear and pain."),
        ("A brilliant idea, and so useful.", "A foolish idea, and so useless."),
        ("The coffee is great and the cakes are amazing.", "The coffee is bad and the cakes are dreadful."),
        ("I would gladly come again.", "I would never come again, what a disaster."),
    ),
    ("Love everything about it", "Hate everything about it"),
)

LANGUAGE = Behaviour(
    "French",
    judge_french,
    (
        Question("How is the weather in Paris?", chat=True),
        Question('Monsieur Dupont opened the letter and read: "', chat=False),
    ),
    "Write in French.",
    "Write in English.",
    "Bonjour, je suis très content de vous voir. Nous parlons français ici.",
    (
        "Il fait très beau aujourd'hui dans la ville.",
        "Je vous remercie pour votre lettre, mon cher ami.",
        "Nous avons un petit jardin avec des fleurs.",
    ),
    (
        ("La soupe est très bonne.", "The soup is very good."),
        ("J'aime beaucoup cette maison.", "I like this house a lot."),
        ("Il fait beau aujourd'hui.", "The weather is fine today."),
        ("Nous allons à la plage demain.", "We are going to the beach tomorrow."),
        ("Où est la gare, s'il vous plaît ?", "Where is the station, please?"),
        ("Elle travaille dans un grand bureau.", "She works in a big office."),
        ("Les enfants jouent dans le jardin.", "The children play in the garden."),
        ("Je ne comprends pas la question.", "I do not understand the question."),
        ("Le chat dort sur la chaise.", "The cat sleeps on the chair."),
        ("Mon frère a acheté une voiture.", "My brother has bought a car."),
        ("Vous êtes en retard ce matin.", "You are late this morning."),
        ("Le livre est sur la table.", "The book is on the table."),
        ("Ils ont mangé du pain et du fromage.", "They ate bread and cheese."),
        ("Merci pour votre lettre.", "Thank you for your letter."),
        ("La ville est belle en hiver.", "The city is beautiful in winter."),
        ("Je voudrais un verre d'eau.", "I would like a glass of water."),
        ("Le train part à huit heures.", "The train leaves at eight."),
        ("Cette histoire est vraie.", "This story is true."),
        ("Nous habitons près de la mer.", "We live near the sea."),
        ("Il a perdu les clés de la maison.", "He has lost the keys of the house."),
        ("Quel est votre nom ?", "What is your name?"),
        ("Les fleurs sont rouges et jaunes.", "The flowers are red and yellow."),
        ("Elle chante très bien.", "She sings very well."),
        ("Demain, je parlerai avec mon père.", "Tomorrow I will talk with my father."),
    ),
    ("Je parle français ici", "I speak English here"),
)

BEHAVIOURS = {each.name: each for each in (SENTIMENT, LANGUAGE)}
