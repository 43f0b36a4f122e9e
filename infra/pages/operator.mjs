// A server of the operator's pages, to which customers are led back. Prints its origin when it listens.
//
// Tests cannot respond themselves: Playwright intercepts requests, but not those that follow a redirect.

import {createServer} from 'node:http';

const PAGE = '<!doctype html><link rel="icon" href="data:,"><h1>Welcome back</h1>';

const server = createServer((request, response) => {
  response.setHeader('content-type', 'text/html');
  response.end(PAGE);
});
server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
