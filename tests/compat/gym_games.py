"""Games of Gymnasium for the tests; importing this file registers them."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import spaces


class Sum(gymnasium.Env[str, str]):
    """Say the sum of two numbers; one step."""

    def __init__(self, says_success: bool = False, most: int = 9) -> None:
        self.observation_space = spaces.Text(20, charset="0123456789+=?")
        self.action_space = spaces.Text(9, charset="0123456789")
        self.says_success, self.most = says_success, most

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.a, self.b = (int(x) for x in self.np_random.integers(1, self.most + 1, 2))
        return f"{self.a}+{self.b}=", {"key": f"{self.a}+{self.b}"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        right = action == self.oracle()
        info = {"is_success": right} if self.says_success else {}
        return "?", 0.5 if self.says_success else float(right), True, False, info

    def oracle(self) -> str:
        return str(self.a + self.b)


class Walk(gymnasium.Env[Any, Any]):
    """Go to the goal; an action is a direction and a number of steps, a point each is lost."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict({"at": spaces.Discrete(9), "goal": spaces.Discrete(9)})
        self.action_space = spaces.Tuple((spaces.Discrete(2), spaces.MultiDiscrete([3], start=[1])))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.goal = 0, int(self.np_random.integers(4, 9))
        return {"at": self.at, "goal": self.goal}, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        direction, (far,) = action
        self.at = min(8, max(0, self.at + (1 if direction else -1) * int(far)))
        there = self.at == self.goal
        return {"at": self.at, "goal": self.goal}, 3.0 if there else -0.5, there, False, {}

    def oracle(self) -> Any:
        gap = self.goal - self.at
        return (1, [min(3, gap)])


for name, cls, limit, threshold in (
    ("Sum-v0", Sum, None, None),
    ("Walk-v0", Walk, 4, 2.0),
):
    gymnasium.register(name, cls, max_episode_steps=limit, reward_threshold=threshold)
