// An API and a clock for tests.

import {readFileSync} from 'node:fs';
import {join} from 'node:path';

import {Client} from '../src/client.js';
import type {Clock, Retries} from '../src/retry.js';

/** Root of the repository, since the tests run elsewhere. */
export const ROOT = process.env['TOLLGATE_ROOT']!;
export const KEY = 'tg_admin_EXAMPLE0EXAMPLE0EXAMPLE0EXAMPLE0ABCDEF';

interface Operation {
  operationId: string;
  parameters?: {name: string}[];
  responses: Record<string, {content: {'application/json': {example: Record<string, unknown>}}}>;
}

interface Document {
  paths: Record<string, Record<string, Operation>>;
  components: {schemas: Record<string, {enum: string[]}>};
}

export const document = JSON.parse(readFileSync(join(ROOT, 'infra/openapi.json'), 'utf8')) as Document;
export const operations = Object.values(document.paths).flatMap(item => Object.values(item));

/** A clock that only waits advance. Chance is always one half. */
export class FakeClock implements Clock {
  time: number;
  readonly waits: number[] = [];

  constructor(time = 1_800_000_000_000) {
    this.time = time;
  }

  now(): number {
    return this.time;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    this.waits.push(ms);
    this.time += ms;
    return Promise.resolve();
  }

  random(): number {
    return 0.5;
  }
}

/** A response, the error of a connection, or what makes one of the request's body. */
export type Reply = Response | Error | ((body: string, request: Request) => Response);

/** Replies with what it was given, in this order, and keeps the requests with their bodies. */
export class FakeApi {
  readonly replies: Reply[];
  readonly requests: Request[] = [];
  readonly texts: string[] = [];
  readonly clock = new FakeClock();

  constructor(...replies: Reply[]) {
    this.replies = replies;
  }

  client(retries: Partial<Retries> = {}): Client {
    const fetch = async (input: string | URL | Request, init?: RequestInit) => {
      const request = new Request(input, init);
      const text = await request.text();
      this.requests.push(request);
      this.texts.push(text);
      const reply = this.replies.shift();
      if (!reply) throw new Error('the test has no reply left');
      if (reply instanceof Error) throw reply;
      return typeof reply === 'function' ? reply(text, request) : reply.clone();
    };
    return new Client({baseUrl: 'https://api.example/v1', key: KEY, retries, fetch}, this.clock);
  }
}

export function success(body: unknown, status = 200): Response {
  return Response.json(body, {status});
}

export function problem(
  status: number,
  name: string,
  headers: Record<string, string> = {},
  members: Record<string, unknown> = {},
): Response {
  const type = `urn:tollgate:problem:${name}`;
  const body = {type, title: 'A title', status, detail: 'A detail.', request_id: 'r-1', ...members};
  const fields = {'content-type': 'application/problem+json', ...headers};
  return new Response(JSON.stringify(body), {status, headers: fields});
}

export function unavailable(retryAfter?: string): Response {
  return problem(503, 'temporarily-unavailable', retryAfter === undefined ? {} : {'retry-after': retryAfter});
}

/** Returns the example of a success in the document of the API. */
export function example(operationId: string): Record<string, unknown> {
  const {responses} = operations.find(operation => operation.operationId === operationId)!;
  return (responses['201'] ?? responses['200'])!.content['application/json'].example;
}

export function page(ids: string[], next: string | null = null): Response {
  return success({data: ids.map(id => ({...example('createCustomer'), id})), next_cursor: next});
}
