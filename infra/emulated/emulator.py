"""MiniStack with additions that the stack needs.

Lambda's Extensions API: some functions flush in an internal extension after the response, and do not
start if they cannot register it. Implemented are
(https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html) Register, Next, and that an
instance gets no invocation while one of its extensions is busy.

Alarms on metric math: they can be created, but are not evaluated.

CodeDeploy: its resources can be created, but the authorizer's alias moves to a new version at once.

IAM's condition keys of PutEvents, and the permission of SendMessageBatch, which is that of SendMessage
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-api-permissions-reference.html).
"""

import json
import queue
import threading

from ministack.app import main
from ministack.core import iam_actions, lambda_runtime
from ministack.core.responses import new_uuid
from ministack.services.cloudformation import provisioners


class Invocations:
    """Queue of an instance's invocations, which are also sent as events to its extensions."""

    def __init__(self, pending):
        self.pending = pending
        self.events = {}
        self.subscribed = set()
        self.idle = set()
        self.changed = threading.Condition()

    def register(self, kinds):
        extension = new_uuid()
        with self.changed:
            self.events[extension] = queue.Queue()
            if "INVOKE" in kinds:
                self.subscribed.add(extension)
        return extension

    def next_event(self, extension, timeout):
        events = self.events[extension]
        with self.changed:
            if events.empty():
                self.idle.add(extension)
                self.changed.notify_all()
        return events.get(timeout=timeout)

    # Called by MiniStack's Runtime API, in place of the queue's own method.
    def get(self, timeout):
        with self.changed:
            if not self.changed.wait_for(lambda: self.subscribed <= self.idle, timeout):
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
            self.idle -= self.subscribed
            for extension in self.subscribed:
                self.events[extension].put(event)
        return invocation


class Instance(lambda_runtime.ProvidedWorker):
    """A function instance, with the Runtime API and the Extensions API."""

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
                self.respond(function, {"Lambda-Extension-Identifier": extension})

            def do_GET(self):
                if self.path != "/2020-01-01/extension/event/next":
                    return super().do_GET()
                extension = self.headers["Lambda-Extension-Identifier"]
                while generation == instance._generation and not instance._stopping:
                    try:
                        return self.respond(invocations.next_event(extension, timeout=0.1))
                    except queue.Empty:
                        pass
                self._stopped()

            def respond(self, value, headers={}):
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


def placeholder(logical_id, properties, stack_name):
    return f"{stack_name}-{logical_id}", {}


def condition_keys(service, action, body, params, plain=iam_actions.request_tag_context):
    keys = plain(service, action, body, params)
    if action == "events:PutEvents":
        entries = json.loads(body)["Entries"]
        for key, member in ("events:source", "Source"), ("events:detail-type", "DetailType"):
            values = {entry.get(member, "") for entry in entries}
            # If the events have different values, no condition is met.
            if len(values) == 1:
                keys[key] = values.pop()
    return keys


def required_action(*request, plain=iam_actions.extract_iam_action):
    action = plain(*request)
    return "sqs:SendMessage" if action == "sqs:SendMessageBatch" else action


iam_actions.request_tag_context = condition_keys
iam_actions.extract_iam_action = required_action
lambda_runtime.ProvidedWorker = Instance
provisioners._cw_metric_alarm_record = alarm_record
for kind in "Application", "DeploymentGroup":
    provisioners._RESOURCE_HANDLERS[f"AWS::CodeDeploy::{kind}"] = {
        "create": placeholder,
        "delete": lambda physical_id, properties: None,
    }

if __name__ == "__main__":
    main()
