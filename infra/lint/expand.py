"""Expands a SAM template to a CloudFormation template: expand.py SAM.YAML OUT.JSON."""

import json
import logging
import sys

import boto3
from cfnlint.decode import decode
from cfnlint.template import Template
from cfnlint.template.transforms._language_extensions import language_extension
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

source, target = sys.argv[1:]
template, errors = decode(source)
if not errors:
    # Fn::ForEach, with cfn-lint's implementation: that of the SAM CLI also replaces parameters and
    # conditions by their defaults, so that the rest would not be checked.
    errors, template = language_extension(Template(source, template, ["us-east-1"]))
if errors:
    sys.exit("\n".join(str(error) for error in errors))
template = json.loads(json.dumps(template))
for resource in template["Resources"].values():
    if resource["Type"] == "AWS::Serverless::Function":
        # `sam deploy` inserts the uploaded code; the translator does not accept a local path.
        resource["Properties"]["CodeUri"] = "s3://bucket/code.zip"

# The translator warns of a feature toggle that only AWS's own service has.
logging.disable(logging.WARNING)
# The template names no AWS managed policy, so that no policy map is needed.
translator = Translator(
    managed_policy_map={},
    sam_parser=Parser(),
    boto_session=boto3.session.Session(region_name="us-east-1"),
)
with open(target, "w", encoding="utf-8") as file:
    json.dump(translator.translate(template, parameter_values={}), file, indent=2)
