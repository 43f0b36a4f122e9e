"""MiniStack, and what the stack needs of AWS besides.

Lambda's Extensions API: some functions flush what they have counted in an internal extension, once
the answer has gone, and do not start where they cannot register it. There is what it uses
(https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html): Register, Next, and that
no invocation reaches an instance while an extension of it is at work.

Alarms on metric math: they can be made. Nothing evaluates them.

IAM's condition keys of PutEvents.
"""

import json
import queue
import threading

from ministack.app import main
from ministack.core import iam_actions, lambda_runtime
from ministack.core.responses import new_uuid
from ministack.services.cloudformation import provisioners


class Invocations:
    """The invocations that wait for an instance, each an event for the extensions that ask for it."""

    def __init__(self, pending):
        self.pending = pending
        self.events = {}
        self.told = set()
        self.idle = set()
        self.changed = threading.Condition()

    def register(self, kinds):
        extension = new_uuid()
        with self.changed:
            self.events[extension] = queue.Queue()
            if "INVOKE" in kinds:
                self.told.add(extension)
        return extension

    def next_event(self, extension, timeout):
        events = self.events[extension]
        with self.changed:
            if events.empty():
                self.idle.add(extension)
                self.changed.notify_all()
        return events.get(timeout=timeout)

    # MiniStack's Runtime API takes the next invocation here, as it would from the queue itself.
    def get(self, timeout):
        with self.changed:
            if not self.changed.wait_for(lambda: self.told <= self.idle, timeout):
                raise queue.Empty
        invocation = self.pending.get(timeout=timeout)
        request_id, _, deadline_ms, trace_id, function_arn = invocation
        event = {
            "eventType": "INVOKE",
            "deadlineMs": deadline_ms,
            "requestId": request_id,
            "invokedFunctionArn": function_arn,
            "tracing": {"type": "X-Amzn-Trace-Id", "value": trace_id or ""},
        }
        with self.changed:
            self.idle -= self.told
            for extension in self.told:
                self.events[extension].put(event)
        return invocation


class Instance(lambda_runtime.ProvidedWorker):
    """A function's process, and the APIs it is served."""

    def _build_handler_class(self, generation, pending):
        instance = self
        invocations = Invocations(pending)
        runtime_api = super()._build_handler_class(generation, invocations)

        class Handler(runtime_api):
            def do_POST(self):
                if self.path != "/2020-01-01/extension/register":
                    return super().do_POST()
                extension = invocations.register(json.loads(self._read_body())["events"])
                function = {
                    "functionName": instance.func_name,
                    "functionVersion": instance.config["Version"],
                    "handler": instance.config["Handler"],
                }
                self.answer(function, {"Lambda-Extension-Identifier": extension})

            def do_GET(self):
                if self.path != "/2020-01-01/extension/event/next":
                    return super().do_GET()
                extension = self.headers["Lambda-Extension-Identifier"]
                while generation == instance._generation and not instance._stopping:
                    try:
                        return self.answer(invocations.next_event(extension, timeout=0.1))
                    except queue.Empty:
                        pass
                self._stopped()

            def answer(self, value, headers={}):
                body = json.dumps(value).encode()
                self.send_response(200)
                for name, text in headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler


def alarm_record(name, properties, plain=provisioners._cw_metric_alarm_record):
    if "Metrics" in properties:
        no_metric = {"Metrics": None, "Namespace": "none", "MetricName": "none"}
        properties = {**properties, **no_metric, "ActionsEnabled": False}
    return plain(name, properties)


def condition_keys(service, action, body, params, plain=iam_actions.request_tag_context):
    keys = plain(service, action, body, params)
    if action == "events:PutEvents":
        entries = json.loads(body)["Entries"]
        for key, member in ("events:source", "Source"), ("events:detail-type", "DetailType"):
            values = {entry.get(member, "") for entry in entries}
            # Where the events differ, no condition is met.
            if len(values) == 1:
                keys[key] = values.pop()
    return keys


iam_actions.request_tag_context = condition_keys
lambda_runtime.ProvidedWorker = Instance
provisioners._cw_metric_alarm_record = alarm_record

if __name__ == "__main__":
    main()
