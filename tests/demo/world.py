"""The closed world of the quickstart: customers' messages about an order, and how an agent answers. No files."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Final

ITEMS: Final = (
    "lamp",
    "chair",
    "kettle",
    "jacket",
    "backpack",
    "keyboard",
    "blanket",
    "mirror",
    "toaster",
    "tent",
    "camera",
    "bicycle",
)


@dataclass(frozen=True, slots=True)
class Topic:
    """What customers write about: their wordings, the agent's opening, and the one step that helps."""

    name: str
    wordings: tuple[str, ...]
    opening: str
    step: str


TOPICS: Final = (
    Topic(
        "late",
        (
            "Where is my {item}?",
            "My {item} has not arrived yet.",
            "I am still waiting for my {item}.",
            "When will my {item} arrive?",
            "The {item} that I ordered is late.",
            "My {item} should have been here last week.",
        ),
        "I am sorry that your {item} is late.",
        "We are tracing the parcel today.",
    ),
    Topic(
        "broken",
        (
            "My {item} arrived broken.",
            "The {item} was damaged in the box.",
            "The new {item} does not work.",
            "My {item} broke on the first day.",
            "I opened the box and the {item} was in pieces.",
            "There is a crack in my {item}.",
        ),
        "I am sorry that your {item} is broken.",
        "We will send you a new one today.",
    ),
    Topic(
        "return",
        (
            "I want to return my {item}.",
            "Can I send the {item} back?",
            "How do I return the {item}?",
            "I do not need the {item} any more, can I return it?",
            "Please take back the {item}.",
            "I would like to send back my {item}.",
        ),
        "Thank you for writing about your {item}.",
        "We have sent you a return label.",
    ),
    Topic(
        "cancel",
        (
            "Please cancel my order for the {item}.",
            "I want to cancel the {item}.",
            "Can you stop the order of my {item}?",
            "I ordered a {item} by mistake.",
            "Do not send the {item}, please.",
            "Cancel the {item} that I ordered today.",
        ),
        "Thank you for writing about your {item}.",
        "We have cancelled the order.",
    ),
    Topic(
        "charged",
        (
            "I was charged twice for my {item}.",
            "I paid for one {item} but you took the money two times.",
            "My card shows two payments for the {item}.",
            "Why did I pay twice for the {item}?",
            "There is a second charge for my {item}.",
            "You charged me again for the {item}.",
        ),
        "I am sorry about the payment for your {item}.",
        "We have refunded the second payment.",
    ),
    Topic(
        "address",
        (
            "I moved, please change the address for my {item}.",
            "Send the {item} to my new address.",
            "The address for my {item} is wrong.",
            "Can you ship the {item} to another street?",
            "I gave the wrong address for the {item}.",
            "Please deliver the {item} to my office.",
        ),
        "Thank you for writing about your {item}.",
        "We have updated the address.",
    ),
)

CLOSING: Final = "Can I help you with anything else?"
CURT_OPENINGS: Final = ("About your {item}.", "That happens.", "I have read your message.")
USELESS_STEPS: Final = ("Please wait.", "Please read our terms.", "Nothing can be done.")
COURTEOUS: Final = ("sorry", "thank you")


@dataclass(frozen=True, slots=True)
class Case:
    """One message of one customer, with all that a judge needs to know about it."""

    topic: Topic
    item: str
    message: str

    @property
    def prompt(self) -> str:
        """The text that the policy continues."""
        return f"Customer: {self.message}\nAgent:"

    @property
    def answer(self) -> str:
        """The answer that a good agent gives."""
        return f"{self.topic.opening.format(item=self.item)} {self.topic.step} {CLOSING}"


def cases() -> list[Case]:
    """Every message of the world, in one fixed order that mixes the topics."""
    every = [
        Case(topic, item, wording.format(item=item))
        for topic in TOPICS
        for wording, item in itertools.product(topic.wordings, ITEMS)
    ]
    random.Random(11).shuffle(every)
    return every


def split(held_out: int) -> tuple[list[Case], list[Case]]:
    """Cases to train on, and `held_out` cases that neither the base model nor the policy ever sees."""
    every = cases()
    return every[held_out:], every[:held_out]


def ordinary_answer(case: Case, rng: random.Random, skill: float) -> str:
    """What a mediocre agent writes: each part of the answer is right with probability `skill`, else bad in some way.

    The base model learns from these, so that it speaks the language but has much to gain.
    """
    opening = case.topic.opening if rng.random() < skill else rng.choice(CURT_OPENINGS)
    wrong = [topic.step for topic in TOPICS if topic is not case.topic]
    step = case.topic.step if rng.random() < skill else rng.choice([*USELESS_STEPS, rng.choice(wrong)])
    parts = [opening.format(item=case.item), step]
    if rng.random() < skill:
        parts.append(CLOSING)
    return " ".join(parts)


def worth(case: Case, text: str) -> int:
    """How many of a good answer's four parts are there: courtesy, the item's name, the one right step, the offer."""
    low = text.lower()
    steps = [topic.step for topic in TOPICS if topic.step in text]
    parts = (
        any(word in low for word in COURTEOUS),
        case.item in low,
        steps == [case.topic.step],
        text.rstrip().endswith(CLOSING),
    )
    return sum(parts)


def demonstrations(train: list[Case], rounds: int, skill: float, seed: int) -> list[tuple[str, str]]:
    """(prompt, ordinary answer) pairs, each case `rounds` times with another answer."""
    rng = random.Random(seed)
    pairs = [(case.prompt, ordinary_answer(case, rng, skill)) for _ in range(rounds) for case in train]
    rng.shuffle(pairs)
    return pairs
