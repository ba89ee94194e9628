"""An agent of the standard library alone: keeps its history, calls tools, and misbehaves on demand.

`python talker.py MODE`: plain; forgets (asks again without what was said); edits (and asks both
ways); crashes, hangs or lies (says what is no message) after a call; early (ends before one).
"""

import json
import sys
import time
import urllib.request
from typing import Any

MODE = sys.argv[1] if len(sys.argv) > 1 else "plain"


def ask(begin: dict[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The policy's message."""
    body = {"model": begin["model"], "messages": messages, "tools": begin["tools"]}
    request = urllib.request.Request(
        f"{begin['base_url']}/chat/completions",
        json.dumps(body).encode(),
        {"authorization": f"Bearer {begin['api_key']}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        message: dict[str, Any] = json.load(answer)["choices"][0]["message"]
    return message


def main() -> None:
    """Episode after episode."""
    begin: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    if MODE == "early":
        sys.exit("no idea how to begin")
    print("ready", flush=True)  # a log line: no message
    for line in sys.stdin:
        told = json.loads(line)
        if "end" in told:
            history = []
            continue
        begin = told.get("begin", begin)
        history += told["messages"]
        said = ask(begin, history)
        if MODE == "crashes":
            sys.exit(3)
        if MODE == "hangs":
            time.sleep(600)
        if MODE == "lies":
            print(json.dumps({"content": 7}), flush=True)
            continue
        if MODE == "forgets":
            said = ask(begin, history[-1:])
        if MODE == "edits":
            other = [{"role": "system", "content": "be brief"}, *history]
            ask(begin, other)
            said = ask(begin, [*history, said, {"role": "user", "content": "are you sure?"}])
        # As clients do: without thoughts, arguments spelt anew.
        for call in said.get("tool_calls") or ():
            arguments = json.loads(call["function"]["arguments"])
            call["function"]["arguments"] = json.dumps(arguments, indent=1)
        history.append({k: said[k] for k in ("role", "content", "tool_calls") if said.get(k)})
        print(json.dumps(history[-1]), flush=True)


if __name__ == "__main__":
    main()
