"""One job without namespaces of our own: the first process of a container, or a plain one.

`python3 -I -S once.py FOLDER`: the request comes on standard input, the answer goes to standard
output. The end of standard input cancels the job. A request with `user` runs as that user.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.abspath(__file__).removesuffix("/puna/sandbox/inside/once.py"))

from puna.sandbox.inside import child, linux, supervise, wire


def main() -> None:
    """Read, run, answer."""
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    try:
        request, blobs = wire.receive(lambda n: os.read(incoming, n), 4 << 30)
        walls = None
        if user := request.get("user"):
            walls = child.Walls(user, user, (user, user), blobs.pop())
        else:
            linux.adopt_orphans()
        for name in ("work", "tmp"):
            folder = f"{sys.argv[1]}/{name}"
            os.mkdir(folder)
            if walls and walls.owner:
                os.chown(folder, *walls.owner)
        place = supervise.Place(f"{sys.argv[1]}/work", walls)
        answer = supervise.supervise(request, blobs, place, incoming)
    except Exception as error:
        answer = wire.encode({"error": f"{error}" or repr(error)})
    with os.fdopen(outgoing, "wb") as file:
        file.write(answer)


if __name__ == "__main__":
    main()
