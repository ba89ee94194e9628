"""LangChain's agent, as it is, with its middleware that sums a long history up."""

import json
import sys
from typing import Any

from episode import Over, called, tell
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI


def tool(spec: dict[str, Any]) -> StructuredTool:
    """A tool of the environment's as one of the library's."""
    function = spec["function"]

    def invoke(**arguments: Any) -> str:
        return called(function["name"], json.dumps(arguments))

    return StructuredTool.from_function(
        invoke,
        name=function["name"],
        description=function["description"],
        args_schema=function["parameters"],
    )


def episode(begin: dict[str, Any], messages: list[Any]) -> None:
    """One conversation, its history kept, and summed up, by the library."""
    model = ChatOpenAI(
        model=begin["model"], base_url=begin["base_url"], api_key=begin["api_key"], temperature=0.5
    )
    compact = SummarizationMiddleware(
        model=model,
        trigger=("messages", 4),
        keep=("messages", 2),
        summary_prompt="Sum up:\n{messages}",  # its own fills the context of a tiny model
    )
    agent = create_agent(model, [tool(s) for s in begin["tools"]], middleware=[compact])
    while True:
        done = agent.invoke({"messages": messages})
        messages = done["messages"] + tell({"content": done["messages"][-1].text})


def main() -> None:
    """Episode after episode."""
    for line in sys.stdin:
        told = json.loads(line)
        try:
            episode(told["begin"], told["messages"])
        except Over:
            continue


if __name__ == "__main__":
    main()
