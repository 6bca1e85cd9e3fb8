"""Start the service: ``python -m service``; ``--openapi`` writes its description instead."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; 0 after an orderly end, 2 where settings or weights cannot be used."""
    # Nothing is imported before this: SIGTERM may come at once, and worker processes run this file as well.
    from .signals import end_at_once_on_sigterm

    end_at_once_on_sigterm()
    import argparse

    from ctai_sam2.errors import CtaiError

    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    parser.add_argument("--openapi", action="store_true", help="print the OpenAPI document and stop")
    if parser.parse_args().openapi:
        from .app import openapi_text

        sys.stdout.write(openapi_text())
        return 0
    from .lifecycle import serve

    try:
        serve()
    except CtaiError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
