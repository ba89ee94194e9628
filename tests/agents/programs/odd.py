"""An agent that breaks what can be broken: `python odd.py MODE`.

daemon: leaves a process behind that holds its pipes, and its number in the file DAEMON; deaf:
never reads; slow: never asks; aside: has a summary cut off on the way; gives_up: ends where the
policy fails; forever: asks and asks.
"""

import http.client
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.parse
from typing import Any

MODE = sys.argv[1]


def ask(begin: dict[str, Any], text: str, **more: Any) -> dict[str, Any]:
    """The policy's message; ends where there is none."""
    where = urllib.parse.urlsplit(begin["base_url"])
    connection = http.client.HTTPConnection(where.netloc, timeout=120)
    body = json.dumps({"messages": [{"role": "user", "content": text}], **more})
    headers = {"authorization": f"Bearer {begin['api_key']}"}
    connection.request("POST", f"{where.path}/chat/completions", body, headers)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    connection.close()
    if answer.status != 200:
        sys.exit(f"status {answer.status}: {found['error']['message']}")
    message: dict[str, Any] = found["choices"][0]["message"]
    return message


if MODE == "deaf":
    print(json.dumps({"log": "here"}), flush=True)
    time.sleep(600)
for line in sys.stdin:
    told = json.loads(line)
    if "end" in told:
        continue
    if MODE == "slow":
        time.sleep(600)
    begin, text = told["begin"], told["messages"][-1]["content"]
    said = ask(begin, text)
    while MODE == "forever":
        ask(begin, text, max_tokens=1)
    if MODE == "aside":
        ask(begin, "sum it up", max_tokens=1)
    if MODE == "daemon":
        daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
        pathlib.Path(os.environ["DAEMON"]).write_text(str(daemon.pid))
    print(json.dumps(said), flush=True)
    if MODE == "daemon":
        time.sleep(600)
