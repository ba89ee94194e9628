"""What runs on the other side of the wall: standard library only, no import from Puna.

`keeper.py` is started once under bubblewrap and forks a supervisor (`supervise.py`) for each job,
which builds the job's own namespaces (`linux.py`), starts it and reports over `wire.py`.
"""
