"""The OpenAI Agents SDK, as it is, between an episode's tools and the policy under its key."""

import asyncio
import json
import sys
from typing import Any

from agents import Agent, FunctionTool, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from episode import Over, called, tell
from openai import AsyncOpenAI


def tool(spec: dict[str, Any]) -> FunctionTool:
    """A tool of the environment's as one of the library's."""
    function = spec["function"]

    async def invoke(context: Any, arguments: str) -> str:
        return called(function["name"], arguments)

    return FunctionTool(
        name=function["name"],
        description=function["description"],
        params_json_schema=function["parameters"],
        on_invoke_tool=invoke,
        strict_json_schema=False,
    )


async def episode(begin: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    """One conversation, its history kept by the library."""
    client = AsyncOpenAI(base_url=begin["base_url"], api_key=begin["api_key"])
    model = OpenAIChatCompletionsModel(begin["model"], client)
    agent = Agent(name="clerk", model=model, tools=[tool(spec) for spec in begin["tools"]])
    while True:
        done = await Runner.run(agent, messages)  # type: ignore[arg-type]
        messages = done.to_input_list() + tell({"content": str(done.final_output)})


def main() -> None:
    """Episode after episode."""
    set_tracing_disabled(True)
    for line in sys.stdin:
        told = json.loads(line)
        try:
            asyncio.run(episode(told["begin"], told["messages"]))
        except Over:
            continue


if __name__ == "__main__":
    main()
