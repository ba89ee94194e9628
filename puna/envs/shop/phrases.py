"""What customers say. No phrasing of one split occurs in the other; nor does a pair of intents.

`PHRASES["test"]["cancel"]` are requests to cancel order {o} that nobody trained on.
"""

from __future__ import annotations

INTENTS = ("cancel", "refund", "swap", "address")
PAIRS = {  # of two different intents, in either order
    "train": (("cancel", "refund"), ("cancel", "address"), ("refund", "swap"), ("swap", "address")),
    "test": (("cancel", "swap"), ("refund", "address")),
}
assert not {frozenset(p) for p in PAIRS["train"]} & {frozenset(p) for p in PAIRS["test"]}

# {n} name, {c} customer number, {o} order, {i} item, {m} method, {a} address
PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "cancel": (
            *("Cancel {o}.", "Please cancel {o}.", "I want to cancel {o}.", "Stop {o}, please."),
            *("I do not need {o}. Cancel it.", "Can you stop {o}?", "{o} was a mistake, cancel."),
        ),
        "refund": (
            *(
                "I want to return {o}.",
                "Refund {o}.",
                "Please take {o} back.",
                "Return {o}, please.",
            ),
            *("I want my money back for {o}.", "{o} is bad. Refund it.", "Can I return {o}?"),
        ),
        "swap": (
            *("Swap {o} for {i}.", "I want {i} instead of {o}.", "Please exchange {o} for {i}."),
            *(
                "Change {o} to item {i}.",
                "{o} does not fit. Swap it for {i}.",
                "Can I get {i} for {o}?",
            ),
        ),
        "address": (
            *("Send {o} to {a}.", "Ship {o} to {a}, please.", "New address for {o}: {a}."),
            *("I moved. Send {o} to {a}.", "{o} should go to {a}.", "Can you send {o} to {a}?"),
        ),
        "method": ("Refund to {m}.", "Money to my {m}, please.", "Pay it to {m}."),
        "identity": (
            *("{n} {c}.", "I am {n} {c}.", "{n} here, {c}.", "This is {n}, {c}.", "{c}, {n}."),
            *("My name is {n}, my number {c}.", "Hello, {n} {c} here.", "Customer {c}: {n}."),
            *("I am customer {c}, {n}.", "{n} is my name and {c} my number."),
        ),
        "no order": ("an order", "my order"),
        "order": ("{o}", "order {o}", "the order {o}", "that order, {o},"),
        "which": ("{o}.", "Order {o}.", "It is {o}.", "I mean {o}.", "The order {o}."),
        "yes": ("Yes.", "Yes, do.", "Yes!"),
        "no": ("No.", "No, not that."),
        "what": ("What do you mean?",),
        "go on": ("Please go on.", "And?"),
        "also": ("Also:", "And:", "One more:"),
    },
    "test": {
        "cancel": (
            *("Can you cancel {o} for me?", "Cancel it, please: {o}.", "Please stop {o} now."),
            "I do not want {o}, so cancel.",
        ),
        "refund": (
            *(
                "Can you refund {o}?",
                "I return {o}, money back please.",
                "Take {o} back for a refund.",
            ),
            "Please refund {o} to me.",
        ),
        "swap": (
            *(
                "Can you swap {o} for {i}?",
                "Exchange {o}, I want {i}.",
                "Please swap: {o} for item {i}.",
            ),
            "I want to change {o} for {i}.",
        ),
        "address": (
            *(
                "Please send {o} to {a} now.",
                "Can {o} go to {a}?",
                "My new address is {a}, for {o}.",
            ),
            "I want {o} to go to {a}.",
        ),
        "method": ("Please pay to {m}.", "I want the money to {m}."),
        "identity": ("It is me, {n} {c}.", "{n}, number {c}."),
        "no order": ("one order", "the order"),
        "order": ("number {o}", "my order {o}"),
        "which": ("Number {o}.", "My order is {o}."),
        "yes": ("Yes, go.", "Oh yes."),
        "no": ("No, no.", "Not that."),
        "what": ("What is it you mean?",),
        "go on": ("And now?", "Go on, please."),
        "also": ("And also:", "One more thing:"),
    },
}
