"""Exit 0 if this container's service has its model: what HEALTHCHECK runs, by the standard library alone."""

import http.client
import json
import os
import sys


def main() -> int:
    """Ask ``/health`` on loopback; say in a line what is wrong."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("SAM2_PORT", "8000")), timeout=4)
    try:
        connection.request("GET", "/health")
        body = json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.stdout.write(f"no response: {type(error).__name__}\n")
        return 1
    finally:
        connection.close()
    sys.stdout.write(f"{body.get('status')}: {body.get('detail')}\n")
    return 0 if body.get("model_loaded") is True else 1


if __name__ == "__main__":
    raise SystemExit(main())
