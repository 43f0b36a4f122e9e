"""Applies the stack's gateway responses, which MiniStack does not read from an OpenAPI body."""

import sys

import boto3

[stack] = sys.argv[1:]
cloudformation = boto3.client("cloudformation")
resource = cloudformation.describe_stack_resource(StackName=stack, LogicalResourceId="Api")
api = resource["StackResourceDetail"]["PhysicalResourceId"]
template = cloudformation.get_template(StackName=stack, TemplateStage="Processed")
body = template["TemplateBody"]["Resources"]["Api"]["Properties"]["Body"]

gateway = boto3.client("apigateway")
for kind, response in body["x-amazon-apigateway-gateway-responses"].items():
    # Leaves out conditional parameters: the emulated stack has no CorsOrigins.
    parameters = response.get("responseParameters", {}).items()
    response["responseParameters"] = {k: v for k, v in parameters if isinstance(v, str)}
    gateway.put_gateway_response(restApiId=api, responseType=kind, **response)
# They take effect with the next deployment.
for stage in gateway.get_stages(restApiId=api)["item"]:
    gateway.create_deployment(restApiId=api, stageName=stage["stageName"])
