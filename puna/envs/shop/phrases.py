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
            *("Cancel {o} for me, please.", "Please stop {o}.", "I want you to stop {o}."),
            *("Could you cancel {o}?", "I no longer want {o}, cancel it.", "{o}: cancel, please."),
            *("You can cancel {o}.", "I need to cancel {o} now.", "Do not send {o}, cancel it."),
            *("Cancel it: {o}.", "So please stop {o} for me.", "I do not want {o} now. Stop it."),
            *("Is it too late to cancel {o}?", "{o} is not what I want, so stop it."),
        ),
        "refund": (
            *(
                "I want to return {o}.",
                "Refund {o}.",
                "Please take {o} back.",
                "Return {o}, please.",
            ),
            *("I want my money back for {o}.", "{o} is bad. Refund it.", "Can I return {o}?"),
            *("Please refund {o}.", "Could you refund {o} for me?", "I need a refund for {o}."),
            *(
                "{o} is not what I want. Take it back.",
                "Can you take {o} back?",
                "Money back for {o}.",
            ),
            *("I return {o} to you.", "{o}: refund, please.", "You can have {o} back, refund me."),
            *("I do not want {o} now. Take it back.", "So I want to return {o} for a refund."),
            *(
                "Is it too late to return {o}?",
                "Please return my money for {o}.",
                "Refund it: {o}.",
            ),
        ),
        "swap": (
            *("Swap {o} for {i}.", "I want {i} instead of {o}.", "Please exchange {o} for {i}."),
            *(
                "Change {o} to item {i}.",
                "{o} does not fit. Swap it for {i}.",
                "Can I get {i} for {o}?",
            ),
            *(
                "Please swap {o} for item {i}.",
                "Could you exchange {o} for {i}?",
                "{o}: swap for {i}.",
            ),
            *(
                "I need to change {o} for {i}.",
                "I want to swap {o} for {i} now.",
                "Swap it: {o} for {i}.",
            ),
            *("Exchange {o} for me, I need {i}.", "{o} is not what I want. I want {i}."),
            *("You can swap {o} for item {i}.", "Can you change {o}? I want item {i}."),
            *(
                "So please change {o} to {i}.",
                "Take {o} and send {i} for it.",
                "{i} for {o}, please.",
            ),
        ),
        "address": (
            *("Send {o} to {a}.", "Ship {o} to {a}, please.", "New address for {o}: {a}."),
            *("I moved. Send {o} to {a}.", "{o} should go to {a}.", "Can you send {o} to {a}?"),
            *("Please ship {o} to {a}.", "Could {o} go to {a}?", "I want you to send {o} to {a}."),
            *(
                "{o}: new address, {a}.",
                "My address for {o} is {a} now.",
                "I need {o} to go to {a}.",
            ),
            *(
                "So please send {o} to {a}.",
                "Send it to {a}: {o}.",
                "I moved to {a}. Send {o} to me.",
            ),
            *(
                "You can ship {o} to {a}.",
                "Do not send {o} to me but to {a}.",
                "Is {o} for {a} too late?",
            ),
            *("Please change my address for {o} to {a}.", "I want {o} to be shipped to {a}."),
        ),
        "method": (
            *("Refund to {m}.", "Money to my {m}, please.", "Pay it to {m}.", "To my {m}, please."),
            *("I want it to {m}.", "Please send the money to {m}.", "Can you pay to {m}?"),
        ),
        "identity": (
            *("{n} {c}.", "I am {n} {c}.", "{n} here, {c}.", "This is {n}, {c}.", "{c}, {n}."),
            *("My name is {n}, my number {c}.", "Hello, {n} {c} here.", "Customer {c}: {n}."),
            *("I am customer {c}, {n}.", "{n} is my name and {c} my number.", "It is {n}, {c}."),
            *(
                "Number {c}, {n}.",
                "{n}, customer {c}.",
                "You have me as {n}, {c}.",
                "Me: {n}, {c}.",
            ),
        ),
        "no order": ("an order", "my order", "an order of mine", "that order"),
        "order": (
            "{o}",
            "order {o}",
            "the order {o}",
            "that order, {o},",
            "my {o}",
            "order number {o}",
        ),
        "which": (
            *("{o}.", "Order {o}.", "It is {o}.", "I mean {o}.", "The order {o}.", "My {o}."),
            *("That is order {o}.", "{o}, please."),
        ),
        "yes": ("Yes.", "Yes, do.", "Yes!", "Yes, please.", "Do it."),
        "no": ("No.", "No, not that.", "Not so."),
        "what": ("What do you mean?", "What?"),
        "go on": ("Please go on.", "And?", "So?"),
        "also": ("Also:", "And:", "One more:", "Then:"),
    },
    "test": {
        "cancel": (
            *("Can you cancel {o} for me?", "Cancel it, please: {o}.", "Please stop {o} now."),
            *("I do not want {o}, so cancel.", "Could you stop {o}?", "I need you to cancel {o}."),
        ),
        "refund": (
            *(
                "Can you refund {o}?",
                "I return {o}, money back please.",
                "Take {o} back for a refund.",
            ),
            *("Please refund {o} to me.", "I want a refund for {o}.", "Could I return {o}?"),
        ),
        "swap": (
            *(
                "Can you swap {o} for {i}?",
                "Exchange {o}, I want {i}.",
                "Please swap: {o} for item {i}.",
            ),
            *(
                "I want to change {o} for {i}.",
                "Could I get {i} instead of {o}?",
                "I need {i} for {o}.",
            ),
        ),
        "address": (
            *(
                "Please send {o} to {a} now.",
                "Can {o} go to {a}?",
                "My new address is {a}, for {o}.",
            ),
            *(
                "I want {o} to go to {a}.",
                "Could you ship {o} to {a}?",
                "I moved, so {o} to {a}, please.",
            ),
        ),
        "method": ("Please pay to {m}.", "I want the money to {m}."),
        "identity": ("It is me, {n} {c}.", "{n}, number {c}.", "My number is {c}, my name {n}."),
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
