"""Checks the policies of an expanded template beyond Checkov's rules: least_privilege.py OUT.JSON.

Every function must have its own role, every policy but the one for traces must belong to one role, no role may
have an AWS managed policy, and no policy may allow by wildcard, except objects below a prefix of one bucket.
"""

import json
import re
import sys

# AWS's Service Authorization Reference lists no resource type for these, so that they require "*".
WITHOUT_RESOURCE_TYPE = {"xray:PutTelemetryRecords", "xray:PutTraceSegments"}
# Objects of a bucket below a prefix: their names depend on when they are written.
OBJECTS = re.compile(r"\$\{\w+Bucket\.Arn\}/[\w-]+/\*")


def as_list(value):
    return value if isinstance(value, list) else [value]


def texts(value):
    """Returns all strings in a value, including those inside intrinsic functions."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [str(value)]


def documents(properties):
    """Yields the policy documents of a resource with the name of the property or policy."""
    for name in ("AssumeRolePolicyDocument", "PolicyDocument"):
        if name in properties:
            yield name, properties[name]
    for policy in properties.get("Policies", []):
        yield policy["PolicyName"], policy["PolicyDocument"]


def findings(resources):
    function_of_role = {}
    for name, resource in resources.items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::Lambda::Function":
            role = json.dumps(properties["Role"])
            if role in function_of_role:
                yield f"{name} shares its role with {function_of_role[role]}"
            function_of_role[role] = name
        if resource["Type"] == "AWS::IAM::Policy" and len(properties.get("Roles", [])) != 1:
            yield f"{name} is not a policy of one role"
        for policy in texts(properties.get("ManagedPolicyArns", [])):
            if ":aws:policy/" in policy:
                yield f"{name} has the managed policy {policy}"
        for title, document in documents(properties):
            for statement in as_list(document["Statement"]):
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
                arns = [arn for arn in texts(statement.get("Resource", [])) if not OBJECTS.fullmatch(arn)]
                if any("*" in arn for arn in arns) and not actions <= WITHOUT_RESOURCE_TYPE:
                    yield f"{where}: allows {', '.join(sorted(actions))} on a wildcard"


with open(sys.argv[1], encoding="utf-8") as file:
    found = list(findings(json.load(file)["Resources"]))
print("\n".join(found) or "No role is shared, and no policy has an unnecessary wildcard.")
sys.exit(bool(found))
