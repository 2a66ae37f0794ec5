"""The way in: `python -m service.cli`. A Ctrl-C while the program is still loading ends quietly too."""

import sys

if __name__ == "__main__":
    try:
        from service.cli.main import run
        from service.logs import redact_tracebacks

        redact_tracebacks()
        status = run()
    except KeyboardInterrupt:
        status = 1
    sys.exit(status)
