"""Run by the peer's interpreter: its client plays. Address and [[index, [action...]]...] in, a
JSON list of what each step gave out."""

import json
import sys

from openenv.core import GenericEnvClient

url, games = sys.argv[1], json.load(sys.stdin)
played = []
for index, actions in games:
    with GenericEnvClient(base_url=url).sync() as env:
        results = [env.reset(split="test", index=index)]
        results += [env.step(a) for a in actions]
        steps = [[r.reward, r.done, len(r.observation["messages"])] for r in results]
        played.append({"steps": steps, "state": env.state()})
print(json.dumps(played))
