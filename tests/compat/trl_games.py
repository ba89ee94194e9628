"""Environment classes as TRL takes them, for the tests."""

from __future__ import annotations

from typing import Any, Literal


class Count:
    """Count to the number that the row names."""

    def reset(self, goal: int, **kwargs: Any) -> str:
        self.goal, self.at, self.row = goal, 0, kwargs
        return f" Count to {goal}."

    def up(self, by: int, how: Literal["add", "double"] = "add") -> str:
        """Count on.

        Args:
            by: how far,
                in ones
            how: what to do
        """
        if by > 5:
            raise ValueError("too far")
        self.at = self.at + by if how == "add" else self.at * 2
        return f"at {self.at}"

    async def where(self) -> dict[str, int]:
        """Where the count is.

        Returns:
            A dictionary.
        """
        return {"at": self.at}

    def get_reward(self) -> float:
        return float(self.at == self.goal)

    def _hidden(self) -> int:
        return self.goal


class NoReward(Count):
    get_reward = None  # type: ignore[assignment]


class Odd(NoReward):
    """Its reward is a function of TRL's form."""


def reward_function(environments: Any, completions: Any, goal: Any, **kwargs: Any) -> list[float]:
    """Half for the number, half for saying so."""
    values = []
    for environment, completion, wanted in zip(environments, completions, goal, strict=True):
        assert "prompts" in kwargs
        said = completion[-1]["content"]
        values.append(0.5 * (environment.at == wanted) + 0.5 * (said == "done"))
    return values


class Raises(Count):
    def get_reward(self) -> float:
        raise RuntimeError("no reward today")


class Untyped(Count):
    def other(self, x) -> str:  # type: ignore[no-untyped-def]
        """Has no types."""
        return ""


class Wants(Count):
    def __init__(self, x: int) -> None:
        pass
