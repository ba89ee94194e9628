"""Tasks, environments, verifiers, the one episode loop, trajectories, audit.

`load_environment("arithmetic").task("test", 0).messages` shows a task.
"""

GYM_VERSION = 2
