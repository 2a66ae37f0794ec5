"""A component that cannot keep a secret: its program prints whatever it was given, in several spellings.

`gossip.py live` runs until TERM and is silent. `gossip.py tell` prints its secrets as its answer and on standard error;
while the file LOUD exists it fails, with the secrets as its last words.
"""

import base64
import json
import os
import signal
import sys
from pathlib import Path
from urllib.parse import quote


def tell() -> int:
    given = [os.environ["GOSSIP"], os.environ["TRADING_DSN"]]
    spellings = [form for one in given for form in (one, quote(one, safe=""), base64.b64encode(one.encode()).decode())]
    print(f"{'noise ' * 60}{' '.join(spellings)}", file=sys.stderr)
    # Cut where an error's text is cut: half of the secret would stand there.
    print(given[0] * 40, file=sys.stderr)
    print(json.dumps({"detail": f"I know {spellings[0]} and {spellings[2]}", "values": {given[0]: spellings[5]}}))
    return int(Path(os.environ["LOUD"]).exists())


if __name__ == "__main__":
    if sys.argv[1] == "tell":
        sys.exit(tell())
    signal.sigwait({signal.SIGTERM})
