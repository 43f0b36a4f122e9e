"""Finds what Checkov lets pass in the policies of an expanded template: least_privilege.py OUT.JSON.

Every function has a role of its own, no role has a policy that AWS manages, and no policy allows
by wildcard.
"""

import json
import sys

# AWS's Service Authorization Reference lists no resource type for these, so "*" is their only one.
TAKE_NO_RESOURCE = {"xray:PutTelemetryRecords", "xray:PutTraceSegments"}


def listed(value):
    return value if isinstance(value, list) else [value]


def texts(value):
    """Every text in a value, whatever intrinsic functions it is wrapped in."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [str(value)]


def documents(properties):
    """The policy documents of a resource, by the name of the property or policy."""
    for name in ("AssumeRolePolicyDocument", "PolicyDocument"):
        if name in properties:
            yield name, properties[name]
    for policy in properties.get("Policies", []):
        yield policy["PolicyName"], policy["PolicyDocument"]


def findings(resources):
    owners = {}
    for name, resource in resources.items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::Lambda::Function":
            role = json.dumps(properties["Role"])
            if role in owners:
                yield f"{name} shares its role with {owners[role]}"
            owners[role] = name
        for policy in texts(properties.get("ManagedPolicyArns", [])):
            if ":aws:policy/" in policy:
                yield f"{name} has the managed policy {policy}"
        for title, document in documents(properties):
            for statement in listed(document["Statement"]):
                if statement["Effect"] != "Allow":
                    continue
                where = f"{name}, {title}"
                if negated := sorted({"NotAction", "NotResource", "NotPrincipal"} & set(statement)):
                    yield f"{where}: allows by {negated[0]}"
                actions = set(texts(statement.get("Action", [])))
                if any("*" in action for action in actions):
                    yield f"{where}: allows an action with a wildcard"
                if "*" in texts(statement.get("Principal", [])):
                    yield f"{where}: allows any principal"
                resources_named = texts(statement.get("Resource", []))
                if any("*" in arn for arn in resources_named) and not actions <= TAKE_NO_RESOURCE:
                    yield f"{where}: allows {', '.join(sorted(actions))} on a wildcard"


with open(sys.argv[1], encoding="utf-8") as file:
    found = list(findings(json.load(file)["Resources"]))
print("\n".join(found) or "No role is shared, and no policy has a wildcard without need.")
sys.exit(bool(found))
