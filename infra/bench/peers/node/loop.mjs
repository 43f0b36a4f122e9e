// Runs the handler where `aws-lambda-ric` cannot be installed: polls the Runtime API over one
// persistent connection.
//
// Usage: node loop.mjs HANDLER_FILE

import { createRequire } from "node:module";
import { Agent, request } from "node:http";
import { resolve } from "node:path";

const { handler } = createRequire(import.meta.url)(resolve(process.argv[2]));
const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
const agent = new Agent({ keepAlive: true, maxSockets: 1 });

function call(method, path, body) {
  return new Promise((resolved, rejected) => {
    const sent = request({ agent, host, port, method, path: `/2018-06-01/runtime/invocation/${path}` });
    sent.on("error", rejected);
    sent.on("response", (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("error", rejected);
      response.on("end", () => resolved({ headers: response.headers, body: Buffer.concat(chunks) }));
    });
    sent.end(body);
  });
}

for (;;) {
  const { headers, body } = await call("GET", "next");
  const id = headers["lambda-runtime-aws-request-id"];
  try {
    const response = await handler(JSON.parse(body));
    await call("POST", `${id}/response`, JSON.stringify(response));
  } catch (error) {
    const diagnostic = { errorType: error.name, errorMessage: error.message };
    await call("POST", `${id}/error`, JSON.stringify(diagnostic));
  }
}
