"""Runs the handler where `awslambdaric` cannot be installed: polls the Runtime API over one persistent
connection."""

import http.client
import json
import os
import socket

from handler import handler

api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
api.connect()
# The head and the body of a request are two writes. With Nagle's algorithm, the second would wait for the
# acknowledgement of the first.
api.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def call(method, path, body=None):
    api.request(method, f"/2018-06-01/runtime/invocation/{path}", body)
    response = api.getresponse()
    return response.headers, response.read()


while True:
    headers, body = call("GET", "next")
    request_id = headers["lambda-runtime-aws-request-id"]
    try:
        result = handler(json.loads(body), None)
        call("POST", f"{request_id}/response", json.dumps(result))
    except Exception as error:
        diagnostic = {"errorType": type(error).__name__, "errorMessage": str(error)}
        call("POST", f"{request_id}/error", json.dumps(diagnostic))
