"""Writes the CloudFormation template that SAM makes of a template: expand.py SAM.YAML OUT.JSON."""

import json
import logging
import sys

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

source, target = sys.argv[1:]
with open(source, encoding="utf-8") as file:
    template = yaml_parse(file.read())
for resource in template["Resources"].values():
    if resource["Type"] == "AWS::Serverless::Function":
        # `sam deploy` puts the uploaded code here; the translator takes no local path.
        resource["Properties"]["CodeUri"] = "s3://bucket/code.zip"

# It warns of a feature toggle that only AWS's own service has.
logging.disable(logging.WARNING)
# No AWS managed policy is referred to by name, so there is none to look up.
translator = Translator(
    managed_policy_map={},
    sam_parser=Parser(),
    boto_session=boto3.session.Session(region_name="us-east-1"),
)
with open(target, "w", encoding="utf-8") as file:
    json.dump(translator.translate(template, parameter_values={}), file, indent=2)
