"""moto's S3 on a free port of 127.0.0.1. Prints the port once it listens. testkit/src/s3_server.rs starts it.

It ends with its standard input, so that it never outlives who started it, whatever becomes of them.
S3 does each request at once; moto looks and then acts, with other requests in between, so a lock keeps them apart.
"""

import logging
import os
import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
moto = DomainDispatcherApplication(create_backend_app)
one_at_a_time = threading.Lock()


def app(environ, start_response):
    with one_at_a_time:
        return list(moto(environ, start_response))


def end_with_input():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=end_with_input, daemon=True).start()
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
